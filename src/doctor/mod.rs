//! Every link of the bridge, tried out one by one: `check doctor`.

mod broker;
mod examine;
mod link;
mod local;
mod node;
mod rodan;
mod row;
mod schedule;
mod settings;
mod slurm;
mod spool;
mod trainer;
mod typical;

pub use examine::{Download, Options, doctor, write_rows};
pub use node::{Ended, NodeCheck};
pub use row::{Grade, Report, Row};
