//! Why a job has no models.

use std::io;

use base::exit_code::ExitCode;
use base::text;
use contract::wire::JobFileError;
use page_layers::{ArchiveError, TrainError};
use thiserror::Error;

use crate::config::ConfigError;
use crate::ledger::Cause;
use crate::rodan::{ClientError, DownloadError};
use crate::sentences;

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
    #[error("stopped by the cluster, without a reply: it starts the job again, or the next check answers it")]
    Left,
    #[error("the trained model of \"{layer}\" can't be read back: {source}")]
    Model { layer: String, source: io::Error },
    #[error("the trainer stopped with a fault of its own")]
    Panic,
}

impl JobError {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::Config,
            Self::Read(_) | Self::File(_) => ExitCode::Rejected,
            Self::Client(_) | Self::Download(_) => ExitCode::Rodan,
            Self::Train(error) if error.is_input() => ExitCode::Input,
            Self::Archive(error) if error.is_input() => ExitCode::Input,
            Self::Time | Self::Cancelled | Self::Left => ExitCode::Stopped,
            Self::Panic => ExitCode::Internal,
            Self::Runtime(_) | Self::Scratch(_) | Self::Archive(_) | Self::Train(_) | Self::Model { .. } => {
                ExitCode::Training
            }
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
            Self::Panic => sentences::fault_of_the_trainer(operator),
            // What is wrong with a message, a page or a model is said by the error that has found
            // it.
            error => text::sentence(&error.to_string()),
        }
    }

    /// The cause under which the failure is counted.
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Config(_) | Self::Runtime(_) | Self::Scratch(_) => Cause::Setup,
            Self::Read(_) | Self::File(_) => Cause::Message,
            Self::Client(_) | Self::Download(_) => Cause::Rodan,
            Self::Train(error) if error.is_input() => Cause::Input,
            Self::Archive(error) if error.is_input() => Cause::Input,
            Self::Time => Cause::Time,
            Self::Cancelled | Self::Left => Cause::Cancelled,
            Self::Archive(_) | Self::Train(_) | Self::Model { .. } | Self::Panic => Cause::Training,
        }
    }
}
