//! Configuration: `credentials.env` and the process environment, read once into typed values.

mod address;
mod env;
mod file;
mod gres;
mod load;
mod resolved;

pub use address::{AddressError, BrokerAddress, RodanAddress};
pub use env::{VARIABLES, Variable};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::variables as env_variables;
pub use gres::{Gres, GresTable, GresTableError};
pub use load::{ConfigError, Sources};
pub use resolved::{BrokerConfig, Config, OnTimeLimit, RodanConfig, SiteConfig, TrainerConfig};
