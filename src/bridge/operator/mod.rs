//! What the operator asks and tells by hand: what became of a job, its log, an end to it, another
//! try, room on the disk.

mod cancel;
mod find;
mod logs;
mod purge;
mod retry;
mod status;

pub use cancel::{Cancelled, cancel};
pub use find::{FindError, find, shortest};
pub use logs::{Log, logs_of};
pub use purge::{Item, Purged, purge};
pub use retry::{Retried, retry};
pub use status::{Details, InSlurm, JobStatus, Pause, Status, Waiting, details, status};
