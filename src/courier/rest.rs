//! What is left to send once the end of a conversation is on disk.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use thiserror::Error;

use crate::ledger::{Outbox, Verdict};
use crate::sentences::{About, advice, of_verdict};
use base::files::read_own;
use contract::broker::{Broker, TellError};
use contract::wire::conversation::{
    End, JobDone, JobFailed, Message, ModelEntry, model_messages, sha256,
};

/// The end of one job's conversation, and all that has to come before it.
#[derive(Debug)]
pub struct Rest<'a> {
    /// The reply queue.
    pub queue: &'a str,
    /// The job's correlation id.
    pub correlation_id: &'a str,
    /// Its models and what is sent of them.
    pub outbox: &'a Outbox,
    /// Its report, where one was written.
    pub report: &'a Path,
    /// The end.
    pub end: &'a End,
}

/// An end that is not known to be in the reply queue.
#[derive(Debug, Error)]
pub enum RestError {
    /// A message was not taken.
    #[error(transparent)]
    Tell(#[from] TellError),
    /// A model that the end lists is not there any more, or is another one.
    #[error("the model \"{name}\" is lost: {source}")]
    Lost {
        /// The model.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// A model that the end lists can't be read now.
    #[error("the model \"{name}\" can't be read: {source}")]
    Unread {
        /// The model.
        name: String,
        /// What the system says.
        source: io::Error,
    },
}

impl RestError {
    /// The failure that is sent in place of an end that can never be sent, of the job that `about`
    /// describes. `None` if trying again may help, or if nobody is there to be told.
    pub fn in_place_of(&self, end: &End, about: About<'_>) -> Option<JobFailed> {
        let End::Done(done) = end else { return None };
        let verdict = match self {
            Self::Tell(TellError::TooLarge { .. }) => {
                Verdict::ReplyTooLarge { problem: self.to_string() }
            }
            Self::Lost { .. } => Verdict::ReplyLost,
            Self::Unread { .. }
            | Self::Tell(
                TellError::Broker(_)
                | TellError::Gone(_)
                | TellError::NoQueue(_)
                | TellError::Refused(_),
            ) => return None,
        };
        let (cause, error) = of_verdict(&verdict, about);
        Some(JobFailed {
            at: done.at,
            error,
            cause: cause.word().to_owned(),
            advice: advice(cause).to_owned(),
            log: Vec::new(),
            asked: done.asked.clone(),
            used: done.used.clone(),
        })
    }
}

impl Rest<'_> {
    /// Sends the models that the broker has not confirmed, the report, and the end. What was
    /// confirmed before is not sent again; what may have come through is, with the same ids.
    ///
    /// `before_each` is called before each message, for a sign of life: all of them together may
    /// take longer than whoever waits for one allows.
    ///
    /// # Errors
    /// When a model is lost or can't be read, or the models or the end are not known to be in the
    /// queue.
    pub async fn send(
        &self,
        broker: &mut Broker,
        before_each: &mut impl FnMut(),
    ) -> Result<(), RestError> {
        if let End::Done(done) = self.end {
            for model in &done.models {
                self.send_model(broker, done, model, before_each).await?;
            }
            self.send_reports(broker, done.at, before_each).await?;
        }
        let end = self.end.message(self.correlation_id);
        Ok(self.send_once(broker, &end, before_each).await?)
    }

    async fn send_once(
        &self,
        broker: &mut Broker,
        message: &Message<'_>,
        before: &mut impl FnMut(),
    ) -> Result<(), TellError> {
        send_once(broker, self.queue, self.correlation_id, self.outbox, message, before).await
    }

    async fn send_model(
        &self,
        broker: &mut Broker,
        done: &JobDone,
        model: &ModelEntry,
        before_each: &mut impl FnMut(),
    ) -> Result<(), RestError> {
        let file = self.read_model(model)?;
        let (queue, id) = (self.queue, self.correlation_id);
        let model = (model.name.as_str(), done.at, file.as_slice());
        Ok(send_model(broker, queue, id, self.outbox, model, before_each).await?)
    }

    /// The file of a model. It is lost only if it is known not to be there, or what is there is no
    /// file of ours (`Other`): another error may pass, and what is put in place of the end stays.
    fn read_model(&self, model: &ModelEntry) -> Result<Vec<u8>, RestError> {
        let name = || model.name.clone();
        let file = self.outbox.model(&model.name).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::Other => {
                RestError::Lost { name: name(), source }
            }
            _ => RestError::Unread { name: name(), source },
        })?;
        if sha256(&file) != model.sha256 {
            let source = io::Error::other("its file is not the one that was trained");
            return Err(RestError::Lost { name: name(), source });
        }
        Ok(file)
    }

    /// The report and the figures. Failing to send them matters only if nothing else can be sent
    /// either.
    async fn send_reports(
        &self,
        broker: &mut Broker,
        at: Timestamp,
        before_each: &mut impl FnMut(),
    ) -> Result<(), TellError> {
        let files =
            [("training.json", self.outbox.figures()), ("report.html", read_own(self.report).ok())];
        for (name, bytes) in files {
            let Some(bytes) = bytes else { continue };
            let Some(message) = Message::report(self.correlation_id, name, at, &bytes) else {
                continue;
            };
            match self.send_once(broker, &message, before_each).await {
                Ok(()) => {}
                Err(error @ (TellError::TooLarge { .. } | TellError::Refused(_))) => {
                    tracing::info!("{name} is not sent: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sends a message that has not been confirmed before, and notes its confirmation.
async fn send_once(
    broker: &mut Broker,
    queue: &str,
    correlation_id: &str,
    outbox: &Outbox,
    message: &Message<'_>,
    before: &mut impl FnMut(),
) -> Result<(), TellError> {
    before();
    if outbox.is_sent(&message.message_id) {
        return Ok(());
    }
    broker.tell(queue, correlation_id, message).await?;
    outbox.note_sent(&message.message_id);
    Ok(())
}

/// Sends a model (name, when it was done, file) in one message, or in parts that the broker takes.
pub(super) async fn send_model(
    broker: &mut Broker,
    queue: &str,
    correlation_id: &str,
    outbox: &Outbox,
    (name, at, file): (&str, Timestamp, &[u8]),
    before_each: &mut impl FnMut(),
) -> Result<(), TellError> {
    let mut most = None;
    loop {
        let mut refused = None;
        for message in model_messages(correlation_id, name, at, file, most) {
            match send_once(broker, queue, correlation_id, outbox, &message, before_each).await {
                Err(TellError::TooLarge { size, limit: Some(limit) })
                    if limit > 0 && limit < size =>
                {
                    refused = Some(limit);
                    break;
                }
                sent => sent?,
            }
        }
        let Some(limit) = refused else { return Ok(()) };
        most = usize::try_from(limit).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sentences::OPERATOR;
    use contract::wire::conversation::{Times, Used};

    fn done() -> End {
        End::Done(JobDone {
            at: Timestamp::UNIX_EPOCH,
            models: Vec::new(),
            figures: Vec::new(),
            times: Times::default(),
            seed: 7,
            log: Vec::new(),
            asked: None,
            used: Used { memory_mb: Some(1990), seconds: Some(60) },
        })
    }

    #[test]
    fn only_an_end_that_can_never_be_sent_is_replaced() {
        let about = About {
            slurm_id: None,
            asked: None,
            operator: OPERATOR,
            scheduler: scheduler::Kind::Slurm,
        };
        let lost = RestError::Lost { name: "Model 0".into(), source: io::Error::other("gone") };
        let large = RestError::from(TellError::TooLarge { size: 17, limit: Some(16) });
        for (error, says) in [(&lost, "lost the result"), (&large, OPERATOR)] {
            let failed = error.in_place_of(&done(), about).unwrap();
            assert!(failed.error.contains(says), "{}", failed.error);
            assert_eq!((failed.cause.as_str(), failed.used.memory_mb), ("reply", Some(1990)));
            assert!(error.in_place_of(&End::Failed(failed), about).is_none());
        }
        for gone in [TellError::Gone("q".into()), TellError::NoQueue("q".into())] {
            assert!(RestError::from(gone).in_place_of(&done(), about).is_none());
        }
        let unread = RestError::Unread { name: "Model 0".into(), source: io::Error::other("EIO") };
        assert!(unread.in_place_of(&done(), about).is_none());
    }

    #[test]
    fn a_model_is_lost_only_if_it_is_gone_or_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(folder.path());
        let end = done();
        let rest = Rest {
            queue: "q",
            correlation_id: "c",
            outbox: &outbox,
            report: Path::new("report.html"),
            end: &end,
        };
        let entry = |name: &str| {
            let name = name.to_owned();
            ModelEntry { name, sha256: sha256(b"abc"), size: 3 }
        };
        outbox.put_model("Model 0", b"abc").unwrap();
        assert_eq!(rest.read_model(&entry("Model 0")).unwrap(), b"abc");
        outbox.put_model("Model 0", b"other").unwrap();
        assert!(matches!(rest.read_model(&entry("Model 0")), Err(RestError::Lost { .. })));
        assert!(matches!(rest.read_model(&entry("Model 1")), Err(RestError::Lost { .. })));
        std::fs::create_dir(folder.path().join("Model 2.hdf5")).unwrap();
        assert!(matches!(rest.read_model(&entry("Model 2")), Err(RestError::Lost { .. })));
        // Opening a socket fails, for root as well.
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("Model 3.hdf5")).unwrap());
        assert!(matches!(rest.read_model(&entry("Model 3")), Err(RestError::Unread { .. })));
    }
}
