//! The words that every part of hpc-trainer shares: layers and inputs, patches, settings and their
//! limits, ids, and the figures of a training. Knows no broker, no scheduler and no tensor.

mod calibration;
mod choices;
mod colour;
mod email;
mod figures;
mod ids;
mod instances;
mod layer;
mod limits;
pub mod settings;
mod shape;
mod standing;
mod training_event;
mod values;
mod walltime;

pub use calibration::{Calibration, Gain, NotCalibrated};
pub use choices::{Augmentation, Calibrate, Flip, PatchSelection, StoppingMetric};
pub use colour::{colour_name, layer_colour};
pub use figures::{Course, EpochReport, Metrics, SampleCounts, Score};
pub use ids::{CorrelationId, JobId, SlurmJobId, hex_sha256};
pub use instances::Instances;
pub use layer::{Input, InputKind, Inputs, InputsError, Layer};
pub use limits::{Beyond, Host, SiteChoice, SiteLimits};
pub use settings::{
    NamedResources, RESOURCE_SETTINGS, ResourceSettings, Setting, SettingsError, SettingsMap,
    TRAINING_SETTINGS, TrainingSettings, training_setting,
};
pub use shape::{PIXELS_AT_A_TIME, PatchShape, PatchShapeError};
pub use standing::{Standing, TaskStanding};
pub use training_event::TrainingEvent;
pub use values::Allowed;
pub use walltime::{Walltime, WalltimeError};
