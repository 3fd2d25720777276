//! Looking at the spool without changing anything, whoever holds the lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::files::JobFiles;
use super::lock::{HeldBy, Holder, holder_path};
use super::record::Record;
use super::store::{Store, StoreError, Unreadable, load, save};
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

impl Store {
    /// The spool as it is: nothing is made, and nothing is tested.
    pub fn unopened(root: &Path) -> Self {
        Self::at(root)
    }

    /// The ids of all jobs, open ones first. A job that is filed away in this moment may be listed
    /// twice, but is never missed.
    ///
    /// # Errors
    /// When a directory is there and can't be read. Before the first pass there is none, and no
    /// job.
    pub fn ids(&self) -> Result<(Vec<JobId>, Vec<JobId>), StoreError> {
        Ok((ids_in(&self.jobs())?, ids_in(&self.done())?))
    }

    /// A job, open or answered; `None` where there is none (any more).
    ///
    /// # Errors
    /// When its record can't be used.
    pub fn see(&self, id: &JobId) -> Result<Option<Seen>, Unreadable> {
        for (directory, answered) in [(self.jobs(), false), (self.done(), true)] {
            let files = JobFiles::new(&directory.join(id.as_str()));
            match load(&files, id) {
                Ok(record) => return Ok(Some(Seen { record, files, answered })),
                Err(Unreadable::Absent) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Notes that the message of this job can't come again.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn note_acknowledged(&self, mut seen: Seen) -> Result<(), StoreError> {
        if !seen.record.unacknowledged {
            return Ok(());
        }
        seen.record.unacknowledged = false;
        save(&seen.files, &seen.record)
    }

    /// The files in `rejected/`, and since when each lies there, by its name. Other files are not
    /// ours.
    ///
    /// # Errors
    ///
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

    /// Who holds the lock, as far as it is known.
    pub fn held_by(&self) -> Option<HeldBy> {
        Holder::read(&holder_path(&self.lock_path())).map(|holder| holder.who)
    }
}

fn ids_in(directory: &Path) -> Result<Vec<JobId>, StoreError> {
    let error = |source| StoreError::new(directory, "can't be read", source);
    let mut ids = Vec::new();
    let entries = match fs::read_dir(directory) {
        // The first pass makes it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
        entries => entries.map_err(error)?,
    };
    for entry in entries {
        ids.extend(JobId::from_directory(&entry.map_err(error)?.file_name().to_string_lossy()));
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::super::lock::{Lock, Role};
    use super::*;
    use domain::CorrelationId;

    #[test]
    fn looking_changes_nothing_and_finds_open_and_answered_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("spool");
        assert_eq!(Store::unopened(&root).ids().unwrap(), (Vec::new(), Vec::new()));
        assert!(!root.exists());
        fs::write(&root, "no directory").unwrap();
        assert!(Store::unopened(&root).ids().unwrap_err().to_string().contains("can't be read"));
        fs::remove_file(&root).unwrap();
        let store = Store::open(&root).unwrap();
        for name in ["a", "b"] {
            let id = CorrelationId(name.into());
            let job = Record::new(
                JobId::from_correlation_id(&id),
                id,
                "queue".into(),
                b"",
                Timestamp::now(),
            );
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
        assert!(
            look.see(&b).unwrap().unwrap().answered
                && !look.see(&open[0]).unwrap().unwrap().answered
        );
        assert!(look.see(&open[1]).unwrap_err().to_string().contains("can't be read"));
        assert!(root.join("jobs/no id").exists() && root.join("jobs/torn").exists());
        assert_eq!(look.held_by(), None);
        let _lock = Lock::acquire(&store.lock_path(), Role::Watcher, Timestamp::now()).unwrap();
        let held_by = look.held_by().unwrap();
        assert_eq!((held_by.pid, held_by.role), (std::process::id(), Role::Watcher));
        assert!(held_by.is_alive(Timestamp::now()));
        assert!(!HeldBy { pid: u32::MAX, ..held_by }.is_alive(Timestamp::now()));
    }
}
