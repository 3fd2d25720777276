//! The ledger: one record per job in the spool, written before each side effect.

mod atomic;
mod breaker;
mod cause;
mod claim;
mod lock;
mod own;
mod progress;
mod record;
mod store;
mod tally;
mod view;

pub use atomic::{create_atomic, sweep, write_atomic};
pub use breaker::Breaker;
pub use cause::Cause;
pub use claim::{Claimed, Publisher, claim};
pub use lock::{Lock, LockError, Role};
pub(crate) use own::read_own;
pub use progress::Progress;
pub use record::{CorrelationId, Event, JobId, Outcome, Record, SlurmJobId, State, TransitionError};
pub use store::{JobFiles, Store, StoreError};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use store::{Unreadable, parse as parse_record};
pub use tally::{Histogram, Tally};
pub use view::{HeldBy, Seen};
