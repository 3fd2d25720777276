//! Trains one network per layer of a manuscript page and cuts pages into layers with them.
//!
//! A page is an image with a mask for each layer ([`PageInputs`]); [`TrainingJob`] draws patches of
//! it and trains the layers one after the other; [`Predictor`] applies what was trained. [`keras`]
//! writes and reads the models as Keras does. Knows no broker and no scheduler.

mod events;
pub(crate) mod fit;
mod gpu;
pub mod hyperparameters;
mod job;
pub mod keras;
pub(crate) mod look;
pub(crate) mod net;
pub(crate) mod page;
mod pages_seen;
pub(crate) mod patch;
mod spent;
pub mod topology;

pub use domain::{
    Augmentation, Calibration, Course, EpochReport, Flip, InputKind, Layer, Metrics,
    PatchSelection, PatchShape, PatchShapeError, SampleCounts, Score, StoppingMetric,
    TrainingSettings, colour_name, layer_colour,
};
pub use events::{EventLogs, WithEvents};
pub use fit::average::Average;
pub use fit::epochs::{fit, fit_from};
pub use fit::observe::JobObserver;
pub use fit::outcome::{
    Best, Collapse, FitError, FitObserver, FitOptions, FitState, LayerTimes, LearningRates, Stop,
    StopReason, Trained, TrainedLayer,
};
pub use fit::resume::Checkpoints;
pub use gpu::device::{Device, choose_device, open_card};
pub use gpu::{Card, Finding, GpuError, Precision, StepTime};
pub use job::{TrainError, TrainingJob, train_page};
pub use kernels::Precision as CpuPrecision;
pub use look::cutout::draw_cutout;
pub use look::evaluate::{Evaluation, LayerEvaluation, draw_errors};
pub use look::picture::{Picture, PictureError};
pub use look::predict::Predictor;
pub use look::preview::{draw_preview, reduced_preview, write_preview};
pub use look::segment::{Segmentation, Windows};
pub use net::adam::{AdamState, KerasAdam};
pub use net::error::{NetworkError, Step};
pub use net::init::initial_weights;
pub use net::module::{PageNetwork, binary_cross_entropy, variables, weights_of};
pub use net::network::Network;
pub use page::archive::{ArchiveError, unpack};
#[doc(hidden)]
pub use page::decode::of_bytes as decode_bytes;
pub use page::decode::{Input, MAX_PIXELS, PageError};
pub use page::mask::Mask;
pub use page::page::{Page, PageInputs, PageLayer, TrainingInputs};
pub use pages_seen::look as look_at_pages;
pub use patch::patches::{
    LayerSamples, SampleError, Split, is_mirrored, sample, samples_per_layer,
};
pub use patch::samples::{Place, Samples};
pub use spent::{Spent, spent_line};
