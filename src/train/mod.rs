//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod adam;
mod init;
mod native;
mod network;
pub mod ops;
mod samples;

pub use adam::{Adam, AdamState};
pub use init::initial_weights;
pub use network::{Backend, Network, NetworkError, Step};
pub use samples::{PatchShape, PatchShapeError, Samples};
