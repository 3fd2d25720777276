//! What became of the open jobs: one query for all of them.

use std::time::Duration;

use jiff::Timestamp;

use super::pass::{BridgeError, Pass};
use crate::ledger::{Cause, Event, Outcome, Progress, Record, State};
use crate::sentences;
use base::exit_code::ExitCode;
use contract::wire::JobMessage;
use domain::ResourceSettings;
use domain::SlurmJobId;
use scheduler::slurm::{JobInfo, JobState, Phase};

/// A job that Slurm calls completed has its reply in the spool; a shared filesystem may show it a little later.
const REPLY_LAG: Duration = Duration::from_secs(60);

/// A job that may be requeued shows its first end for a moment before it is back in the queue.
const REQUEUE_LAG: Duration = Duration::from_secs(30);

/// The accounting database is behind the controller by so much, and is looked at so often for what it does not have yet.
const ACCOUNTING_LAG: Duration = Duration::from_secs(2);
const ACCOUNTING_LOOKS: u32 = 2;

/// True when the operator has cancelled it, and Slurm may not know that yet.
pub(super) fn is_cancelled(job: &Record) -> bool {
    job.verdict.as_deref() == Some(sentences::CANCELLED_BY_OPERATOR)
}

fn is_with_slurm(job: &Record) -> bool {
    matches!(job.state, State::Submitting { .. } | State::Submitted { .. } | State::Running { .. })
}

/// How long a job ran, where it ran at all.
fn ran_seconds(info: Option<&JobInfo>) -> Option<u64> {
    info.and_then(JobInfo::ran_for).map(|time| time.as_secs()).filter(|seconds| *seconds > 0)
}

impl Pass<'_> {
    /// Brings the records of all open jobs up to date with the spool and with Slurm.
    ///
    /// When Slurm gives no answer nothing is decided: the jobs stay as they are.
    pub(super) async fn reconcile(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        for job in jobs.iter_mut() {
            if self.store.files(&job.job_id).is_delivered() {
                self.answered_by_the_trainer(job)?;
            }
        }
        // Twice where a job had to be cancelled: its end is known at once.
        for round in 0..2 {
            if !jobs.iter().any(is_with_slurm) {
                break;
            }
            let known = match self.ask_slurm(jobs.iter().filter(|j| is_with_slurm(j))).await {
                Ok(known) => {
                    self.slurm_answered = true;
                    known
                }
                Err(error) => {
                    tracing::error!("{error}; the jobs that are with Slurm stay as they are");
                    self.remember(ExitCode::Slurm);
                    return Ok(());
                }
            };
            let mut cancelled = false;
            for job in jobs.iter_mut().filter(|j| is_with_slurm(j)) {
                let name = job.job_id.slurm_name();
                // The name counts as well as the number: a controller that lost its state gives numbers out again.
                let matching = known.iter().filter(|info| info.name == name);
                let info = match job.slurm_id {
                    Some(id) => matching.clone().find(|info| info.id == id),
                    None => matching.clone().next_back(),
                };
                self.reconcile_one(job, info).await?;
                if let Some(info) = info
                    && (self.cancel_if_hopeless(job, info).await? || self.cancel_if_told(job, info).await?)
                {
                    cancelled = true;
                }
            }
            if !cancelled || round > 0 {
                break;
            }
        }
        Ok(())
    }

    async fn ask_slurm(
        &self,
        jobs: impl Iterator<Item = &Record> + Clone,
    ) -> Result<Vec<JobInfo>, scheduler::slurm::SlurmError> {
        let queue = self.slurm.queue().await?;
        let unlisted = |job: &&Record| {
            let name = job.job_id.slurm_name();
            // A listed job that has ended is looked up too: only the accounting knows the memory it used.
            !queue.iter().any(|info| info.name == name && info.state.phase() != Phase::Ended)
        };
        let names: Vec<String> = jobs.clone().filter(unlisted).map(|job| job.job_id.slurm_name()).collect();
        let since = jobs.map(|job| job.received_at).min().unwrap_or_else(Timestamp::now);
        let mut accounting = self.slurm.accounting(&names, since).await?;
        for _ in 0..ACCOUNTING_LOOKS {
            let Some(rows) = &accounting else { break };
            // What a failed job had used is known a few seconds later than that it failed.
            let failed = |info: &&JobInfo| matches!(info.state, JobState::Failed | JobState::OutOfMemory);
            let has_row = |info: &JobInfo| {
                let same = |row: &&JobInfo| row.id == info.id && row.name == info.name;
                rows.iter().find(same).is_some_and(|r| r.state.phase() == Phase::Ended && r.used_mb.is_some())
            };
            if queue.iter().filter(|i| names.contains(&i.name)).filter(failed).all(has_row) {
                break;
            }
            tokio::time::sleep(ACCOUNTING_LAG).await;
            accounting = self.slurm.accounting(&names, since).await?;
        }
        // Where both know a job the controller is right about its state and the accounting about what it used.
        let mut known: Vec<JobInfo> = accounting.unwrap_or_default();
        for info in queue {
            match known.iter_mut().find(|k| k.id == info.id && k.name == info.name) {
                Some(k) => {
                    k.state = info.state;
                    k.reason = info.reason;
                }
                None => known.push(info),
            }
        }
        Ok(known)
    }

    async fn reconcile_one(&mut self, job: &mut Record, info: Option<&JobInfo>) -> Result<(), BridgeError> {
        if matches!(job.state, State::Submitting { .. }) {
            // sbatch was called and its answer was lost: the job may exist, run, or be over.
            let started = self.store.files(&job.job_id).started_in();
            let Some(slurm_id) = info.map(|i| i.id).or(started) else { return Ok(()) };
            self.apply(job, Event::Accepted(slurm_id))?;
            self.tell(job, "found", &format!("Slurm job {slurm_id}, submitted by an earlier pass"));
            self.watch(job).await?;
        }
        let phase = info.map_or(Phase::Unknown, |i| i.state.phase());
        let over = matches!(phase, Phase::Ended | Phase::PerhapsEnded) || info.is_none();
        if over && self.store.files(&job.job_id).is_delivered() {
            // It ended after the look at the beginning of this pass.
            return self.answered_by_the_trainer(job);
        }
        if over
            && phase != Phase::PerhapsEnded
            && let Some(reply) = self.store.reply(&job.job_id)
        {
            // The trainer left its reply and is gone: it is ours to deliver.
            let outcome = if reply.error_sentence().is_some() { Outcome::Error } else { Outcome::Models };
            job.ran_seconds = ran_seconds(info);
            return self.apply(job, Event::ReplySpooled(outcome));
        }
        match (phase, info) {
            (Phase::Waiting, _) if matches!(job.state, State::Running { .. }) => {
                self.apply(job, Event::Requeued)
            }
            (Phase::Active, _) if matches!(job.state, State::Submitted { .. }) => {
                self.apply(job, Event::Started)
            }
            (Phase::Waiting | Phase::Active, _) => self.alive(job),
            (Phase::Ended, Some(info)) if info.state == JobState::Completed => {
                self.after(job, REPLY_LAG.min(self.config.site.grace), Some(info)).await
            }
            (Phase::Ended, Some(info)) => self.ended(job, Some(info)).await,
            (Phase::PerhapsEnded, Some(info)) => {
                let site = &self.config.site;
                let wait = if site.requeue { REQUEUE_LAG.min(site.grace) } else { Duration::ZERO };
                self.after(job, wait, Some(info)).await
            }
            (_, Some(info)) => {
                tracing::warn!(
                    "{}: Slurm job {} is in the unknown state {}",
                    job.job_id,
                    info.id,
                    info.state
                );
                Ok(())
            }
            (_, None) => self.after(job, self.config.site.grace, None).await,
        }
    }

    fn alive(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if job.missing_since.take().is_some() {
            self.store.save(job)?;
        }
        Ok(())
    }

    /// Decides only once a job has looked the same for `grace`.
    async fn after(
        &mut self,
        job: &mut Record,
        grace: Duration,
        info: Option<&JobInfo>,
    ) -> Result<(), BridgeError> {
        let now = Timestamp::now();
        let since = *job.missing_since.get_or_insert(now);
        if now.duration_since(since).unsigned_abs() >= grace {
            return self.ended(job, info).await;
        }
        Ok(self.store.save(job)?)
    }

    /// The job is over without a result: says what happened, from all that is known.
    async fn ended(&mut self, job: &mut Record, info: Option<&JobInfo>) -> Result<(), BridgeError> {
        job.ran_seconds = ran_seconds(info);
        if let Some(verdict) = job.verdict.clone() {
            let cause = if is_cancelled(job) { Cause::Cancelled } else { Cause::NotStarted };
            return self.fails_because(job, ExitCode::Training, cause, verdict);
        }
        let Some(info) = info else {
            let sentence = sentences::vanished(job.slurm_id);
            return self.fails_because(job, ExitCode::Training, Cause::Unknown, sentence);
        };
        let mut info = info.clone();
        if info.used_mb.is_none() {
            // No accounting: the trainer's own note is the only trace of the memory that it used.
            let note = Progress::read(&self.store.files(&job.job_id).progress());
            info.used_mb = note.filter(|n| n.slurm_job_id == Some(info.id)).and_then(|n| n.peak_memory_mb);
        }
        if info.exit_code.is_none() && info.state == JobState::Failed {
            info.exit_code = self.slurm.exit_code(info.id).await;
        }
        let asked = self.asked_for(job);
        let (cause, sentence) =
            (sentences::cause(&info, asked.as_ref()), sentences::ended(&info, asked.as_ref()));
        self.fails_because(job, ExitCode::Training, cause, sentence)
    }

    fn asked_for(&self, job: &Record) -> Option<ResourceSettings> {
        let message = self.store.message(&job.job_id).ok()?;
        JobMessage::parse(&message).ok().map(|m| m.resources)
    }

    /// Takes a job out of Slurm's queue that can't start, or has waited for too long; true when that was done. The error
    /// reply follows when Slurm says that it is over: it may have started in this very moment.
    async fn cancel_if_hopeless(&mut self, job: &mut Record, info: &JobInfo) -> Result<bool, BridgeError> {
        if !matches!(job.state, State::Submitted { .. })
            || info.state.phase() != Phase::Waiting
            || is_cancelled(job)
        {
            return Ok(false);
        }
        let waited = Timestamp::now().duration_since(job.changed_at).unsigned_abs();
        let site = &self.config.site;
        if job.verdict.is_none() {
            let asked = self.asked_for(job);
            let verdict = if waited >= site.max_pending {
                sentences::not_started(&info.reason, asked.as_ref(), Some(site.max_pending))
            } else if info.is_hopeless() && waited >= site.grace {
                sentences::not_started(&info.reason, asked.as_ref(), None)
            } else {
                return Ok(false);
            };
            job.verdict = Some(verdict);
            self.store.save(job)?;
        }
        self.cancel_slurm_job(job, info.id, &format!("could not start ({})", info.reason)).await
    }

    /// Carries on with what `check cancel` has begun: Slurm may not have answered then.
    async fn cancel_if_told(&mut self, job: &mut Record, info: &JobInfo) -> Result<bool, BridgeError> {
        let is_alive = matches!(info.state.phase(), Phase::Waiting | Phase::Active) && is_with_slurm(job);
        // A job that is ending has been told before.
        if !is_alive || !is_cancelled(job) || info.state == JobState::Active("COMPLETING") {
            return Ok(false);
        }
        self.cancel_slurm_job(job, info.id, "by the operator").await
    }

    /// Calls scancel; true when Slurm took it. `why` is for the person who reads along.
    pub(super) async fn cancel_slurm_job(
        &mut self,
        job: &mut Record,
        id: SlurmJobId,
        why: &str,
    ) -> Result<bool, BridgeError> {
        self.beat()?;
        match self.slurm.cancel(id).await {
            Ok(()) => {
                self.tell(job, "cancelled", &format!("Slurm job {id} {why}"));
                Ok(true)
            }
            Err(error) => {
                tracing::error!("{}: {error}", job.job_id);
                self.remember(ExitCode::Slurm);
                Ok(false)
            }
        }
    }

    /// The broker confirmed the reply that the trainer published: what is left is to file the job away.
    fn answered_by_the_trainer(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if !matches!(job.state, State::ResultSpooled { .. } | State::Replied) {
            if let (State::Submitting { .. }, Some(id)) =
                (&job.state, self.store.files(&job.job_id).started_in())
            {
                self.apply(job, Event::Accepted(id))?;
            }
            let is_error =
                self.store.reply(&job.job_id).is_some_and(|reply| reply.error_sentence().is_some());
            let outcome = if is_error { Outcome::Error } else { Outcome::Models };
            self.apply(job, Event::ReplySpooled(outcome))?;
        }
        self.apply(job, Event::Delivered)
    }
}
