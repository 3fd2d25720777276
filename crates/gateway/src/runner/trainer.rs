//! What the runner needs of whatever trains: it knows neither processes nor schedulers.

use std::fmt;

use thiserror::Error;

use super::folder::RunFolder;

/// A training can't be started.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Something that trains runs.
pub trait Trainer: Send + Sync {
    /// Starts the training of what lies in the folder; it goes on from its checkpoint where there
    /// is one.
    ///
    /// # Errors
    /// When it can't be started.
    fn start(&self, folder: &RunFolder) -> Result<Box<dyn Training>, StartError>;
}

/// A training that goes on.
pub trait Training: Send {
    /// How it ended, once it has.
    fn ended(&mut self) -> Option<Ended>;

    /// Asks it to write its checkpoint and end.
    fn stop(&mut self);

    /// Ends it at once.
    fn kill(&mut self);
}

impl fmt::Debug for dyn Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Training")
    }
}

/// How a training ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a model for every layer.
    Done,
    /// Without models for all layers, and this is why.
    Failed(String),
    /// It was stopped, with a checkpoint.
    Stopped,
}
