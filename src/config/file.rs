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
    variables(path, read_private(path)?.expose())
}

/// The text of a file that nobody else can read or change.
///
/// It is opened once: what is looked at is what is read, even if the name leads elsewhere in between.
pub(super) fn read_private(path: &Path) -> Result<Secret, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(ConfigError::Permissions { path: path.to_path_buf(), mode });
    }
    // Root may have put it there; anybody else could change it under our feet.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        return Err(ConfigError::Owner { path: path.to_path_buf(), owner, own });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(read(io::Error::other("it is larger than 1 MiB")));
    }
    Ok(Secret::new(std::mem::take(&mut *text)))
}

fn variables(path: &Path, text: &str) -> Result<HashMap<String, String>, ConfigError> {
    let mut values = HashMap::new();
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        match pair {
            Ok((name, value)) => values.insert(name, value),
            // The error repeats the line, which may hold a password: only its number may be told.
            Err(dotenvy::Error::LineParse(bad, _)) => {
                let first = bad.lines().next().unwrap_or_default().trim_end();
                let line = text.lines().position(|l| l.trim_end() == first).map_or(0, |n| n + 1);
                return Err(ConfigError::Syntax { path: path.to_path_buf(), line });
            }
            Err(_) => return Err(ConfigError::Syntax { path: path.to_path_buf(), line: 0 }),
        };
    }
    Ok(values)
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
