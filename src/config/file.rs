//! Reads `credentials.env`, which only its owner may read.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::ConfigError;
use super::lines;

/// Bytes of the largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The variables of a process, which the file may refer to.
pub(super) type Environment = BTreeMap<String, String>;

/// The variables of a file.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_file(
    path: &Path,
    environment: &Environment,
) -> Result<HashMap<String, String>, ConfigError> {
    let found = examine_file(path, environment);
    found.faults.into_iter().next().map_or(Ok(found.values), Err)
}

/// The bytes of a file that nobody else can read or change.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let Private { bytes, faults, .. } = examine_private(path);
    faults.into_iter().next().map_or(Ok(bytes.unwrap_or_default()), Err)
}

/// A file, with everything that is wrong in it.
#[derive(Default)]
pub(super) struct Found {
    /// The variables; none if the file can't be read, or others could have written them.
    pub(super) values: HashMap<String, String>,
    /// What is wrong, the most serious first.
    pub(super) faults: Vec<ConfigError>,
    /// Its permission bits, if it is there.
    pub(super) mode: Option<u32>,
}

/// Checks a file, and reads it as far as that is safe.
pub(super) fn examine_file(path: &Path, environment: &Environment) -> Found {
    let Private { bytes, faults, mode } = examine_private(path);
    let mut found = Found { values: HashMap::new(), faults, mode };
    if let Some(bytes) = bytes {
        variables(path, &bytes, environment, &mut found);
    }
    found
}

#[derive(Default)]
struct Private {
    bytes: Option<Zeroizing<Vec<u8>>>,
    faults: Vec<ConfigError>,
    mode: Option<u32>,
}

/// The file is opened once: the checks look at what is read, even if the name leads elsewhere
/// meanwhile.
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
    // Root may have put the file there; any other owner could change it at any time.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        found.faults.push(ConfigError::Owner { path: path.to_path_buf(), owner, own });
    }
    if mode & 0o022 != 0 || (owner != own && owner != 0) {
        return found; // a stranger's address must not get a password of the environment
    }
    // As large as the file from the beginning: a buffer that grows leaves copies behind.
    let size = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    if let Err(error) = file.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
        found.faults.push(read(error));
    } else if bytes.len() as u64 > MAX_BYTES {
        found.faults.push(read(io::Error::other("it is larger than 1 MiB")));
    } else {
        found.bytes = Some(bytes);
    }
    found
}

/// The variables of a file with this text, or what is wrong with it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn variables_of(path: &Path, text: &[u8]) -> Result<HashMap<String, String>, ConfigError> {
    let mut found = Found::default();
    variables(path, text, &Environment::new(), &mut found);
    found.faults.into_iter().next().map_or(Ok(found.values), Err)
}

fn variables(path: &Path, bytes: &[u8], environment: &Environment, found: &mut Found) {
    // UTF-16, as some editors of Windows save what they call Unicode.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        found.faults.push(ConfigError::Encoding { path: path.to_path_buf() });
        return;
    }
    let lines = lines::read(bytes, |name| environment.get(name).cloned());
    found.values = lines.values;
    let fault = |(line, fault)| ConfigError::Syntax { path: path.to_path_buf(), line, fault };
    found.faults.extend(lines.faults.into_iter().map(fault));
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
        assert_eq!(read_file(&path, &Environment::new()).unwrap()["A"], "b");
        // Only root can give a file away.
        if chown(&path, Some(65534), None).is_ok() {
            let error = read_file(&path, &Environment::new()).unwrap_err().to_string();
            assert!(error.contains("belongs to user 65534") && error.contains("chown"), "{error}");
        }
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let line = format!("A={}\n", "x".repeat(1021)); // 1024 bytes
        let (_dir, path) = file(&line.repeat(1024));
        assert!(read_file(&path, &Environment::new()).is_ok());
        let (_dir, path) = file(&(line.repeat(1024) + "#"));
        assert!(read_file(&path, &Environment::new()).unwrap_err().to_string().contains("larger than 1 MiB"));
    }

    #[test]
    fn a_directory_is_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(read_file(dir.path(), &Environment::new()), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn advice_never_destroys_a_file_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &Path| read_file(path, &Environment::new()).unwrap_err().to_string();
        let error = read(&dir.path().join("absent.env"));
        assert!(error.contains("copy credentials.env.example"), "{error}");
        let path = dir.path().join("credentials.env");
        let utf16: Vec<u8> = "\u{feff}A=b\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (bytes, words) in [
            (utf16, "save a copy as UTF-8"),
            (b"A='pass\xfcord'\n".to_vec(), "line 1 is not UTF-8; type the line again"),
            (vec![b'x'; (1 << 20) + 1], "larger than 1 MiB; it must be a text file"),
        ] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = read(&path);
            assert!(error.contains(words) && !error.contains("copy credentials"), "{error}");
        }
        let error = read(dir.path());
        assert!(!error.contains("copy credentials"), "{error}");
    }

    #[test]
    fn a_value_may_refer_to_the_environment_and_to_lines_above() {
        let (_dir, path) = file("SPOOL_DIR=$SCRATCH/spool\nLOG_DIR=${SPOOL_DIR}/logs\n");
        let environment = Environment::from([("SCRATCH".to_owned(), "/scratch/me".to_owned())]);
        assert_eq!(read_file(&path, &environment).unwrap()["LOG_DIR"], "/scratch/me/spool/logs");
        let error = read_file(&path, &Environment::new()).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 1, fault: lines::LineFault::Unset, .. }));
    }
}
