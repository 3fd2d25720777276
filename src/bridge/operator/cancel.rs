//! The operator ends a job: Slurm first, then the error reply.

use std::time::{Duration, Instant};

use super::super::context::{BridgeError, JobNews, Pass, PassEnd, lock};
use super::super::decide::Part;
use super::super::view::is_with_slurm;
use crate::config::Config;
use crate::ledger::{LockError, Outcome, Record, Role, State, Store, Verdict};
use base::exit_code::ExitCode;
use domain::JobId;
use domain::SlurmJobId;

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
    /// It is written down and something is in the way, which the code names: the next `check`
    /// carries on.
    Later(ExitCode),
    /// Another `check` holds the lock: nothing is done.
    Busy(String),
}

/// Cancels a job and answers it, waiting for a while for Slurm to end it. `tell` is told what
/// happens to it.
///
/// # Errors
/// When the spool can't be used. An unreachable broker is none: `check` delivers.
pub async fn cancel(
    config: &Config,
    id: &JobId,
    tell: &mut dyn FnMut(JobNews),
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
        let unreadable = |source| BridgeError::Unreadable { job: id.clone(), source };
        let job = match store.open_job(id).map_err(unreadable)? {
            Ok(job) => job,
            Err(outcome) if end.is_none() => return Ok(Cancelled::Before(outcome)),
            Err(outcome) => return Ok(Cancelled::Answered(outcome)),
        };
        let mut pass = Pass::new(config, store, held, tell)?;
        let result = pass.cancel(job, end.is_none()).await;
        // The lock goes here, so that others can get on between two looks.
        let code = match pass.end(result).await {
            Ok(PassEnd::Done(code)) => code,
            Ok(PassEnd::Busy(who)) => return Ok(Cancelled::Busy(who)),
            Err(error @ (BridgeError::Broker(_) | BridgeError::Lock(_))) => {
                tracing::warn!("{error}");
                error.exit_code()
            }
            Err(error) => return Err(error),
        };
        let store = Store::open(&config.site.spool)?;
        if let Err(outcome) = store.open_job(id).map_err(unreadable)? {
            return Ok(Cancelled::Answered(outcome));
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
    /// Slurm is asked before anything else: a job that is over by itself keeps its own result, or
    /// its own error.
    async fn cancel(&mut self, job: Record, first: bool) -> Result<(), BridgeError> {
        let mut jobs = [job];
        self.follow_up(&mut jobs).await?;
        let [job] = &mut jobs;
        if first && (job.state == State::Received || is_with_slurm(job)) {
            // Written down first: whatever happens next, a pass carries on from here.
            job.verdict = Some(Verdict::Cancelled);
            self.save(job)?;
            self.settle(job, &[Part::FollowUp]).await?;
        }
        self.settle(job, &[Part::Delivery]).await
    }

    /// Writes down why a job is cancelled, and calls scancel.
    pub(in super::super) async fn cancel_in_slurm(
        &mut self,
        job: &mut Record,
        slurm_id: SlurmJobId,
        verdict: Verdict,
    ) -> Result<(), BridgeError> {
        let why = match &verdict {
            Verdict::NotStarted { reason, .. } => format!("could not start ({reason})"),
            Verdict::CancelledByAsker => "as was asked".to_owned(),
            Verdict::Abandoned => "because nobody waits for it any more".to_owned(),
            _ => "by the operator".to_owned(),
        };
        if job.verdict.as_ref() != Some(&verdict) {
            job.verdict = Some(verdict);
            self.save(job)?;
        }
        self.beat()?;
        // What was said of it before no longer counts.
        self.view.forget(job);
        match self.scheduler.cancel(slurm_id).await {
            Ok(()) => {
                self.cancelled = true;
                let word = self.job_word();
                self.tell(job, "cancelled", &format!("{word} {slurm_id} {why}"));
            }
            Err(error) => {
                tracing::error!(job = %job.job_id, slurm_job = %slurm_id, "{error}");
                self.remember(ExitCode::Slurm);
            }
        }
        Ok(())
    }
}
