//! Why a job was answered with an error, in one word of a fixed list: failures are counted by it.

use serde::{Deserialize, Serialize};

use super::files::JobFiles;
use base::files::read_own;
use base::files::write_atomic;

/// The cause of an error reply. The words never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The message was no job, or asked for more than the site gives.
    Message,
    /// Rodan was away, refused the log-in, or a file could not be fetched.
    Rodan,
    /// Slurm refused the job, or did not take it in time.
    Slurm,
    /// It waited in Slurm's queue without being started.
    NotStarted,
    /// A page, a layer or a model can't be used.
    Input,
    /// The memory that it asked for was not enough.
    OutOfMemory,
    /// The time that it asked for was not enough.
    Time,
    /// Its node failed or was taken back.
    Node,
    /// It was cancelled.
    Cancelled,
    /// It was killed, and nothing says why.
    Killed,
    /// The trainer is not set up on the compute node.
    Setup,
    /// The training failed otherwise.
    Training,
    /// The models could not be sent.
    Reply,
    /// Nothing is known: Slurm has forgotten the job, or a newer program has used a word of its
    /// own.
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::Message,
        Self::Rodan,
        Self::Slurm,
        Self::NotStarted,
        Self::Input,
        Self::OutOfMemory,
        Self::Time,
        Self::Node,
        Self::Cancelled,
        Self::Killed,
        Self::Setup,
        Self::Training,
        Self::Reply,
        Self::Unknown,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Rodan => "rodan",
            Self::Slurm => "slurm",
            Self::NotStarted => "not_started",
            Self::Input => "input",
            Self::OutOfMemory => "out_of_memory",
            Self::Time => "time",
            Self::Node => "node",
            Self::Cancelled => "cancelled",
            Self::Killed => "killed",
            Self::Setup => "setup",
            Self::Training => "training",
            Self::Reply => "reply",
            Self::Unknown => "unknown",
        }
    }
}

impl JobFiles {
    /// Writes down why the trainer's reply is an error. Only the metrics depend on it.
    pub fn note_failure(&self, cause: Cause) {
        if let Err(error) = write_atomic(&self.failure(), cause.word().as_bytes()) {
            tracing::warn!("{} can't be written: {error}", self.failure().display());
        }
    }

    /// The cause that [`JobFiles::note_failure`] has written.
    pub fn noted_failure(&self) -> Option<Cause> {
        let word = read_own(&self.failure()).ok()?;
        serde_json::from_value(String::from_utf8(word).ok()?.trim().into()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_noted_and_read_by_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let files = JobFiles::new(dir.path());
        assert_eq!(files.noted_failure(), None);
        for cause in Cause::ALL {
            files.note_failure(cause);
            assert_eq!(files.noted_failure(), Some(cause), "{}", cause.word());
        }
        std::fs::write(files.failure(), "of_the_future").unwrap();
        assert_eq!(files.noted_failure(), Some(Cause::Unknown));
    }
}
