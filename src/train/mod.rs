//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod decode;
mod mask;
mod page;
mod patches;
mod preview;
mod samples;
mod segment;

pub use decode::{Input, MAX_PIXELS, PageError};
pub use mask::Mask;
pub use page::{Page, PageInputs, PageLayer};
pub use patches::{LayerSamples, SampleError, Split, is_mirrored, sample, samples_per_layer};
pub use preview::{PreviewError, colour_name, write_preview};
pub use samples::{PatchShape, PatchShapeError, Samples};
pub use segment::{Score, Segmentation};
