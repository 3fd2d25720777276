//! The job message that Rodan publishes, and the job file that the trainer reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::conversation::{Asked, Protocol};
use super::reply::Envelope;
use base::secret::{MASK, Secret};
use domain::{Inputs, InputsError, NamedResources, SettingsError, SettingsMap, TrainingSettings};

/// The largest job message that is read: real ones have about 1 kB.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A job as Rodan asks for it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobMessage {
    /// Which contract it is answered by.
    pub protocol: Protocol,
    /// The page and its layers.
    pub inputs: Inputs,
    /// How it wants to be trained.
    pub training: TrainingSettings,
    /// What it says that Slurm is to be asked for.
    pub named: NamedResources,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RawJob {
    inputs: BTreeMap<String, String>,
    #[serde(default)]
    settings: SettingsMap,
    /// Absent in messages of the first contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Value>,
}

impl RawJob {
    fn protocol(&self) -> Result<Protocol, Value> {
        match &self.protocol {
            None => Ok(Protocol::Reply),
            Some(value) => match value.as_u64() {
                Some(1) => Ok(Protocol::Reply),
                Some(2) => Ok(Protocol::Conversation),
                _ => Err(value.clone()),
            },
        }
    }
}

/// A message that is not a job. Its text is fit for the person who started the workflow.
#[derive(Debug, Error)]
pub enum MessageError {
    /// More bytes than a job can have.
    #[error("the job message has {0} bytes, more than the {MAX_MESSAGE_BYTES} that are read")]
    TooLarge(usize),
    /// Not JSON, or not of the right shape. serde repeats a value that it did not expect, however
    /// long it is.
    #[error("the job message can't be read: {}", base::text::printable(&.0.to_string(), 200))]
    Json(#[from] serde_json::Error),
    /// A contract that this program does not know.
    #[error(
        "the job asks for the protocol {}, and this cluster knows 1 and 2: ask its operator for a \
        newer hpc-trainer, or send \"protocol\": 2",
        base::text::printable(&.0.to_string(), 40)
    )]
    Protocol(Value),
    /// The inputs don't make a job.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The settings don't make a job.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl JobMessage {
    /// Reads the body of a message and checks everything that can be checked without the page.
    ///
    /// # Errors
    /// When it is not JSON of the contract's shape, or inputs or settings are missing or wrong.
    pub fn parse(body: &[u8]) -> Result<Self, MessageError> {
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLarge(body.len()));
        }
        let raw: RawJob = serde_json::from_slice(body)?;
        let protocol = raw.protocol().map_err(MessageError::Protocol)?;
        let inputs = Inputs::new(&raw.inputs)?;
        let training = TrainingSettings::from_job(&raw.settings)?;
        let named = NamedResources::from_job(&raw.settings)?;
        Ok(Self { protocol, inputs, training, named })
    }
}

/// What `run_trainer` reads: the job message, and what `check` adds to it.
///
/// A file written by hand needs `inputs`, `settings` and `token` only.
#[derive(Debug)]
pub struct JobFile {
    /// Which contract it is answered by. A file written by hand without `protocol` is answered by
    /// one reply.
    pub protocol: Protocol,
    /// The page and its layers.
    pub inputs: Inputs,
    /// How to train.
    pub settings: TrainingSettings,
    /// All settings as they came, for the report.
    pub given: SettingsMap,
    /// What Slurm was asked for, where `check` has chosen it.
    pub asked: Option<Asked>,
    /// Rodan's token.
    pub token: Secret,
    /// Where the reply goes, unless the command line says otherwise.
    pub reply_to: Option<String>,
    /// The correlation id, unless the command line says otherwise.
    pub correlation_id: Option<String>,
    /// Message id of the reply, so that a reply that had to be sent twice can be told.
    pub message_id: Option<String>,
}

#[derive(Deserialize)]
struct RawJobFile {
    #[serde(flatten)]
    job: RawJob,
    token: Secret,
    asked: Option<Asked>,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    message_id: Option<String>,
}

/// A job file that can't be used.
#[derive(Debug, Error)]
pub enum JobFileError {
    /// Not JSON, or not of the right shape. The text never repeats the file's content: it holds a
    /// token.
    #[error(
        "the job file is not JSON with inputs, settings and token (line {line}, column {column})"
    )]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The inputs don't make a job.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The settings don't make a job.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl JobFile {
    /// Reads a job file's text.
    ///
    /// # Errors
    /// When it is not a job file, or its inputs or settings are missing or wrong.
    pub fn parse(text: &[u8]) -> Result<Self, JobFileError> {
        let raw: RawJobFile = serde_json::from_slice(text)
            .map_err(|e| JobFileError::Json { line: e.line(), column: e.column() })?;
        Ok(Self {
            // What else it says was refused when the message was taken.
            protocol: raw.job.protocol().unwrap_or(Protocol::Conversation),
            inputs: Inputs::new(&raw.job.inputs)?,
            settings: TrainingSettings::from_job(&raw.job.settings)?,
            given: raw.job.settings,
            asked: raw.asked,
            token: raw.token,
            reply_to: raw.reply_to,
            correlation_id: raw.correlation_id,
            message_id: raw.message_id,
        })
    }

    /// The text of the file that `check` writes for a job, from its message as it came: what this
    /// program does not know stays in it. It holds the token.
    ///
    /// # Errors
    /// When the message is no JSON of a job's shape.
    pub fn text(
        message: &[u8],
        envelope: &Envelope,
        asked: Option<&Asked>,
        token: &Secret,
    ) -> serde_json::Result<Secret> {
        Self::render(message, envelope, asked, token.expose()).map(Secret::new)
    }

    /// The same text with a mask in place of the token, to be shown.
    ///
    /// # Errors
    /// As [`JobFile::text`].
    pub fn masked_text(
        message: &[u8],
        envelope: &Envelope,
        asked: Option<&Asked>,
    ) -> serde_json::Result<String> {
        Self::render(message, envelope, asked, MASK)
    }

    fn render(
        message: &[u8],
        envelope: &Envelope,
        asked: Option<&Asked>,
        token: &str,
    ) -> serde_json::Result<String> {
        let job: RawJob = serde_json::from_slice(message)?;
        let mut value = serde_json::json!({
            "inputs": job.inputs,
            "settings": job.settings,
            "reply_to": envelope.reply_to,
            "correlation_id": envelope.correlation_id,
            "message_id": envelope.message_id,
            "token": token,
        });
        let protocol = job.protocol().unwrap_or(Protocol::Conversation);
        if let Some(protocol) = job.protocol {
            value["protocol"] = protocol;
        }
        // Where the message names all of it, the first contract needs no more than before.
        if let Some(asked) = asked.filter(|asked| protocol != Protocol::Reply || asked.is_chosen())
        {
            value["asked"] = serde_json::json!(asked);
        }
        Ok(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r#"{
        "inputs": {"Image": "/uploads/p.png", "Background": "/uploads/b.png",
                   "rgba PNG - Layer 0": "/uploads/0.png"},
        "settings": {"Maximum number of training epochs": 15,
                     "Maximum number of samples per label": 10000,
                     "Patch height": 256, "Patch width": 256, "CPUs": 6,
                     "Maximum memory (MB)": 257000, "Maximum time (D-HH:MM)": "0-06:00",
                     "Slurm Notification Email": "", "Later": {"x": 1}}}"#;

    #[test]
    fn a_job_becomes_a_job_file_and_is_read_back() {
        let job = JobMessage::parse(JOB.as_bytes()).unwrap();
        let envelope = Envelope {
            reply_to: "amq.reply".into(),
            correlation_id: "c-1".into(),
            message_id: "m-1".into(),
        };
        let text = JobFile::text(JOB.as_bytes(), &envelope, None, &Secret::new("t0ken")).unwrap();
        let file = JobFile::parse(text.expose().as_bytes()).unwrap();
        assert_eq!(file.inputs, job.inputs);
        assert_eq!(file.token.expose(), "t0ken");
        assert_eq!(file.reply_to.as_deref(), Some("amq.reply"));
        assert!(text.expose().contains("\"Later\":{\"x\":1}"), "unknown settings are kept");
        assert!(!JobFile::masked_text(JOB.as_bytes(), &envelope, None).unwrap().contains("t0ken"));
        assert!(!format!("{file:?}").contains("t0ken"));
    }

    #[test]
    fn the_protocol_goes_from_the_message_into_the_job_file() {
        let of = |value: &str| JOB.replacen('{', &format!("{{\"protocol\": {value},"), 1);
        for (value, protocol) in
            [("2", Protocol::Conversation), ("1", Protocol::Reply), ("null", Protocol::Reply)]
        {
            let job = JobMessage::parse(of(value).as_bytes()).unwrap();
            assert_eq!(job.protocol, protocol);
            let envelope = Envelope {
                reply_to: "q".into(),
                correlation_id: "c-1".into(),
                message_id: "m-1".into(),
            };
            let message = of(value);
            let text =
                JobFile::text(message.as_bytes(), &envelope, None, &Secret::new("t0ken")).unwrap();
            assert_eq!(JobFile::parse(text.expose().as_bytes()).unwrap().protocol, protocol);
        }
        for value in ["3", "0", "-1", "2.5", "\"2\"", "true", "[2]", "{}"] {
            let error = JobMessage::parse(of(value).as_bytes()).unwrap_err();
            assert!(matches!(error, MessageError::Protocol(_)), "{value}: {error}");
            assert!(error.to_string().contains("knows 1 and 2"));
            assert_eq!(Protocol::of(of(value).as_bytes()), Protocol::Conversation);
        }
    }

    #[test]
    fn a_file_written_by_hand_needs_three_parts_only() {
        let text = JOB.replacen('{', "{\"token\": \"abc\",", 1);
        let file = JobFile::parse(text.as_bytes()).unwrap();
        assert!(file.reply_to.is_none());
    }

    #[test]
    fn what_is_no_job_is_refused_without_repeating_it() {
        for body in ["", "null", "[]", "{\"inputs\": 5}", "{\"settings\": {}}", "\u{1}"] {
            assert!(
                matches!(JobMessage::parse(body.as_bytes()), Err(MessageError::Json(_))),
                "{body}"
            );
        }
        let huge = vec![b' '; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(JobMessage::parse(&huge), Err(MessageError::TooLarge(_))));
        let error =
            JobMessage::parse(format!("{{\"inputs\": {:?}}}", "x".repeat(100_000)).as_bytes());
        let error = error.unwrap_err().to_string();
        assert!(error.len() < 300 && error.contains("invalid type: string \"xxx"), "{error}");
        let error = JobFile::parse(b"{\"token\": \"very secret\" oops").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
