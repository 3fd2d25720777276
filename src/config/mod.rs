//! Configuration: `credentials.env` and the process environment, read once into typed values.

pub(crate) mod crontab;
mod env;
mod error;
mod examine;
mod file;
mod identity;
mod lines;
mod load;
mod resolved;
mod write;

pub use env::{
    Need, SECTIONS, Section, UPDATE, Values, Variable, example, markdown, variable, variables,
};
pub(crate) use error::advice_for;
pub use error::{ConfigError, Problem};
pub use examine::Examined;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::variables_of as env_variables;
pub use lines::LineFault;
pub use load::{GatewayVariables, Sources, broker};
pub use resolved::{Config, OnTimeLimit, RodanConfig, TrainerConfig};
pub use write::{credentials_text, problems};
