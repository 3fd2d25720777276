//! Reads `credentials.env`, which only its owner may be able to read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::load::ConfigError;
use base::secret::Secret;

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The variables of a file.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_file(path: &Path) -> Result<HashMap<String, String>, ConfigError> {
    let found = examine_file(path);
    found.faults.into_iter().next().map_or(Ok(found.values), Err)
}

/// The text of a file that nobody else can read or change.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_private(path: &Path) -> Result<Secret, ConfigError> {
    let Private { text, faults, .. } = examine_private(path);
    let text = text.map(|mut text| Secret::new(std::mem::take(&mut *text)));
    faults.into_iter().next().map_or(Ok(text.unwrap_or_else(|| Secret::new(""))), Err)
}

/// A file with everything that is wrong with it.
#[derive(Default)]
pub(super) struct Found {
    /// The variables. None where the file can't be read, or others could have written them.
    pub(super) values: HashMap<String, String>,
    /// What is wrong, the gravest first.
    pub(super) faults: Vec<ConfigError>,
    /// Its permission bits, where it is there.
    pub(super) mode: Option<u32>,
}

/// Looks at a file and reads it as far as that is safe.
pub(super) fn examine_file(path: &Path) -> Found {
    let Private { text, faults, mode } = examine_private(path);
    let mut found = Found { values: HashMap::new(), faults, mode };
    if let Some(text) = text {
        variables(path, &text, &mut found);
    }
    found
}

#[derive(Default)]
struct Private {
    text: Option<Zeroizing<String>>,
    faults: Vec<ConfigError>,
    mode: Option<u32>,
}

/// The file is opened once: what is looked at is what is read, even if the name leads elsewhere in between.
fn examine_private(path: &Path) -> Private {
    let mut found = Private::default();
    let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            found.faults.push(read(error));
            return found;
        }
    };
    let mode = metadata.mode() & 0o7777;
    found.mode = Some(mode);
    if mode & 0o077 != 0 {
        found.faults.push(ConfigError::Permissions { path: path.to_path_buf(), mode });
    }
    // Root may have put it there; anybody else could change it under our feet.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        found.faults.push(ConfigError::Owner { path: path.to_path_buf(), owner, own });
    }
    if mode & 0o022 != 0 || (owner != own && owner != 0) {
        return found; // a stranger's address must not get a password of the environment
    }
    let mut text = Zeroizing::new(String::new());
    if let Err(error) = file.take(MAX_BYTES + 1).read_to_string(&mut text) {
        found.faults.push(read(error));
    } else if text.len() as u64 > MAX_BYTES {
        found.faults.push(read(io::Error::other("it is larger than 1 MiB")));
    } else {
        found.text = Some(text);
    }
    found
}

/// The variables of a file with this text, or what is wrong with it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn variables_of(path: &Path, text: &str) -> Result<HashMap<String, String>, ConfigError> {
    let mut found = Found::default();
    variables(path, text, &mut found);
    found.faults.into_iter().next().map_or(Ok(found.values), Err)
}

fn variables(path: &Path, text: &str, found: &mut Found) {
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        let line = match pair {
            Ok((name, value)) => {
                found.values.insert(name, value);
                continue;
            }
            // The error repeats the line, which may hold a password: only its number may be told.
            Err(dotenvy::Error::LineParse(bad, _)) => {
                let first = bad.lines().next().unwrap_or_default().trim_end();
                text.lines().position(|l| l.trim_end() == first).map_or(0, |n| n + 1)
            }
            Err(_) => 0,
        };
        found.faults.push(ConfigError::Syntax { path: path.to_path_buf(), line });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.env");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_of_another_account_is_refused() {
        let (_dir, path) = file("A=b\n");
        assert_eq!(read_file(&path).unwrap()["A"], "b");
        // Only root can give a file away.
        if chown(&path, Some(65534), None).is_ok() {
            let error = read_file(&path).unwrap_err().to_string();
            assert!(error.contains("belongs to user 65534") && error.contains("chown"), "{error}");
        }
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let line = format!("A={}\n", "x".repeat(1021)); // 1024 bytes
        let (_dir, path) = file(&line.repeat(1024));
        assert!(read_file(&path).is_ok());
        let (_dir, path) = file(&(line.repeat(1024) + "#"));
        assert!(read_file(&path).unwrap_err().to_string().contains("larger than 1 MiB"));
    }

    #[test]
    fn a_directory_is_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(read_file(dir.path()), Err(ConfigError::Read { .. })));
    }
}
