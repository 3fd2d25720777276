//! What the trainer does when Slurm sends a signal. `docs/protocol.md` tells the whole story.
//!
//! SIGUSR1, step by step: [`Signals::stop`] tells the training (`page_layers::Stop`; epochs.rs ends
//! the step, job.rs keeps the best epoch of the last layer); `Allocation::suspends` says whether it
//! is to be suspended instead; `Job::train_alone` in mod.rs (with several tasks `tasks/leader.rs`)
//! then requeues the job (`requeue.rs`) or trains on for the best models.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use super::error::JobError;
use page_layers::Stop;

/// The flags that signals raise.
#[derive(Clone)]
pub(super) struct Signals {
    /// SIGTERM and SIGINT: from `scancel`, from preemption, from a requeue, or at the time limit.
    end: Arc<AtomicBool>,
    /// SIGUSR1: Slurm's warning ahead of the time limit.
    time: Arc<AtomicBool>,
}

/// Which signal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// There is little time left (SIGUSR1).
    Warned,
    /// The job is being ended (SIGTERM or SIGINT).
    Ended,
}

impl Signals {
    pub(super) fn watch() -> io::Result<Self> {
        let signals = Self { end: Arc::default(), time: Arc::default() };
        signal_hook::flag::register(SIGUSR1, Arc::clone(&signals.time))?;
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&signals.end))?;
        }
        Ok(signals)
    }

    pub(super) fn received(&self) -> Option<Signal> {
        if self.end.load(Ordering::Relaxed) {
            return Some(Signal::Ended);
        }
        self.time.load(Ordering::Relaxed).then_some(Signal::Warned)
    }

    /// The error of a job that was stopped before it had a result.
    ///
    /// A job that `check` looks after is left without a reply when Slurm ends it: the trainer can't
    /// tell a cancelled job from one that Slurm starts again, but Slurm's own state can.
    pub(super) fn error(&self, managed: bool) -> Option<JobError> {
        let warned = self.time.load(Ordering::Relaxed);
        Some(match self.received()? {
            Signal::Ended if managed => JobError::Left,
            Signal::Ended if !warned => JobError::Cancelled,
            _ => JobError::Time,
        })
    }

    /// True when a job whose layers are trained is left all the same. One that nobody looks after
    /// sends them: nobody starts it again.
    pub(super) fn ends_without_models(&self, managed: bool) -> bool {
        managed && self.received() == Some(Signal::Ended)
    }

    /// What the training has to do; with `suspend_when_warned` it is requeued even if it has an
    /// epoch to show.
    pub(super) fn stop(&self, managed: bool, suspend_when_warned: bool) -> Stop {
        match self.received() {
            None => Stop::No,
            Some(Signal::Ended) if managed => Stop::Suspend,
            Some(Signal::Warned) if suspend_when_warned => Stop::Suspend,
            Some(_) => Stop::KeepBest,
        }
    }
}

#[cfg(test)]
impl Signals {
    /// Signals that have come or not, without a process that listens for them.
    pub(super) fn raised(end: bool, time: bool) -> Self {
        Self { end: Arc::new(end.into()), time: Arc::new(time.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(end: bool, time: bool) -> Signals {
        Signals::raised(end, time)
    }

    #[test]
    fn layers_that_are_trained_are_left_only_where_someone_goes_on_with_them() {
        assert!(signals(true, false).ends_without_models(true));
        assert!(!signals(true, false).ends_without_models(false));
        assert!(!signals(false, true).ends_without_models(true));
        assert!(!signals(false, false).ends_without_models(true));
    }

    #[test]
    fn a_job_that_slurm_ends_is_left_to_slurms_state_where_someone_looks_after_it() {
        assert_eq!(signals(true, false).stop(true, false), Stop::Suspend);
        assert_eq!(signals(true, true).stop(true, false), Stop::Suspend);
        assert!(matches!(signals(true, true).error(true), Some(JobError::Left)));
        assert_eq!(signals(true, false).stop(false, false), Stop::KeepBest);
        assert!(matches!(signals(true, false).error(false), Some(JobError::Cancelled)));
        assert!(matches!(signals(true, true).error(false), Some(JobError::Time)));
    }

    #[test]
    fn a_warning_keeps_the_best_or_suspends_as_the_site_wants() {
        assert_eq!(signals(false, true).stop(true, false), Stop::KeepBest);
        assert_eq!(signals(false, true).stop(true, true), Stop::Suspend);
        assert!(matches!(signals(false, true).error(true), Some(JobError::Time)));
        assert_eq!(signals(false, false).stop(true, true), Stop::No);
        assert!(signals(false, false).error(true).is_none());
    }
}
