//! Trains the page-layer models of [Rodan](https://github.com/DDMAL/Rodan) workflows on a Slurm
//! cluster.
//!
//! Three programs share this library: `check`, which runs on a login node, takes jobs from
//! RabbitMQ and submits them to Slurm; `run_trainer`, which runs inside the allocation, trains one
//! network per page layer and publishes the reply; and `gateway`, which takes pages from browsers
//! and programs and trains them here, without RabbitMQ and Slurm. `ARCHITECTURE.md` draws the
//! modules.

pub mod bridge;
pub mod cli;
pub mod config;
pub mod courier;
pub mod doctor;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod ledger;
pub mod rodan;
pub mod sentences;
#[cfg(feature = "trainer")]
pub mod worker;
