//! Files that are either whole or absent, even after a crash.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::crash;

/// How the name of an unfinished file begins; a crash can leave one behind.
pub const UNFINISHED: &str = ".new-";
/// How the name of a file begins that only tests whether a directory can be written.
pub const PROBE: &str = ".probe-";

/// The permission bits of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These, whatever the umask.
    Bits(u32),
    /// 0666 without the bits of the umask, as any other file of the user has.
    Umask,
}

/// How a file is replaced: by another one that is written beside it and then gets its name, so that
/// nobody ever sees it half-written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replace {
    /// Who may read the new file.
    pub mode: Mode,
    /// Whether it survives a crash of the machine: file and directory are flushed to disk.
    pub sync: bool,
}

impl Replace {
    /// A file of the spool: for this account alone, and it lasts.
    pub const OWN: Self = Self { mode: Mode::Bits(0o600), sync: true };
    /// A note that the next one soon replaces, and that nothing depends on.
    pub const NOTE: Self = Self { mode: Mode::Bits(0o600), sync: false };
    /// A file that everybody may read.
    pub const PUBLIC: Self = Self { mode: Mode::Bits(0o644), sync: true };
    /// A file that a program makes for the user who called it: a model, a picture, a report.
    pub const USERS: Self = Self { mode: Mode::Umask, sync: true };

    /// Writes `bytes` to `path`.
    ///
    /// # Errors
    /// When any of the steps fails; `path` is then as it was before.
    pub fn write(self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.beside(path, bytes)?;
        self.finish(file, path)
    }

    /// An empty file beside `path`, which gets its name by [`Self::finish`], and is removed if it
    /// is dropped before.
    ///
    /// # Errors
    /// When no file can be made there.
    pub fn begin(self, path: &Path) -> io::Result<NamedTempFile> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(UNFINISHED);
        if self.mode == Mode::Umask {
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(directory(path))?;
        if let Mode::Bits(bits) = self.mode {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(bits))?;
        }
        Ok(file)
    }

    /// Gives the file of [`Self::begin`] its name; whatever had it before is gone then.
    ///
    /// # Errors
    /// When the file can't be flushed or renamed; `path` is then as it was before.
    pub fn finish(self, file: NamedTempFile, path: &Path) -> io::Result<()> {
        if self.sync {
            file.as_file().sync_all()?;
        }
        file.persist(path).map_err(|e| e.error)?;
        if self.sync { sync_directory(directory(path)) } else { Ok(()) }
    }

    fn beside(self, path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
        let mut file = self.begin(path)?;
        file.write_all(bytes)?;
        Ok(file)
    }
}

/// Writes `bytes` to `path` as [`Replace::OWN`].
///
/// # Errors
/// When any of the steps fails; `path` is then as it was before.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = name(path);
    crash::point(&format!("before writing {name}"));
    let file = Replace::OWN.beside(path, bytes)?;
    crash::point(&format!("before renaming {name}"));
    Replace::OWN.finish(file, path)?;
    crash::point(&format!("after writing {name}"));
    Ok(())
}

/// Writes `bytes` to `path` unless the file exists; returns true when it was written. Of several
/// processes, on whatever nodes, only one gets true, because the file server makes the link for one
/// of them.
///
/// # Errors
///
/// As [`write_atomic`].
pub fn create_atomic(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let name = name(path);
    crash::point(&format!("before creating {name}"));
    let file = Replace::OWN.beside(path, bytes)?;
    file.as_file().sync_all()?;
    if !link(file.path(), path)? {
        return Ok(false);
    }
    drop(file); // its first name goes, the second stays
    sync_directory(directory(path))?;
    crash::point(&format!("after creating {name}"));
    Ok(true)
}

/// Gives a file a second name; false when another file has that name.
///
/// Where the answer of a file server is lost and the request is sent again, the system says that
/// the name exists although this call has made it. Then the file has two names (`open(2)`, at
/// `O_EXCL`).
fn link(file: &Path, path: &Path) -> io::Result<bool> {
    match fs::hard_link(file, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(fs::metadata(file)?.nlink() == 2)
        }
        Err(error) => Err(without_links(error)),
    }
}

/// Where a link can't be made because its filesystem knows none (FAT, SMB, some of FUSE), the
/// system says "Operation not permitted", which reads like a problem of permissions.
fn without_links(error: io::Error) -> io::Error {
    use rustix::io::Errno as E;
    let errno = E::from_io_error(&error);
    if !matches!(errno, Some(E::PERM | E::OPNOTSUPP | E::NOSYS | E::XDEV)) {
        return error;
    }
    let what = "this filesystem makes no hard links, by which just one of several processes \
        creates a file";
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "{what} ({error}); choose a directory on one that does, such as NFS, Lustre, GPFS or \
            ext4"
        ),
    )
}

/// Removes the unfinished files in a directory, which a killed run has left. Only the one process
/// that writes there may call it.
pub fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if [UNFINISHED, PROBE].iter().any(|prefix| name.starts_with(prefix))
            && let Err(error) = fs::remove_file(entry.path())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("can't remove {}: {error}", entry.path().display());
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file's name for a crash point: its name, or its extension if the name is that of a job.
fn name(path: &Path) -> String {
    let extension = path.extension().filter(|e| *e == "message" || *e == "sent");
    extension.or(path.file_name()).unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes a rename, a new file or a removal in `directory` permanent.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_created_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claim");
        assert!(create_atomic(&path, b"first").unwrap());
        assert!(!create_atomic(&path, b"second").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn a_link_that_is_asked_for_twice_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let [own, other, path] = ["own", "other", "claim"].map(|name| dir.path().join(name));
        fs::write(&own, "own").unwrap();
        fs::write(&other, "other").unwrap();
        assert!(link(&own, &path).unwrap());
        assert!(link(&own, &path).unwrap(), "a file server did it, and its answer was lost");
        assert!(!link(&other, &path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"own");
    }

    #[test]
    fn a_file_is_replaced_whole_and_gets_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let others = dir.path().join("others");
        fs::write(&others, "").unwrap();
        let bits = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let all = [Replace::OWN, Replace::NOTE, Replace::PUBLIC, Replace::USERS];
        for (n, how) in all.into_iter().enumerate() {
            how.write(&path, &[0; 9][..n]).unwrap();
            assert_eq!(fs::read(&path).unwrap().len(), n);
            let expected = match how.mode {
                Mode::Bits(bits) => bits,
                Mode::Umask => bits(&others),
            };
            assert_eq!(bits(&path), expected);
            assert!(how.write(&dir.path().join("nowhere/file"), b"").is_err());
        }
        drop(Replace::USERS.begin(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap().len(), all.len() - 1, "what was dropped is gone");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn a_filesystem_without_links_is_not_told_as_a_matter_of_permissions() {
        use rustix::io::Errno as E;
        for errno in [E::PERM, E::OPNOTSUPP, E::NOSYS, E::XDEV] {
            let text = without_links(errno.into()).to_string();
            assert!(
                text.contains("makes no hard links") && text.contains("; choose a directory"),
                "{text}"
            );
        }
        for errno in [E::ACCESS, E::NOSPC, E::IO, E::ROFS, E::MLINK] {
            let text = without_links(errno.into()).to_string();
            assert!(!text.contains("hard links"), "{text}");
        }
    }

    #[test]
    fn of_many_threads_one_creates_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("claim");
        let won = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|n| {
                    scope.spawn({
                        let path = &path;
                        move || create_atomic(path, &[n]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().filter_map(|t| t.join().ok()).filter(|won| *won).count()
        });
        assert_eq!(won, 1);
    }
}
