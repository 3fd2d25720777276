//! The network, its first weights, its optimiser and what it is measured by.

pub(crate) mod adam;
pub(crate) mod error;
#[cfg(test)]
mod grid_tests;
pub(crate) mod init;
pub(crate) mod metrics;
pub(crate) mod module;
pub(crate) mod native;
pub(crate) mod network;
#[cfg(test)]
pub(crate) mod network_tests;
#[cfg(test)]
mod operations_tests;
pub(crate) mod standardise;
