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
            Self::Tell(
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
    /// # Errors
    /// When a model is lost, or the models or the end are not known to be in the queue.
    pub async fn send(&self, broker: &mut Broker) -> Result<(), RestError> {
        if let End::Done(done) = self.end {
            for model in &done.models {
                self.send_model(broker, done, model).await?;
            }
            self.send_reports(broker, done.at).await?;
        }
        Ok(self.send_once(broker, &self.end.message(self.correlation_id)).await?)
    }

    async fn send_once(&self, broker: &mut Broker, message: &Message<'_>) -> Result<(), TellError> {
        send_once(broker, self.queue, self.correlation_id, self.outbox, message).await
    }

    async fn send_model(
        &self,
        broker: &mut Broker,
        done: &JobDone,
        model: &ModelEntry,
    ) -> Result<(), RestError> {
        let lost = |source| RestError::Lost { name: model.name.clone(), source };
        let file = self.outbox.model(&model.name).map_err(lost)?;
        if sha256(&file) != model.sha256 {
            return Err(lost(io::Error::other("its file is not the one that was trained")));
        }
        let (queue, id) = (self.queue, self.correlation_id);
        Ok(send_model(broker, queue, id, self.outbox, (&model.name, done.at, &file)).await?)
    }

    /// The report and the figures. Failing to send them matters only if nothing else can be sent
    /// either.
    async fn send_reports(&self, broker: &mut Broker, at: Timestamp) -> Result<(), TellError> {
        let files =
            [("training.json", self.outbox.figures()), ("report.html", read_own(self.report).ok())];
        for (name, bytes) in files {
            let Some(bytes) = bytes else { continue };
            let Some(message) = Message::report(self.correlation_id, name, at, &bytes) else {
                continue;
            };
            match self.send_once(broker, &message).await {
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
) -> Result<(), TellError> {
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
) -> Result<(), TellError> {
    let mut most = None;
    loop {
        let mut refused = None;
        for message in model_messages(correlation_id, name, at, file, most) {
            match send_once(broker, queue, correlation_id, outbox, &message).await {
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
    }
}
