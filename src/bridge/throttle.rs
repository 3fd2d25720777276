//! When no new job is taken. What is not taken stays in RabbitMQ, and nothing is lost.

use jiff::Timestamp;

use super::deliver::never_ran;
use super::pass::{BridgeError, Pass};
use crate::ledger::{Record, State};
use base::exit_code::ExitCode;

impl Pass<'_> {
    /// Whether one more job may be taken, now that these are open or were.
    pub(super) fn may_take(&mut self, jobs: &[Record]) -> bool {
        let breaker = self.store.breaker();
        if let Some(until) = breaker.paused_until(Timestamp::now()) {
            tracing::warn!(
                "no new jobs are taken until {until:.0}: {} submissions in a row failed, the last because: {}",
                breaker.failures,
                breaker.last
            );
            self.remember(ExitCode::Slurm);
            return false;
        }
        let waiting =
            jobs.iter().filter(|job| matches!(job.state, State::Received | State::Submitting { .. })).count();
        if waiting > 0 {
            tracing::info!("no new jobs are taken before Slurm has taken the {waiting} that are waiting");
            return false;
        }
        // Else a hundred messages that are no jobs, to be answered where nothing can be delivered, would end the intake.
        let open = jobs.iter().filter(|job| job.state != State::Replied && !never_ran(job)).count();
        let limit = self.config.site.max_open_jobs;
        if open >= limit {
            tracing::info!("no new jobs are taken: {open} are open (MAX_OPEN_JOBS={limit})");
            return false;
        }
        true
    }

    /// A submission failed in a way that the next one may share.
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
