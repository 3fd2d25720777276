//! Where the files of a job lie, as `check`, the watcher and the trainer share them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::outbox::Outbox;
use base::files::UNFINISHED;
use base::files::read_own;
use domain::SlurmJobId;

const RECORD: &str = "record.json";
const MESSAGE: &str = "message.json";
const JOB: &str = "job.json";
const STARTED: &str = "started";
const PROGRESS: &str = "progress.json";
const REPLY: &str = "reply.json";
const DELIVERED: &str = "delivered";
const CLAIM: &str = "claim";
const REPORT: &str = "report.html";
const FAILURE: &str = "failure";
const CHECKPOINT: &str = "checkpoint";
const OUTBOX: &str = "outbox";
const TASKS: &str = "tasks";

/// All files of a job. What is not among them is not ours, and `check purge` leaves its directory
/// alone.
const ALL: [&str; 10] =
    [RECORD, MESSAGE, JOB, STARTED, PROGRESS, REPLY, DELIVERED, CLAIM, REPORT, FAILURE];
/// Its directories.
const DIRECTORIES: [&str; 3] = [CHECKPOINT, OUTBOX, TASKS];

/// The files of one job, as `check` and the trainer share them.
#[derive(Clone, Debug)]
pub struct JobFiles {
    directory: PathBuf,
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
        self.directory.join(JOB)
    }

    /// The message as it came.
    pub fn message(&self) -> PathBuf {
        self.directory.join(MESSAGE)
    }

    /// The reply, before and after it is delivered.
    pub fn reply(&self) -> PathBuf {
        self.directory.join(REPLY)
    }

    /// Exists once the broker confirmed the reply that the trainer published.
    pub fn delivered(&self) -> PathBuf {
        self.directory.join(DELIVERED)
    }

    /// Who publishes the reply.
    pub fn claim(&self) -> PathBuf {
        self.directory.join(CLAIM)
    }

    /// True once the trainer's reply was confirmed, as far as the shared filesystem knows. Listing
    /// the directory makes the client ask the server, instead of remembering that there was no such
    /// file.
    pub fn is_delivered(&self) -> bool {
        fs::read_dir(&self.directory)
            .is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| e.file_name() == DELIVERED)))
    }

    /// Written by the trainer when it starts: Slurm's number of the job that it runs in.
    pub fn started(&self) -> PathBuf {
        self.directory.join(STARTED)
    }

    /// The trainer's latest note about its progress.
    pub fn progress(&self) -> PathBuf {
        self.directory.join(PROGRESS)
    }

    /// Why the trainer's reply is an error, in a word of [`Cause`](super::Cause).
    pub fn failure(&self) -> PathBuf {
        self.directory.join(FAILURE)
    }

    /// The report for people: curves, figures, the page as the models see it.
    pub fn report(&self) -> PathBuf {
        self.directory.join(REPORT)
    }

    /// The files of the same job once it is answered and moved to `done/`.
    pub fn filed_away(&self) -> Option<Self> {
        let (jobs, name) = (self.directory.parent()?, self.directory.file_name()?);
        Some(Self { directory: jobs.parent()?.join("done").join(name) })
    }

    /// Directory of the checkpoint, from which a requeued job continues.
    pub fn checkpoint(&self) -> PathBuf {
        self.directory.join(CHECKPOINT)
    }

    /// What the tasks of a job share while they train.
    pub fn tasks(&self) -> PathBuf {
        self.directory.join(TASKS)
    }

    /// What a conversation has to send.
    pub fn outbox(&self) -> Outbox {
        Outbox::new(&self.directory.join(OUTBOX))
    }

    /// Removes the checkpoint (some 25 MB) and what the tasks shared: once a reply is on disk,
    /// nobody continues from it.
    pub fn remove_checkpoint(&self) {
        for directory in [self.checkpoint(), self.tasks()] {
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("can't remove {}: {error}", directory.display());
                }
                _ => {}
            }
        }
    }

    /// True when `job_file` is the one that `check` wrote: its record lies beside it.
    pub fn is_record_of(&self, job_file: &Path) -> bool {
        job_file.file_name() == self.job_file().file_name() && self.record().is_file()
    }

    /// Slurm's number in [`JobFiles::started`].
    pub fn started_in(&self) -> Option<SlurmJobId> {
        std::str::from_utf8(&read_own(&self.started()).ok()?)
            .ok()?
            .trim()
            .parse()
            .ok()
            .map(SlurmJobId)
    }

    /// The job's record.
    pub fn record(&self) -> PathBuf {
        self.directory.join(RECORD)
    }

    /// True when a directory holds nothing but a job's files and is not a link.
    pub fn are_all(&self) -> bool {
        let is_directory = fs::symlink_metadata(&self.directory).is_ok_and(|m| m.is_dir());
        let is_known = |entry: io::Result<fs::DirEntry>| {
            let known = |entry: fs::DirEntry| {
                let (name, kind) = (entry.file_name(), entry.file_type().ok()?);
                let is_ours = |name: &str| ALL.contains(&name) || name.starts_with(UNFINISHED);
                Some(match kind {
                    kind if kind.is_dir() => {
                        name.to_str().is_some_and(|name| DIRECTORIES.contains(&name))
                    }
                    kind => kind.is_file() && name.to_str().is_some_and(is_ours),
                })
            };
            entry.ok().and_then(known).unwrap_or(false)
        };
        is_directory && fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.all(is_known))
    }
}
