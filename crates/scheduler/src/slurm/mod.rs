//! Slurm: what to ask for, submitting, and what became of a job. Knows nothing of training.

mod answer;
mod command;
mod probe;
mod query;
mod reason;
mod request;
mod requeue;
mod state;
mod step;
mod submit;
mod waiting;

pub use answer::SubmitError;
pub(crate) use command::environment;
pub use command::{Slurm, SlurmError};
pub use probe::{Accounting, Trial};
pub use query::JobInfo;
pub use reason::in_words;
pub use request::{JobRequest, Request};
pub use state::{JobState, Phase};
pub use step::Step;
pub use waiting::{Node, Pending, Place, fitting, place};

/// What reads Slurm's words, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::answer::answer;
    pub use super::query::{exit_code_in, sacct_lines, squeue_line};
}
