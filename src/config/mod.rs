//! Configuration: `credentials.env` and the process environment, read once into typed values.

mod address;
mod env;
mod examine;
mod file;
mod gres;
mod load;
mod resolved;
mod write;

pub use address::{AddressError, BrokerAddress, RodanAddress};
pub use env::{VARIABLES, Variable};
pub use examine::{Examined, Problem};
pub use gres::{Gres, GresTable, GresTableError};
pub use load::{ConfigError, Sources};
pub use resolved::{BrokerConfig, Config, OnTimeLimit, RodanConfig, SiteConfig, TrainerConfig};
pub use write::{credentials_text, problems};
