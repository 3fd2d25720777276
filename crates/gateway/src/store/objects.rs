//! Files by the SHA-256 of their bytes: each is there whole or not at all, and once. They lie in a
//! folder, or in a bucket of S3.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base::files::{UNFINISHED, sync_directory};
use base::text::hex;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::bucket::{Bucket, BucketConfig, BucketError};
use super::{Store, StoreError};

/// A file that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name: the SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Where objects are kept.
#[derive(Clone, Debug)]
pub struct Objects {
    place: Place,
    /// Where what comes from a bucket lies while it is read.
    scratch: PathBuf,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

/// The shelf that an object lies on: the first two letters of its name.
fn shelf(sha256: &str) -> &str {
    sha256.get(..2).unwrap_or("00")
}

impl Objects {
    /// In this folder.
    pub(super) fn new(folder: &Path, scratch: &Path) -> Self {
        Self { place: Place::Folder(folder.to_owned()), scratch: scratch.to_owned() }
    }

    /// The same in a bucket, which belongs to the store with this id from now on.
    ///
    /// # Errors
    /// When the bucket can't be reached, or belongs to another store.
    pub(super) fn in_bucket(self, config: &BucketConfig, owner: &str) -> Result<Self, BucketError> {
        let bucket = Bucket::new(config)?;
        match bucket.claim(owner)? {
            None => Ok(Self { place: Place::Bucket(bucket), ..self }),
            Some(_) => Err(BucketError::Other),
        }
    }

    /// Since when the bucket does not answer, where it doesn't.
    pub(super) fn away_since(&self) -> Option<Timestamp> {
        match &self.place {
            Place::Folder(_) => None,
            Place::Bucket(bucket) => bucket.away_since(),
        }
    }

    /// An object, to be read.
    ///
    /// # Errors
    /// When it can't be had.
    pub fn open(&self, sha256: &str) -> io::Result<File> {
        match &self.place {
            Place::Folder(folder) => File::open(path(folder, sha256)),
            Place::Bucket(bucket) => {
                let mut file = tempfile::tempfile_in(&self.scratch)?;
                fetch(bucket, sha256, &mut file)?;
                Ok(file)
            }
        }
    }

    /// Keeps a file: afterwards the object is on the disk, and `file` is where it was.
    ///
    /// # Errors
    /// When it can't be read, or the object can't be made.
    pub fn keep(&self, file: &Path) -> io::Result<Object> {
        let mut from = File::open(file)?;
        let object = measure(&mut from)?;
        let shelf = shelf(&object.sha256);
        match &self.place {
            Place::Folder(folder) => {
                let target = path(folder, &object.sha256);
                if target.exists() {
                    return Ok(object);
                }
                // Trainings read it by other names of the same file: none of them shall write to
                // it.
                from.set_permissions(fs::Permissions::from_mode(0o400))?;
                from.sync_all()?;
                base::crash::point("before keeping an object");
                let shelf = folder.join(shelf);
                match DirBuilder::new().mode(0o700).create(&shelf) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => sync_directory(folder)?,
                }
                link_or_copy(file, &target)?;
                sync_directory(&shelf)?;
            }
            Place::Bucket(bucket) => {
                if bucket.has(shelf, &object.sha256)? {
                    return Ok(object);
                }
                base::crash::point("before keeping an object");
                bucket.keep(shelf, &object.sha256, file)?;
            }
        }
        base::crash::point("after keeping an object");
        Ok(object)
    }

    /// Gives an object a name elsewhere, to be read there.
    ///
    /// # Errors
    /// When it can't be done.
    pub fn place(&self, sha256: &str, target: &Path) -> io::Result<()> {
        match &self.place {
            Place::Folder(folder) => link_or_copy(&path(folder, sha256), target),
            Place::Bucket(bucket) => written(target, |file| fetch(bucket, sha256, file)),
        }
    }

    /// Removes an object; true when it was there.
    pub(super) fn remove(&self, sha256: &str) -> bool {
        base::crash::point("before removing an object");
        let removed = match &self.place {
            Place::Folder(folder) => fs::remove_file(path(folder, sha256)),
            Place::Bucket(bucket) => bucket.remove(shelf(sha256), sha256),
        };
        match removed {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("the object {sha256} can't be removed: {error}");
                }
                false
            }
        }
    }

    /// Removes what is not among `known`: what a killed gateway has left. Returns how many files
    /// that were. Only a gateway that serves nobody yet may call it.
    pub(super) fn sweep(&self, known: &HashSet<String>) -> io::Result<usize> {
        match &self.place {
            Place::Folder(folder) => sweep_folder(folder, known),
            Place::Bucket(bucket) => {
                let is_left = |(on, name): &(String, String)| {
                    let ours = name.len() == 64 && shelf(name) == on;
                    ours && !known.contains(name)
                };
                let left: Vec<_> = bucket.list()?.into_iter().filter(is_left).collect();
                for (shelf, name) in &left {
                    bucket.remove(shelf, name)?;
                }
                Ok(left.len())
            }
        }
    }
}

fn sweep_folder(folder: &Path, known: &HashSet<String>) -> io::Result<usize> {
    let mut swept = 0;
    for shelf in fs::read_dir(folder)? {
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

/// Where the object of this name lies in a folder.
fn path(folder: &Path, sha256: &str) -> PathBuf {
    folder.join(shelf(sha256)).join(sha256)
}

/// Writes an object of a bucket into a file, which is at its beginning then. What has changed on
/// the way is refused.
fn fetch(bucket: &Bucket, sha256: &str, file: &mut File) -> io::Result<()> {
    bucket.fetch(shelf(sha256), sha256, file)?;
    file.seek(SeekFrom::Start(0))?;
    let found = measure(file)?;
    file.seek(SeekFrom::Start(0))?;
    if found.sha256 == sha256 {
        Ok(())
    } else {
        Err(io::Error::other(format!("the object {sha256} has other bytes in the bucket")))
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
        Err(_) => written(target, |copy| io::copy(&mut File::open(from)?, copy).map(drop)),
    }
}

/// Writes a file that is there whole or not at all.
fn written(target: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder)?;
    write(file.as_file_mut())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o400))?;
    file.as_file().sync_all()?;
    file.persist(target).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_are_one_object_and_the_unknown_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let (incoming, shelf) = (folder.path().join("in"), folder.path().join("objects"));
        fs::create_dir(&shelf).unwrap();
        let objects = Objects::new(&shelf, &shelf);
        let keep = |text: &str| {
            fs::write(&incoming, text).unwrap();
            let object = objects.keep(&incoming).unwrap();
            // The object is another name of the same file: nothing writes to it any more.
            fs::remove_file(&incoming).unwrap();
            object
        };
        let (one, again, other) = (keep("one"), keep("one"), keep("other"));
        assert_eq!(one, again);
        let mode = fs::metadata(path(&shelf, &one.sha256)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        assert_eq!((one.size, other.size), (3, 5));
        assert_eq!(fs::read(path(&shelf, &one.sha256)).unwrap(), b"one");
        let place = folder.path().join("place");
        objects.place(&one.sha256, &place).unwrap();
        assert_eq!(fs::read(place).unwrap(), b"one");
        let known = HashSet::from([one.sha256.clone()]);
        assert_eq!(objects.sweep(&known).unwrap(), 1);
        assert!(path(&shelf, &one.sha256).exists());
        assert!(!path(&shelf, &other.sha256).exists());
        assert!(!objects.remove(&other.sha256) && objects.remove(&one.sha256));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let objects = Objects::new(folder.path(), folder.path());
        assert!(objects.keep(&folder.path().join("gone")).is_err());
        assert!(objects.place(&"0".repeat(64), &folder.path().join("place")).is_err());
    }
}
