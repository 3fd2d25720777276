//! The operator ends a job: Slurm first, then the error reply.

use std::time::{Duration, Instant};

use super::super::pass::{BridgeError, Happening, Outcome as PassOutcome, Pass, lock};
use crate::config::Config;
use crate::ledger::{Cause, LockError, Outcome, Record, Role, State, Store};
use crate::sentences::CANCELLED_BY_OPERATOR;
use base::exit_code::ExitCode;
use domain::JobId;

/// How long the lock of the spool is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long Slurm is waited for to end the job.
const WAIT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The job is answered; what the reply holds, where the record says so.
    Answered(Option<Outcome>),
    /// It was answered before.
    Before(Option<Outcome>),
    /// Slurm has been told, and the job is still ending: the next `check` answers.
    Ending,
    /// It is written down and something is in the way, which the code names: the next `check` carries on.
    Later(ExitCode),
    /// Another `check` holds the lock: nothing is done.
    Busy(String),
}

/// Cancels a job and answers it, waiting for a while for Slurm to end it. `tell` is told what happens to it.
///
/// # Errors
/// When the spool can't be used. An unreachable broker is none: `check` delivers.
pub async fn cancel(
    config: &Config,
    id: &JobId,
    tell: &mut dyn FnMut(Happening),
) -> Result<Cancelled, BridgeError> {
    let mut end = None;
    loop {
        let store = Store::open(&config.site.spool)?;
        let held = match lock(&store, Role::Watcher, PATIENCE).await {
            Ok(held) => held,
            Err(LockError::Held { who, .. }) if end.is_none() => return Ok(Cancelled::Busy(who)),
            Err(LockError::Held { .. }) => return Ok(Cancelled::Ending),
            Err(error) => return Err(error.into()),
        };
        let Some(job) = store.find_open(id) else {
            let outcome = store.find(id).and_then(|job| job.outcome);
            return Ok(if end.is_none() { Cancelled::Before(outcome) } else { Cancelled::Answered(outcome) });
        };
        let mut pass = Pass::new(config, store, held, tell)?;
        let result = pass.cancel(job, end.is_none()).await;
        // The lock goes here, so that others can get on between two looks.
        let code = match pass.end(result).await {
            Ok(PassOutcome::Done(code)) => code,
            Ok(PassOutcome::Busy(who)) => return Ok(Cancelled::Busy(who)),
            Err(error @ (BridgeError::Broker(_) | BridgeError::Lock(_))) => {
                tracing::warn!("{error}");
                error.exit_code()
            }
            Err(error) => return Err(error),
        };
        let store = Store::open(&config.site.spool)?;
        if store.find_open(id).is_none() {
            return Ok(Cancelled::Answered(store.find(id).and_then(|job| job.outcome)));
        }
        // A failed job is what is wanted here; anything else needs the next pass.
        if !matches!(code, ExitCode::Success | ExitCode::Training) {
            return Ok(Cancelled::Later(code));
        }
        if Instant::now() + PAUSE > *end.get_or_insert_with(|| Instant::now() + WAIT) {
            return Ok(Cancelled::Ending);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Pass<'_> {
    /// One look at a job that is to end; the `first` one ends it.
    ///
    /// Slurm is asked before anything else: a job that is over by itself keeps its own result, or its own error.
    async fn cancel(&mut self, job: Record, first: bool) -> Result<(), BridgeError> {
        let mut jobs = [job];
        self.reconcile(&mut jobs).await?;
        let [job] = &mut jobs;
        if first {
            self.end_job(job).await?;
        }
        self.deliver_if_due(job).await
    }

    async fn end_job(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        let cancelled = || CANCELLED_BY_OPERATOR.to_owned();
        match job.state {
            State::Received => self.fails_because(job, ExitCode::Training, Cause::Cancelled, cancelled()),
            // Slurm was asked, and has no job of this name.
            State::Submitting { .. } if self.slurm_answered => {
                self.fails_because(job, ExitCode::Training, Cause::Cancelled, cancelled())
            }
            State::Submitting { .. } => {
                job.verdict = Some(cancelled());
                Ok(self.store.save(job)?)
            }
            State::Submitted { slurm_id } | State::Running { slurm_id } => {
                // Written down first: whatever happens next, a pass carries on from here.
                job.verdict = Some(cancelled());
                self.store.save(job)?;
                self.cancel_slurm_job(job, slurm_id, "by the operator").await.map(drop)
            }
            State::Failed { .. } | State::ResultSpooled { .. } | State::Replied => Ok(()),
        }
    }
}
