//! One pass of `check`: look after the open jobs, deliver replies, take new jobs, submit them.

mod deliver;
mod dry_run;
mod exposition;
mod intake;
mod metrics;
pub mod operator;
mod pass;
mod reconcile;
mod submit;
mod throttle;
mod watch;

pub use dry_run::{DryRun, dry_run};
pub use pass::{BridgeError, Happening, Outcome, Pass, run};
pub use watch::watch;
