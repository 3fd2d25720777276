//! The ledger: one record per job in the spool, written before each side effect.

mod breaker;
mod cause;
mod claim;
mod lock;
mod progress;
mod record;
mod store;
mod tally;
mod view;

pub use breaker::Breaker;
pub use cause::Cause;
pub use claim::{Claimed, Publisher, claim};
pub use lock::{Lock, LockError, Role};
pub use progress::Progress;
pub use record::{Event, Outcome, Record, State, TransitionError};
pub use store::{JobFiles, Store, StoreError};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use store::{Unreadable, parse as parse_record};
pub use tally::{Histogram, Tally};
pub use view::{HeldBy, Seen};
