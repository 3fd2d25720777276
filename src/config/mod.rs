//! Configuration: `credentials.env` and the process environment, read once into typed values.

mod address;
mod env;
mod gres;
mod load;

pub use address::{AddressError, BrokerAddress, RodanAddress};
pub use env::{VARIABLES, Variable};
pub use gres::{Gres, GresTable, GresTableError};
pub use load::{BrokerConfig, Config, ConfigError, RodanConfig, SiteConfig, Sources, TrainerConfig};
