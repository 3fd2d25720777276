//! Publishing the reply from the compute node.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tracing::{error, warn};

use super::files::Place;
use crate::config::TrainerConfig;
use crate::courier::{Rest, RestError};
use crate::ledger::{Cause, Claimed, Publisher, Verdict, claim};
use crate::sentences::{About, of_verdict};
use base::files::write_atomic;
use base::retry::{Attempt, Policy};
use contract::broker::{Broker, BrokerError, PublishError, TellError};
use contract::wire::conversation::End;
use contract::wire::{Answer, Envelope, Reply};

const PUBLISH_RETRY: Policy = Policy {
    attempts: 4,
    first_wait: Duration::from_secs(2),
    longest_wait: Duration::from_secs(15),
};

/// A reply that is not known to be delivered.
#[derive(Debug, Error)]
pub(super) enum DeliveryError {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Rest(#[from] RestError),
    #[error("the job's directory can't be written: {0}")]
    Claim(io::Error),
}

/// What became of the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// It is in its queue.
    Now,
    /// It was there already: an earlier attempt had succeeded.
    Before,
    /// `check` has answered in the meantime.
    ByCheck,
}

/// Publishes the spooled answer, unless it is known to be delivered, or `check` has taken that
/// over.
pub(super) async fn deliver(
    config: &TrainerConfig,
    envelope: &Envelope,
    answer: Answer,
    place: &Place,
) -> Result<Delivered, DeliveryError> {
    let claimed = match &place.managed {
        Some(files) => claim(files, Publisher::Trainer).map_err(DeliveryError::Claim)?,
        None => Claimed::First,
    };
    if claimed == Claimed::TakenOver {
        return Ok(Delivered::ByCheck);
    }
    let reply = match answer {
        Answer::Reply(reply) => reply,
        Answer::End(end) => return deliver_end(config, envelope, end, place).await,
    };
    let mut sender = Sender { config, envelope, in_doubt: claimed == Claimed::Again };
    let mut result = sender.send(&reply).await;
    if let Err(error @ PublishError::TooLarge { .. }) = &result {
        let verdict = Verdict::ReplyTooLarge { problem: error.to_string() };
        let (cause, sentence) = of_verdict(&verdict, about(config));
        error!("{sentence}");
        place.managed.iter().for_each(|files| files.note_failure(cause));
        let reply = Reply::error(&sentence);
        if let Err(error) = write_atomic(&place.reply, reply.body()) {
            warn!("{} can't be written: {error}", place.reply.display());
        }
        result = sender.send(&reply).await;
    }
    let delivered = result?;
    if let Err(error) = write_atomic(&place.delivered, b"") {
        warn!("{} can't be written: {error}", place.delivered.display());
    }
    Ok(delivered)
}

/// What its own sentences need to know of this job.
fn about(config: &TrainerConfig) -> About<'_> {
    let (operator, scheduler) = (&config.operator, config.scheduler);
    About { slurm_id: None, asked: None, operator, scheduler }
}

/// Sends what is left of a conversation, and its end. What may have come through before is sent
/// again, with the same ids.
async fn deliver_end(
    config: &TrainerConfig,
    envelope: &Envelope,
    end: End,
    place: &Place,
) -> Result<Delivered, DeliveryError> {
    let mut result = send_rest(config, envelope, &end, place).await;
    if let Err(error) = &result
        && let Some(failed) = error.in_place_of(&end, about(config))
    {
        error!("{error}");
        place.managed.iter().for_each(|files| files.note_failure(Cause::Reply));
        let end = End::Failed(failed);
        write_atomic(&place.reply, &end.body()).map_err(DeliveryError::Claim)?;
        result = send_rest(config, envelope, &end, place).await;
    }
    result?;
    if let Err(error) = write_atomic(&place.delivered, b"") {
        warn!("{} can't be written: {error}", place.delivered.display());
    }
    if place.managed.is_none() {
        place.outbox.remove();
    }
    Ok(Delivered::Now)
}

async fn send_rest(
    config: &TrainerConfig,
    envelope: &Envelope,
    end: &End,
    place: &Place,
) -> Result<(), RestError> {
    let rest = Rest {
        queue: &envelope.reply_to,
        correlation_id: &envelope.correlation_id,
        outbox: &place.outbox,
        report: &place.report,
        end,
    };
    PUBLISH_RETRY
        .run("sending the end", async || {
            let connected = Broker::connect(&config.broker).await;
            let mut broker =
                connected.map_err(|e| Attempt::Again(TellError::from(e).into(), None))?;
            let result = rest.send(&mut broker, &mut || {}).await;
            broker.close().await;
            result.map_err(|error| match error {
                RestError::Unread { .. }
                | RestError::Tell(TellError::Broker(_) | TellError::Refused(_)) => {
                    Attempt::Again(error, None)
                }
                error => Attempt::GiveUp(error),
            })
        })
        .await
}

struct Sender<'a> {
    config: &'a TrainerConfig,
    envelope: &'a Envelope,
    /// An attempt was broken off, so it may have succeeded.
    in_doubt: bool,
}

impl Sender<'_> {
    async fn send(&mut self, reply: &Reply) -> Result<Delivered, PublishError> {
        let doubt = Cell::new(self.in_doubt);
        let result = PUBLISH_RETRY
            .run("publishing the reply", async || {
                let mut broker = Broker::connect(&self.config.broker)
                    .await
                    .map_err(|e| Attempt::Again(e.into(), None))?;
                let result = if doubt.get() && broker.holds(self.envelope).await.map_err(again)? {
                    Ok(Delivered::Before)
                } else {
                    let result = broker.publish(self.envelope, reply).await;
                    doubt.set(matches!(&result, Err(PublishError::Broker(_))));
                    result.map(|()| Delivered::Now)
                };
                broker.close().await;
                result.map_err(|error| match error {
                    PublishError::TooLarge { .. } => Attempt::GiveUp(error),
                    error => Attempt::Again(error, None),
                })
            })
            .await;
        self.in_doubt = doubt.get();
        result
    }
}

fn again(error: BrokerError) -> Attempt<PublishError> {
    Attempt::Again(error.into(), None)
}
