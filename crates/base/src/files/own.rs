//! Files and directories of the spool are this account's own, or they are not used.
//!
//! Somebody else who could plant a file in the spool, or a link that leads elsewhere, could decide
//! what is submitted and where tokens and replies are written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The permission bits of others.
const OTHERS: u32 = 0o077;

/// Reads a file of the spool whole: a regular file of this account, and no link.
pub fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    // Opened without waiting, so that a named pipe can't block a pass; for regular files this makes
    // no difference.
    let mut file = open(path, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    owner(&metadata)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes sure that a directory is this account's, and removes the permissions of others; true when
/// there were any. With `follow`, the path may be a link to such a directory.
pub fn own_directory(path: &Path, follow: bool) -> io::Result<bool> {
    let link = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let directory = open(path, link | OFlags::DIRECTORY)?;
    let metadata = directory.metadata()?;
    owner(&metadata)?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(false);
    }
    directory.set_permissions(Permissions::from_mode(mode & !OTHERS))?;
    Ok(true)
}

/// Makes sure that this is a directory of this account, and not a link.
pub fn is_own_directory(path: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return Err(io::Error::other("it is a symbolic link"));
    }
    if !metadata.is_dir() {
        return Err(io::Error::other("it is not a directory"));
    }
    owner(&metadata)
}

fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            true => io::Error::other("it is a symbolic link"),
            false => error,
        }
    })
}

fn owner(metadata: &fs::Metadata) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() == own {
        return Ok(());
    }
    Err(io::Error::other(format!("it belongs to user {}, not to this account, {own}", metadata.uid())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    #[test]
    fn a_file_of_ones_own_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        assert_eq!(read_own(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(&path, "text").unwrap();
        assert_eq!(read_own(&path).unwrap(), b"text");
    }

    #[test]
    fn links_pipes_and_directories_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link, pipe) =
            (dir.path().join("target"), dir.path().join("link"), dir.path().join("pipe"));
        fs::write(&target, "text").unwrap();
        symlink(&target, &link).unwrap();
        assert!(read_own(&link).unwrap_err().to_string().contains("symbolic link"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(read_own(&pipe).unwrap_err().to_string().contains("regular file"));
        assert!(read_own(dir.path()).unwrap_err().to_string().contains("regular file"));
    }

    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        // One of the system's, because this account can't give files away.
        let (file, directory) = (dir.path().join("file"), dir.path().join("directory"));
        fs::write(&file, "text").unwrap();
        fs::create_dir(&directory).unwrap();
        let given = chown(&file, Some(65534), None).and_then(|()| chown(&directory, Some(65534), None));
        let (file, directory) = match given {
            Ok(()) => (file.as_path(), directory.as_path()),
            Err(_) => (Path::new("/etc/passwd"), Path::new("/etc")),
        };
        for error in [
            read_own(file).unwrap_err(),
            own_directory(directory, true).unwrap_err(),
            is_own_directory(directory).unwrap_err(),
        ] {
            assert!(error.to_string().contains("it belongs to user"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_others_may_read_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, link) = (dir.path().join("spool"), dir.path().join("link"));
        fs::create_dir(&spool).unwrap();
        fs::set_permissions(&spool, Permissions::from_mode(0o775)).unwrap();
        symlink(&spool, &link).unwrap();
        assert!(own_directory(&link, false).is_err());
        assert!(is_own_directory(&link).is_err());
        assert!(own_directory(&link, true).unwrap());
        assert_eq!(fs::metadata(&spool).unwrap().mode() & 0o7777, 0o700);
        assert!(!own_directory(&spool, false).unwrap());
    }
}
