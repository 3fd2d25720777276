//! Requests to cancel jobs that have not come yet. They are remembered until the job has come and
//! is filed away, or until nobody expects it any more.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use contract::wire::conversation::Cancel;

/// How long a request is remembered: as long as a reply queue lives when nobody reads from it.
pub const REMEMBERED: Duration = Duration::from_secs(14 * 24 * 3600);

/// At most so many are remembered, then the oldest are dropped: whoever fills the queue with
/// requests can't fill the disk.
const MOST: usize = 10_000;

/// The requests that wait for their jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancels {
    waiting: Vec<Waiting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    #[serde(flatten)]
    cancel: Cancel,
    since: Timestamp,
}

impl Cancels {
    /// Remembers a request. One that is known keeps its time.
    pub fn add(&mut self, cancel: &Cancel, now: Timestamp) {
        if !self.waiting.iter().any(|waiting| waiting.cancel == *cancel) {
            self.waiting.push(Waiting { cancel: cancel.clone(), since: now });
        }
        let surplus = self.waiting.len().saturating_sub(MOST);
        self.waiting.drain(..surplus);
    }

    /// True when the job of these two names is to be cancelled.
    pub fn has(&self, correlation_id: &str, reply_to: &str) -> bool {
        self.waiting.iter().any(|waiting| waiting.cancel.is_about(correlation_id, reply_to))
    }

    /// Forgets the requests for the job of these two names; true when there was any.
    pub fn forget(&mut self, correlation_id: &str, reply_to: &str) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !waiting.cancel.is_about(correlation_id, reply_to));
        self.waiting.len() < before
    }

    /// Forgets what is older than [`REMEMBERED`]; true when there was any. A clock that went back
    /// forgets nothing.
    pub fn forget_old(&mut self, now: Timestamp) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| {
            let age = now.duration_since(waiting.since);
            age.is_negative() || age.unsigned_abs() < REMEMBERED
        });
        self.waiting.len() < before
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cancel(id: &str) -> Cancel {
        Cancel { correlation_id: id.into(), reply_to: format!("hpc-reply-{id}") }
    }

    #[test]
    fn a_request_is_remembered_for_fourteen_days_and_for_its_job_only() {
        let start: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        let mut cancels = Cancels::default();
        cancels.add(&cancel("a"), start);
        cancels.add(&cancel("a"), start + Duration::from_secs(1000));
        assert!(cancels.has("a", "hpc-reply-a"));
        assert!(!cancels.has("a", "hpc-reply-b") && !cancels.has("b", "hpc-reply-a"));
        let text = serde_json::to_vec(&cancels).unwrap();
        assert_eq!(serde_json::from_slice::<Cancels>(&text).unwrap(), cancels);
        assert!(!cancels.forget_old(start - Duration::from_secs(1_000_000)));
        assert!(!cancels.forget_old(start + REMEMBERED - Duration::from_secs(1)));
        assert!(cancels.forget_old(start + REMEMBERED) && cancels.is_empty());
    }

    #[test]
    fn a_request_is_forgotten_with_its_job_alone() {
        let mut cancels = Cancels::default();
        cancels.add(&cancel("a"), Timestamp::UNIX_EPOCH);
        cancels.add(&cancel("b"), Timestamp::UNIX_EPOCH);
        assert!(!cancels.forget("a", "hpc-reply-b") && cancels.forget("a", "hpc-reply-a"));
        assert!(!cancels.has("a", "hpc-reply-a") && cancels.has("b", "hpc-reply-b"));
    }

    #[test]
    fn a_flood_of_requests_stays_within_bounds() {
        let mut cancels = Cancels::default();
        for n in 0..MOST + 10 {
            cancels.add(&cancel(&n.to_string()), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(cancels.waiting.len(), MOST);
        assert!(!cancels.has("9", "hpc-reply-9") && cancels.has("10", "hpc-reply-10"));
    }
}
