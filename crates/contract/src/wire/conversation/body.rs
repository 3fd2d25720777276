//! The JSON bodies of the conversation.

use domain::Standing;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::clip::clip;
use super::model::MAX_NAME;
use super::{EndedEpochs, Kind, MAX_JSON_BYTES, Message};

/// The longest sentence in a body, in bytes: with all of JSON's escapes a body of a few stays below
/// the limit.
const MAX_SENTENCE: usize = 4096;

/// The longest line of a log, in bytes.
const MAX_LINE: usize = 400;

/// The most lines of a log.
const MAX_LINES: usize = 40;

/// The most tasks that a progress names.
const MAX_TASKS: usize = 64;

/// A body that can't be read.
#[derive(Debug, Error)]
pub enum BodyError {
    /// More bytes than a body has.
    #[error("it has {0} bytes, more than the {MAX_JSON_BYTES} of a JSON body")]
    TooLarge(usize),
    /// Not JSON, or not of the right shape.
    #[error("it can't be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The kind of message is no end.
    #[error("{0} is not the end of a conversation")]
    NoEnd(Kind),
}

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BodyError> {
    if body.len() > MAX_JSON_BYTES {
        return Err(BodyError::TooLarge(body.len()));
    }
    Ok(serde_json::from_slice(body)?)
}

/// The bytes of a body. Numbers, short words and clipped sentences always become JSON.
fn write(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

/// Where a job stands, as far as its asker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The cluster has its message.
    Taken,
    /// It was handed to Slurm.
    Submitted,
    /// It waits in Slurm's queue.
    Waiting,
    /// It is trained.
    Running,
    /// It is back in Slurm's queue and goes on from its checkpoint.
    Requeued,
    /// It is being cancelled.
    Cancelling,
    /// A word of a newer program.
    #[serde(other)]
    Unknown,
}

/// What a value was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The job's message names it.
    Job,
    /// The site's setting for jobs that name none.
    Site,
    /// It follows from the job's other settings.
    Estimate,
    /// Finished jobs of this site tell it.
    Measured,
    /// What was chosen first was not enough, and the job goes on with more.
    Raised,
    /// A word of a newer program.
    #[serde(other)]
    Unknown,
}

impl Origin {
    /// True where the job's message does not name the value. A word of a newer program is a way to
    /// choose, too.
    pub fn is_chosen(self) -> bool {
        self != Self::Job
    }
}

/// What Slurm is asked for, and where each value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Cores.
    pub cpus: u32,
    /// What the cores were chosen by.
    pub cpus_from: Origin,
    /// Memory in Slurm's MB (1,048,576 bytes).
    pub memory_mb: u64,
    /// What the memory was chosen by.
    pub memory_from: Origin,
    /// The time limit in seconds.
    pub time_seconds: u64,
    /// What the time was chosen by.
    pub time_from: Origin,
    /// How many tasks train the layers, each with these cores and this memory; absent where the
    /// job's message asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<AskedInstances>,
}

/// How many tasks a job gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedInstances {
    /// So many.
    pub number: u32,
    /// What the number was chosen by: `estimate` where it is that of the layers, `site` where the
    /// site gives no more.
    pub from: Origin,
}

impl Asked {
    /// True where any of it was chosen, and not named by the job's message.
    pub fn is_chosen(&self) -> bool {
        [self.cpus_from, self.memory_from, self.time_from].into_iter().any(Origin::is_chosen)
    }
}

/// What a job has used, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The largest resident memory, in Slurm's MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// How long its last run took, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// `job.state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// Where the job stands.
    pub state: Stage,
    /// Since when.
    pub at: Timestamp,
    /// The same in words, for a person.
    pub detail: String,
    /// Slurm's number of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<u64>,
    /// How many jobs are before it in its partition's queue, and itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<usize>,
    /// When Slurm expects to start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Timestamp>,
    /// What Slurm was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
}

impl JobState {
    /// A state with nothing but its words.
    pub fn new(state: Stage, at: Timestamp, detail: &str) -> Self {
        let detail = clip(detail, MAX_SENTENCE);
        Self {
            state,
            at,
            detail,
            slurm_job: None,
            queue_position: None,
            starts_at: None,
            asked: None,
        }
    }

    /// The message.
    pub fn message(&self, correlation_id: &str) -> Message<'static> {
        Message::json(Kind::State, correlation_id, self.at, write(&self.clipped()))
    }

    /// The same within the limits of a body.
    fn clipped(&self) -> Self {
        Self { detail: clip(&self.detail, MAX_SENTENCE), ..self.clone() }
    }

    /// Reads the body of a `job.state`, within the limits that it is written with.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        Ok(read::<Self>(body)?.clipped())
    }
}

/// `job.progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// The time of the progress.
    pub at: Timestamp,
    /// Where the training stands.
    #[serde(flatten)]
    pub standing: Standing,
    /// The epochs that have ended since the last message of this kind that is known to have come.
    #[serde(default, skip_serializing_if = "EndedEpochs::is_empty")]
    pub ended_epochs: EndedEpochs,
}

impl JobProgress {
    /// The message.
    pub fn message(&self, correlation_id: &str) -> Message<'static> {
        Message::json(Kind::Progress, correlation_id, self.at, write(&self.clone().clipped()))
    }

    /// The same within the limits of a body.
    fn clipped(mut self) -> Self {
        let standing = &mut self.standing;
        standing.layer = clip(&standing.layer, MAX_LINE);
        standing.device = standing.device.as_deref().map(|device| clip(device, MAX_LINE));
        standing.tasks.truncate(MAX_TASKS);
        for task in &mut standing.tasks {
            task.layer = clip(&task.layer, MAX_NAME);
        }
        self.ended_epochs = self.ended_epochs.clipped();
        self
    }

    /// Reads the body of a `job.progress`, within the limits that it is written with.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        Ok(read::<Self>(body)?.clipped())
    }
}

/// A model in `job.done`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// Its name, such as `Model 0`.
    pub name: String,
    /// SHA-256 of its file, hexadecimal.
    pub sha256: String,
    /// Size of its file, in bytes.
    pub size: u64,
}

/// What a layer's training came to: a row of the table of figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The model's name.
    pub model: String,
    /// Epochs that were trained.
    pub epochs: usize,
    /// The epoch whose weights were kept.
    pub best_epoch: usize,
    /// Validation accuracy of that epoch.
    pub accuracy: Option<f64>,
    /// F1 of the layer's pixels in that epoch.
    pub f1: Option<f64>,
    /// Validation loss of that epoch.
    pub loss: Option<f64>,
    /// Samples learned from.
    pub train_samples: usize,
    /// Samples validated with.
    pub validation_samples: usize,
    /// False when the layer learned nothing.
    pub learned: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How long a job took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How long the last run took to its end, in seconds.
    pub seconds: f64,
    /// How long of it the files took to come, in seconds.
    pub download_seconds: f64,
}

/// `job.done`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDone {
    /// When it was done.
    pub at: Timestamp,
    /// All models, in the order of the layers. Each has come before this message, as `job.model`.
    pub models: Vec<ModelEntry>,
    /// A row for each model.
    pub figures: Vec<Figures>,
    /// Where the time went.
    pub times: Times,
    /// The seed of all random choices.
    pub seed: u64,
    /// The last lines of the job's log, where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// What Slurm was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What the job has used.
    #[serde(default)]
    pub used: Used,
}

impl JobDone {
    /// The same within the limits of a body: of the log its last lines stay.
    fn clipped(&self) -> Self {
        Self { log: last_lines(&self.log), ..self.clone() }
    }
}

/// The last lines of a log, each within its limit.
fn last_lines(log: &[String]) -> Vec<String> {
    let skipped = log.len().saturating_sub(MAX_LINES);
    log.iter().skip(skipped).map(|line| clip(line, MAX_LINE)).collect()
}

/// `job.failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailed {
    /// When it was known.
    pub at: Timestamp,
    /// What happened and what to change, for the person who asked.
    pub error: String,
    /// What failures are counted by, in one word.
    pub cause: String,
    /// What to do now, for a cause of this kind.
    pub advice: String,
    /// The last lines of the job's log, where it has one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// What Slurm was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What the job had used.
    #[serde(default)]
    pub used: Used,
}

impl JobFailed {
    /// The same within the limits of a body: sentences are cut, and of the log its last lines stay.
    fn clipped(&self) -> Self {
        Self {
            error: clip(&self.error, MAX_SENTENCE),
            cause: clip(&self.cause, MAX_LINE),
            advice: clip(&self.advice, MAX_SENTENCE),
            log: last_lines(&self.log),
            ..self.clone()
        }
    }
}

/// The one end of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The models are there.
    Done(JobDone),
    /// There are none.
    Failed(JobFailed),
}

impl End {
    /// Which kind of message it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Done(_) => Kind::Done,
            Self::Failed(_) => Kind::Failed,
        }
    }

    /// The body, as it is kept on disk and sent.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Done(done) => write(&done.clipped()),
            Self::Failed(failed) => write(&failed.clipped()),
        }
    }

    /// The message.
    pub fn message(&self, correlation_id: &str) -> Message<'static> {
        let at = match self {
            Self::Done(done) => done.at,
            Self::Failed(failed) => failed.at,
        };
        Message::json(self.kind(), correlation_id, at, self.body())
    }

    /// Reads the body of an end of this kind, within the limits that it is written with.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(kind: Kind, body: &[u8]) -> Result<Self, BodyError> {
        match kind {
            Kind::Done => Ok(Self::Done(read::<JobDone>(body)?.clipped())),
            Kind::Failed => Ok(Self::Failed(read::<JobFailed>(body)?.clipped())),
            kind => Err(BodyError::NoEnd(kind)),
        }
    }

    /// Reads an end from the spool, where its kind is not beside it: a failure has an `error`.
    ///
    /// # Errors
    /// When it is none, as after a torn write.
    pub fn from_spool(body: &[u8]) -> Result<Self, BodyError> {
        let map: Map<String, Value> = read(body)?;
        let kind = if map.contains_key("error") { Kind::Failed } else { Kind::Done };
        Self::parse(kind, body)
    }

    /// The sentence of a failure; `None` for models.
    pub fn error_sentence(&self) -> Option<&str> {
        match self {
            Self::Done(_) => None,
            Self::Failed(failed) => Some(&failed.error),
        }
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
