//! The pass itself. It reads like the state diagram in `docs/protocol.md`: each job is taken from
//! step to step until nothing is left that can be done now. What the next step is, `decide.rs`
//! says.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::context::{BridgeError, JobNews, Pass, PassEnd, lock};
use super::decide::{Decision, Part, decide};
use super::metrics;
use crate::config::Config;
use crate::ledger::{Event, LockError, Record, Role, State, Store, Verdict};
use base::exit_code::ExitCode;
use contract::broker::Broker;

/// How long a pass waits for a watcher, which holds the lock for seconds. Another pass is not
/// waited for.
const PATIENCE_WITH_A_WATCHER: Duration = Duration::from_secs(30);

/// Runs one pass, taking at most `max_jobs` new jobs, and tells `tell` what happens to each job.
///
/// # Errors
/// When the broker, the spool or the log directory can't be used.
pub async fn run(
    config: &Config,
    max_jobs: u32,
    tell: &mut dyn FnMut(JobNews),
) -> Result<PassEnd, BridgeError> {
    run_on(config, max_jobs, tell, Carried::default()).await.result
}

/// What a pass of `check --stay` gets from the one before it.
#[derive(Default)]
pub(super) struct Carried<'a> {
    /// The connection.
    pub(super) broker: Option<Broker>,
    /// Raised when the pass is to end after the step that it is at.
    pub(super) stop: Option<&'a AtomicBool>,
}

/// What a pass leaves.
pub(super) struct Left {
    pub(super) result: Result<PassEnd, BridgeError>,
    /// The connection, where it is to be kept and still works as far as is known.
    pub(super) broker: Option<Broker>,
    /// True when one more message may be taken now.
    pub(super) open: bool,
}

/// Runs one pass as [`run`] does. A pass that can be stopped keeps its connection.
pub(super) async fn run_on<'a>(
    config: &'a Config,
    max_jobs: u32,
    tell: &'a mut dyn FnMut(JobNews),
    carried: Carried<'a>,
) -> Left {
    let mut broker = carried.broker;
    let mut open = false;
    let result = pass(config, max_jobs, tell, carried.stop, &mut broker, &mut open).await;
    Left { result, broker, open }
}

async fn pass<'a>(
    config: &'a Config,
    max_jobs: u32,
    tell: &'a mut dyn FnMut(JobNews),
    stop: Option<&'a AtomicBool>,
    broker: &mut Option<Broker>,
    open: &mut bool,
) -> Result<PassEnd, BridgeError> {
    let began = Instant::now();
    let begin = async {
        let store = Store::open(&config.site.spool)?;
        let lock = lock(&store, Role::Check, PATIENCE_WITH_A_WATCHER).await?;
        Pass::new(config, store, lock, tell)
    };
    let mut pass = match begin.await {
        Ok(pass) => pass,
        Err(BridgeError::Lock(LockError::Held { who, .. })) => return Ok(PassEnd::Busy(who)),
        Err(error) => {
            if let Some(path) = &config.site.metrics_file {
                metrics::pass_failed(path, began, error.exit_code());
            }
            return Err(error);
        }
    };
    (pass.stop, pass.broker) = (stop, broker.take());
    let result = pass.steps(max_jobs).await;
    pass.measure(began, &result).await;
    *open = pass.open;
    if stop.is_some() && !matches!(result, Err(BridgeError::Broker(_))) {
        *broker = pass.broker.take();
    }
    pass.end(result).await
}

impl Pass<'_> {
    async fn steps(&mut self, max_jobs: u32) -> Result<(), BridgeError> {
        let mut jobs = self.store.open_jobs()?;
        self.read_requests(&mut jobs).await?;
        self.look_for_askers(&mut jobs).await?;
        self.follow_up(&mut jobs).await?;
        for job in &mut jobs {
            self.settle(job, &[Part::Submission]).await?;
        }
        for job in &mut jobs {
            self.settle(job, &[Part::Delivery]).await?;
        }
        self.tell_news(&mut jobs).await?;
        for _ in 0..max_jobs {
            self.beat()?;
            if self.is_stopped() || !self.may_take(&jobs) {
                break;
            }
            let Some(mut job) = self.take_one().await? else { break };
            self.tell_news(std::slice::from_mut(&mut job)).await?;
            // One that was cancelled before it came fails at once.
            let parts = [Part::FollowUp, Part::Submission, Part::Delivery];
            self.settle(&mut job, &parts).await?;
            self.tell_news(std::slice::from_mut(&mut job)).await?;
            jobs.push(job);
        }
        self.open = max_jobs > 0 && self.may_take_more(&jobs);
        Ok(())
    }

    /// Brings the records of open jobs up to date with Slurm and with what trainers have left in
    /// the spool.
    pub(super) async fn follow_up(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        // Twice where a job had to be cancelled: its end is known at once.
        for _ in 0..2 {
            self.cancelled = false;
            self.ask_slurm(jobs).await;
            for job in jobs.iter_mut() {
                self.settle(job, &[Part::FollowUp]).await?;
            }
            if !self.cancelled {
                break;
            }
        }
        Ok(())
    }

    /// Takes a job from step to step until none is left that belongs to these parts of the pass and
    /// can be done now.
    pub(super) async fn settle(
        &mut self,
        job: &mut Record,
        parts: &[Part],
    ) -> Result<(), BridgeError> {
        while !self.is_stopped() {
            let found = match self.found(job) {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(job = %job.job_id, "{error}; the job stays as it is");
                    self.remember(ExitCode::Spool);
                    return Ok(());
                }
            };
            let decision = decide(job, self.view.of(job), &found, Timestamp::now(), &self.rules);
            if decision.part().is_none_or(|part| !parts.contains(&part))
                || self.carry_out(job, decision).await?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Does what was decided; breaks where the job has to wait afterwards, or is filed away.
    async fn carry_out(
        &mut self,
        job: &mut Record,
        decision: Decision,
    ) -> Result<ControlFlow<()>, BridgeError> {
        match decision {
            Decision::Rest => return Ok(ControlFlow::Break(())),

            // received ──▶ submitting ──▶ submitted ──▶ running
            Decision::Submit => return self.submit(job).await,
            Decision::Found(slurm_id) => {
                (job.limited, job.doubt, job.last_error) = (false, None, None);
                self.apply(job, Event::Accepted(slurm_id))?;
                let word = self.job_word();
                let detail = format!("{word} {slurm_id}, submitted by an earlier pass");
                self.tell(job, "found", &detail);
            }
            Decision::Watch(slurm_id) => self.watch(job, slurm_id).await?,
            Decision::Started => {
                // It could start after all.
                job.verdict.take_if(|verdict| matches!(verdict, Verdict::NotStarted { .. }));
                self.apply(job, Event::Started)?;
            }
            Decision::Requeued => self.apply(job, Event::Requeued)?,
            Decision::Missing => {
                job.missing_since = Some(Timestamp::now());
                self.save(job)?;
            }
            Decision::Back => {
                job.missing_since = None;
                self.save(job)?;
            }
            Decision::Cancel(slurm_id, verdict) => {
                self.cancel_in_slurm(job, slurm_id, verdict).await?;
                return Ok(ControlFlow::Break(()));
            }

            Decision::RaiseMemory(memory_mb) => self.raise_memory(job, memory_mb)?,

            // ──▶ failed, ──▶ result_spooled
            Decision::Fail(verdict) => {
                job.ran_seconds = self.view.ran_seconds(job);
                self.fails(job, verdict)?;
            }
            Decision::Spool => return self.spool_error(job),
            Decision::Collect(outcome) => {
                job.ran_seconds = self.view.ran_seconds(job);
                self.apply(job, Event::ReplySpooled(outcome))?;
            }

            // ──▶ replied
            Decision::AnsweredByTrainer { outcome } => {
                let started = self.store.files(&job.job_id).started_in();
                if let (State::Submitting { .. }, Some(slurm_id)) = (&job.state, started) {
                    self.apply(job, Event::Accepted(slurm_id))?;
                }
                if !matches!(job.state, State::ResultSpooled { .. }) {
                    self.apply(job, Event::ReplySpooled(outcome))?;
                }
                self.apply(job, Event::Delivered)?;
            }
            Decision::Deliver => return self.deliver(job).await,
            Decision::File => {
                self.finish(job)?;
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
