//! Looking at the spool without changing anything, beside whatever holds the lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lock::{Role, STALE_AFTER};
use super::record::Record;
use super::store::{JobFiles, Store, StoreError, Unreadable, parse};
use base::files::UNFINISHED;
use base::files::read_own;
use domain::JobId;

/// A job as it lies in the spool.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its record.
    pub record: Record,
    /// Its files.
    pub files: JobFiles,
    /// True once it lies in `done/`.
    pub answered: bool,
}

/// Who says of itself that it holds the lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it last said that it is alive.
    pub heartbeat: Timestamp,
    /// What it is at.
    #[serde(default)]
    pub role: Role,
}

impl HeldBy {
    /// False when the next `check` would take the lock over.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        if rustix::system::uname().nodename().to_string_lossy() == self.host.as_str() {
            return Path::new(&format!("/proc/{}", self.pid)).exists();
        }
        now.duration_since(self.heartbeat).unsigned_abs() < STALE_AFTER
    }
}

impl Store {
    /// The spool as it is: nothing is made and nothing is tried out.
    pub fn unopened(root: &Path) -> Self {
        Self::at(root)
    }

    /// The ids of all jobs, open ones first. A job that is filed away in this moment may come twice, but never not at all.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn ids(&self) -> Result<(Vec<JobId>, Vec<JobId>), StoreError> {
        Ok((ids_in(&self.jobs())?, ids_in(&self.done())?))
    }

    /// A job, open or answered; `None` where there is none, or none that this program can read.
    pub fn see(&self, id: &JobId) -> Option<Seen> {
        self.see_or_why(id).ok().flatten()
    }

    /// A job, `None` where there is none (any more), or why it can't be read.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn see_or_why(&self, id: &JobId) -> Result<Option<Seen>, String> {
        for (directory, answered) in [(self.jobs(), false), (self.done(), true)] {
            let files = JobFiles::new(&directory.join(id.as_str()));
            let text = match read_own(&files.record()) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.to_string()),
            };
            return match parse(&text, id) {
                Ok(record) => Ok(Some(Seen { record, files, answered })),
                Err(Unreadable::Newer(version)) => {
                    Err(format!("its record has version {version}, from a newer program"))
                }
                Err(Unreadable::Foreign(why)) => Err(why),
                Err(Unreadable::Fault(error)) => Err(error.to_string()),
                Err(Unreadable::Unfinished) => Ok(None),
            };
        }
        Ok(None)
    }

    /// The files in `rejected/` and since when each lies there, as its name says. Others are not ours.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn rejected_files(&self) -> Result<Vec<(Timestamp, PathBuf)>, StoreError> {
        let directory = self.rejected();
        let error = |source| StoreError::new(&directory, "can't be read", source);
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).map_err(error)? {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            let time = name.to_str().and_then(|name| name.split_once('-')).map(|(time, _)| time);
            let at = time.filter(|t| t.len() >= 13 && t.bytes().all(|b| b.is_ascii_digit()));
            let at = at.and_then(|t| Timestamp::from_millisecond(t.parse().ok()?).ok());
            if let Some(at) = at.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())) {
                files.push((at, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Who holds the lock, as far as it has said so.
    pub fn held_by(&self) -> Option<HeldBy> {
        serde_json::from_slice(&read_own(&self.lock_path().with_extension("holder")).ok()?).ok()
    }
}

impl JobFiles {
    /// True when nothing but a job's files is in its directory, and that is no link.
    pub fn are_all(&self) -> bool {
        let is_directory = fs::symlink_metadata(self.directory()).is_ok_and(|m| m.is_dir());
        let known = [
            (self.record(), false),
            (self.message(), false),
            (self.job_file(), false),
            (self.started(), false),
            (self.progress(), false),
            (self.reply(), false),
            (self.delivered(), false),
            (self.claim(), false),
            (self.report(), false),
            (self.failure(), false),
            (self.checkpoint(), true),
        ];
        let is_known = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| {
                let is = |directory: bool| {
                    entry.file_type().is_ok_and(|kind| if directory { kind.is_dir() } else { kind.is_file() })
                };
                known.iter().any(|(path, directory)| *path == entry.path() && is(*directory))
                    || (entry.file_name().to_string_lossy().starts_with(UNFINISHED) && is(false))
            })
        };
        is_directory && fs::read_dir(self.directory()).is_ok_and(|mut entries| entries.all(is_known))
    }
}

fn ids_in(directory: &Path) -> Result<Vec<JobId>, StoreError> {
    let error = |source| StoreError::new(directory, "can't be read", source);
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory).map_err(error)? {
        ids.extend(JobId::from_directory(&entry.map_err(error)?.file_name().to_string_lossy()));
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::super::lock::Lock;
    use super::*;
    use domain::CorrelationId;

    #[test]
    fn looking_changes_nothing_and_finds_open_and_answered_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        assert!(Store::unopened(&root).ids().unwrap_err().to_string().contains("can't be read"));
        assert!(!root.exists());
        let store = Store::open(&root).unwrap();
        for name in ["a", "b"] {
            let id = CorrelationId(name.into());
            let job = Record::new(JobId::from_correlation_id(&id), id, "queue".into(), b"", Timestamp::now());
            store.create(&job, b"").unwrap();
        }
        let b = JobId::from_directory("b").unwrap();
        store.finish(&b).unwrap();
        fs::create_dir(root.join("jobs/torn")).unwrap();
        fs::write(root.join("jobs/torn/record.json"), "{").unwrap();
        fs::write(root.join("jobs/no id"), "").unwrap();
        let look = Store::unopened(&root);
        let (open, done) = look.ids().unwrap();
        assert_eq!(open.iter().map(JobId::as_str).collect::<Vec<_>>(), ["a", "torn"]);
        assert_eq!(done.as_slice(), std::slice::from_ref(&b));
        assert!(look.see(&b).unwrap().answered && !look.see(&open[0]).unwrap().answered);
        assert!(look.see_or_why(&open[1]).unwrap_err().contains("can't be read"));
        assert!(root.join("jobs/no id").exists() && root.join("jobs/torn").exists());
        assert_eq!(look.held_by(), None);
        let _lock = Lock::acquire(&store.lock_path(), Role::Watcher, Timestamp::now()).unwrap();
        let held_by = look.held_by().unwrap();
        assert_eq!((held_by.pid, held_by.role), (std::process::id(), Role::Watcher));
        assert!(held_by.is_alive(Timestamp::now()));
        assert!(!HeldBy { pid: u32::MAX, ..held_by }.is_alive(Timestamp::now()));
    }
}
