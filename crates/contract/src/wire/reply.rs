//! The one reply of a job whose message names no `protocol`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::{Map, Value, json};
use thiserror::Error;

use domain::Layer;

/// Where a reply goes and how it is recognised.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The queue: the routing key on the default exchange.
    pub reply_to: String,
    /// Rodan's id of the job.
    pub correlation_id: String,
    /// The same for every attempt to send the same reply.
    pub message_id: String,
}

/// The body of a reply, ready to be spooled and published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    body: Vec<u8>,
}

/// A text that is not a reply.
#[derive(Debug, Error)]
pub enum ReplyError {
    /// Not JSON, or not an object of texts.
    #[error("the spooled reply is not a JSON object of texts: {0}")]
    Json(#[from] serde_json::Error),
    /// An object without any model.
    #[error("the spooled reply holds no model")]
    Empty,
}

impl Reply {
    /// Success: the Keras file of each layer, base64-encoded with the standard alphabet and
    /// padding.
    pub fn models<'a>(models: impl IntoIterator<Item = (Layer, &'a [u8])>) -> Self {
        let map: Map<String, Value> = models
            .into_iter()
            .map(|(layer, file)| (layer.model_name(), STANDARD.encode(file).into()))
            .collect();
        Self { body: Value::Object(map).to_string().into_bytes() }
    }

    /// Failure: one sentence for the person who started the workflow.
    pub fn error(sentence: &str) -> Self {
        Self { body: json!({ "error": sentence }).to_string().into_bytes() }
    }

    /// Takes a reply back from the spool.
    ///
    /// # Errors
    /// When the bytes are not the body of a reply, as after a torn write.
    pub fn from_body(body: Vec<u8>) -> Result<Self, ReplyError> {
        let map: BTreeMap<String, Text> = serde_json::from_slice(&body)?;
        if map.is_empty() {
            return Err(ReplyError::Empty);
        }
        Ok(Self { body })
    }

    /// The bytes to publish.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The sentence of an error reply; `None` for models.
    pub fn error_sentence(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Failure {
            error: Option<String>,
        }
        serde_json::from_slice::<Failure>(&self.body).ok()?.error
    }
}

/// Any text. It is not kept: models have megabytes.
struct Text;

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl Visitor<'_> for AnyText {
            type Value = Text;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(AnyText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_padded_standard_base64_under_their_names() {
        let reply =
            Reply::models([(Layer::Background, &[0xfb, 0xff][..]), (Layer::Numbered(0), &[][..])]);
        assert_eq!(reply.body(), br#"{"Background Model":"+/8=","Model 0":""}"#);
        assert_eq!(reply.error_sentence(), None);
        assert_eq!(Reply::from_body(reply.body().to_vec()).unwrap(), reply);
    }

    #[test]
    fn a_torn_reply_is_not_a_reply() {
        assert_eq!(Reply::error("no \"page\"").error_sentence().as_deref(), Some("no \"page\""));
        for torn in [&b"{\"Model 0\":\"AAA"[..], b"", b"{}", b"[]", b"{\"Model 0\":1}"] {
            assert!(Reply::from_body(torn.to_vec()).is_err());
        }
    }
}
