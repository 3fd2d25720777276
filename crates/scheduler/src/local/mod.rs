//! Jobs on this host, where there is no Slurm.
//!
//! A job is a directory below `SPOOL_DIR/local`, named by its number. It holds what was asked for
//! (`job.json`), who looks after it (`supervisor.json`), what runs (`run.json`) and how it ended
//! (`end.json`); each file is written in one step. A job exists from the moment that its `job.json`
//! is there. Everything else may be lost at any time and is made good by the next `check`:
//!
//! - a job without a living supervisor that has not begun gets a new supervisor;
//! - a job that had begun, and whose supervisor is dead, ends as on a failed node: it is put back
//!   where the site allows that, else it is over.
//!
//! A process is known by its number, its start time and the boot of the host, so that another
//! process with the same number is not taken for it.

mod files;
mod host;
mod judge;
mod process;
mod queue;
mod start;
mod supervise;

pub use files::Directory;
pub use host::{cpus, gpus, memory_mb};
pub use queue::{Local, refusal};
pub use start::{BeginError, begin, scope_works};
pub use supervise::{Supervised, supervise};
