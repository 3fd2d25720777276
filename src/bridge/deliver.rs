//! Delivering replies that the trainer did not deliver, and error replies.

use super::pass::{BridgeError, Pass};
use crate::ledger::{Cause, Event, Outcome, Record, State};
use crate::sentences;
use base::exit_code::ExitCode;
use contract::broker::{BrokerError, PublishError};
use contract::wire::{Envelope, Reply};

impl Pass<'_> {
    /// Spools the error reply of a failed job, and delivers a spooled reply.
    pub(super) async fn deliver_if_due(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if let State::Failed { sentence } = &job.state {
            // A valid result wins over whatever ended the job that made it.
            let outcome = if self.store.reply(&job.job_id).is_some_and(|r| r.error_sentence().is_none()) {
                Outcome::Models
            } else {
                self.store.write_reply(&job.job_id, &Reply::error(sentence))?;
                Outcome::Error
            };
            self.apply(job, Event::ReplySpooled(outcome))?;
        }
        match job.state {
            State::ResultSpooled { .. } => self.deliver(job).await,
            State::Replied => self.finish(job),
            _ => Ok(()),
        }
    }

    async fn deliver(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        let mut reply = match self.store.reply(&job.job_id) {
            Some(reply) => reply,
            None => {
                job.cause.get_or_insert(Cause::Reply);
                let reply =
                    Reply::error("The cluster lost the result of the training. Run the workflow again.");
                self.store.write_reply(&job.job_id, &reply)?;
                self.apply(job, Event::ReplySpooled(Outcome::Error))?;
                reply
            }
        };
        let envelope = Envelope {
            reply_to: job.reply_to.clone(),
            correlation_id: job.correlation_id.0.clone(),
            message_id: job.message_id.clone(),
        };
        self.beat()?;
        if self.store.files(&job.job_id).is_delivered() {
            // By a trainer that was still at work when Slurm had already given it up.
            self.apply(job, Event::Delivered)?;
            return self.finish(job);
        }
        // Connected first: without a broker nothing is claimed, and nothing has to be looked up next time.
        self.broker().await?;
        if self.store.claim(&job.job_id)? && self.broker().await?.holds(&envelope).await? {
            tracing::info!(
                "{}: the reply is in the queue already: an earlier attempt came through",
                job.job_id
            );
            self.apply(job, Event::Delivered)?;
            return self.finish(job);
        }
        let mut result = self.broker().await?.publish(&envelope, &reply).await;
        if let Err(error @ PublishError::TooLarge { .. }) = &result {
            let sentence = sentences::too_large(error);
            tracing::error!("{}: {sentence}", job.job_id);
            reply = Reply::error(&sentence);
            job.cause = Some(Cause::Reply);
            self.store.write_reply(&job.job_id, &reply)?;
            self.apply(job, Event::ReplySpooled(Outcome::Error))?;
            result = self.broker().await?.publish(&envelope, &reply).await;
        }
        match result {
            Ok(()) => {
                self.apply(job, Event::Delivered)?;
                self.finish(job)
            }
            Err(error) if self.is_hopeless(job, &error) => {
                let sentence = format!("its reply can't be delivered, and is given up: {error}");
                self.remember(ExitCode::NotDelivered);
                tracing::warn!("{}: {sentence}", job.job_id);
                self.tell(job, "failed", &sentence);
                job.last_error = Some(sentence);
                self.apply(job, Event::Delivered)?;
                self.broker = None;
                Ok(self.store.finish(&job.job_id)?)
            }
            Err(PublishError::Broker(error)) => {
                // The connection is in doubt: the next job gets a new one.
                self.broker = None;
                self.waits(job, ExitCode::NotDelivered, error.to_string())
            }
            Err(error) => self.waits(job, ExitCode::NotDelivered, error.to_string()),
        }
    }

    /// Whether a reply that could not be published need not be tried again: its queue is gone, and only the broker gives
    /// queues such a name, or nobody; or it tells of a message that never became a Slurm job, and has waited long enough. (A broker
    /// that is away is waited for.)
    fn is_hopeless(&self, job: &Record, error: &PublishError) -> bool {
        let is_reserved = job.reply_to.starts_with("amq.") || job.reply_to.contains(['\r', '\n']);
        match error {
            PublishError::NoQueue { .. } if is_reserved => true,
            PublishError::NoQueue { .. }
            | PublishError::Refused(_)
            | PublishError::Broker(BrokerError::Failed { .. }) => never_ran(job) && self.is_given_up(job),
            PublishError::TooLarge { .. } | PublishError::Broker(_) => false,
        }
    }

    /// Files an answered job away and says so.
    fn finish(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        self.store.finish(&job.job_id)?;
        let what = if job.outcome == Some(Outcome::Error) { "an error reply is" } else { "the models are" };
        self.tell(job, "answered", &format!("{what} in the queue '{}'", job.reply_to));
        Ok(())
    }
}

/// A message that Slurm never got: nobody's hours hang on its reply, which is an error of a few words.
pub(super) fn never_ran(job: &Record) -> bool {
    job.slurm_id.is_none() && job.outcome == Some(Outcome::Error)
}
