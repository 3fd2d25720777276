//! The messages exchanged with Rodan: the only place that knows Rodan's key names.

mod answer;
mod choices;
mod chosen;
pub mod conversation;
mod job;
mod layer;
mod limits;
mod reply;
mod settings;
mod walltime;

pub use answer::{Answer, AnswerError};
pub use choices::{Augmentation, Flip, PatchSelection, StoppingMetric};
pub use chosen::{Chosen, Pace, SiteChoice, choose, peak_memory_mb};
pub use conversation::Protocol;
pub use job::{JobFile, JobFileError, JobMessage, MessageError};
pub use layer::{Input, InputKind, Inputs, InputsError, Layer};
pub use limits::SiteLimits;
pub use reply::{Envelope, Reply, ReplyError};
pub use settings::{
    NamedResources, ResourceSettings, SettingsError, SettingsMap, TRAINING_SETTINGS, TrainingSettings,
};
pub use walltime::{Walltime, WalltimeError};
