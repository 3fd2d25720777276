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
    pub(crate) fn allow(&self, account: i64, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.per_second * AT_ONCE;
        let (has, at) = left.entry(account).or_insert((most, now));
        let passed = now.saturating_duration_since(*at).as_secs_f64();
        *has = (*has + passed * self.per_second).min(most);
        *at = now;
        let may = *has >= 1.0;
        if may {
            *has -= 1.0;
        }
        may
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
        let first = (0..20).filter(|_| rates.allow(7, at(0.0))).count();
        assert_eq!(first, 10);
        assert!(rates.allow(8, at(0.0)));
        assert!(!rates.allow(7, at(0.4)) && rates.allow(7, at(0.6)));
        assert!(!rates.allow(7, at(0.6)));
        // What is not used is not saved up for ever.
        assert_eq!((0..20).filter(|_| rates.allow(7, at(1000.0))).count(), 10);
    }
}
