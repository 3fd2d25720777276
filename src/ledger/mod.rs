//! What `check`, the watcher and the trainer keep in the spool: a record per job, written before
//! each step that others can see, its files, the lock, and what is remembered of finished jobs.

mod breaker;
mod cancels;
mod cause;
mod claim;
mod files;
mod last_news;
mod lock;
mod outbox;
mod paces;
mod progress;
mod record;
mod store;
mod tally;
mod verdict;
mod view;

pub use breaker::Breaker;
pub use cancels::{Cancels, REMEMBERED};
pub use cause::Cause;
pub use claim::{Claimed, Publisher, claim, claimed_by};
pub use files::JobFiles;
pub use last_news::Told;
pub use lock::{HeldBy, Lock, LockError, Role};
pub use outbox::{Live, Outbox};
pub use paces::{NodeKind, Paces};
pub use progress::{NotedPace, Progress};
pub use record::{Doubt, Event, Outcome, Record, State, TooSmall, TransitionError};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use store::parse as parse_record;
pub use store::{Store, StoreError, Unreadable};
pub use tally::{Chosen, Histogram, Tally};
pub use verdict::Verdict;
pub use view::Seen;
