//! The conversation about one job: what goes into its reply queue when its message says
//! `"protocol": 2`.
//!
//! States and progress come while the job goes on, each model as soon as it is trained, and one
//! end: `job.done` or `job.failed`. A message without `"protocol"` is answered with one
//! [`Reply`](super::Reply). `docs/protocol.md` has the contract.

mod body;
mod clip;
mod control;
mod ended;
mod model;

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use base::text::hex;

pub use body::{
    Asked, AskedInstances, BodyError, End, Figures, JobDone, JobFailed, JobProgress, JobState,
    ModelEntry, Origin, Stage, Times, Used,
};
pub use control::{CONTROL_QUEUE, Cancel, ControlError};
pub use ended::{EndedEpoch, EndedEpochs};
pub use model::{Collected, Collector, ModelPart, PART_BYTES, PartError, model_messages};

/// The largest JSON body, in bytes.
pub const MAX_JSON_BYTES: usize = 64 << 10;

/// How long a reply queue stays into which nobody looks, in milliseconds: two weeks.
pub const REPLY_QUEUE_EXPIRES: i64 = 14 * 24 * 3_600_000;

/// The name of the reply queue of our own askers' jobs.
pub fn reply_queue(correlation_id: &str) -> String {
    format!("hpc-reply-{correlation_id}")
}

/// The name of the program in the property `app_id`.
pub const APP_ID: &str = concat!("hpc-trainer/", env!("CARGO_PKG_VERSION"));

/// Which contract a job is answered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One reply, with all models in it: for messages without `"protocol"`.
    #[default]
    Reply,
    /// The conversation: for messages with `"protocol": 2`.
    Conversation,
}

impl Protocol {
    /// The contract that the sender of this body understands, even if the rest of the body is
    /// wrong.
    ///
    /// A sender that names a newer protocol knows this one better than the first.
    pub fn of(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Named {
            protocol: Option<Value>,
        }
        let named = is_object(body).then(|| serde_json::from_slice::<Named>(body).ok()).flatten();
        match named.and_then(|named| named.protocol) {
            None => Self::Reply,
            Some(value) if value.as_u64() == Some(1) => Self::Reply,
            Some(_) => Self::Conversation,
        }
    }

    /// True for the first contract.
    pub fn is_reply(&self) -> bool {
        *self == Self::Reply
    }
}

/// Whether a JSON text is an object: serde takes a list for one, value by value.
fn is_object(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// What a message of the conversation is: its property `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `job.state`.
    State,
    /// `job.progress`.
    Progress,
    /// `job.model`.
    Model,
    /// `job.report`.
    Report,
    /// `job.done`.
    Done,
    /// `job.failed`.
    Failed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::State, Self::Progress, Self::Model, Self::Report, Self::Done, Self::Failed];

    /// The word in the property `type`.
    pub fn word(self) -> &'static str {
        match self {
            Self::State => "job.state",
            Self::Progress => "job.progress",
            Self::Model => "job.model",
            Self::Report => "job.report",
            Self::Done => "job.done",
            Self::Failed => "job.failed",
        }
    }

    /// The kind of a word; `None` for one of a newer program.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// True for what has to arrive: it is on disk before it is sent, and sent until the broker
    /// confirms it.
    pub fn must_arrive(self) -> bool {
        matches!(self, Self::Model | Self::Done | Self::Failed)
    }

    /// True for the last message about a job.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
}

impl From<&str> for Header {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A message of the conversation, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is.
    pub kind: Kind,
    /// The same however often the same message is sent.
    pub message_id: String,
    /// What its property `timestamp` says.
    pub at: Timestamp,
    /// Its property `content_type`.
    pub content_type: &'static str,
    /// Its headers.
    pub headers: Vec<(&'static str, Header)>,
    /// Its body.
    pub body: Cow<'a, [u8]>,
}

impl Message<'_> {
    /// A message with a JSON body.
    fn json(kind: Kind, correlation_id: &str, at: Timestamp, body: Vec<u8>) -> Message<'static> {
        Message {
            kind,
            message_id: message_id(correlation_id, kind, &[&body]),
            at,
            content_type: "application/json",
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// A file that a person looks at: `report.html` or `training.json`. `None` for one that is
    /// larger than a part of a model: reports are sent as a courtesy.
    pub fn report<'a>(
        correlation_id: &str,
        name: &'static str,
        at: Timestamp,
        bytes: &'a [u8],
    ) -> Option<Message<'a>> {
        let is_html = name.ends_with(".html");
        (bytes.len() <= PART_BYTES).then(|| Message {
            kind: Kind::Report,
            message_id: message_id(correlation_id, Kind::Report, &[name.as_bytes(), bytes]),
            at,
            content_type: if is_html { "text/html; charset=utf-8" } else { "application/json" },
            headers: vec![("name", name.into())],
            body: bytes.into(),
        })
    }
}

/// The id of a message: it follows from the job, the kind and the content alone, so that a copy has
/// the id of the first.
///
/// 128 bits of a SHA-256, hexadecimal. Each part is preceded by its length: no two lists of parts
/// are one text.
pub fn message_id(correlation_id: &str, kind: Kind, content: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    let head = [correlation_id.as_bytes(), kind.word().as_bytes()];
    for part in head.iter().chain(content) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..16])
}

/// The SHA-256 of a model's file, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_protocol_is_read_from_any_body() {
        use Protocol::{Conversation, Reply};
        for (body, protocol) in [
            ("", Reply),
            ("no json", Reply),
            ("[2]", Reply),
            ("{}", Reply),
            (r#"{"protocol": null}"#, Reply),
            (r#"{"protocol": 1, "inputs": 5}"#, Reply),
            (r#"{"protocol": 2, "inputs": 5}"#, Conversation),
            (r#"{"inputs": {"protocol": 2}}"#, Reply),
            (r#"{"protocol": 3}"#, Conversation),
            (r#"{"protocol": "2"}"#, Conversation),
            (r#"{"protocol": {}}"#, Conversation),
            (r#"{"protocol": 2"#, Reply),
        ] {
            assert_eq!(Protocol::of(body.as_bytes()), protocol, "{body}");
        }
    }

    #[test]
    fn each_kind_has_a_word_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
            assert!(kind.word().starts_with("job."));
            assert!(kind.must_arrive() || !kind.is_end());
        }
        assert_eq!(Kind::from_word("job.later"), None);
    }

    #[test]
    fn a_report_is_named_and_never_larger_than_a_part() {
        let at = Timestamp::UNIX_EPOCH;
        let page = Message::report("c", "report.html", at, b"<p>").unwrap();
        assert_eq!(page.headers, [("name", Header::Text("report.html".into()))]);
        assert!(page.content_type.starts_with("text/html"));
        let table = Message::report("c", "training.json", at, b"<p>").unwrap();
        assert_eq!(table.content_type, "application/json");
        assert_ne!(page.message_id, table.message_id);
        assert_eq!(Message::report("c", "report.html", at, &vec![0; PART_BYTES + 1]), None);
    }

    proptest! {
        /// Other content, another job or another kind has another id; the same has the same.
        #[test]
        fn an_id_is_that_of_its_content(
            a in ".{0,20}", b in ".{0,20}",
            x in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
            y in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4),
        ) {
            fn of(id: &str, kind: Kind, parts: &[Vec<u8>]) -> String {
                message_id(id, kind, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            let id = of(&a, Kind::State, &x);
            prop_assert_eq!(&id, &of(&a, Kind::State, &x));
            prop_assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()));
            prop_assert_eq!(id == of(&b, Kind::State, &x), a == b);
            prop_assert_eq!(id == of(&a, Kind::State, &y), x == y);
            prop_assert!(id != of(&a, Kind::Done, &x));
        }
    }
}
