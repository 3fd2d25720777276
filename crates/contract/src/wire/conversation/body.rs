//! The JSON bodies of the conversation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Kind, MAX_JSON_BYTES, Message};

/// The longest sentence in a body, in bytes: with all of JSON's escapes a body of a few stays below
/// the limit.
const MAX_SENTENCE: usize = 4096;

/// The longest line of a log, in bytes.
const MAX_LINE: usize = 400;

/// The most lines of a log.
const MAX_LINES: usize = 40;

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

/// At most so many bytes of a text, in one line.
fn clip(text: &str, most: usize) -> String {
    let mut clipped = String::with_capacity(text.len().min(most));
    for c in text.chars().map(|c| if base::text::acts_on_terminal(c) { ' ' } else { c }) {
        if clipped.len() + c.len_utf8() > most {
            break;
        }
        clipped.push(c);
    }
    clipped
}

/// Where a job stands, as far as its asker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
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
}

impl Asked {
    /// True where any of it was chosen, and not named by the job's message.
    pub fn is_chosen(&self) -> bool {
        [self.cpus_from, self.memory_from, self.time_from].iter().any(|from| *from != Origin::Job)
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
    pub state: Phase,
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
    pub fn new(state: Phase, at: Timestamp, detail: &str) -> Self {
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
        let clipped = Self { detail: clip(&self.detail, MAX_SENTENCE), ..self.clone() };
        Message::json(Kind::State, correlation_id, self.at, write(&clipped))
    }

    /// Reads the body of a `job.state`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        read(body)
    }
}

/// `job.progress`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// The time of the progress.
    pub at: Timestamp,
    /// The model under way, such as `Background Model`.
    pub layer: String,
    /// Its number, from 1.
    pub layer_number: usize,
    /// How many layers there are.
    pub layers: usize,
    /// The epoch that is being trained, from 1; 0 before the first.
    pub epoch: usize,
    /// Most epochs of a layer.
    pub epochs: usize,
    /// Steps of the epoch that are done.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Loss of the latest step.
    pub loss: Option<f64>,
    /// Validation accuracy after the latest epoch of this layer.
    pub accuracy: Option<f64>,
    /// F1 of the layer's pixels after that epoch.
    pub f1: Option<f64>,
    /// The best validation accuracy of this layer so far.
    pub best: Option<f64>,
    /// The largest resident memory so far, in Slurm's MB.
    pub peak_memory_mb: Option<u64>,
    /// When the training ends at the latest, at the pace of now.
    pub expected_end: Option<Timestamp>,
}

impl JobProgress {
    /// The message.
    pub fn message(&self, correlation_id: &str) -> Message<'static> {
        let clipped = Self { layer: clip(&self.layer, MAX_LINE), ..self.clone() };
        Message::json(Kind::Progress, correlation_id, self.at, write(&clipped))
    }

    /// Reads the body of a `job.progress`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(body: &[u8]) -> Result<Self, BodyError> {
        read(body)
    }

    /// How much of all epochs of all layers is done, 0 to 1. A layer that stops early makes it jump
    /// forward.
    pub fn fraction(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of a training")]
        let [layers, layer, epochs, epoch, steps, step] =
            [self.layers, self.layer_number, self.epochs, self.epoch, self.steps, self.step]
                .map(|n| n as f64);
        if layers < 1.0 || layer < 1.0 || epochs < 1.0 || epoch < 1.0 {
            return 0.0;
        }
        let of_epoch = if steps < 1.0 { 0.0 } else { step / steps };
        let of_layer = (epoch - 1.0 + of_epoch) / epochs;
        ((layer - 1.0 + of_layer) / layers).clamp(0.0, 1.0)
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
    /// What Slurm was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What the job has used.
    #[serde(default)]
    pub used: Used,
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
        let skipped = self.log.len().saturating_sub(MAX_LINES);
        Self {
            error: clip(&self.error, MAX_SENTENCE),
            cause: clip(&self.cause, MAX_LINE),
            advice: clip(&self.advice, MAX_SENTENCE),
            log: self.log.iter().skip(skipped).map(|line| clip(line, MAX_LINE)).collect(),
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
            Self::Done(done) => write(done),
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

    /// Reads the body of an end of this kind.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(kind: Kind, body: &[u8]) -> Result<Self, BodyError> {
        match kind {
            Kind::Done => Ok(Self::Done(read(body)?)),
            Kind::Failed => Ok(Self::Failed(read(body)?)),
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at() -> impl Strategy<Value = Timestamp> {
        (0i64..4_000_000_000).prop_map(|s| Timestamp::from_second(s).unwrap())
    }

    fn origin() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::Job),
            Just(Origin::Site),
            Just(Origin::Estimate),
            Just(Origin::Measured),
            Just(Origin::Raised)
        ]
    }

    fn asked() -> impl Strategy<Value = Option<Asked>> {
        let values =
            (1u32..4096, origin(), 1u64..100_000_000, origin(), 60u64..31_536_000, origin());
        prop::option::of(values.prop_map(
            |(cpus, cpus_from, memory_mb, memory_from, time_seconds, time_from)| Asked {
                cpus,
                cpus_from,
                memory_mb,
                memory_from,
                time_seconds,
                time_from,
            },
        ))
    }

    fn used() -> impl Strategy<Value = Used> {
        (any::<Option<u64>>(), any::<Option<u64>>())
            .prop_map(|(memory_mb, seconds)| Used { memory_mb, seconds })
    }

    fn number() -> impl Strategy<Value = Option<f64>> {
        prop::option::of(-1e9..1e9)
    }

    fn phase() -> impl Strategy<Value = Phase> {
        use Phase::{Cancelling, Requeued, Running, Submitted, Taken, Waiting};
        prop::sample::select(vec![Taken, Submitted, Waiting, Running, Requeued, Cancelling])
    }

    proptest! {
        #[test]
        fn a_state_is_read_back(
            state in phase(), at in at(), detail in "[^\\p{C}\\p{Zl}\\p{Zp}]{0,80}", slurm_job in any::<Option<u64>>(),
            queue_position in any::<Option<usize>>(), starts_at in prop::option::of(at()), asked in asked(),
        ) {
            let state = JobState { state, at, detail, slurm_job, queue_position, starts_at, asked };
            let message = state.message("c");
            prop_assert!(message.body.len() <= MAX_JSON_BYTES);
            prop_assert_eq!(JobState::parse(&message.body).unwrap(), state.clone());
            prop_assert_eq!(message.message_id, state.message("c").message_id);
        }

        #[test]
        fn progress_is_read_back_to_the_last_bit(
            at in at(), layer in "[A-Za-z0-9 ]{0,30}", counts in any::<[u16; 6]>(), loss in number(),
            accuracy in number(), f1 in number(), best in number(), peak_memory_mb in any::<Option<u64>>(),
            expected_end in prop::option::of(at()),
        ) {
            let [layer_number, layers, epoch, epochs, step, steps] = counts.map(usize::from);
            let progress = JobProgress {
                at, layer, layer_number, layers, epoch, epochs, step, steps, loss, accuracy, f1, best,
                peak_memory_mb, expected_end,
            };
            let message = progress.message("c");
            prop_assert_eq!(JobProgress::parse(&message.body).unwrap(), progress.clone());
            prop_assert!((0.0..=1.0).contains(&progress.fraction()));
        }

        #[test]
        fn an_end_is_read_back_from_the_wire_and_from_the_spool(
            at in at(), error in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,80}", cause in "[a-z_]{1,20}", advice in "[a-z .]{0,60}",
            log in prop::collection::vec("[^\\p{C}\\p{Zl}\\p{Zp}]{0,60}", 0..40), asked in asked(), used in used(),
            names in prop::collection::vec("[A-Za-z0-9 ]{1,20}", 0..14), seed in any::<u64>(),
            seconds in 0.0..1e6,
        ) {
            let failed = JobFailed { at, error, cause, advice, log, asked: asked.clone(), used: used.clone() };
            let models = names.iter().map(|name| ModelEntry {
                name: name.clone(), sha256: super::super::sha256(name.as_bytes()), size: seed,
            });
            let figures = names.iter().map(|name| Figures {
                model: name.clone(), epochs: 15, best_epoch: 3, accuracy: Some(0.98), f1: None, loss: Some(0.1),
                train_samples: 800, validation_samples: 200, learned: true, seconds,
            });
            let times = Times { seconds, download_seconds: seconds / 3.0 };
            let done =
                JobDone { at, models: models.collect(), figures: figures.collect(), times, seed, asked, used };
            for end in [End::Failed(failed), End::Done(done)] {
                let message = end.message("c");
                prop_assert!(message.body.len() <= MAX_JSON_BYTES);
                prop_assert_eq!(End::parse(end.kind(), &message.body).unwrap(), end.clone());
                prop_assert_eq!(End::from_spool(&end.body()).unwrap(), end.clone());
                prop_assert_eq!(message.kind, end.kind());
            }
        }

        /// Whatever a sentence or a log holds, the body stays within its limit.
        #[test]
        fn no_text_makes_a_body_too_large(text in "\\PC{0,200}", repeat in 0usize..2000, lines in 0usize..200) {
            let text = format!("{text}\u{1}\u{7f}\"\\").repeat(repeat);
            let failed = JobFailed {
                at: Timestamp::UNIX_EPOCH, error: text.clone(), cause: text.clone(), advice: text.clone(),
                log: vec![text.clone(); lines], asked: None, used: Used::default(),
            };
            prop_assert!(End::Failed(failed).body().len() <= MAX_JSON_BYTES);
            let state = JobState::new(Phase::Waiting, Timestamp::UNIX_EPOCH, &text);
            let state = JobState { detail: text, ..state };
            prop_assert!(state.message("c").body.len() <= MAX_JSON_BYTES);
        }

        #[test]
        fn hostile_bytes_are_no_body_or_a_whole_one(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = JobState::parse(&bytes);
            let _ = JobProgress::parse(&bytes);
            if let Ok(end) = End::from_spool(&bytes) {
                prop_assert_eq!(End::from_spool(&end.body()).unwrap().kind(), end.kind());
            }
        }
    }

    #[test]
    fn a_torn_end_is_no_end() {
        let failed = JobFailed {
            at: Timestamp::UNIX_EPOCH,
            error: "no".into(),
            cause: "input".into(),
            advice: String::new(),
            log: Vec::new(),
            asked: None,
            used: Used::default(),
        };
        let body = End::Failed(failed).body();
        for length in 0..body.len() {
            assert!(End::from_spool(&body[..length]).is_err(), "{length}");
        }
        for other in [&b"{}"[..], b"[]", b"{\"Model 0\":\"AAAA\"}", b"{\"error\":5}", b"null"] {
            assert!(End::from_spool(other).is_err());
        }
        assert!(matches!(End::parse(Kind::State, &body), Err(BodyError::NoEnd(Kind::State))));
        let large = vec![b' '; MAX_JSON_BYTES + 1];
        assert!(matches!(End::from_spool(&large), Err(BodyError::TooLarge(_))));
    }

    #[test]
    fn words_of_a_newer_program_are_read() {
        let state = br#"{"state":"dreaming","at":"2026-11-01T10:00:00Z","detail":"","more":[1]}"#;
        assert_eq!(JobState::parse(state).unwrap().state, Phase::Unknown);
    }

    #[test]
    fn how_far_a_job_is_follows_from_its_counts() {
        let progress = JobProgress {
            at: Timestamp::UNIX_EPOCH,
            layer: "Model 0".into(),
            layer_number: 2,
            layers: 4,
            epoch: 3,
            epochs: 4,
            step: 5,
            steps: 10,
            loss: None,
            accuracy: None,
            f1: None,
            best: None,
            peak_memory_mb: None,
            expected_end: None,
        };
        assert!((progress.fraction() - (1.0 + 2.5 / 4.0) / 4.0).abs() < 1e-12);
        assert_eq!(JobProgress { epoch: 0, ..progress.clone() }.fraction(), 0.0);
        assert_eq!(JobProgress { layer_number: 9, ..progress }.fraction(), 1.0);
    }

    #[test]
    fn of_a_long_log_the_last_lines_are_sent() {
        let failed = JobFailed {
            at: Timestamp::UNIX_EPOCH,
            error: "e".into(),
            cause: "training".into(),
            advice: "a".into(),
            log: (0..100).map(|n| n.to_string()).collect(),
            asked: None,
            used: Used::default(),
        };
        let End::Failed(sent) = End::from_spool(&End::Failed(failed).body()).unwrap() else {
            panic!("a failure")
        };
        assert_eq!(sent.log.len(), MAX_LINES);
        assert_eq!(sent.log.last().map(String::as_str), Some("99"));
    }
}
