//! Pauses the intake after several submissions in a row have failed.
//!
//! If the account has expired or Slurm is away, each job that is taken would only be answered with
//! an error. Jobs that stay in RabbitMQ lose nothing.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// This many failures in a row may be the jobs' own faults.
const TOLERATED: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// The state of the breaker between two passes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Submissions that have failed since the last one that succeeded.
    pub failures: u32,
    /// No new job is taken before this time.
    pub until: Option<Timestamp>,
    /// What went wrong last.
    pub last: String,
}

impl Breaker {
    /// A submission failed. From the third in a row on the intake pauses: 5 minutes, 10, 20 … an
    /// hour at most.
    pub fn failed(&mut self, why: &str, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        why.clone_into(&mut self.last);
        if let Some(more) = self.failures.checked_sub(TOLERATED + 1) {
            let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(more)).min(LONGEST_PAUSE);
            self.until = now.checked_add(pause).ok();
        }
    }

    /// A submission was accepted.
    pub fn worked(&mut self) {
        *self = Self::default();
    }

    /// Until when the intake pauses; `None` when it does not.
    pub fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        // A clock that was set back must not make the pause longer than any pause can be.
        self.until.filter(|until| *until > now && until.duration_since(now).unsigned_abs() <= LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_the_third_failure_on_and_end_with_a_success() {
        let mut breaker = Breaker::default();
        let now = Timestamp::UNIX_EPOCH;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            breaker.failed("away", now);
            pauses.push(breaker.paused_until(now).map_or(0, |until| until.as_second() / 60));
        }
        assert_eq!(pauses, [0, 0, 5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(breaker.paused_until(now + Duration::from_secs(3600)), None, "then one more is tried");
        for _ in 0..100 {
            breaker.failed("away", now);
        }
        assert_eq!(breaker.paused_until(now).unwrap().as_second(), 3600);
        breaker.worked();
        assert_eq!((breaker.paused_until(now), breaker.failures), (None, 0));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_pause_for_ever() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let breaker =
            Breaker { failures: 3, until: Some(now + Duration::from_secs(86_400)), last: String::new() };
        assert_eq!(breaker.paused_until(now), None);
    }
}
