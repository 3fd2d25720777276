//! What a job is answered with, as it lies in the spool: the one reply of the first contract, or
//! the end of a conversation.

use thiserror::Error;

use super::conversation::{BodyError, End};
use super::reply::{Reply, ReplyError};

/// An answer on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The reply, with all models in it or with the error.
    Reply(Reply),
    /// The end of the conversation; the models lie beside it.
    End(End),
}

/// Bytes that are no answer, such as those of a torn write.
#[derive(Debug, Error)]
#[error("{reply}; nor is it the end of a conversation: {end}")]
pub struct AnswerError {
    reply: ReplyError,
    end: BodyError,
}

impl Answer {
    /// Takes an answer back from the spool. The two kinds can't be confused: a reply holds texts
    /// only, an end says since when and what was used.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub fn from_body(body: Vec<u8>) -> Result<Self, AnswerError> {
        match End::from_spool(&body) {
            Ok(end) => Ok(Self::End(end)),
            Err(end) => match Reply::from_body(body) {
                Ok(reply) => Ok(Self::Reply(reply)),
                Err(reply) => Err(AnswerError { reply, end }),
            },
        }
    }

    /// The bytes to keep.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Reply(reply) => reply.body().to_vec(),
            Self::End(end) => end.body(),
        }
    }

    /// The sentence of an error; `None` for models.
    pub fn error_sentence(&self) -> Option<String> {
        match self {
            Self::Reply(reply) => reply.error_sentence(),
            Self::End(end) => end.error_sentence().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::conversation::{JobDone, JobFailed, Times, Used};
    use super::*;
    use domain::Layer;

    fn failed() -> End {
        End::Failed(JobFailed {
            at: Timestamp::UNIX_EPOCH,
            error: "No page.".into(),
            cause: "input".into(),
            advice: "Draw one.".into(),
            log: Vec::new(),
            asked: None,
            used: Used::default(),
        })
    }

    fn done() -> End {
        End::Done(JobDone {
            at: Timestamp::UNIX_EPOCH,
            models: Vec::new(),
            figures: Vec::new(),
            times: Times::default(),
            seed: 1,
            log: Vec::new(),
            asked: None,
            used: Used::default(),
        })
    }

    #[test]
    fn the_two_kinds_of_answers_are_told_apart_by_their_form() {
        let reply = |reply: Reply| (Answer::Reply(reply.clone()), reply.error_sentence());
        let end = |end: End| (Answer::End(end.clone()), end.error_sentence().map(str::to_owned));
        for (answer, sentence) in [
            reply(Reply::error("No page.")),
            reply(Reply::models([(Layer::Background, &b"abc"[..]), (Layer::Numbered(0), b"d")])),
            end(failed()),
            end(done()),
        ] {
            assert_eq!(Answer::from_body(answer.body()).unwrap(), answer);
            assert_eq!(answer.error_sentence(), sentence);
            let body = answer.body();
            for length in 0..body.len() {
                assert!(Answer::from_body(body[..length].to_vec()).is_err(), "torn at {length}");
            }
        }
    }
}
