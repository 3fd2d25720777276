//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod decode;
mod mask;
mod page;
mod patches;
mod samples;
mod settings;

pub use decode::{Input, MAX_PIXELS, PageError};
pub use mask::Mask;
pub use page::{Layer, LayerInput, Page, PageInputs};
pub use patches::{LayerSamples, SampleError, Split, is_mirrored, sample, samples_per_layer};
pub use samples::{PatchShape, PatchShapeError, Samples};
pub use settings::TrainingSettings;
