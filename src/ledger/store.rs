//! The spool directory: one directory per job, files mode 0600, directories 0700.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use super::breaker::Breaker;
use super::claim::{Claimed, Publisher, claim};
use super::outbox::Outbox;
use super::record::{RECORD_VERSION, Record};
use base::crash;
use base::files::{PROBE, UNFINISHED, sweep, sync_directory, write_atomic};
use base::files::{is_own_directory, own_directory, read_own};
use base::text::printable;
use contract::wire::{Envelope, Reply};
use domain::{JobId, SlurmJobId};

/// The spool: `jobs/` (open), `done/` (answered), `rejected/` (messages that were no jobs, and files that are
/// not ours).
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// A spool that can't be used.
#[derive(Debug, Error)]
#[error("the spool {} {action}: {source}; SPOOL_DIR must be a directory that this account can write", path.display())]
pub struct StoreError {
    /// The file or directory.
    path: PathBuf,
    /// What was tried.
    action: &'static str,
    /// What the system says.
    source: io::Error,
}

/// The files of one job, as `check` and the trainer share them.
#[derive(Clone, Debug)]
pub struct JobFiles {
    directory: PathBuf,
}

impl StoreError {
    pub(super) fn new(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self { path: path.to_path_buf(), action, source }
    }
}

impl JobFiles {
    /// The files in a job's directory.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    /// The job's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the trainer reads; it holds a token.
    pub fn job_file(&self) -> PathBuf {
        self.directory.join("job.json")
    }

    /// The message as it came.
    pub fn message(&self) -> PathBuf {
        self.directory.join("message.json")
    }

    /// The reply, before and after it is delivered.
    pub fn reply(&self) -> PathBuf {
        self.directory.join("reply.json")
    }

    /// Exists once the broker confirmed the reply that the trainer published.
    pub fn delivered(&self) -> PathBuf {
        self.directory.join("delivered")
    }

    /// Who publishes the reply.
    pub fn claim(&self) -> PathBuf {
        self.directory.join("claim")
    }

    /// True once the trainer's reply was confirmed, as far as the shared filesystem can tell: listing the directory
    /// makes it ask the server instead of remembering that there was no such file.
    pub fn is_delivered(&self) -> bool {
        fs::read_dir(&self.directory)
            .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name() == "delivered")))
    }

    /// Written by the trainer when it starts: Slurm's number of the job that it runs in.
    pub fn started(&self) -> PathBuf {
        self.directory.join("started")
    }

    /// How far the training has got, as the trainer last noted.
    pub fn progress(&self) -> PathBuf {
        self.directory.join("progress.json")
    }

    /// Why the trainer's reply is an error, in a word of [`Cause`](super::Cause).
    pub fn failure(&self) -> PathBuf {
        self.directory.join("failure")
    }

    /// What a person looks at after the training: curves, figures, the page as the models see it.
    pub fn report(&self) -> PathBuf {
        self.directory.join("report.html")
    }

    /// The files of the same job once it is answered and moved to `done/`.
    pub fn filed_away(&self) -> Option<Self> {
        let (jobs, name) = (self.directory.parent()?, self.directory.file_name()?);
        Some(Self { directory: jobs.parent()?.join("done").join(name) })
    }

    /// Directory of the training under way, from which a job that comes back goes on.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join("checkpoint")
    }

    /// What a conversation has to send.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(&self.directory.join("outbox"))
    }

    /// Removes the checkpoint: with a reply on disk nobody goes on from it, and it has some 25 MB.
    pub fn remove_checkpoint(&self) {
        match fs::remove_dir_all(self.checkpoint()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("can't remove {}: {error}", self.checkpoint().display());
            }
            _ => {}
        }
    }

    /// True when `job_file` is the one that `check` wrote: its record lies beside it.
    pub fn is_record_of(&self, job_file: &Path) -> bool {
        job_file.file_name() == self.job_file().file_name() && self.record().is_file()
    }

    /// Where the reply of this job goes, as its record says.
    pub fn envelope(&self) -> Option<Envelope> {
        let record: Record = serde_json::from_slice(&read_own(&self.record()).ok()?).ok()?;
        Some(Envelope {
            reply_to: record.reply_to,
            correlation_id: record.correlation_id.0,
            message_id: record.message_id,
        })
    }

    /// Slurm's number in [`JobFiles::started`].
    pub fn started_in(&self) -> Option<SlurmJobId> {
        std::str::from_utf8(&read_own(&self.started()).ok()?).ok()?.trim().parse().ok().map(SlurmJobId)
    }

    /// The job's record.
    pub fn record(&self) -> PathBuf {
        self.directory.join("record.json")
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
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|source| StoreError { path: directory.clone(), action: "can't be made", source })?;
            // SPOOL_DIR itself may lead to another filesystem by a link of the operator's.
            let closed = own_directory(&directory, directory == root).map_err(|source| StoreError {
                path: directory.clone(),
                action: "can't be used",
                source,
            })?;
            if closed {
                tracing::warn!("others could look into {}; it is closed to them now", directory.display());
            }
        }
        // The lock file and the records need a directory that can be written; say so before anything is taken.
        tempfile::Builder::new().prefix(PROBE).tempfile_in(store.jobs()).map_err(|source| StoreError {
            path: store.jobs(),
            action: "can't be written",
            source,
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

    /// How submissions went lately.
    pub fn breaker(&self) -> Breaker {
        read_own(&self.breaker_path())
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    /// Remembers how submissions went.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn save_breaker(&self, breaker: &Breaker) -> Result<(), StoreError> {
        let path = self.breaker_path();
        if *breaker == Breaker::default() {
            remove_if_there(&path);
            return Ok(());
        }
        let write = || write_atomic(&path, &serde_json::to_vec_pretty(breaker).map_err(io::Error::other)?);
        write().map_err(|source| StoreError { path: path.clone(), action: "can't be written", source })
    }

    /// Removes what a run that was killed has left half-made. To be called with the lock in hand.
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

    /// All open jobs, oldest first. What is no job of ours is moved to `rejected/`, with a line in the log.
    ///
    /// # Errors
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
                Err(Unreadable::Newer(version)) => {
                    tracing::error!(
                        "{name}: its record has version {version}, this program knows {RECORD_VERSION}; left alone"
                    );
                }
                Err(Unreadable::Fault(error)) => {
                    tracing::error!("{name}: its record can't be read ({error}); the next pass tries again");
                }
                Err(Unreadable::Unfinished) if self.discard_unfinished(&name) => {}
                Err(Unreadable::Unfinished) => self.set_aside(&name, "it has no record"),
                Err(Unreadable::Foreign(why)) => self.set_aside(&name, &why),
            }
        }
        records.sort_by(|a, b| (a.received_at, &a.job_id).cmp(&(b.received_at, &b.job_id)));
        Ok(records)
    }

    fn read(&self, name: &str) -> Result<Record, Unreadable> {
        let id = JobId::from_directory(name)
            .ok_or_else(|| Unreadable::Foreign("its name is not a job's".into()))?;
        let files = self.files(&id);
        let text = is_own_directory(files.directory()).and_then(|()| read_own(&files.record()));
        match text {
            Ok(text) => parse(&text, &id),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Unreadable::Unfinished),
            // What is refused here has this kind; the system's own faults have others, and may pass.
            Err(e) if e.kind() == io::ErrorKind::Other => Err(Unreadable::Foreign(e.to_string())),
            Err(e) => Err(Unreadable::Fault(e)),
        }
    }

    /// A run that was killed before it had written the record: the message was not acknowledged and comes again, so
    /// there is nothing to keep. False where there is more than that.
    fn discard_unfinished(&self, name: &str) -> bool {
        let directory = self.jobs().join(name);
        let ours = |name: &str| name == "message.json" || name.starts_with(UNFINISHED);
        let Ok(entries) = fs::read_dir(&directory) else { return false };
        let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        if names.iter().any(|n| !ours(&n.to_string_lossy())) {
            return false;
        }
        tracing::debug!("{name}: its message was not taken; it comes again");
        fs::remove_dir_all(&directory).is_ok()
    }

    fn set_aside(&self, name: &str, why: &str) {
        let target = self.rejected().join(format!("{}-{name}", Timestamp::now().as_millisecond()));
        match fs::rename(self.jobs().join(name), &target) {
            Ok(()) => {
                tracing::warn!("{name} in the spool is no job of ours ({why}); moved to {}", target.display())
            }
            Err(error) => {
                tracing::error!("{name} in the spool is no job of ours ({why}) and can't be moved: {error}")
            }
        }
    }

    /// The record of an open job.
    pub fn find_open(&self, id: &JobId) -> Option<Record> {
        self.read(id.as_str()).ok()
    }

    /// The record of a job, open or done.
    pub fn find(&self, id: &JobId) -> Option<Record> {
        let done = JobFiles::new(&self.done().join(id.as_str()));
        let text = read_own(&self.files(id).record()).or_else(|_| read_own(&done.record())).ok()?;
        parse(&text, id).ok()
    }

    /// Makes the directory of a new job and writes the message and the record.
    ///
    /// # Errors
    /// When that fails; the message must not be acknowledged then.
    pub fn create(&self, record: &Record, message: &[u8]) -> Result<(), StoreError> {
        let files = self.files(&record.job_id);
        let error =
            |source| StoreError { path: files.directory().to_path_buf(), action: "can't be written", source };
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
        let path = self.files(&record.job_id).record();
        let write = || write_atomic(&path, &serde_json::to_vec_pretty(record).map_err(io::Error::other)?);
        write().map_err(|source| StoreError { path: path.clone(), action: "can't be written", source })
    }

    /// The message of an open job.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn message(&self, id: &JobId) -> Result<Vec<u8>, StoreError> {
        let path = self.files(id).message();
        read_own(&path).map_err(|source| StoreError { path: path.clone(), action: "can't be read", source })
    }

    /// The spooled reply of an open job; `None` when there is none or it is torn.
    pub fn reply(&self, id: &JobId) -> Option<Reply> {
        Reply::from_body(read_own(&self.files(id).reply()).ok()?).ok()
    }

    /// Spools a reply, then removes the job file: its token is not needed any more.
    ///
    /// # Errors
    /// When the reply can't be written.
    pub fn write_reply(&self, id: &JobId, reply: &Reply) -> Result<(), StoreError> {
        let files = self.files(id);
        write_atomic(&files.reply(), reply.body()).map_err(|source| StoreError {
            path: files.reply(),
            action: "can't be written",
            source,
        })?;
        remove_if_there(&files.job_file());
        Ok(())
    }

    /// Claims the reply of a job for `check`; true when an earlier attempt may have come through.
    ///
    /// # Errors
    /// When the claim can't be written; the reply must not be published then.
    pub fn claim(&self, id: &JobId) -> Result<bool, StoreError> {
        let files = self.files(id);
        claim(&files, Publisher::Check)
            .map(|claimed| claimed == Claimed::Again)
            .map_err(|source| StoreError { path: files.claim(), action: "can't be written", source })
    }

    /// Moves an answered job to `done/`, without its reply, its token and its checkpoint.
    ///
    /// # Errors
    /// When it can't be moved; the next pass tries again.
    pub fn finish(&self, id: &JobId) -> Result<(), StoreError> {
        let files = self.files(id);
        crash::point("before filing the job away");
        remove_if_there(&files.job_file());
        remove_if_there(&files.reply());
        files.remove_checkpoint();
        sweep(files.directory());
        let target = self.done().join(id.as_str());
        let error = |source| StoreError { path: target.clone(), action: "can't be written", source };
        crash::point("before moving the job to done");
        fs::rename(files.directory(), &target).map_err(error)?;
        sync_directory(&self.jobs()).and_then(|()| sync_directory(&self.done())).map_err(error)?;
        crash::point("after filing the job away");
        Ok(())
    }

    /// Keeps a message that is no job, for the operator: its first MiB, and of such messages the latest thousand.
    ///
    /// # Errors
    /// When it can't be written; the message must not be acknowledged then.
    pub fn keep_rejected(&self, id: &JobId, message: &[u8]) -> Result<PathBuf, StoreError> {
        let message = &message[..message.len().min(MOST_KEPT_BYTES)];
        // Oldest first. What else was set aside there is left alone.
        let mut kept = self.rejected_files()?;
        kept.retain(|(_, path)| path.extension().is_some_and(|extension| extension == "message"));
        for (_, old) in kept.iter().take((kept.len() + 1).saturating_sub(MOST_REJECTED)) {
            remove_if_there(old);
        }
        let path = self.rejected().join(format!("{}-{id}.message", Timestamp::now().as_millisecond()));
        write_atomic(&path, message).map_err(|source| StoreError {
            path: path.clone(),
            action: "can't be written",
            source,
        })?;
        Ok(path)
    }
}

/// A job has at most so many bytes; of what is larger the beginning is kept.
const MOST_KEPT_BYTES: usize = 1 << 20;

/// So many messages that were no jobs are kept.
const MOST_REJECTED: usize = 1000;

pub(crate) enum Unreadable {
    Unfinished,
    Newer(u64),
    Foreign(String),
    Fault(io::Error),
}

pub(crate) fn parse(text: &[u8], id: &JobId) -> Result<Record, Unreadable> {
    // serde repeats what it did not expect, as it stands there.
    let foreign = |e: serde_json::Error| {
        Unreadable::Foreign(format!("its record can't be read: {}", printable(&e.to_string(), 200)))
    };
    let value: serde_json::Value = serde_json::from_slice(text).map_err(foreign)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(RECORD_VERSION) => return Err(Unreadable::Newer(version)),
        _ => {}
    }
    let record: Record = serde_json::from_value(value).map_err(foreign)?;
    if record.job_id != *id {
        let other = printable(record.job_id.as_str(), 64);
        return Err(Unreadable::Foreign(format!("its record is that of {other}")));
    }
    Ok(record)
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
