//! Publishing the reply from the compute node.

use std::time::Duration;

use tracing::{error, warn};

use super::place::Place;
use crate::broker::{Broker, PublishError};
use crate::config::TrainerConfig;
use crate::ledger::write_atomic;
use crate::report;
use crate::retry::{Attempt, Policy};
use crate::wire::{Envelope, Reply};

const PUBLISH_RETRY: Policy =
    Policy { attempts: 4, first_wait: Duration::from_secs(2), longest_wait: Duration::from_secs(15) };

/// Publishes the spooled reply.
pub(super) async fn deliver(
    config: &TrainerConfig,
    envelope: &Envelope,
    reply: Reply,
    place: &Place,
) -> Result<(), PublishError> {
    let publish = async |reply: &Reply| {
        PUBLISH_RETRY
            .run("publishing the reply", async || {
                let mut broker =
                    Broker::connect(&config.broker).await.map_err(|e| Attempt::Again(e.into(), None))?;
                let result = broker.publish(envelope, reply).await;
                broker.close().await;
                result.map_err(|error| match error {
                    PublishError::TooLarge { .. } => Attempt::GiveUp(error),
                    error => Attempt::Again(error, None),
                })
            })
            .await
    };
    let mut result = publish(&reply).await;
    if let Err(error @ PublishError::TooLarge { .. }) = &result {
        let sentence = report::too_large(error);
        error!("{sentence}");
        let reply = Reply::error(&sentence);
        if let Err(error) = write_atomic(&place.reply, reply.body()) {
            warn!("{} can't be written: {error}", place.reply.display());
        }
        result = publish(&reply).await;
    }
    result?;
    if let Err(error) = write_atomic(&place.delivered, b"") {
        warn!("{} can't be written: {error}", place.delivered.display());
    }
    Ok(())
}
