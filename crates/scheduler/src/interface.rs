//! What runs the jobs: Slurm, or this host itself.

use std::ffi::OsString;

use jiff::Timestamp;

use crate::local::Local;
use crate::slurm::{JobInfo, Node, Pending, Request, Slurm, SlurmError, SubmitError};
use domain::SlurmJobId;

/// What runs the jobs of a site. Both kinds are asked the same and answer in Slurm's words, so that
/// one table decides what an answer means.
#[derive(Clone, Debug)]
pub enum Scheduler {
    /// A Slurm cluster.
    Slurm(Slurm),
    /// This host.
    Local(Local),
}

impl Scheduler {
    /// Submits a job.
    ///
    /// # Errors
    /// When it was not accepted, or it is not known whether it was.
    pub async fn submit(&self, request: &Request) -> Result<SlurmJobId, SubmitError> {
        match self {
            Self::Slurm(slurm) => slurm.submit(request).await,
            Self::Local(local) => local.submit(request),
        }
    }

    /// Makes good what crashes have left, where that is not done by itself. To be called under the
    /// lock of the spool, before the jobs are asked about.
    ///
    /// # Errors
    /// When that can't be done now.
    pub fn tend(&self) -> Result<(), SlurmError> {
        match self {
            Self::Slurm(_) => Ok(()),
            Self::Local(local) => local.tend(),
        }
    }

    /// All jobs of this account that are known: waiting, running or recently ended.
    ///
    /// # Errors
    /// When there is no answer. Then nothing is known, and nothing may be decided.
    pub async fn queue(&self) -> Result<Vec<JobInfo>, SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.queue().await,
            Self::Local(local) => local.queue(),
        }
    }

    /// What the accounting knows of jobs of these names; `None` where there is none. A host keeps
    /// its jobs in the queue for days instead.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn accounting(
        &self,
        names: &[String],
        since: Timestamp,
    ) -> Result<Option<Vec<JobInfo>>, SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.accounting(names, since).await,
            Self::Local(_) => Ok(None),
        }
    }

    /// How a job ended, where the queue does not say: exit code and signal, such as `0:9`.
    pub async fn exit_code(&self, id: SlurmJobId) -> Option<String> {
        match self {
            Self::Slurm(slurm) => slurm.exit_code(id).await,
            Self::Local(_) => None,
        }
    }

    /// The waiting jobs of all accounts, as far as they can be seen.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn pending(&self) -> Result<Vec<Pending>, SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.pending().await,
            Self::Local(local) => local.pending(),
        }
    }

    /// All nodes, once for each of their partitions; a host alone has none to choose from.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn nodes(&self) -> Result<Vec<Node>, SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.nodes().await,
            Self::Local(_) => Ok(Vec::new()),
        }
    }

    /// Ends a job; one that is over or unknown stays as it is.
    ///
    /// # Errors
    /// When that can't be asked for.
    pub async fn cancel(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.cancel(id).await,
            Self::Local(local) => local.cancel(id),
        }
    }

    /// Asks for the job to be ended and to wait in the queue again. A job on this host ends by
    /// itself after that.
    ///
    /// # Errors
    /// When it may not be put back, or there is no answer.
    pub async fn requeue(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        match self {
            Self::Slurm(slurm) => slurm.requeue(id).await,
            Self::Local(local) => local.requeue(id),
        }
    }

    /// A command that runs these words where a job runs; `terminal`: whether it is to have a
    /// terminal. `None` where it is known that the job does not run: on a host without Slurm.
    ///
    /// # Errors
    /// When that is not known.
    pub fn inside(
        &self,
        id: SlurmJobId,
        words: &[OsString],
        terminal: bool,
    ) -> Result<Option<std::process::Command>, SlurmError> {
        match self {
            Self::Slurm(slurm) => Ok(Some(slurm.inside(id, words, terminal))),
            Self::Local(local) => local.inside(id, words),
        }
    }

    /// True when it says of itself that it is there.
    pub async fn answers(&self) -> bool {
        match self {
            Self::Slurm(slurm) => slurm.answers().await,
            Self::Local(local) => local.queue().is_ok(),
        }
    }

    /// What would be done for this request, as a person would type it.
    pub fn shown(&self, request: &Request) -> String {
        match self {
            Self::Slurm(_) => request.command_line(),
            Self::Local(_) => request.local_line(),
        }
    }
}
