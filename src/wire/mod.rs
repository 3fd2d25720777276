//! The messages exchanged with Rodan: the only place that knows Rodan's key names.

mod choices;
mod job;
mod layer;
mod limits;
mod reply;
mod settings;
mod walltime;

pub use choices::{Augmentation, Flip, PatchSelection, StoppingMetric};
pub use job::{JobFile, JobFileError, JobMessage, MessageError};
pub use layer::{Input, InputKind, Inputs, InputsError, Layer};
pub use limits::{Beyond, SiteLimits};
pub use reply::{Envelope, Reply, ReplyError};
pub use settings::{ResourceSettings, SettingsError, SettingsMap, TRAINING_SETTINGS, TrainingSettings};
pub use walltime::{Walltime, WalltimeError};
