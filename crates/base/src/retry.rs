//! When a failed attempt is repeated, and how long to wait before.

use std::time::Duration;

/// What a failed attempt means.
#[derive(Debug)]
pub enum Attempt<E> {
    /// It may work later; the server may have said when.
    Again(E, Option<Duration>),
    /// It will not work.
    GiveUp(E),
}

/// How often to try, and how long to wait in between.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Number of attempts, at least one.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with each further failure.
    pub first_wait: Duration,
    /// Longest wait.
    pub longest_wait: Duration,
}

impl Policy {
    /// The wait after attempt number `attempt` (from 0): doubled each time, with a random part, so
    /// that many jobs that failed together don't try again together.
    pub fn wait(&self, attempt: u32, asked_for: Option<Duration>) -> Duration {
        let full = self.first_wait.saturating_mul(1 << attempt.min(16)).min(self.longest_wait);
        let jitter = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        let own = full.mul_f64(0.5 + 0.5 * jitter);
        asked_for.map_or(own, |wait| wait.clamp(own, self.longest_wait.max(own)))
    }

    /// Calls `attempt` until it succeeds, gives up, or the attempts are used up.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn run<T, E: std::fmt::Display>(
        &self,
        what: &str,
        mut attempt: impl AsyncFnMut() -> Result<T, Attempt<E>>,
    ) -> Result<T, E> {
        let mut number = 0;
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(Attempt::GiveUp(error)) => return Err(error),
                Err(Attempt::Again(error, _)) if number + 1 >= self.attempts => return Err(error),
                Err(Attempt::Again(error, asked_for)) => {
                    let wait = self.wait(number, asked_for);
                    tracing::info!("{what}: {error}; trying again in {:.1} s", wait.as_secs_f64());
                    tokio::time::sleep(wait).await;
                    number += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        attempts: 3,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(4),
    };

    async fn outcome(
        results: &[Result<u8, Attempt<&'static str>>],
    ) -> (Result<u8, &'static str>, usize) {
        let mut calls = 0;
        let result = POLICY
            .run("test", async || {
                calls += 1;
                match &results[calls - 1] {
                    Ok(value) => Ok(*value),
                    Err(Attempt::Again(error, wait)) => Err(Attempt::Again(*error, *wait)),
                    Err(Attempt::GiveUp(error)) => Err(Attempt::GiveUp(*error)),
                }
            })
            .await;
        (result, calls)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn tries_again_while_it_makes_sense() {
        let again = |n| Err(Attempt::Again(["a", "b", "c"][n], None));
        assert_eq!(outcome(&[again(0), Ok(7)]).await, (Ok(7), 2));
        assert_eq!(outcome(&[again(0), again(1), again(2)]).await, (Err("c"), 3));
        assert_eq!(outcome(&[Err(Attempt::GiveUp("no"))]).await, (Err("no"), 1));
    }

    #[test]
    fn waits_grow_up_to_the_longest() {
        assert!((0..40).all(|n| POLICY.wait(n, None) <= POLICY.longest_wait));
        assert!(POLICY.wait(9, None) >= POLICY.longest_wait / 2);
        assert_eq!(POLICY.wait(0, Some(Duration::from_secs(9))), POLICY.longest_wait);
    }
}
