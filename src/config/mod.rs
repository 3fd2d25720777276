//! Configuration: `credentials.env` and the process environment, read once into typed values.

mod env;
mod examine;
mod file;
mod identity;
mod load;
mod resolved;
mod write;

pub use env::{VARIABLES, Variable};
pub use examine::Examined;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::variables_of as env_variables;
pub use load::{ConfigError, Problem, Sources};
pub use resolved::{Config, OnTimeLimit, RodanConfig, TrainerConfig};
pub use write::{credentials_text, problems};
