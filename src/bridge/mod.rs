//! What `check` does with the jobs: a pass (`pass`), passes without end (`stay`), one job
//! (`watch`), what is asked by hand (`operator`).

mod context;
mod converse;
mod decide;
mod deliver;
mod dry_run;
mod exposition;
mod intake;
mod look;
mod metrics;
pub mod operator;
mod pass;
mod stay;
mod submit;
mod throttle;
mod view;
mod watch;

pub use context::{BridgeError, JobNews, Pass, PassEnd};
pub use dry_run::{DryRun, dry_run};
pub(crate) use intake::chosen;
pub use pass::run;
pub use stay::{Stay, stay};
pub use watch::watch;

/// What decides by Slurm's words, for [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::decide::ends;
}
