//! Delivering replies that the trainer did not deliver, and error replies.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::decide::{is_undeliverable, is_undeliverable_end};
use super::intake::kind;
use crate::courier::{Rest, RestError, tail_of};
use crate::ledger::{Cause, Claimed, Event, Outcome, Progress, Record, State, Verdict};
use crate::sentences::{advice, of_verdict};
use base::exit_code::ExitCode;
use contract::broker::{BrokerError, PublishError, TellError};
use contract::wire::conversation::{End, JobFailed, Used};
use contract::wire::{Answer, Reply};

impl Pass<'_> {
    /// Writes the error reply of a failed job to the spool; breaks where it has to wait. A reply on
    /// disk is sent instead, whatever ended the job that made it.
    pub(super) fn spool_error(&mut self, job: &mut Record) -> Result<ControlFlow<()>, BridgeError> {
        let State::Failed { sentence } = &job.state else { return Ok(ControlFlow::Continue(())) };
        let outcome = match self.store.reply(&job.job_id) {
            Ok(Some(answer)) if answer.error_sentence().is_none() => Outcome::Models,
            Ok(Some(_)) => Outcome::Error,
            Ok(None) => {
                let answer = self.error_answer(job, sentence);
                self.beat()?;
                self.store.write_reply(&job.job_id, &answer)?;
                Outcome::Error
            }
            Err(error) => {
                self.waits(job, ExitCode::Spool, &error.to_string())?;
                return Ok(ControlFlow::Break(()));
            }
        };
        self.apply(job, Event::ReplySpooled(outcome))?;
        Ok(ControlFlow::Continue(()))
    }

    /// Publishes a spooled reply; breaks where it has to wait.
    pub(super) async fn deliver(
        &mut self,
        job: &mut Record,
    ) -> Result<ControlFlow<()>, BridgeError> {
        if let Some(why) = self.no_deliveries.clone() {
            self.waits(job, ExitCode::NotDelivered, &why)?;
            return Ok(ControlFlow::Break(()));
        }
        if job.verdict == Some(Verdict::Abandoned) {
            self.file_abandoned(job)?;
            return Ok(ControlFlow::Break(()));
        }
        let answer = match self.store.reply(&job.job_id) {
            Ok(Some(answer)) => answer,
            Ok(None) => self.replace_reply(job, Verdict::ReplyLost)?,
            Err(error) => {
                self.waits(job, ExitCode::Spool, &error.to_string())?;
                return Ok(ControlFlow::Break(()));
            }
        };
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::End(end) => return self.deliver_end(job, end).await,
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
        let claimed = self.store.claim(&job.job_id)?;
        let holds = match claimed {
            Claimed::Again => self.broker().await?.holds(&envelope).await,
            _ => Ok(false),
        };
        let mut result = match holds {
            Ok(true) => {
                tracing::info!(
                    job = %job.job_id,
                    queue = job.reply_to,
                    "the reply is in the queue already: an earlier attempt came through"
                );
                return self.delivered(job);
            }
            Ok(false) => self.broker().await?.publish(&envelope, &reply).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error @ PublishError::TooLarge { .. }) = &result {
            let answer =
                self.replace_reply(job, Verdict::ReplyTooLarge { problem: error.to_string() })?;
            if let Answer::Reply(reply) = answer {
                result = self.broker().await?.publish(&envelope, &reply).await;
            }
        }
        let error = match result {
            Ok(()) => return self.delivered(job),
            Err(error) => error,
        };
        let gives_up = self.rules.gives_up(job, Timestamp::now());
        if is_undeliverable(job, &error, gives_up) {
            return self.given_up(job, &error.to_string());
        }
        let trouble = match &error {
            PublishError::Broker(error) => Some(error),
            _ => None,
        };
        self.undelivered(job, &error.to_string(), trouble)
    }

    /// Leaves a reply to the next pass, because of `why`, or of this `trouble` with the broker.
    fn undelivered(
        &mut self,
        job: &mut Record,
        why: &str,
        trouble: Option<&BrokerError>,
    ) -> Result<ControlFlow<()>, BridgeError> {
        if trouble.is_some() {
            // The connection is in doubt: the next job gets a new one.
            self.broker = None;
        }
        if matches!(trouble, Some(BrokerError::Blocked { .. })) {
            self.no_deliveries = Some(why.to_owned());
        }
        self.waits(job, ExitCode::NotDelivered, why)?;
        Ok(ControlFlow::Break(()))
    }

    /// Puts an error reply in the place of one that can't be sent.
    fn replace_reply(&mut self, job: &mut Record, verdict: Verdict) -> Result<Answer, BridgeError> {
        let (cause, sentence) = of_verdict(&verdict, self.about(job));
        tracing::error!(job = %job.job_id, "{sentence}");
        // A job that has failed before keeps its first cause.
        job.cause.get_or_insert(cause);
        job.verdict.get_or_insert(verdict);
        let answer = self.error_answer(job, &sentence);
        self.beat()?;
        self.store.write_reply(&job.job_id, &answer)?;
        self.apply(job, Event::ReplySpooled(Outcome::Error))?;
        Ok(answer)
    }

    /// The error that a job is answered with, in the form of its contract.
    fn error_answer(&self, job: &Record, sentence: &str) -> Answer {
        if job.protocol.is_reply() {
            return Answer::Reply(Reply::error(sentence));
        }
        let files = self.store.files(&job.job_id);
        let cause = job.cause.unwrap_or(Cause::Unknown);
        let log = job.slurm_id.map(|id| format!("{}-{id}.log", job.job_id.slurm_name()));
        let note =
            Progress::read(&files.progress()).filter(|note| note.slurm_job_id == job.slurm_id);
        let used = Used {
            memory_mb: note.and_then(|note| note.standing.peak_memory_mb),
            seconds: job.ran_seconds,
        };
        Answer::End(End::Failed(JobFailed {
            at: Timestamp::now(),
            error: sentence.to_owned(),
            cause: cause.word().to_owned(),
            advice: advice(cause).to_owned(),
            log: log.map(|log| tail_of(&self.config.site.logs.join(log))).unwrap_or_default(),
            asked: job.asked.clone(),
            used,
        }))
    }

    /// Sends what is left of a conversation, and its end; breaks where that has to wait.
    async fn deliver_end(
        &mut self,
        job: &mut Record,
        end: End,
    ) -> Result<ControlFlow<()>, BridgeError> {
        self.beat()?;
        if self.store.files(&job.job_id).is_delivered() {
            return self.delivered(job);
        }
        // Connected first: without a broker nothing is claimed. Whoever claimed before, the same
        // messages are sent again: they have the same ids.
        self.broker().await?;
        self.store.claim(&job.job_id)?;
        let mut result = self.send_end(job, &end).await?;
        if let Err(error) = &result
            && let Some(failed) = error.in_place_of(&end, self.about(job))
        {
            tracing::error!(job = %job.job_id, "{error}");
            job.cause.get_or_insert(Cause::Reply);
            let end = End::Failed(failed);
            self.beat()?;
            self.store.write_reply(&job.job_id, &Answer::End(end.clone()))?;
            self.apply(job, Event::ReplySpooled(Outcome::Error))?;
            result = self.send_end(job, &end).await?;
        }
        let error = match result {
            Ok(()) => return self.delivered(job),
            Err(error) => error,
        };
        if matches!(error, RestError::Tell(TellError::Gone(_))) {
            match self.broker().await?.exists(&job.reply_to).await {
                Ok(true) => {}
                Ok(false) => {
                    job.verdict = Some(Verdict::Abandoned);
                    self.save(job)?;
                    return Ok(ControlFlow::Continue(()));
                }
                Err(error) => return self.undelivered(job, &error.to_string(), Some(&error)),
            }
        }
        if is_undeliverable_end(job, &error, self.rules.gives_up(job, Timestamp::now())) {
            return self.given_up(job, &error.to_string());
        }
        let trouble = match &error {
            RestError::Tell(TellError::Broker(error)) => Some(error),
            _ => None,
        };
        self.undelivered(job, &error.to_string(), trouble)
    }

    async fn send_end(
        &mut self,
        job: &Record,
        end: &End,
    ) -> Result<Result<(), RestError>, BridgeError> {
        let files = self.store.files(&job.job_id);
        let (outbox, report) = (files.outbox(), files.report());
        let rest = Rest {
            queue: &job.reply_to,
            correlation_id: &job.correlation_id.0,
            outbox: &outbox,
            report: &report,
            end,
        };
        self.send_rest(&rest).await
    }

    /// Files a job away that nobody asks for any more.
    fn file_abandoned(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        let detail = format!("the queue '{}' is gone: nobody waits for it", job.reply_to);
        self.apply(job, Event::Delivered)?;
        self.file(job)?;
        self.tell(job, "abandoned", &detail);
        Ok(())
    }

    /// Remembers how fast a finished job was, for the time of the next ones.
    fn note_pace(&self, job: &Record) {
        let note = Progress::read(&self.store.files(&job.job_id).progress());
        let (Some(pace), Some(resources)) = (note.and_then(|note| note.pace), &job.resources)
        else {
            return;
        };
        let mut paces = self.store.paces();
        if paces.add(&kind(&self.config.site, resources), pace, Timestamp::now())
            && let Err(error) = self.store.save_paces(&paces)
        {
            tracing::warn!(job = %job.job_id, "its pace is not remembered: {error}");
        }
    }

    fn delivered(&mut self, job: &mut Record) -> Result<ControlFlow<()>, BridgeError> {
        self.apply(job, Event::Delivered)?;
        Ok(ControlFlow::Continue(()))
    }

    /// Files a job away whose reply nobody can get.
    fn given_up(&mut self, job: &mut Record, why: &str) -> Result<ControlFlow<()>, BridgeError> {
        let sentence = format!("its reply can't be delivered, and is given up: {why}");
        self.remember(ExitCode::NotDelivered);
        tracing::warn!(job = %job.job_id, queue = job.reply_to, "{sentence}");
        self.tell(job, "failed", &sentence);
        job.last_error = Some(sentence);
        self.apply(job, Event::Delivered)?;
        self.broker = None;
        self.file(job)?;
        Ok(ControlFlow::Break(()))
    }

    /// Files an answered job away, and reports that.
    pub(super) fn finish(&mut self, job: &mut Record) -> Result<(), BridgeError> {
        if job.outcome == Some(Outcome::Models) {
            self.note_pace(job);
        }
        self.file(job)?;
        let what = if job.outcome == Some(Outcome::Error) {
            "an error reply is"
        } else {
            "the models are"
        };
        self.tell(job, "answered", &format!("{what} in the queue '{}'", job.reply_to));
        Ok(())
    }
}
