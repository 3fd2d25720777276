//! What the gateway remembers: one SQLite file, and a folder of objects.
//!
//! Every change of a run's state and the event that shows it are one transaction. An object is
//! written before the row that names it, and what no row names is removed when the gateway starts:
//! a kill at any moment leaves neither a row without its object nor an object without its row.

mod accounts;
mod bucket;
mod changes;
mod events;
mod jobs;
mod keeping;
mod objects;
mod pages;
mod rows;
mod runs;
mod schema;
mod tracked;
mod uploads;

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;
use tokio::sync::watch;

pub use accounts::{Account, Role};
pub(crate) use bucket::BucketAway;
pub use bucket::{BucketConfig, BucketError, BucketVariableError};
pub(crate) use changes::Change;
pub(crate) use events::Event;
pub(crate) use jobs::{Hearing, Job, NewJob, Step};
pub use keeping::Purged;
pub(crate) use objects::{Object, Objects};
pub(crate) use pages::{NewPage, Page, PageFile, Part};
pub(crate) use runs::{FileKind, Filter, Group, Image, NewRun, Run, RunFile};
pub(crate) use tracked::{There, Tracked, TrackedEnd};

use crate::reach::Reach;
use crate::state::TransitionError;

/// How long a statement waits for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the store can't do what is asked of it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A folder or a file can't be used.
    #[error("{}: {what}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another gateway is at work with this folder.
    #[error("{}: another gateway works with this folder; stop it, or give --data another folder",
        .0.display())]
    InUse(PathBuf),
    /// A later version has made the file.
    #[error("{}: was made by a later version (its version is {found}, this program knows {known}); \
        use that version", path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: usize,
        /// The version that this program knows.
        known: usize,
    },
    /// SQLite can't do it.
    #[error("the store can't be read or written: {0}")]
    Database(#[from] rusqlite::Error),
    /// What is written in the store can't be understood.
    #[error("the store holds {what} that can't be understood: {detail}")]
    Content {
        /// What.
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// There is nothing of this name.
    #[error("there is no {0}")]
    Missing(String),
    /// It can't be done in this state.
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// The bucket of the objects can't be used.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// A name is taken.
    #[error("{0} is there already")]
    Taken(String),
    /// The key was used for another request.
    #[error("this Idempotency-Key was used for another request; use a new one for each request")]
    OtherRequest,
    /// So many runs of one account wait that no more are taken.
    #[error(
        "{waiting} runs of this account wait already, and at most {most} may; cancel some, or \
        wait"
    )]
    TooMany {
        /// How many wait.
        waiting: u64,
        /// How many may.
        most: u64,
    },
}

impl StoreError {
    fn file(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), what, source }
    }

    /// Whether the bucket of the objects is away, and may be back later.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::File { source, .. } if BucketAway::is_why(source))
    }

    /// Whether there is no room left on the disk.
    pub fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            Self::Database(rusqlite::Error::SqliteFailure(error, _)) => {
                error.code == rusqlite::ErrorCode::DiskFull
            }
            _ => false,
        }
    }
}

/// The folder of a gateway.
#[derive(Clone, Debug)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// The folder at `path`, which is made where it is not there, for this account alone.
    ///
    /// # Errors
    /// When it can't be made, or belongs to somebody else.
    pub fn at(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File {
            path: path.to_owned(),
            what: "can't be used for the gateway's data",
            source,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        base::files::own_directory(path, true).map_err(failed)?;
        // The training is another process: it is given whole paths.
        let path = fs::canonicalize(path).map_err(failed)?;
        for name in ["objects", "incoming", "runs"] {
            let folder = path.join(name);
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(StoreError::file(&folder, "can't be made"))?;
        }
        Ok(Self(path))
    }

    /// The SQLite file.
    pub fn database(&self) -> PathBuf {
        self.0.join("gateway.sqlite")
    }

    /// The link with the token for a browser, where it is not printed.
    pub fn link(&self) -> PathBuf {
        self.0.join("link")
    }

    /// Where objects lie.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// Where uploads come in.
    pub fn incoming(&self) -> PathBuf {
        self.0.join("incoming")
    }

    /// Where a run has its files while it is not over.
    pub fn run(&self, id: i64) -> PathBuf {
        self.0.join("runs").join(id.to_string())
    }

    /// Where all runs have theirs.
    pub fn runs(&self) -> PathBuf {
        self.0.join("runs")
    }

    /// Makes sure that no other gateway works with the folder, as long as the file is open.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or when the lock can't be made.
    pub fn lock(&self) -> Result<File, StoreError> {
        let path = self.0.join("lock");
        let failed = |source| StoreError::File {
            path: path.clone(),
            what: "can't be locked for this gateway",
            source,
        };
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(self.0.clone())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// The store of a gateway.
#[derive(Debug)]
pub struct Store {
    database: Mutex<Connection>,
    objects: Objects,
    folder: DataFolder,
    /// Counts what has changed, for those who watch.
    changes: watch::Sender<u64>,
    /// Whether the broker is there, where a cluster trains.
    reach: Option<Reach>,
    /// The address of the tracking server where trainings are logged, if there is one.
    tracking: Option<String>,
}

impl Store {
    /// Opens the store in this folder, and brings its file up to this version.
    ///
    /// # Errors
    /// When it can't be opened, or was made by a later version.
    pub fn open(folder: &DataFolder) -> Result<Self, StoreError> {
        let path = folder.database();
        let mut database = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        database.busy_timeout(PATIENCE)?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        // A commit is on the disk when it returns, whatever happens to the machine.
        database.pragma_update(None, "synchronous", "FULL")?;
        database.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&mut database, &path)?;
        Ok(Self {
            database: Mutex::new(database),
            objects: Objects::new(&folder.objects(), &folder.incoming()),
            folder: folder.clone(),
            changes: watch::Sender::new(0),
            reach: None,
            tracking: None,
        })
    }

    /// The same for a gateway whose runs are trained by a cluster: they say when the broker keeps
    /// them waiting.
    #[must_use]
    pub fn with_broker(mut self, reach: &Reach) -> Self {
        self.reach = Some(reach.clone());
        self
    }

    /// The same with its objects in a bucket of S3.
    ///
    /// # Errors
    /// When the bucket can't be reached, or belongs to another gateway.
    pub fn with_bucket(mut self, config: &BucketConfig) -> Result<Self, StoreError> {
        let owner = self.own_id()?;
        self.objects = self.objects.in_bucket(config, &owner)?;
        Ok(self)
    }

    /// The same for a gateway whose trainings are logged at the tracking server with this address:
    /// those that are asked for from now on.
    #[must_use]
    pub fn with_tracking(self, address: &str) -> Self {
        Self { tracking: Some(address.to_owned()), ..self }
    }

    /// Whether the broker is there; `None` where this machine trains.
    pub(crate) fn reach(&self) -> Option<&Reach> {
        self.reach.as_ref()
    }

    /// Why runs wait for the broker, in a sentence, where they do.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.reach.as_ref()?.trouble()
    }

    /// What a run that is active waits for where its files can't be had, in a sentence.
    pub(crate) fn objects_trouble(&self) -> Option<String> {
        let since = self.objects.away_since()?;
        Some(format!(
            "The place where this gateway keeps its files can't be reached since {since:.0}; the \
             run goes on when it answers again."
        ))
    }

    /// Has those who watch look again.
    pub(crate) fn wake(&self) {
        self.changed();
    }

    /// The folder.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Wakes whoever waits for changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        // A transaction that panicked was rolled back.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Now, as the store writes it: to the millisecond, in UTC, so that texts sort as times do.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}
