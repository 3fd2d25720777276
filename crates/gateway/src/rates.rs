//! How often each account may ask: a token bucket, which empties with each request and fills with
//! time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seconds' worth of requests that may come at once: a page of the gateway has many pictures.
const AT_ONCE: f64 = 5.0;

/// Whoever has no account, all of them together.
pub(crate) const STRANGERS: i64 = 0;

/// What each account has left. There are as many as accounts, which only an administrator makes.
#[derive(Debug)]
pub(crate) struct Rates {
    per_second: f64,
    left: Mutex<HashMap<i64, (f64, Instant)>>,
}

impl Rates {
    /// So many requests a second and account.
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), left: Mutex::new(HashMap::new()) }
    }

    /// Whether the account may ask now; each time counts.
    ///
    /// # Errors
    /// The seconds after which it may, when it has asked too often.
    pub(crate) fn allow(&self, account: i64, now: Instant) -> Result<(), u32> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.per_second * AT_ONCE;
        let (has, at) = left.entry(account).or_insert((most, now));
        let passed = now.saturating_duration_since(*at).as_secs_f64();
        *has = (*has + passed * self.per_second).min(most);
        *at = now;
        if *has < 1.0 {
            return Err(((1.0 - *has) / self.per_second).ceil() as u32);
        }
        *has -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_account_asks_so_often_and_holds_up_no_other() {
        let rates = Rates::new(2);
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let allow = |account, seconds| rates.allow(account, at(seconds));
        let first = (0..20).filter(|_| allow(7, 0.0).is_ok()).count();
        assert_eq!(first, 10);
        assert_eq!(allow(8, 0.0), Ok(()));
        assert_eq!((allow(7, 0.4), allow(7, 0.6), allow(7, 0.6)), (Err(1), Ok(()), Err(1)));
        // What is not used is not saved up for ever.
        assert_eq!((0..20).filter(|_| allow(7, 1000.0).is_ok()).count(), 10);
    }
}
