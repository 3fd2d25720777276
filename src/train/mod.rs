//! Training: pages, patches, the network and the rules by which it learns. Knows no broker and no Slurm.

mod adam;
mod archive;
mod augment;
mod batches;
mod checkpoint;
mod cutout;
mod decode;
mod device;
mod draw;
mod events;
mod fit;
#[cfg(test)]
mod fit_tests;
mod gpu;
mod init;
mod job;
mod jpeg;
#[cfg(test)]
mod jpeg_tests;
mod learner;
mod mask;
mod metrics;
mod native;
mod network;
#[cfg(test)]
mod network_tests;
mod observe;
pub mod ops;
mod outcome;
mod page;
mod patches;
mod picture;
mod predict;
mod preview;
mod progress;
mod resume;
#[cfg(test)]
mod resume_tests;
mod samples;
mod segment;
mod spent;
mod start;

pub use adam::{Adam, AdamState};
pub use archive::{ArchiveError, unpack};
pub use cutout::draw_cutout;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use decode::of_bytes as decode_bytes;
pub use decode::{Input, MAX_PIXELS, PageError};
pub use device::{Device, choose_device, open_card};
pub use events::{EventLogs, WithEvents};
pub use fit::{
    Best, Collapse, EpochReport, FitError, FitObserver, FitOptions, FitState, Stop, StopReason, Trained, fit,
    fit_from,
};
pub use gpu::{Card, Finding, GpuError, Precision, StepTime};
pub use init::initial_weights;
pub use job::{TrainError, TrainedLayer, TrainingJob, train_page};
pub use mask::Mask;
pub use metrics::Metrics;
pub use network::{Backend, Network, NetworkError, Step};
pub use observe::JobObserver;
pub use page::{Page, PageInputs, PageLayer, TrainingInputs};
pub use patches::{LayerSamples, SampleError, Split, is_mirrored, sample, samples_per_layer};
pub use picture::{Picture, PictureError};
pub use predict::Predictor;
pub use preview::{colour_name, draw_preview, layer_colour, reduced_preview, write_preview};
pub use progress::Progress;
pub use resume::Checkpoints;
pub use samples::{PatchShape, PatchShapeError, Place, Samples};
pub use segment::{Score, Segmentation};
pub use spent::{Line, Spent};
