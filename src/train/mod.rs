//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod adam;
mod batches;
mod fit;
mod init;
mod metrics;
mod native;
mod network;
pub mod ops;
mod predict;
mod samples;

pub use adam::{Adam, AdamState};
pub use fit::{EpochReport, FitError, FitObserver, FitOptions, StopReason, Trained, fit};
pub use init::initial_weights;
pub use metrics::Metrics;
pub use network::{Backend, Network, NetworkError, Step};
pub use predict::Predictor;
pub use samples::{PatchShape, PatchShapeError, Samples};
