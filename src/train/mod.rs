//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod samples;

pub use samples::{PatchShape, PatchShapeError, Samples};
