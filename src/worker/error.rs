//! Why a job has no models.

use std::io;

use base::exit_code::ExitCode;
use contract::wire::JobFileError;
use page_layers::{ArchiveError, TrainError};
use thiserror::Error;

use crate::config::ConfigError;
use crate::ledger::Cause;
use crate::rodan::{ClientError, DownloadError};
use crate::sentences;

/// Why a job has no models. The text is fit for the person who started the workflow.
#[derive(Debug, Error)]
pub(crate) enum JobError {
    #[error("the trainer is not set up on the compute node; ask the operator of the HPC bridge")]
    Config(#[from] ConfigError),
    #[error("the job file can't be read on the compute node: {0}")]
    Read(io::Error),
    #[error(transparent)]
    File(#[from] JobFileError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Download(#[from] DownloadError),
    #[error("the downloads can't be started on the compute node ({0}); ask the operator of the cluster")]
    Runtime(io::Error),
    #[error("no scratch directory on the compute node ({0}); ask the operator of the cluster")]
    Scratch(io::Error),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Train(TrainError),
    #[error("{}", sentences::SHORT_OF_TIME)]
    Time,
    #[error("the training was cancelled on the cluster before it had a result; run the workflow again")]
    Cancelled,
    /// The cluster ends the job, and its state says whether for good: there is no reply.
    #[error("stopped by the cluster, without a reply: it starts the job again, or the next check answers it")]
    Left,
    #[error("the trained model of \"{layer}\" can't be read back: {source}")]
    Model { layer: String, source: io::Error },
    #[error(
        "the trainer stopped with a fault of its own; ask the operator of the cluster to look into the job's log"
    )]
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

    /// What failures are counted by.
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
