//! Why a job has no models.

use std::io;

use base::exit_code::ExitCode;
use base::text;
use contract::wire::JobFileError;
use page_layers::{ArchiveError, TrainError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::ConfigError;
use crate::ledger::Cause;
use crate::rodan::{ClientError, DownloadError};
use crate::sentences;

/// What one of several tasks can't do, as it notes it for the process that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The sentence of the answer.
    pub(crate) sentence: String,
    /// What it is counted by.
    pub(crate) cause: Cause,
    /// The exit code, as a number.
    pub(crate) code: u8,
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::ALL.get(usize::from(self.code)).copied().unwrap_or(ExitCode::Training)
    }
}

/// Why a job has no models.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    #[error("the trainer is not set up on the compute node")]
    Config(#[from] ConfigError),
    #[error("the job file can't be read on the compute node: {0}")]
    Read(io::Error),
    #[error(transparent)]
    File(#[from] JobFileError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("the downloads can't be started on the compute node: {0}")]
    Runtime(io::Error),
    #[error("there is no scratch directory on the compute node: {0}")]
    Scratch(io::Error),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Train(TrainError),
    #[error("the training ran out of time before every layer was done")]
    Time,
    #[error("the training was cancelled on the cluster before it had a result")]
    Cancelled,
    /// The cluster ends the job, and only its state says whether for good: there is no reply.
    #[error(
        "stopped by the cluster, without a reply: it starts the job again, or the next check \
        answers it"
    )]
    Left,
    #[error("the trained model of \"{layer}\" can't be read back: {source}")]
    Model { layer: String, source: io::Error },
    #[error("the trainer stopped with a fault of its own")]
    Panic,
    /// The files that the tasks of a job share can't be used.
    #[error("what the tasks of the job share can't be used on the compute node: {0}")]
    Tasks(io::Error),
    /// One of several tasks has failed, and has said why.
    #[error("{}", .0.sentence)]
    OfTask(Failure),
    /// A task ended again and again without a word. There is no reply: the job ends by the same
    /// signal, if it is known, and `check` answers it by Slurm's word.
    #[error("a task of the job ended again and again without a word; the job is left to check")]
    TaskDied(Option<i32>),
}

impl JobError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Config,
            Self::Read(_) | Self::File(_) => ExitCode::Rejected,
            Self::Client(_) | Self::Download(_) => ExitCode::Rodan,
            Self::Train(error) if error.is_input() => ExitCode::Input,
            Self::Archive(error) if error.is_input() => ExitCode::Input,
            Self::Time | Self::Cancelled | Self::Left | Self::TaskDied(_) => ExitCode::Stopped,
            Self::OfTask(failure) => failure.exit_code(),
            Self::Panic => ExitCode::Internal,
            Self::Runtime(_)
            | Self::Scratch(_)
            | Self::Archive(_)
            | Self::Train(_)
            | Self::Tasks(_)
            | Self::Model { .. } => ExitCode::Training,
        }
    }

    /// What the error reply says. `operator` is whom it tells the musicologist to ask.
    pub(crate) fn sentence(&self, operator: &str) -> String {
        match self {
            Self::Config(_) => sentences::not_set_up(operator),
            Self::Runtime(error) => sentences::no_downloads(error, operator),
            Self::Scratch(error) => sentences::no_scratch(error, operator),
            Self::Download(error @ DownloadError::TooSlow { .. }) => {
                sentences::slow_downloads(error, operator)
            }
            Self::Time => sentences::short_of_time(),
            Self::Cancelled => sentences::stopped(),
            Self::OfTask(failure) => failure.sentence.clone(),
            Self::Panic => sentences::fault_of_the_trainer(operator),
            // What is wrong with a message, a page or a model is said by the error that has found
            // it.
            error => text::sentence(&error.to_string()),
        }
    }

    /// The cause under which the failure is counted.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            // The job file is check's own: no message can make it unreadable.
            Self::Read(_)
            | Self::Config(_)
            | Self::Runtime(_)
            | Self::Scratch(_)
            | Self::Tasks(_) => Cause::Setup,
            Self::OfTask(failure) => failure.cause,
            Self::TaskDied(_) => Cause::Killed,
            Self::File(_) => Cause::Message,
            Self::Client(_) | Self::Download(_) => Cause::Rodan,
            Self::Train(error) if error.is_input() => Cause::Input,
            Self::Archive(error) if error.is_input() => Cause::Input,
            Self::Time => Cause::Time,
            Self::Cancelled | Self::Left => Cause::Cancelled,
            Self::Archive(_) | Self::Train(_) | Self::Model { .. } | Self::Panic => Cause::Training,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_file_that_can_not_be_read_is_no_fault_of_the_message() {
        let unreadable = JobError::Read(io::Error::other("the disk fails"));
        assert_eq!(unreadable.cause(), Cause::Setup);
        let no_job_file = JobError::from(contract::wire::JobFile::parse(b"{").unwrap_err());
        assert_eq!(no_job_file.cause(), Cause::Message);
    }
}
