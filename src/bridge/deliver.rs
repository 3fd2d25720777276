//! Delivering replies that the trainer did not deliver, and error replies.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::decide::is_hopeless;
use crate::ledger::{Event, Outcome, Record, State, Verdict};
use crate::sentences::{About, of_verdict};
use base::exit_code::ExitCode;
use contract::broker::{BrokerError, PublishError};
use contract::wire::Reply;

impl Pass<'_> {
    /// Spools the error reply of a failed job. Models on disk win over whatever ended the job that
    /// made them.
    pub(super) fn spool_error(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        let State::Failed { sentence } = &job.state else { return Ok(()) };
        let outcome = if self.store.reply(&job.job_id).is_some_and(|r| r.error_sentence().is_none()) {
            Outcome::Models
        } else {
            self.store.write_reply(&job.job_id, &Reply::error(sentence))?;
            Outcome::Error
        };
        self.apply(job, Event::ReplySpooled(outcome))
    }

    /// Publishes a spooled reply; breaks where it has to wait.
    pub(super) async fn deliver(&mut self, job: &mut Record) -> Result<ControlFlow<()>, BridgeError> {
        if let Some(why) = self.no_deliveries.clone() {
            self.waits(job, ExitCode::NotDelivered, &why)?;
            return Ok(ControlFlow::Break(()));
        }
        let reply = match self.store.reply(&job.job_id) {
            Some(reply) => reply,
            None => self.replace_reply(job, Verdict::ReplyLost)?,
        };
        let envelope = job.envelope();
        self.beat()?;
        if self.store.files(&job.job_id).is_delivered() {
            // It was delivered by a trainer that was still at work when Slurm had already given it
            // up.
            return self.delivered(job);
        }
        // The connection comes first: without a broker nothing is claimed, and nothing has to be
        // searched next time.
        self.broker().await?;
        if self.store.claim(&job.job_id)? && self.broker().await?.holds(&envelope).await? {
            tracing::info!(
                job = %job.job_id,
                queue = job.reply_to,
                "the reply is in the queue already: an earlier attempt came through"
            );
            return self.delivered(job);
        }
        let mut result = self.broker().await?.publish(&envelope, &reply).await;
        if let Err(error @ PublishError::TooLarge { .. }) = &result {
            let reply = self.replace_reply(job, Verdict::ReplyTooLarge { problem: error.to_string() })?;
            result = self.broker().await?.publish(&envelope, &reply).await;
        }
        let error = match result {
            Ok(()) => return self.delivered(job),
            Err(error) => error,
        };
        let gives_up = self.rules.gives_up(job, Timestamp::now());
        if is_hopeless(job, &error, gives_up) {
            return self.given_up(job, &error);
        }
        if matches!(error, PublishError::Broker(_)) {
            // The connection is in doubt: the next job gets a new one.
            self.broker = None;
        }
        if matches!(error, PublishError::Broker(BrokerError::Blocked { .. })) {
            self.no_deliveries = Some(error.to_string());
        }
        self.waits(job, ExitCode::NotDelivered, &error.to_string())?;
        Ok(ControlFlow::Break(()))
    }

    /// Puts an error reply in the place of one that can't be sent.
    fn replace_reply(&mut self, job: &mut Record, verdict: Verdict) -> Result<Reply, BridgeError> {
        let about =
            About { slurm_id: job.slurm_id, asked: job.resources.as_ref(), operator: self.operator() };
        let (cause, sentence) = of_verdict(&verdict, about);
        tracing::error!(job = %job.job_id, "{sentence}");
        // A job that has failed before keeps its first cause.
        job.cause.get_or_insert(cause);
        job.verdict.get_or_insert(verdict);
        let reply = Reply::error(&sentence);
        self.store.write_reply(&job.job_id, &reply)?;
        self.apply(job, Event::ReplySpooled(Outcome::Error))?;
        Ok(reply)
    }

    fn delivered(&mut self, job: &mut Record) -> Result<ControlFlow<()>, BridgeError> {
        self.apply(job, Event::Delivered)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Files a job away whose reply nobody can get.
    fn given_up(&mut self, job: &mut Record, error: &PublishError) -> Result<ControlFlow<()>, BridgeError> {
        let sentence = format!("its reply can't be delivered, and is given up: {error}");
        self.remember(ExitCode::NotDelivered);
        tracing::warn!(job = %job.job_id, queue = job.reply_to, "{sentence}");
        self.tell(job, "failed", &sentence);
        job.last_error = Some(sentence);
        self.apply(job, Event::Delivered)?;
        self.broker = None;
        self.store.finish(&job.job_id)?;
        Ok(ControlFlow::Break(()))
    }

    /// Files an answered job away, and reports that.
    pub(super) fn finish(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        self.store.finish(&job.job_id)?;
        let what = if job.outcome == Some(Outcome::Error) { "an error reply is" } else { "the models are" };
        self.tell(job, "answered", &format!("{what} in the queue '{}'", job.reply_to));
        Ok(())
    }
}
