//! The operator has a waiting job tried again at once.

use std::time::Duration;

use super::super::context::{BridgeError, JobNews, Pass, PassEnd, lock};
use super::super::decide::Part;
use crate::config::Config;
use crate::ledger::{LockError, Outcome, Record, Role, State, Store};
use base::exit_code::ExitCode;
use domain::JobId;
use domain::SlurmJobId;

/// How long the lock of the spool is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is with Slurm now.
    Submitted(SlurmJobId),
    /// It is answered now; what the reply holds.
    Answered(Option<Outcome>),
    /// It still waits; the code of what is in the way, and why.
    Waits(ExitCode, Option<String>),
    /// Nothing is to be tried again: it is with Slurm already.
    InSlurm(SlurmJobId),
    /// Nothing is to be tried again: it was answered before, and each job gets one reply.
    Before(Option<Outcome>),
    /// Another `check` holds the lock: nothing is done.
    Busy(String),
}

/// Tries the next step of a job that waits: to submit it, or to deliver its reply. How long it has
/// waited does not count.
///
/// # Errors
/// When the spool can't be used.
pub async fn retry(
    config: &Config,
    id: &JobId,
    tell: &mut dyn FnMut(JobNews),
) -> Result<Retried, BridgeError> {
    let store = Store::open(&config.site.spool)?;
    let held = match lock(&store, Role::Watcher, PATIENCE).await {
        Ok(held) => held,
        Err(LockError::Held { who, .. }) => return Ok(Retried::Busy(who)),
        Err(error) => return Err(error.into()),
    };
    let unreadable = |source| BridgeError::Unreadable { job: id.clone(), source };
    let job = match store.open_job(id).map_err(unreadable)? {
        Ok(job) => job,
        Err(outcome) => return Ok(Retried::Before(outcome)),
    };
    if let State::Submitted { slurm_id } | State::Running { slurm_id } = job.state {
        return Ok(Retried::InSlurm(slurm_id));
    }
    let mut pass = Pass::new(config, store, held, tell)?;
    pass.rules.insists = true;
    let result = pass.retry(job).await;
    let code = match pass.end(result).await {
        Ok(PassEnd::Done(code)) => code,
        Ok(PassEnd::Busy(who)) => return Ok(Retried::Busy(who)),
        Err(error @ (BridgeError::Broker(_) | BridgeError::Lock(_))) => {
            return Ok(Retried::Waits(error.exit_code(), Some(error.to_string())));
        }
        Err(error) => return Err(error),
    };
    let store = Store::open(&config.site.spool)?;
    Ok(match store.open_job(id).map_err(unreadable)? {
        Err(outcome) => Retried::Answered(outcome),
        Ok(Record {
            state: State::Submitted { slurm_id } | State::Running { slurm_id }, ..
        }) => Retried::Submitted(slurm_id),
        Ok(job) => Retried::Waits(code, job.last_error),
    })
}

impl Pass<'_> {
    /// What a pass does with one job. Slurm is asked first: a job whose submission got no answer
    /// may be there already.
    async fn retry(&mut self, job: Record) -> Result<(), BridgeError> {
        let mut jobs = [job];
        self.follow_up(&mut jobs).await?;
        let [job] = &mut jobs;
        self.settle(job, &[Part::Submission, Part::Delivery]).await
    }
}
