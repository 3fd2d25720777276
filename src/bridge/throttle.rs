//! The intake's pause, and what is said while no job is taken.

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::decide::{Intake, intake};
use crate::ledger::Record;
use base::exit_code::ExitCode;

impl Pass<'_> {
    /// Whether one more job may be taken, now that these are open or were.
    pub(super) fn may_take(&mut self, jobs: &[Record]) -> bool {
        let breaker = self.store.breaker();
        let limit = self.config.site.max_open_jobs;
        match intake(jobs, &breaker, limit, Timestamp::now()) {
            Intake::Open => return true,
            Intake::Paused(until) => {
                tracing::warn!(
                    "no new jobs are taken until {until:.0}: {} submissions in a row failed, the \
                     last because: {}",
                    breaker.failures,
                    breaker.last
                );
                self.remember(ExitCode::Slurm);
            }
            Intake::Waiting(waiting) => {
                let who = self.config.site.scheduler.subject();
                tracing::info!(
                    "no new jobs are taken before {who} has taken the {waiting} that are waiting"
                )
            }
            Intake::Full(open) => {
                tracing::info!("no new jobs are taken: {open} are open (MAX_OPEN_JOBS={limit})");
            }
        }
        false
    }

    /// As [`Self::may_take`], but logs nothing.
    pub(super) fn may_take_more(&self, jobs: &[Record]) -> bool {
        let (breaker, limit) = (self.store.breaker(), self.config.site.max_open_jobs);
        intake(jobs, &breaker, limit, Timestamp::now()) == Intake::Open
    }

    /// A submission failed for a reason that may stop the next one too.
    pub(super) fn submission_failed(&mut self, why: &str) -> Result<(), BridgeError> {
        let mut breaker = self.store.breaker();
        breaker.failed(why, Timestamp::now());
        Ok(self.store.save_breaker(&breaker)?)
    }

    /// A submission was accepted.
    pub(super) fn submission_worked(&mut self) -> Result<(), BridgeError> {
        let mut breaker = self.store.breaker();
        if breaker.failures > 0 {
            breaker.worked();
            self.store.save_breaker(&breaker)?;
        }
        Ok(())
    }
}
