//! What became of the open jobs: one query for all of them.

use jiff::Timestamp;

use super::pass::{BridgeError, Pass};
use crate::exit_code::ExitCode;
use crate::ledger::{Event, Outcome, Record, State};
use crate::report;
use crate::slurm::{JobInfo, JobState, Phase};
use crate::wire::JobMessage;

/// A job that Slurm calls completed has its reply in the spool; a shared filesystem may show it a little later.
const REPLY_LAG: std::time::Duration = std::time::Duration::from_secs(60);

impl Pass<'_> {
    /// Brings the records of all open jobs up to date with the spool and with Slurm.
    ///
    /// When Slurm gives no answer nothing is decided: the jobs stay as they are.
    pub(super) async fn reconcile(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        for job in jobs.iter_mut() {
            if self.store.files(&job.job_id).delivered().exists() {
                self.answered_by_the_trainer(job)?;
            }
        }
        let is_open = |job: &Record| {
            matches!(job.state, State::Submitting { .. } | State::Submitted { .. } | State::Running { .. })
        };
        if !jobs.iter().any(is_open) {
            return Ok(());
        }
        let known = match self.ask_slurm(jobs.iter().filter(|j| is_open(j))).await {
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
        for job in jobs.iter_mut().filter(|j| is_open(j)) {
            let name = job.job_id.slurm_name();
            // The name counts as well as the number: a controller that lost its state gives numbers out again.
            let matching = known.iter().filter(|info| info.name == name);
            let info = match job.slurm_id {
                Some(id) => matching.clone().find(|info| info.id == id),
                None => matching.clone().next_back(),
            };
            self.reconcile_one(job, info)?;
        }
        Ok(())
    }

    async fn ask_slurm(
        &self,
        jobs: impl Iterator<Item = &Record> + Clone,
    ) -> Result<Vec<JobInfo>, crate::slurm::SlurmError> {
        let queue = self.slurm.queue().await?;
        let unlisted = |job: &&Record| {
            let name = job.job_id.slurm_name();
            // A listed job that has ended is looked up too: only the accounting knows the memory it used.
            !queue.iter().any(|info| info.name == name && info.state.phase() != Phase::Ended)
        };
        let names: Vec<String> = jobs.clone().filter(unlisted).map(|job| job.job_id.slurm_name()).collect();
        let since = jobs.map(|job| job.received_at).min().unwrap_or_else(Timestamp::now);
        let accounting = self.slurm.accounting(&names, since).await?;
        // Where both know a job the controller is right about its state and the accounting about what it used.
        let mut known: Vec<JobInfo> = accounting;
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

    fn reconcile_one(&mut self, job: &mut Record, info: Option<&JobInfo>) -> Result<(), BridgeError> {
        if matches!(job.state, State::Submitting { .. }) {
            // sbatch was called and its answer was lost: the job may exist, run, or be over.
            let started = self.store.files(&job.job_id).started_in();
            let Some(slurm_id) = info.map(|i| i.id).or(started) else { return Ok(()) };
            self.apply(job, Event::Accepted(slurm_id))?;
            self.tell(job, "found", &format!("Slurm job {slurm_id}, submitted by an earlier pass"));
        }
        let phase = info.map_or(Phase::Unknown, |i| i.state.phase());
        let over = matches!(phase, Phase::Ended) || info.is_none();
        if over && let Some(reply) = self.store.reply(&job.job_id) {
            // The trainer left its reply and is gone: it is ours to deliver.
            let outcome = if reply.error_sentence().is_some() { Outcome::Error } else { Outcome::Models };
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
                self.after(job, REPLY_LAG.min(self.config.site.grace), |asked| report::ended(info, asked))
            }
            (Phase::Ended, Some(info)) => self.ended(job, |asked| report::ended(info, asked)),
            (Phase::PerhapsEnded, Some(info)) => {
                self.after(job, self.config.site.grace, |asked| report::ended(info, asked))
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
            (_, None) => {
                let id = job.slurm_id;
                self.after(job, self.config.site.grace, |_| report::vanished(id))
            }
        }
    }

    fn alive(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if job.missing_since.take().is_some() {
            self.store.save(job)?;
        }
        Ok(())
    }

    /// Decides only once a job has looked the same for `grace`.
    fn after(
        &mut self,
        job: &mut Record,
        grace: std::time::Duration,
        sentence: impl FnOnce(Option<&crate::wire::ResourceSettings>) -> String,
    ) -> Result<(), BridgeError> {
        let now = Timestamp::now();
        let since = *job.missing_since.get_or_insert(now);
        if now.duration_since(since).unsigned_abs() >= grace {
            return self.ended(job, sentence);
        }
        Ok(self.store.save(job)?)
    }

    fn ended(
        &mut self,
        job: &mut Record,
        sentence: impl FnOnce(Option<&crate::wire::ResourceSettings>) -> String,
    ) -> Result<(), BridgeError> {
        let message = self.store.message(&job.job_id).ok().and_then(|m| JobMessage::parse(&m).ok());
        let sentence = sentence(message.as_ref().map(|m| &m.resources));
        self.fails(job, ExitCode::Training, sentence)
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
