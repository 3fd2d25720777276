//! Requests about jobs, in the queue `hpc-control`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::is_object;

/// The queue that requests come by.
pub const CONTROL_QUEUE: &str = "hpc-control";

/// The largest request, in bytes.
const MAX_BYTES: usize = 4096;

/// The longest name that AMQP carries, in bytes.
const MAX_NAME: usize = 255;

/// The request to end a job. It names the job's correlation id and its reply queue; only the asker
/// knows both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cancel {
    /// The job's correlation id.
    #[serde(rename = "cancel")]
    pub correlation_id: String,
    /// The job's reply queue.
    pub reply_to: String,
}

/// A message in `hpc-control` that is no request.
#[derive(Debug, Error)]
pub enum ControlError {
    /// More bytes than a request can have.
    #[error("it has {0} bytes, more than the {MAX_BYTES} of a request")]
    TooLarge(usize),
    /// Not JSON, or not of the right shape.
    #[error("it is not JSON with \"cancel\" and \"reply_to\", both texts")]
    Json(#[from] serde_json::Error),
    /// JSON, and no object.
    #[error("it is no JSON object with \"cancel\" and \"reply_to\"")]
    NoObject,
    /// A name that no job can have.
    #[error("\"{0}\" must have 1 to {MAX_NAME} bytes")]
    Name(&'static str),
}

impl Cancel {
    /// Reads a message of `hpc-control`. Keys that are not known are ignored.
    ///
    /// # Errors
    /// When it is no request.
    pub fn parse(body: &[u8]) -> Result<Self, ControlError> {
        if body.len() > MAX_BYTES {
            return Err(ControlError::TooLarge(body.len()));
        }
        if !is_object(body) {
            return Err(ControlError::NoObject);
        }
        let cancel: Self = serde_json::from_slice(body)?;
        for (name, value) in [("cancel", &cancel.correlation_id), ("reply_to", &cancel.reply_to)] {
            if !(1..=MAX_NAME).contains(&value.len()) {
                return Err(ControlError::Name(name));
            }
        }
        Ok(cancel)
    }

    /// True when it is about this job: both names have to be its own.
    pub fn is_about(&self, correlation_id: &str, reply_to: &str) -> bool {
        self.correlation_id == correlation_id && self.reply_to == reply_to
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_request_is_refused() {
        for body in ["", "null", "[]", r#"["a", "q"]"#, "5", "\"a\""] {
            assert!(
                matches!(Cancel::parse(body.as_bytes()), Err(ControlError::NoObject)),
                "{body}"
            );
        }
        for body in [
            "{}",
            r#"{"cancel": "a"}"#,
            r#"{"reply_to": "q"}"#,
            r#"{"cancel": 5, "reply_to": "q"}"#,
            r#"{"cancel": ["a"], "reply_to": "q"}"#,
            r#"{"cancel": null, "reply_to": "q"}"#,
        ] {
            assert!(matches!(Cancel::parse(body.as_bytes()), Err(ControlError::Json(_))), "{body}");
        }
        let long = "x".repeat(MAX_NAME + 1);
        for (id, queue, name) in [
            ("", "q", "cancel"),
            ("a", "", "reply_to"),
            (&long, "q", "cancel"),
            ("a", &long, "reply_to"),
        ] {
            let body = serde_json::json!({"cancel": id, "reply_to": queue}).to_string();
            let error = Cancel::parse(body.as_bytes()).unwrap_err();
            assert!(matches!(error, ControlError::Name(n) if n == name), "{error}");
        }
        assert!(matches!(Cancel::parse(&[b' '; MAX_BYTES + 1]), Err(ControlError::TooLarge(_))));
        let later = br#"{"cancel": "a", "reply_to": "q", "why": {"later": 1}}"#;
        assert_eq!(
            Cancel::parse(later).unwrap(),
            Cancel { correlation_id: "a".into(), reply_to: "q".into() }
        );
    }

    proptest! {
        #[test]
        fn a_request_is_read_back_and_is_about_its_job_only(
            id in ".{1,60}", queue in ".{1,60}", other in ".{1,60}",
        ) {
            let cancel = Cancel { correlation_id: id.clone(), reply_to: queue.clone() };
            let body = serde_json::to_vec(&cancel).unwrap();
            prop_assert_eq!(Cancel::parse(&body).unwrap(), cancel.clone());
            prop_assert!(cancel.is_about(&id, &queue));
            prop_assert_eq!(cancel.is_about(&other, &queue), other == id);
            prop_assert_eq!(cancel.is_about(&id, &other), other == queue);
        }

        #[test]
        fn hostile_bytes_are_refused_or_within_the_limits(
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if let Ok(cancel) = Cancel::parse(&body) {
                prop_assert!((1..=MAX_NAME).contains(&cancel.correlation_id.len()));
            }
        }
    }
}
