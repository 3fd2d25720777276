//! From a received job to a Slurm job: log in, write the job file, call sbatch.

use jiff::Timestamp;

use super::pass::{BridgeError, Pass};
use super::reconcile::is_cancelled;
use crate::ledger::{Cause, Event, Record, State};
use crate::rodan::{Client, LoginError, log_in};
use crate::sentences;
use base::exit_code::ExitCode;
use base::files::write_atomic;
use base::secret::Secret;
use base::text::sentence;
use contract::wire::{JobFile, JobMessage};
use scheduler::slurm::{Request, SubmitError};

impl Pass<'_> {
    /// Submits a job that is not yet with Slurm. Whatever fails is either answered or tried again in the next pass.
    pub(super) async fn submit_if_due(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if !matches!(job.state, State::Received | State::Submitting { .. }) {
            return Ok(());
        }
        if matches!(job.state, State::Submitting { .. }) {
            if !self.slurm_answered {
                return Ok(()); // the job may exist: it must not be submitted twice
            }
            if is_cancelled(job) {
                let sentence = sentences::CANCELLED_BY_OPERATOR.to_owned();
                return self.fails_because(job, ExitCode::Training, Cause::Cancelled, sentence);
            }
            if job.limited && !self.insists {
                if Timestamp::now().duration_since(job.received_at).unsigned_abs()
                    >= self.config.site.max_pending
                {
                    let why = job.last_error.clone().unwrap_or_default();
                    let sentence = sentences::not_started(&why, None, Some(self.config.site.max_pending));
                    return self.fails_because(job, ExitCode::Slurm, Cause::NotStarted, sentence);
                }
            } else if self.is_given_up(job) {
                let sentence = "The cluster did not take the job in time. Run the workflow again, or ask the operator of the cluster.";
                return self.fails(job, ExitCode::Slurm, sentence.to_owned());
            }
        }
        if let Some((code, why)) = self.no_submissions.clone() {
            return self.waits(job, code, why);
        }
        let message = self.store.message(&job.job_id)?;
        let parsed = match JobMessage::parse_within(&message, &self.config.site.limits) {
            Ok(parsed) => parsed,
            Err(error) => return self.fails(job, ExitCode::Rejected, sentence(&error.to_string())),
        };
        let Some(token) = self.token(job).await? else { return Ok(()) };
        let path = self.store.files(&job.job_id).job_file();
        let text = JobFile::text(&parsed, &job.reply_to, &job.correlation_id.0, &job.message_id, &token);
        if let Err(error) = write_atomic(&path, text.expose().as_bytes()) {
            let why = format!("{} can't be written: {error}", path.display());
            return self.waits(job, ExitCode::Spool, why);
        }
        let request = Request::new(&self.config.site, &job.job_id.slurm_name(), &parsed.resources, &path);
        tracing::debug!("{}: {}", job.job_id, request.command_line());
        self.beat()?;
        self.apply(job, Event::SubmitStarted)?;
        match self.slurm.submit(&request).await {
            Ok(slurm_id) => {
                self.apply(job, Event::Accepted(slurm_id))?;
                let r = &parsed.resources;
                let detail =
                    format!("Slurm job {slurm_id} ({} CPUs, {} MB, {})", r.cpus, r.memory_mb, r.walltime);
                self.tell(job, "submitted", &detail);
                self.submission_worked()?;
                self.watch(job).await
            }
            Err(error @ SubmitError::Limit(_)) => {
                // It waits as it would in Slurm's queue.
                job.limited = true;
                self.no_submissions = Some((ExitCode::Success, error.to_string()));
                self.waits(job, ExitCode::Success, error.to_string())
            }
            Err(SubmitError::Refused(reason)) => {
                self.submission_failed(&reason)?;
                let sentence = format!(
                    "The cluster refuses the job: {}. Change \"CPUs\", \"Maximum memory (MB)\" or \"Maximum time (D-HH:MM)\", or ask the operator of the cluster.",
                    reason.trim_end_matches('.')
                );
                self.fails(job, ExitCode::Slurm, sentence)
            }
            Err(error) => {
                job.limited = false;
                self.submission_failed(&error.to_string())?;
                self.no_submissions = Some((ExitCode::Slurm, error.to_string()));
                self.waits(job, ExitCode::Slurm, error.to_string())
            }
        }
    }

    /// Gives a job that Slurm has accepted its watcher. Without one `check` reports a failure, later.
    pub(super) async fn watch(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        let (Some(slurm_id), None, true) = (job.state.slurm_id(), job.watcher, self.config.site.watcher)
        else {
            return Ok(());
        };
        let message = self.store.message(&job.job_id)?;
        let memory_mb = JobMessage::parse(&message).map_or(0, |m| m.resources.memory_mb);
        let request = Request::watcher(&self.config.site, &job.job_id, slurm_id, memory_mb);
        match self.slurm.submit(&request).await {
            Ok(watcher) => {
                tracing::debug!("{}: watched by Slurm job {watcher}", job.job_id);
                job.watcher = Some(watcher);
                Ok(self.store.save(job)?)
            }
            Err(error) => {
                tracing::warn!(
                    "{}: no watcher, a failure is reported by the next check only: {error}; WATCHER_PARTITION names a partition for small jobs, WATCHER=0 does without",
                    job.job_id
                );
                Ok(())
            }
        }
    }

    /// Rodan's token, asked for once a pass; `None` when the job has to wait or has failed.
    async fn token(&mut self, job: &mut Record) -> Result<Option<Secret>, BridgeError> {
        if let Some(token) = &self.token {
            return Ok(Some(token.clone()));
        }
        let client = match &self.http {
            Some(client) => client.clone(),
            None => match Client::new(self.config.rodan.identity.as_ref()) {
                Ok(client) => self.http.insert(client).clone(),
                Err(error) => {
                    self.waits(job, ExitCode::Rodan, error.to_string())?;
                    return Ok(None);
                }
            },
        };
        self.beat()?;
        match log_in(&client, &self.config.rodan).await {
            Ok(token) => {
                self.token = Some(token.clone());
                Ok(Some(token))
            }
            Err(error @ LoginError::Unavailable { .. }) if !self.is_given_up(job) => {
                self.submission_failed(&error.to_string())?;
                self.no_submissions = Some((ExitCode::Rodan, error.to_string()));
                self.waits(job, ExitCode::Rodan, error.to_string())?;
                Ok(None)
            }
            Err(error) => {
                tracing::error!("{error}");
                self.submission_failed(&error.to_string())?;
                let sentence = match error {
                    LoginError::Unavailable { .. } => {
                        "The cluster could not reach Rodan to fetch the page. Run the workflow again, or ask the operator of the HPC bridge."
                    }
                    LoginError::Refused { .. } | LoginError::NotRodan { .. } => {
                        "The cluster could not log in to Rodan to fetch the page. Ask the operator of the HPC bridge to check its Rodan account."
                    }
                };
                self.fails(job, ExitCode::Rodan, sentence.to_owned())?;
                Ok(None)
            }
        }
    }
}
