//! From a received job to a Slurm job: log in, write the job file, call sbatch.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::decide::{NoToken, Untaken, judge, judge_client, judge_login};
use crate::ledger::{Event, Record, State, Verdict};
use crate::rodan::{Client, log_in};
use base::exit_code::ExitCode;
use base::files::write_atomic;
use base::secret::Secret;
use contract::wire::JobFile;
use domain::ResourceSettings;
use domain::SlurmJobId;
use scheduler::kinds_of_job;
use scheduler::slurm::SubmitError;

/// The job has to wait: there is no next step in this pass.
const WAITS: Result<ControlFlow<()>, BridgeError> = Ok(ControlFlow::Break(()));
/// There may be a next step.
const GOES_ON: Result<ControlFlow<()>, BridgeError> = Ok(ControlFlow::Continue(()));

impl Pass<'_> {
    /// Submits a job that is not yet with Slurm. Whatever fails is either answered or tried again
    /// in the next pass.
    pub(super) async fn submit(
        &mut self,
        job: &mut Record,
    ) -> Result<ControlFlow<()>, BridgeError> {
        if let Some((code, why)) = self.no_submissions.clone() {
            self.waits(job, code, &why)?;
            return WAITS;
        }
        let message = match self.store.message(&job.job_id) {
            Ok(Some(message)) => message,
            Ok(None) => {
                let problem = "the job's message is not in the spool any more; send the job again";
                return self.is_no_job(job, problem);
            }
            Err(error) if self.rules.gives_up(job, Timestamp::now()) => {
                return self.is_no_job(job, &format!("{error}; send the job again"));
            }
            Err(error) => {
                self.waits(job, ExitCode::Spool, &error.to_string())?;
                return WAITS;
            }
        };
        let Some(token) = self.token(job).await? else {
            return if matches!(job.state, State::Failed { .. }) { GOES_ON } else { WAITS };
        };
        let path = self.store.files(&job.job_id).job_file();
        let text = JobFile::text(&message, &job.envelope(), job.asked.as_ref(), &token);
        let (text, resources) = match (text, &job.resources) {
            (Ok(text), Some(resources)) => (text, resources.clone()),
            (Err(error), _) => return self.is_no_job(job, &error.to_string()),
            (_, None) => return self.is_no_job(job, "its record does not say what it asks for"),
        };
        if let Err(error) = write_atomic(&path, text.expose().as_bytes()) {
            let why = format!("{} can't be written: {error}", path.display());
            self.waits(job, ExitCode::Spool, &why)?;
            return WAITS;
        }
        let request =
            kinds_of_job::training(&self.config.site, &job.job_id.slurm_name(), &resources, &path);
        tracing::debug!(job = %job.job_id, "{}", self.scheduler.shown(&request));
        self.beat()?;
        self.apply(job, Event::SubmitStarted)?;
        self.view.forget(job);
        match self.scheduler.submit(&request).await {
            Ok(slurm_id) => self.accepted(job, slurm_id, &resources).await,
            Err(error) => self.untaken(job, &error).await,
        }
    }

    async fn accepted(
        &mut self,
        job: &mut Record,
        slurm_id: SlurmJobId,
        resources: &ResourceSettings,
    ) -> Result<ControlFlow<()>, BridgeError> {
        (job.limited, job.doubt, job.last_error) = (false, None, None);
        self.accepted = true;
        self.apply(job, Event::Accepted(slurm_id))?;
        let ResourceSettings { cpus, memory_mb, walltime, instances, .. } = resources;
        let word = self.job_word();
        let tasks = match instances {
            0 | 1 => String::new(),
            tasks => format!("{tasks} tasks of "),
        };
        let detail = format!("{word} {slurm_id} ({tasks}{cpus} CPUs, {memory_mb} MB, {walltime})");
        self.tell(job, "submitted", &detail);
        self.submission_worked()?;
        self.watch(job, slurm_id).await?;
        GOES_ON
    }

    /// Gives a job more memory that ran out of it. It is submitted with the next step of a pass.
    pub(super) fn raise_memory(
        &mut self,
        job: &mut Record,
        memory_mb: u64,
    ) -> Result<(), BridgeError> {
        let before = job.resources.as_ref().map_or(0, |asked| asked.memory_mb);
        let result = job.raise_memory(memory_mb, Timestamp::now());
        result.map_err(|source| BridgeError::Transition { job: job.job_id.clone(), source })?;
        self.save(job)?;
        let why = format!(
            "it ran out of the {before} MB of memory that were chosen for it, and goes on with \
            {memory_mb} MB"
        );
        tracing::info!(job = %job.job_id, "{why}");
        self.tell(job, "raised", &why);
        Ok(())
    }

    /// sbatch has not taken it: an answer with an error, or another try with the next pass.
    async fn untaken(
        &mut self,
        job: &mut Record,
        error: &SubmitError,
    ) -> Result<ControlFlow<()>, BridgeError> {
        let is_unclear = matches!(error, SubmitError::Unclear(_));
        let controller_answers = is_unclear && (self.accepted || self.scheduler.answers().await);
        let (doubt, was_raised) = (job.doubt.as_ref(), !job.too_small.is_empty());
        let untaken = judge(error, doubt, controller_answers, was_raised, Timestamp::now());
        let why = error.to_string();
        (job.limited, job.doubt) = (untaken == Untaken::NoRoom, None);
        let code = match untaken {
            Untaken::Refused(verdict) => {
                self.submission_failed(&why)?;
                job.lower_memory();
                self.fails(job, verdict)?;
                return GOES_ON;
            }
            Untaken::NoRoom => {
                // It waits as it would in Slurm's queue: that is no trouble.
                self.no_submissions = Some((ExitCode::Success, why.clone()));
                ExitCode::Success
            }
            Untaken::Later => {
                self.submission_failed(&why)?;
                self.no_submissions = Some((ExitCode::Slurm, why.clone()));
                ExitCode::Slurm
            }
            Untaken::Unclear(doubt) => {
                self.submission_failed(&why)?;
                job.doubt = Some(doubt);
                ExitCode::Slurm
            }
        };
        self.waits(job, code, &why)?;
        WAITS
    }

    /// Gives a job that Slurm has accepted its watcher. Where that fails the next pass tries again;
    /// until then `check` reports a failure, later.
    pub(super) async fn watch(
        &mut self,
        job: &mut Record,
        slurm_id: SlurmJobId,
    ) -> Result<(), BridgeError> {
        if !self.rules.watcher || job.watcher.is_some() {
            return Ok(());
        }
        let known = self.view.watcher_of(job);
        let memory_mb = job.resources.as_ref().map_or(0, |asked| asked.memory_mb);
        let request = kinds_of_job::watcher(&self.config.site, &job.job_id, slurm_id, memory_mb);
        let watcher = match known {
            Some(known) => Ok(known),
            None => self.scheduler.submit(&request).await,
        };
        match watcher {
            Ok(watcher) => {
                tracing::debug!(job = %job.job_id, slurm_job = %watcher, "it is watched by this \
                    Slurm job");
                job.watcher = Some(watcher);
                self.save(job)
            }
            Err(error) => {
                // The next watcher would fail for the same reason.
                self.rules.watcher = false;
                let why = format!(
                    "no watcher yet, so that a failure is reported by the next check only: \
                     {error}; WATCHER_PARTITION names a partition for small jobs, WATCHER=0 does \
                     without"
                );
                // Cron sends a mail for a warning: one a job, not one a pass.
                match self.accepted {
                    true => tracing::warn!(job = %job.job_id, slurm_job = %slurm_id, "{why}"),
                    false => tracing::info!(job = %job.job_id, slurm_job = %slurm_id, "{why}"),
                }
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
                    let gives_up = self.rules.gives_up(job, Timestamp::now());
                    return self.without_token(job, &error.to_string(), judge_client(gives_up));
                }
            },
        };
        self.beat()?;
        let error = match log_in(&client, &self.config.rodan).await {
            Ok(token) => {
                self.token = Some(token.clone());
                return Ok(Some(token));
            }
            Err(error) => error,
        };
        let judged = judge_login(&error, self.rules.gives_up(job, Timestamp::now()));
        self.without_token(job, &error.to_string(), judged)
    }

    /// Does what is decided about a job for which there is no token.
    fn without_token(
        &mut self,
        job: &mut Record,
        why: &str,
        judged: NoToken,
    ) -> Result<Option<Secret>, BridgeError> {
        self.submission_failed(why)?;
        match judged {
            NoToken::Waits => {
                self.no_submissions = Some((ExitCode::Rodan, why.to_owned()));
                self.waits(job, ExitCode::Rodan, why)?;
            }
            NoToken::Fails(verdict) => {
                tracing::error!(job = %job.job_id, "{why}");
                self.fails(job, verdict)?;
            }
        }
        Ok(None)
    }

    fn is_no_job(
        &mut self,
        job: &mut Record,
        problem: &str,
    ) -> Result<ControlFlow<()>, BridgeError> {
        self.fails(job, Verdict::NoJob { problem: problem.to_owned() })?;
        GOES_ON
    }
}
