//! Trains the page-layer models of [Rodan](https://github.com/DDMAL/Rodan) workflows on a Slurm cluster.
//!
//! Two programs share this library: `check`, which runs on a login node, takes jobs from
//! RabbitMQ and submits them to Slurm; and `run_trainer`, which runs inside the allocation, trains
//! one network per page layer and publishes the reply. `ARCHITECTURE.md` draws the modules.

pub mod bridge;
pub mod broker;
pub mod cli;
pub mod config;
pub mod courier;
pub mod crash;
pub mod exit_code;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod harden;
#[cfg(feature = "trainer")]
pub mod keras;
pub mod ledger;
pub mod report;
pub mod retry;
pub mod rodan;
pub mod secret;
pub mod slurm;
pub mod text;
pub mod tls;
#[cfg(feature = "trainer")]
pub mod train;
pub mod wipe;
pub mod wire;
