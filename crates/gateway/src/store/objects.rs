//! Files by the SHA-256 of their bytes: each is there whole or not at all, and once.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base::files::{UNFINISHED, sync_directory};
use base::text::hex;
use rusqlite::{OptionalExtension as _, Row};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{Store, StoreError};

/// A file that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name: the SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The folder of objects.
#[derive(Clone, Debug)]
pub struct Objects {
    folder: PathBuf,
}

impl Objects {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Where the object of this name lies.
    pub fn path(&self, sha256: &str) -> PathBuf {
        let shelf = sha256.get(..2).unwrap_or("00");
        self.folder.join(shelf).join(sha256)
    }

    /// Keeps a file: afterwards the object is on the disk, and `file` is where it was.
    ///
    /// # Errors
    /// When it can't be read, or the object can't be made.
    pub fn keep(&self, file: &Path) -> io::Result<Object> {
        let mut from = File::open(file)?;
        let object = measure(&mut from)?;
        let target = self.path(&object.sha256);
        if target.exists() {
            return Ok(object);
        }
        // Trainings read it by other names of the same file: none of them shall write to it.
        from.set_permissions(fs::Permissions::from_mode(0o400))?;
        from.sync_all()?;
        base::crash::point("before keeping an object");
        if let Some(shelf) = target.parent() {
            match DirBuilder::new().mode(0o700).create(shelf) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_directory(&self.folder)?,
            }
            link_or_copy(file, &target)?;
            sync_directory(shelf)?;
        }
        base::crash::point("after keeping an object");
        Ok(object)
    }

    /// Gives an object a name elsewhere, to be read there.
    ///
    /// # Errors
    /// When it can't be done.
    pub fn place(&self, sha256: &str, target: &Path) -> io::Result<()> {
        link_or_copy(&self.path(sha256), target)
    }

    /// Removes an object; true when it was there.
    pub(super) fn remove(&self, sha256: &str) -> bool {
        let path = self.path(sha256);
        base::crash::point("before removing an object");
        match fs::remove_file(&path) {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("{}: can't be removed: {error}", path.display());
                }
                false
            }
        }
    }

    /// Removes what is not among `known`: what a killed gateway has left. Returns how many files
    /// that were. Only a gateway that serves nobody yet may call it.
    pub(super) fn sweep(&self, known: &HashSet<String>) -> io::Result<usize> {
        let mut swept = 0;
        for shelf in fs::read_dir(&self.folder)? {
            let shelf = shelf?.path();
            if !shelf.is_dir() {
                continue;
            }
            for file in fs::read_dir(&shelf)? {
                let file = file?;
                if !known.contains(&*file.file_name().to_string_lossy()) {
                    fs::remove_file(file.path())?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }
}

impl Store {
    /// The object of this name, where it is kept.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn object(&self, sha256: &str) -> Result<Option<Object>, StoreError> {
        let sql = "SELECT sha256, size FROM objects WHERE sha256 = ?";
        let object = |row: &Row<'_>| Ok(Object { sha256: row.get(0)?, size: row.get(1)? });
        Ok(self.database().query_row(sql, [sha256], object).optional()?)
    }
}

fn measure(file: &mut File) -> io::Result<Object> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Object { sha256: hex(&hash.finalize()), size }),
            read => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// A second name for a file; a copy where the filesystem knows no second names.
fn link_or_copy(from: &Path, target: &Path) -> io::Result<()> {
    match fs::hard_link(from, target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => {
            let folder = target.parent().unwrap_or(Path::new("."));
            let mut copy = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
            io::copy(&mut File::open(from)?, copy.as_file_mut())?;
            copy.as_file().set_permissions(fs::Permissions::from_mode(0o400))?;
            copy.as_file().sync_all()?;
            copy.persist(target).map(drop).map_err(|error| error.error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_are_one_object_and_the_unknown_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (incoming, shelf) = (folder.path().join("in"), folder.path().join("objects"));
        fs::create_dir(&shelf).unwrap();
        let objects = Objects::new(&shelf);
        let keep = |text: &str| {
            fs::write(&incoming, text).unwrap();
            let object = objects.keep(&incoming).unwrap();
            // The object is another name of the same file: nothing writes to it any more.
            fs::remove_file(&incoming).unwrap();
            object
        };
        let (one, again, other) = (keep("one"), keep("one"), keep("other"));
        assert_eq!(one, again);
        let mode = fs::metadata(objects.path(&one.sha256)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        assert_eq!((one.size, other.size), (3, 5));
        assert_eq!(fs::read(objects.path(&one.sha256)).unwrap(), b"one");
        let place = folder.path().join("place");
        objects.place(&one.sha256, &place).unwrap();
        assert_eq!(fs::read(place).unwrap(), b"one");
        let known = HashSet::from([one.sha256.clone()]);
        assert_eq!(objects.sweep(&known).unwrap(), 1);
        assert!(objects.path(&one.sha256).exists());
        assert!(!objects.path(&other.sha256).exists());
        assert!(!objects.remove(&other.sha256) && objects.remove(&one.sha256));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::new(folder.path());
        assert!(objects.keep(&folder.path().join("gone")).is_err());
        assert!(objects.place(&"0".repeat(64), &folder.path().join("place")).is_err());
    }
}
