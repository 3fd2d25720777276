//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod adam;
mod batches;
mod fit;
#[cfg(test)]
mod fit_tests;
mod init;
mod metrics;
mod native;
mod network;
#[cfg(test)]
mod network_tests;
pub mod ops;
mod outcome;
mod predict;
mod samples;

pub use adam::{Adam, AdamState};
pub use fit::fit;
pub use init::initial_weights;
pub use metrics::Metrics;
pub use network::{Backend, Network, NetworkError, Step};
pub use outcome::{EpochReport, FitError, FitObserver, FitOptions, StopReason, Trained};
pub use predict::Predictor;
pub use samples::{PatchShape, PatchShapeError, Samples};
