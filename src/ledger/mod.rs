//! The ledger: one record per job in the spool, written before each side effect.

mod atomic;
mod lock;
mod progress;
mod record;
mod store;

pub use atomic::write_atomic;
pub use lock::{Lock, LockError};
pub use progress::Progress;
pub use record::{CorrelationId, Event, JobId, Outcome, Record, SlurmJobId, State, TransitionError};
pub use store::{JobFiles, Store, StoreError};
