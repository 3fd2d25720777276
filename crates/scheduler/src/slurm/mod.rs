//! Slurm: what to ask for, submitting, and what became of a job. Knows nothing of training.

mod command;
mod probe;
mod query;
mod reason;
mod request;
mod requeue;
mod state;
mod submit;
mod waiting;

pub use command::{Slurm, SlurmError};
pub use probe::{Accounting, Trial};
pub use query::JobInfo;
pub use reason::in_words;
pub use request::Request;
pub use state::{JobState, Phase};
pub use submit::SubmitError;
pub use waiting::{Node, Pending, Place, fitting, place};

/// What reads Slurm's words, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::query::{exit_code_in, sacct_lines, squeue_line};
    pub use super::submit::answer;
}
