//! The spool directory: one directory per job, files mode 0600, directories 0700.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use super::breaker::Breaker;
use super::cancels::Cancels;
use super::claim::{Claimed, Publisher, claim};
use super::files::JobFiles;
use super::paces::Paces;
use super::record::{Outcome, RECORD_VERSION, Record};
use base::crash;
use base::files::{PROBE, UNFINISHED, sweep, sync_directory, write_atomic};
use base::files::{is_own_directory, own_directory, read_own};
use base::text::printable;
use contract::wire::{Answer, Envelope};
use domain::JobId;

/// The spool: `jobs/` (open), `done/` (answered), `rejected/` (messages that were no jobs, and
/// files that are not ours).
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A spool that can't be used.
#[derive(Debug, Error)]
#[error("the spool {} {action}: {source}; SPOOL_DIR must be a directory that this account can \
    write", path.display())]
pub struct StoreError {
    /// The file or directory.
    path: PathBuf,
    /// What was tried.
    action: &'static str,
    /// What the system says.
    source: io::Error,
}

impl StoreError {
    pub(super) fn new(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self { path: path.to_path_buf(), action, source }
    }
}

impl Store {
    /// Opens the spool and makes its directories.
    ///
    /// # Errors
    /// When they can't be made or written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::at(root);
        for directory in [root.to_path_buf(), store.jobs(), store.done(), store.rejected()] {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|source| {
                StoreError { path: directory.clone(), action: "can't be made", source }
            })?;
            // The operator may make SPOOL_DIR itself a link to another filesystem.
            let closed = own_directory(&directory, directory == root).map_err(|source| {
                StoreError { path: directory.clone(), action: "can't be used", source }
            })?;
            if closed {
                tracing::warn!(
                    "others could look into {}; it is closed to them now",
                    directory.display()
                );
            }
        }
        // The lock file and the records need a directory that can be written; a mistake is reported
        // before anything is taken.
        tempfile::Builder::new().prefix(PROBE).tempfile_in(store.jobs()).map_err(|source| {
            StoreError { path: store.jobs(), action: "can't be written", source }
        })?;
        Ok(store)
    }

    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    pub(super) fn done(&self) -> PathBuf {
        self.root.join("done")
    }

    pub(super) fn rejected(&self) -> PathBuf {
        self.root.join("rejected")
    }

    fn breaker_path(&self) -> PathBuf {
        self.root.join("breaker.json")
    }

    /// How recent submissions went.
    pub fn breaker(&self) -> Breaker {
        read_own(&self.breaker_path())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Saves how submissions went.
    ///
    /// # Errors
    ///
    /// When that can't be written.
    pub fn save_breaker(&self, breaker: &Breaker) -> Result<(), StoreError> {
        let path = self.breaker_path();
        if *breaker == Breaker::default() {
            remove_if_there(&path);
            return Ok(());
        }
        let write =
            || write_atomic(&path, &serde_json::to_vec_pretty(breaker).map_err(io::Error::other)?);
        write().map_err(|source| StoreError {
            path: path.clone(),
            action: "can't be written",
            source,
        })
    }

    fn cancels_path(&self) -> PathBuf {
        self.root.join("cancels.json")
    }

    /// The jobs that are to be cancelled when they come.
    ///
    /// # Errors
    /// When they are there and can't be read: whoever saved others then would lose them.
    pub fn cancels(&self) -> Result<Cancels, StoreError> {
        let path = self.cancels_path();
        let text =
            read_if_ours(&path).map_err(|error| StoreError::new(&path, "can't be read", error))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default())
    }

    /// Remembers them.
    ///
    /// # Errors
    /// When that can't be written; the request must not be acknowledged then.
    pub fn save_cancels(&self, cancels: &Cancels) -> Result<(), StoreError> {
        self.save_beside(&self.cancels_path(), cancels, cancels.is_empty())
    }

    fn paces_path(&self) -> PathBuf {
        self.root.join("paces.json")
    }

    /// How fast the finished jobs were.
    pub fn paces(&self) -> Paces {
        let text = read_own(&self.paces_path()).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Remembers them.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn save_paces(&self, paces: &Paces) -> Result<(), StoreError> {
        self.save_beside(&self.paces_path(), paces, false)
    }

    fn save_beside(
        &self,
        path: &Path,
        value: &impl serde::Serialize,
        empty: bool,
    ) -> Result<(), StoreError> {
        if empty {
            remove_if_there(path);
            return Ok(());
        }
        let write =
            || write_atomic(path, &serde_json::to_vec_pretty(value).map_err(io::Error::other)?);
        write().map_err(|source| StoreError::new(path, "can't be written", source))
    }

    /// Removes the unfinished files of a killed run. The caller holds the lock.
    pub fn sweep(&self) {
        for directory in [self.root.clone(), self.jobs(), self.rejected()] {
            sweep(&directory);
        }
    }

    /// The lock file of the spool.
    pub fn lock_path(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The files of an open job.
    pub fn files(&self, id: &JobId) -> JobFiles {
        JobFiles::new(&self.jobs().join(id.as_str()))
    }

    /// All open jobs, oldest first. Whatever is not a job of ours is moved to `rejected/`, with a
    /// line in the log.
    ///
    /// # Errors
    ///
    /// When the directory can't be read.
    pub fn open_jobs(&self) -> Result<Vec<Record>, StoreError> {
        let error = |source| StoreError { path: self.jobs(), action: "can't be read", source };
        let mut records = Vec::new();
        for entry in fs::read_dir(self.jobs()).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with('.') {
                continue; // a probe or a temporary file of a run that was killed
            }
            match self.read(&name) {
                Ok(record) => records.push(record),
                Err(error @ Unreadable::Newer(_)) => {
                    tracing::error!(
                        job = %name,
                        "{error} (this one knows version {RECORD_VERSION}); left alone"
                    );
                }
                Err(error @ Unreadable::Fault(_)) => {
                    tracing::error!(job = %name, "{error}; the next pass tries again");
                }
                Err(Unreadable::Absent) if self.discard_unfinished(&name) => {}
                Err(error @ (Unreadable::Absent | Unreadable::Foreign(_))) => {
                    self.set_aside(&name, &error.to_string());
                }
            }
        }
        records.sort_by(|a, b| (a.received_at, &a.job_id).cmp(&(b.received_at, &b.job_id)));
        Ok(records)
    }

    fn read(&self, name: &str) -> Result<Record, Unreadable> {
        let id = JobId::from_directory(name)
            .ok_or_else(|| Unreadable::Foreign("its name is not a job's".into()))?;
        load(&self.files(&id), &id)
    }

    /// Removes the directory of a run that was killed before it had written the record: the message
    /// was not acknowledged and comes again, so there is nothing to keep. False when the directory
    /// holds more than that.
    fn discard_unfinished(&self, name: &str) -> bool {
        let directory = self.jobs().join(name);
        let ours = |name: &str| name == "message.json" || name.starts_with(UNFINISHED);
        let Ok(entries) = fs::read_dir(&directory) else { return false };
        let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        if names.iter().any(|n| !ours(&n.to_string_lossy())) {
            return false;
        }
        tracing::debug!(job = name, "its message was not taken; it comes again");
        fs::remove_dir_all(&directory).is_ok()
    }

    fn set_aside(&self, name: &str, why: &str) {
        let directory = self.jobs().join(name);
        if is_own_directory(&directory).is_ok() {
            // No token is kept in `rejected/`.
            remove_if_there(&JobFiles::new(&directory).job_file());
        }
        let target = self.rejected().join(format!("{}-{name}", Timestamp::now().as_millisecond()));
        match fs::rename(&directory, &target) {
            Ok(()) => {
                tracing::warn!(
                    "{name} in the spool is no job of ours ({why}); moved to {}",
                    target.display()
                )
            }
            Err(error) => {
                tracing::error!(
                    "{name} in the spool is no job of ours ({why}) and can't be moved: {error}"
                )
            }
        }
    }

    /// The record of an open job; else what the reply of that job held, where it is answered and
    /// that is known.
    ///
    /// # Errors
    /// When its record can't be used: nobody knows whether it is answered.
    pub fn open_job(&self, id: &JobId) -> Result<Result<Record, Option<Outcome>>, Unreadable> {
        Ok(match self.see(id)? {
            Some(seen) if !seen.answered => Ok(seen.record),
            Some(seen) => Err(seen.record.outcome),
            None => Err(None),
        })
    }

    /// Makes the directory of a new job and writes the message and the record.
    ///
    /// # Errors
    /// When that fails; the message must not be acknowledged then.
    pub fn create(&self, record: &Record, message: &[u8]) -> Result<(), StoreError> {
        let files = self.files(&record.job_id);
        let error = |source| StoreError {
            path: files.directory().to_path_buf(),
            action: "can't be written",
            source,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(files.directory()).map_err(error)?;
        let message = &message[..message.len().min(MOST_KEPT_BYTES)];
        write_atomic(&files.message(), message).map_err(error)?;
        self.save(record)?;
        sync_directory(&self.jobs()).map_err(error)
    }

    /// Writes a job's record.
    ///
    /// # Errors
    /// When it can't be written; the step that follows must not be taken then.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        save(&self.files(&record.job_id), record)
    }

    /// The message of an open job; `None` when there is none.
    ///
    /// # Errors
    /// When it can't be read, which may pass.
    pub fn message(&self, id: &JobId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.files(id).message();
        read_if_ours(&path).map_err(|source| StoreError::new(&path, "can't be read", source))
    }

    /// The spooled reply of an open job; `None` when there is none or it is torn.
    ///
    /// # Errors
    /// When it can't be read, which may pass: it must not be replaced then.
    pub fn reply(&self, id: &JobId) -> Result<Option<Answer>, StoreError> {
        let path = self.files(id).reply();
        let body = read_if_ours(&path)
            .map_err(|source| StoreError::new(&path, "can't be read", source))?;
        Ok(body.and_then(|body| Answer::from_body(body).ok()))
    }

    /// Spools a reply, then removes the job file: its token is not needed any more.
    ///
    /// # Errors
    /// When the reply can't be written.
    pub fn write_reply(&self, id: &JobId, reply: &Answer) -> Result<(), StoreError> {
        let files = self.files(id);
        write_atomic(&files.reply(), &reply.body()).map_err(|source| StoreError {
            path: files.reply(),
            action: "can't be written",
            source,
        })?;
        remove_if_there(&files.job_file());
        Ok(())
    }

    /// Claims the reply of a job for `check`.
    ///
    /// # Errors
    ///
    /// When the claim can't be written; the reply must not be published then.
    pub fn claim(&self, id: &JobId) -> Result<Claimed, StoreError> {
        let files = self.files(id);
        claim(&files, Publisher::Check).map_err(|source| StoreError {
            path: files.claim(),
            action: "can't be written",
            source,
        })
    }

    /// Moves an answered job to `done/`, without its reply, its token and its checkpoint.
    ///
    /// # Errors
    /// When it can't be moved; the next pass tries again.
    pub fn finish(&self, id: &JobId) -> Result<(), StoreError> {
        let files = self.files(id);
        crash::point("before filing the job away");
        remove_if_there(&files.job_file());
        files.outbox().remove();
        remove_if_there(&files.reply());
        files.remove_checkpoint();
        sweep(files.directory());
        let target = self.done().join(id.as_str());
        let error =
            |source| StoreError { path: target.clone(), action: "can't be written", source };
        crash::point("before moving the job to done");
        fs::rename(files.directory(), &target).map_err(error)?;
        sync_directory(&self.jobs()).and_then(|()| sync_directory(&self.done())).map_err(error)?;
        crash::point("after filing the job away");
        Ok(())
    }

    /// Keeps a message that is not a job, for the operator: its first MiB, and only the latest
    /// thousand of such messages.
    ///
    /// # Errors
    ///
    /// When it can't be written; the message must not be acknowledged then.
    pub fn keep_rejected(&self, id: &JobId, message: &[u8]) -> Result<PathBuf, StoreError> {
        let message = &message[..message.len().min(MOST_KEPT_BYTES)];
        // Oldest first. Other files there are left alone.
        let mut kept = self.rejected_files()?;
        kept.retain(|(_, path)| path.extension().is_some_and(|extension| extension == "message"));
        for (_, old) in kept.iter().take((kept.len() + 1).saturating_sub(MOST_REJECTED)) {
            remove_if_there(old);
        }
        let path =
            self.rejected().join(format!("{}-{id}.message", Timestamp::now().as_millisecond()));
        write_atomic(&path, message).map_err(|source| StoreError {
            path: path.clone(),
            action: "can't be written",
            source,
        })?;
        Ok(path)
    }
}

impl JobFiles {
    /// Where the reply of this job goes, as its record says.
    pub fn envelope(&self) -> Option<Envelope> {
        let record: Record = serde_json::from_slice(&read_own(&self.record()).ok()?).ok()?;
        Some(record.envelope())
    }
}

/// The largest message that can be a job, in bytes; of larger ones the beginning is kept.
const MOST_KEPT_BYTES: usize = 1 << 20;

/// Most messages that are kept.
const MOST_REJECTED: usize = 1000;

/// A record that is not there or can't be used.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// There is none.
    #[error("it has no record")]
    Absent,
    /// A newer program's.
    #[error("its record has version {0}, from a newer program")]
    Newer(u64),
    /// None of ours.
    #[error("{0}")]
    Foreign(String),
    /// The system's own fault, which may pass.
    #[error("its record can't be read: {0}")]
    Fault(io::Error),
}

/// Writes the record in a job's directory.
pub(super) fn save(files: &JobFiles, record: &Record) -> Result<(), StoreError> {
    let path = files.record();
    let write =
        || write_atomic(&path, &serde_json::to_vec_pretty(record).map_err(io::Error::other)?);
    write().map_err(|source| StoreError::new(&path, "can't be written", source))
}

/// Reads the record in a job's directory.
pub(super) fn load(files: &JobFiles, id: &JobId) -> Result<Record, Unreadable> {
    let text = is_own_directory(files.directory()).and_then(|()| read_own(&files.record()));
    match text {
        Ok(text) => parse(&text, id),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Unreadable::Absent),
        // What we refuse has this kind of error; faults of the system have others, and may pass.
        Err(e) if e.kind() == io::ErrorKind::Other => Err(Unreadable::Foreign(e.to_string())),
        Err(e) => Err(Unreadable::Fault(e)),
    }
}

pub(crate) fn parse(text: &[u8], id: &JobId) -> Result<Record, Unreadable> {
    // serde repeats what it did not expect, word for word.
    let foreign = |e: serde_json::Error| {
        Unreadable::Foreign(format!("its record can't be read: {}", printable(&e.to_string(), 200)))
    };
    let value: serde_json::Value = serde_json::from_slice(text).map_err(foreign)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(RECORD_VERSION) => {
            return Err(Unreadable::Newer(version));
        }
        _ => {}
    }
    let record: Record = serde_json::from_value(value).map_err(foreign)?;
    if record.job_id != *id {
        let other = printable(record.job_id.as_str(), 64);
        return Err(Unreadable::Foreign(format!("its record is that of {other}")));
    }
    Ok(record)
}

/// Reads a file; `None` where there is none, or where it is none of ours (a link, another
/// account's) and never will be. Faults of the system are errors: they may pass.
fn read_if_ours(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_own(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::Other) => Ok(None),
        Err(e) => Err(e),
    }
}

fn remove_if_there(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("can't remove {}: {error}", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
