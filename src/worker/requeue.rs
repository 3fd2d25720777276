//! Going back into Slurm's queue when the time runs out, and continuing after that.

use std::time::Duration;

use tokio::runtime::Runtime;
use tracing::{info, warn};

use super::signals::{Signal, Signals};
use crate::config::{OnTimeLimit, TrainerConfig};
use crate::ledger::JobFiles;
use contract::wire::conversation::Asked;
use domain::{SlurmJobId, TrainingSettings};
use page_layers::{Checkpoints, TrainingInputs};
use scheduler::{Kind, kinds_of_job};

/// Shortly before the time limit, Slurm gets no more time than this to answer.
const LONGEST: Duration = Duration::from_secs(30);

/// The Slurm job around this process.
pub(super) struct Allocation {
    /// Its number; `None` if the trainer was started by hand.
    pub(super) job: Option<SlurmJobId>,
    /// How often Slurm has put it back into its queue.
    pub(super) restarts: u64,
    /// How many tasks Slurm has given it.
    pub(super) tasks: u32,
}

impl Allocation {
    pub(super) fn of_process() -> Self {
        let number = |name| std::env::var(name).ok()?.parse().ok();
        Self {
            job: number("SLURM_JOB_ID").map(SlurmJobId),
            restarts: number("SLURM_RESTART_COUNT").unwrap_or_default(),
            tasks: number("SLURM_NTASKS").and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1),
        }
    }

    /// The job to requeue, if that is allowed and the limit is not reached.
    pub(super) fn may_requeue(&self, config: &TrainerConfig) -> Option<SlurmJobId> {
        self.job.filter(|_| config.requeue && self.restarts < config.max_requeues)
    }

    /// True when a warning suspends the training even if it has an epoch to show: the site wants
    /// that (`ON_TIME_LIMIT=requeue`), or `check` and not the message has chosen the time limit.
    /// Either way the job has to be allowed to come back.
    pub(super) fn suspends(&self, config: &TrainerConfig, asked: Option<&Asked>) -> bool {
        let was_chosen = asked.is_some_and(|asked| asked.time_from.is_chosen());
        let wanted = config.on_time_limit == OnTimeLimit::Requeue || was_chosen;
        wanted && self.may_requeue(config).is_some()
    }

    /// Asks Slurm to put the job back into its queue. True when the job is left to Slurm; false
    /// when Slurm can't or won't take it back.
    pub(super) fn requeue(
        &self,
        config: &TrainerConfig,
        runtime: &Runtime,
        signals: &Signals,
    ) -> bool {
        let Some(job) = self.may_requeue(config) else { return false };
        let deadline = config.slurm_timeout.min(LONGEST);
        let slurm_bin = config.slurm_bin.clone();
        let scheduler = kinds_of_job::of_job(config.scheduler, &config.spool, slurm_bin, deadline);
        // Said before it is asked for: Slurm ends this process at once, perhaps before it has
        // heard the answer.
        match config.scheduler {
            Kind::Slurm => info!(
                "out of time: asking Slurm to put job {job} back into its queue; it goes on from \
                its checkpoint"
            ),
            Kind::Local { .. } => info!(
                "out of time: job {job} goes back into the queue of this host, and on from its \
                checkpoint"
            ),
        }
        match runtime.block_on(scheduler.requeue(job)) {
            Ok(()) => true,
            // Slurm ends all processes of the job, and scontrol is one of them: it may have no
            // answer to bring.
            Err(_) if signals.received() == Some(Signal::Ended) => true,
            Err(error) => {
                warn!(
                    "{} {job} can't be put back into the queue: {error}",
                    config.scheduler.job_word()
                );
                false
            }
        }
    }
}

/// The checkpoints of a job that `check` looks after. Without them the job is trained all the same.
pub(super) fn checkpoints(
    files: &JobFiles,
    config: &TrainerConfig,
    inputs: &TrainingInputs,
    settings: &TrainingSettings,
) -> Option<Checkpoints> {
    Checkpoints::open(&files.checkpoint(), config.checkpoint_every, inputs, settings)
        .inspect_err(|error| warn!("no checkpoints: {}: {error}", files.checkpoint().display()))
        .ok()
}
