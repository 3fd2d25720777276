//! The words that every part of hpc-trainer shares: layers and inputs, patches, settings and their
//! limits, ids, and the figures of a training. Knows no broker, no scheduler and no tensor.

mod choices;
mod colour;
mod figures;
mod ids;
mod layer;
mod limits;
pub mod settings;
mod shape;
mod told;
mod walltime;

pub use choices::{Augmentation, Flip, PatchSelection, StoppingMetric};
pub use colour::{colour_name, layer_colour};
pub use figures::{Course, EpochReport, Metrics, SampleCounts, Score};
pub use ids::{CorrelationId, JobId, SlurmJobId, hex_sha256};
pub use layer::{Input, InputKind, Inputs, InputsError, Layer};
pub use limits::{Beyond, SiteChoice, SiteLimits};
pub use settings::{
    Allowed, NamedResources, RESOURCE_SETTINGS, ResourceSettings, Setting, SettingsError,
    SettingsMap, TRAINING_SETTINGS, TrainingSettings, training_setting,
};
pub use shape::{PatchShape, PatchShapeError};
pub use told::TrainingEvent;
pub use walltime::{Walltime, WalltimeError};
