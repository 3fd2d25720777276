//! Reads `credentials.env`, which only its owner may be able to read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::load::ConfigError;
use crate::secret::Secret;

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The variables of a file.
pub(super) fn read_file(path: &Path) -> Result<HashMap<String, String>, ConfigError> {
    let (values, mut faults) = variables(path, read_private(path)?.expose());
    if faults.is_empty() { Ok(values) } else { Err(faults.remove(0)) }
}

/// The text of a file that nobody else can read or change.
pub(super) fn read_private(path: &Path) -> Result<Secret, ConfigError> {
    let mut found = look_at(path);
    if found.faults.is_empty() { Ok(found.text) } else { Err(found.faults.remove(0)) }
}

/// A file with everything that is wrong with it.
pub(super) struct Found {
    /// The variables. None where the file can't be read, or others could have written them.
    pub(super) values: HashMap<String, String>,
    /// What is wrong, the gravest first.
    pub(super) faults: Vec<ConfigError>,
    /// Its permission bits, where it is there.
    pub(super) mode: Option<u32>,
}

/// Reads a file as far as that is safe, whatever is wrong with it.
pub(super) fn examine_file(path: &Path) -> Found {
    let looked = look_at(path);
    let (values, bad_lines) = variables(path, looked.text.expose());
    Found { values, faults: looked.faults.into_iter().chain(bad_lines).collect(), mode: looked.mode }
}

struct Looked {
    /// Empty where it could not be read, or others could have written it.
    text: Secret,
    faults: Vec<ConfigError>,
    mode: Option<u32>,
}

/// Looks at a file and reads it.
///
/// It is opened once: what is looked at is what is read, even if the name leads elsewhere in between.
fn look_at(path: &Path) -> Looked {
    let mut looked = Looked { text: Secret::new(""), faults: Vec::new(), mode: None };
    let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            looked.faults.push(read(error));
            return looked;
        }
    };
    let mode = metadata.mode() & 0o7777;
    looked.mode = Some(mode);
    if mode & 0o077 != 0 {
        looked.faults.push(ConfigError::Permissions { path: path.to_path_buf(), mode });
    }
    // Root may have put it there; anybody else could change it under our feet.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let is_strange = owner != own && owner != 0;
    if is_strange {
        looked.faults.push(ConfigError::Owner { path: path.to_path_buf(), owner, own });
    }
    if mode & 0o022 != 0 || is_strange {
        return looked; // a stranger's address must not get a password of the environment
    }
    let mut text = Zeroizing::new(String::new());
    match file.take(MAX_BYTES + 1).read_to_string(&mut text) {
        Err(error) => looked.faults.push(read(error)),
        Ok(_) if text.len() as u64 > MAX_BYTES => {
            looked.faults.push(read(io::Error::other("it is larger than 1 MiB")));
        }
        Ok(_) => looked.text = Secret::new(std::mem::take(&mut *text)),
    }
    looked
}

/// The variables, and the lines that are none.
fn variables(path: &Path, text: &str) -> (HashMap<String, String>, Vec<ConfigError>) {
    let (mut values, mut faults) = (HashMap::new(), Vec::new());
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        let line = match pair {
            Ok((name, value)) => {
                values.insert(name, value);
                continue;
            }
            // The error repeats the line, which may hold a password: only its number may be told.
            Err(dotenvy::Error::LineParse(bad, _)) => {
                let first = bad.lines().next().unwrap_or_default().trim_end();
                text.lines().position(|l| l.trim_end() == first).map_or(0, |n| n + 1)
            }
            Err(_) => 0,
        };
        faults.push(ConfigError::Syntax { path: path.to_path_buf(), line });
    }
    (values, faults)
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
