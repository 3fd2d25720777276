//! What Slurm says of the open jobs: one query for all of them.

use std::time::Duration;

use jiff::Timestamp;

use super::context::Pass;
use super::decide::{self, Found};
use super::view::{View, is_with_slurm};
use crate::ledger::{Outcome, Progress, Record, StoreError};
use base::exit_code::ExitCode;
use scheduler::Scheduler;
use scheduler::slurm::{JobInfo, JobState, Phase, SlurmError};

/// sacct lags behind the controller by about this long.
const ACCOUNTING_LAG: Duration = Duration::from_secs(2);
/// How often it is asked again for what it does not have yet.
const ACCOUNTING_LOOKS: u32 = 2;

impl Pass<'_> {
    /// Asks Slurm about all jobs that it may have. When it gives no answer nothing is decided about
    /// them.
    pub(super) async fn ask_slurm(&mut self, jobs: &[Record]) {
        self.view = View::default();
        let jobs: Vec<&Record> = jobs.iter().filter(|job| is_with_slurm(job)).collect();
        if jobs.is_empty() {
            return;
        }
        if let Err(error) = self.scheduler.tend() {
            tracing::error!("{error}; the jobs of this host stay as they are");
            return self.remember(ExitCode::Slurm);
        }
        match known(&self.scheduler, &jobs).await {
            Ok(known) => self.view = View::new(&jobs, known),
            Err(error) => {
                let place = self.config.site.scheduler.place();
                tracing::error!("{error}; the jobs that are {place} stay as they are");
                return self.remember(ExitCode::Slurm);
            }
        }
        for job in jobs {
            if let Some(info) = self.view.info(job)
                && info.state.phase() == Phase::Unknown
            {
                tracing::warn!(
                    job = %job.job_id,
                    slurm_job = %info.id,
                    "{} says an unknown state of it: {}",
                    self.config.site.scheduler.subject(),
                    info.state
                );
            }
        }
    }

    /// What lies in a job's directory, as far as it matters now: models have tens of megabytes, and
    /// a trainer that is alive delivers them itself.
    ///
    /// # Errors
    /// When a reply may lie there and can't be read: nothing is decided then.
    pub(super) fn found(&self, job: &Record) -> Result<Found, StoreError> {
        let files = self.store.files(&job.job_id);
        let delivered = files.is_delivered();
        let is_over = match self.view.of(job) {
            decide::Slurm::Silent => false,
            decide::Slurm::Unknown => true,
            decide::Slurm::Has(info) => {
                !matches!(info.state.phase(), Phase::Waiting | Phase::Active)
            }
        };
        let reply = match delivered || is_over {
            true => self.store.reply(&job.job_id)?,
            false => None,
        };
        let started = is_over.then(|| files.started_in()).flatten();
        let note = is_over.then(|| Progress::read(&files.progress())).flatten();
        Ok(Found {
            delivered,
            reply: reply.map(|reply| match reply.error_sentence() {
                Some(_) => Outcome::Error,
                None => Outcome::Models,
            }),
            started: started.filter(|id| !job.has_outgrown(*id)),
            peak_memory: note
                .and_then(|note| Some((note.slurm_job_id?, note.standing.peak_memory_mb?))),
        })
    }
}

/// What controller and accounting together know of these jobs.
async fn known(slurm: &Scheduler, jobs: &[&Record]) -> Result<Vec<JobInfo>, SlurmError> {
    let queue = slurm.queue().await?;
    let unlisted = |job: &&&Record| {
        let name = job.job_id.slurm_name();
        // A listed job that has ended is looked up too: only the accounting knows the memory it
        // used.
        !queue.iter().any(|info| info.name == name && info.state.phase() != Phase::Ended)
    };
    let names: Vec<String> =
        jobs.iter().filter(unlisted).map(|job| job.job_id.slurm_name()).collect();
    let since = jobs.iter().map(|job| job.received_at).min().unwrap_or_else(Timestamp::now);
    let mut accounting = slurm.accounting(&names, since).await?;
    for _ in 0..ACCOUNTING_LOOKS {
        let Some(rows) = &accounting else { break };
        // What a failed job had used is known a few seconds later than that it failed.
        let failed =
            |info: &&JobInfo| matches!(info.state, JobState::Failed | JobState::OutOfMemory);
        let has_row = |info: &JobInfo| {
            let same = |row: &&JobInfo| row.id == info.id && row.name == info.name;
            rows.iter()
                .find(same)
                .is_some_and(|r| r.state.phase() == Phase::Ended && r.used_mb.is_some())
        };
        if queue.iter().filter(|i| names.contains(&i.name)).filter(failed).all(has_row) {
            break;
        }
        tokio::time::sleep(ACCOUNTING_LAG).await;
        accounting = slurm.accounting(&names, since).await?;
    }
    // Where both know a job the controller is right about its state and the accounting about what
    // it used.
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
    // Without accounting the controller says more when it is asked about one job.
    for info in &mut known {
        if info.state == JobState::Failed && info.exit_code.is_none() && names.contains(&info.name)
        {
            info.exit_code = slurm.exit_code(info.id).await;
        }
    }
    Ok(known)
}
