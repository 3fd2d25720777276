//! What Slurm has said of the open jobs in this pass.

use std::collections::BTreeSet;

use super::decide;
use crate::ledger::{Record, State};
use domain::{JobId, SlurmJobId};
use scheduler::slurm::{JobInfo, Phase};

/// What Slurm has said, and about which jobs it was asked.
#[derive(Debug, Default)]
pub(super) struct View {
    asked: BTreeSet<JobId>,
    known: Vec<JobInfo>,
}

impl View {
    /// What Slurm knows, when it was asked about these jobs.
    pub(super) fn new(asked: &[&Record], known: Vec<JobInfo>) -> Self {
        Self { asked: asked.iter().map(|job| job.job_id.clone()).collect(), known }
    }

    /// What it says of a job.
    pub(super) fn of(&self, job: &Record) -> decide::Slurm<'_> {
        if !self.asked.contains(&job.job_id) {
            return decide::Slurm::Silent;
        }
        self.info(job).map_or(decide::Slurm::Unknown, decide::Slurm::Has)
    }

    /// The Slurm job of a job.
    pub(super) fn info(&self, job: &Record) -> Option<&JobInfo> {
        let name = job.job_id.slurm_name();
        // The name counts as well as the number: a controller that lost its state gives numbers out
        // again.
        let is_its = |info: &&JobInfo| info.name == name && !job.has_outgrown(info.id);
        let mut matching = self.known.iter().filter(is_its);
        match job.slurm_id.filter(|id| !job.has_outgrown(*id)) {
            Some(id) => matching.find(|info| info.id == id),
            None => matching.next_back(),
        }
    }

    /// The watcher of a job that Slurm has, although the record does not say so: the pass that
    /// submitted it was killed before it could.
    pub(super) fn watcher_of(&self, job: &Record) -> Option<SlurmJobId> {
        let name = job.job_id.watcher_name();
        let alive = |info: &&JobInfo| matches!(info.state.phase(), Phase::Waiting | Phase::Active);
        let is_its = |info: &&JobInfo| info.name == name && !job.has_outgrown(info.id);
        self.known.iter().filter(alive).find(is_its).map(|info| info.id)
    }

    /// How long a job has run, in seconds, where it has run at all.
    pub(super) fn ran_seconds(&self, job: &Record) -> Option<u64> {
        let decide::Slurm::Has(info) = self.of(job) else { return None };
        info.ran_for().map(|time| time.as_secs()).filter(|seconds| *seconds > 0)
    }

    /// What was said of a job no longer counts: it was just submitted, or cancelled.
    pub(super) fn forget(&mut self, job: &Record) {
        self.asked.remove(&job.job_id);
    }
}

/// True for a job that Slurm may have.
pub(super) fn is_with_slurm(job: &Record) -> bool {
    matches!(job.state, State::Submitting { .. } | State::Submitted { .. } | State::Running { .. })
}
