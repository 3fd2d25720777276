//! Publishing a reply, so that afterwards it is known whether it is in its queue.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, Event};
use thiserror::Error;

use super::connect::{
    Broker, BrokerError, CALL_DEADLINE, PUBLISH_DEADLINE, amqp_error, failed, within,
};
use super::kind::Looking;
use crate::wire::{Envelope, Reply};
use base::crash;
use base::text::printable;

/// The queue for replies to messages that name none.
pub const DEFAULT_REPLY_QUEUE: &str = "hpc-results";

/// How long a queue is searched for a reply.
const SEARCH_DEADLINE: Duration = Duration::from_secs(120);

/// A reply that is not in its queue.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The broker can't be used; the reply stays in the spool.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The queue is absent and can't be declared.
    #[error(
        "the reply queue '{queue}' does not exist and can't be declared: {detail}; RabbitMQ 4.3 \
        and later want REPLY_QUEUE_DURABLE=1"
    )]
    NoQueue {
        /// The queue.
        queue: String,
        /// What the broker says.
        detail: String,
    },
    /// The broker refused to store the message.
    #[error("RabbitMQ did not accept the reply for the queue '{0}' (negative confirmation)")]
    Refused(String),
    /// The message is larger than the broker takes.
    #[error("the reply has {size} bytes, more than the {} that RabbitMQ takes in one \
        message", limit_text(*.limit))]
    TooLarge {
        /// Size of the body.
        size: u64,
        /// The limit, where it is known.
        limit: Option<u64>,
    },
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(|| "number".to_owned(), |n| n.to_string())
}

/// The limit in the broker's text "message size N is larger than configured max size M".
fn limit_in(text: &str) -> Option<u64> {
    text.contains("larger than").then(|| {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).next_back()
    })?
}

impl Broker {
    /// Publishes a reply (persistent, mandatory, with an expiration) and waits for the broker's
    /// confirmation.
    ///
    /// An absent queue is declared as Rodan declares it: non-durable unless configured otherwise,
    /// not exclusive, no auto-delete. The reply is offered first and the queue declared only when
    /// the broker returns it, so that a queue that exists with other arguments, or belongs to one
    /// connection only, is never touched.
    ///
    /// # Errors
    /// When the reply is not known to be in its queue.
    pub async fn publish(
        &mut self,
        envelope: &Envelope,
        reply: &Reply,
    ) -> Result<(), PublishError> {
        let size = reply.body().len() as u64;
        if let Some(limit) = self.config.max_reply_bytes.filter(|limit| size > *limit) {
            return Err(PublishError::TooLarge { size, limit: Some(limit) });
        }
        if self.offer_reply(envelope, reply).await? {
            return Ok(());
        }
        self.declare_reply_queue(&envelope.reply_to).await?;
        if self.offer_reply(envelope, reply).await? {
            return Ok(());
        }
        Err(PublishError::NoQueue {
            queue: printable(&envelope.reply_to, 255),
            detail: "it was declared and vanished".into(),
        })
    }

    async fn offer_reply(
        &mut self,
        envelope: &Envelope,
        reply: &Reply,
    ) -> Result<bool, PublishError> {
        let expiration = self.config.reply_ttl.as_millis().to_string();
        let properties = BasicProperties::default()
            .with_correlation_id(short(&envelope.correlation_id))
            .with_message_id(short(&envelope.message_id))
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_expiration(short(&expiration));
        self.offer("publishing a reply", &envelope.reply_to, properties, reply.body()).await
    }

    /// True when the broker stored the message, false when no queue took it. `action` is what this
    /// is, for an error.
    pub(super) async fn offer(
        &mut self,
        action: &'static str,
        queue: &str,
        properties: BasicProperties,
        body: &[u8],
    ) -> Result<bool, PublishError> {
        let select = self.channel.confirm_select(ConfirmSelectOptions::default());
        within(CALL_DEADLINE, action, select).await?.map_err(failed(action))?;
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let events = self.connection.events_listener();
        crash::point("before publishing");
        let publish = async {
            let confirm = self
                .channel
                .basic_publish("".into(), short(queue), options, body, properties)
                .await?;
            crash::point("after publishing");
            confirm.await
        };
        let answer = tokio::select! {
            biased;
            answer = within(PUBLISH_DEADLINE, action, publish) => answer?,
            // The broker says so when it gets a message that it does not take for now: an alarm of
            // its memory or its disk. It may still read what lies in the socket by then, so it may
            // have this one.
            reason = blocked(events, self.patience) => {
                return Err(BrokerError::Blocked { reason }.into());
            }
        };
        crash::point("after the confirmation");
        match answer {
            Ok(Confirmation::Ack(None)) => Ok(true),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Ok(false),
            Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => {
                Err(PublishError::Refused(printable(queue, 255)))
            }
            Err(error) => match amqp_error(&error) {
                Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => {
                    self.reopen().await?;
                    let limit = limit_in(&error.to_string());
                    Err(PublishError::TooLarge { size: body.len() as u64, limit })
                }
                _ => Err(failed(action)(error).into()),
            },
        }
    }

    /// True when the reply already lies in its queue. To be asked when an earlier attempt was
    /// broken off, so that nobody knows whether it arrived.
    ///
    /// The queue's messages are taken, looked at and put back in order, marked as redelivered. If
    /// the queue has a consumer that puts messages back (as Rodan does with those of other
    /// workflows), it is searched several times. A queue that only another connection may read, or
    /// that does not exist, holds nothing for us.
    ///
    /// # Errors
    ///
    /// When the broker does not answer.
    pub async fn holds(&mut self, envelope: &Envelope) -> Result<bool, BrokerError> {
        const LOOKS: u32 = 5;
        let action = "looking for a reply in its queue";
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            self.channel.queue_declare(short(&envelope.reply_to), options, FieldTable::default());
        let has_consumers = match within(CALL_DEADLINE, action, declared).await? {
            Ok(queue) => queue.consumer_count() > 0,
            Err(error) if matches!(amqp_error(&error), Some(AMQPErrorKind::Soft(_))) => {
                self.reopen().await?;
                return Ok(false);
            }
            Err(error) => return Err(failed(action)(error)),
        };
        if self.looking(&envelope.reply_to).await? == Looking::IsCounted {
            // Sending the reply twice does less harm: both have the same message id, and the queue
            // drops what nobody takes.
            tracing::info!(
                queue = printable(&envelope.reply_to, 255),
                "a quorum queue counts each look at a message: it is not looked through for the \
                reply"
            );
            return Ok(false);
        }
        for look in 0..if has_consumers { LOOKS } else { 1 } {
            if look > 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if within(SEARCH_DEADLINE, action, self.search(envelope))
                .await?
                .map_err(failed(action))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn search(&self, envelope: &Envelope) -> lapin::Result<bool> {
        // What this channel has taken goes back to the queue when it closes, for whatever reason.
        let channel = self.connection.create_channel().await?;
        let wanted = short(&envelope.message_id);
        let found = loop {
            let queue = short(&envelope.reply_to);
            match channel.basic_get(queue, BasicGetOptions { no_ack: false }).await {
                Ok(Some(message)) if message.properties.message_id().as_ref() == Some(&wanted) => {
                    break true;
                }
                Ok(Some(_)) => {}
                Ok(None) => break false,
                // This queue can't be read by us.
                Err(error) if matches!(amqp_error(&error), Some(AMQPErrorKind::Soft(_))) => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        };
        channel.close(200, "looked".into()).await?;
        Ok(found)
    }

    async fn declare_reply_queue(&mut self, queue: &str) -> Result<(), PublishError> {
        if queue.contains(['\r', '\n']) {
            // RabbitMQ would remove them, and declare a queue of another name.
            let detail = "no queue has a line break in its name".to_owned();
            return Err(PublishError::NoQueue { queue: printable(queue, 255), detail });
        }
        let action = "declaring the reply queue";
        let options =
            QueueDeclareOptions { durable: self.config.reply_queue_durable, ..Default::default() };
        let declare = self.channel.queue_declare(short(queue), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declare).await? {
            Ok(_) => {
                tracing::info!("declared the absent reply queue '{}'", printable(queue, 255));
                Ok(())
            }
            Err(error) => {
                let detail = printable(&error.to_string(), 300);
                self.reopen().await?;
                // Somebody has declared it meanwhile, with other arguments. It exists, and that is
                // all that is needed.
                match amqp_error(&error) {
                    Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
                        if detail.contains("inequivalent") =>
                    {
                        Ok(())
                    }
                    _ => Err(PublishError::NoQueue { queue: printable(queue, 255), detail }),
                }
            }
        }
    }
}

/// What the broker says once it takes no messages for this long.
async fn blocked(events: impl Stream<Item = Event>, patience: Duration) -> String {
    let mut events = pin!(events);
    let mut told = String::new();
    loop {
        let next = events.next();
        match told.is_empty() {
            true => match next.await {
                Some(Event::ConnectionBlocked(reason)) => {
                    told = printable(&format!("it says: {reason}"), 200)
                }
                Some(_) => {}
                None => std::future::pending().await,
            },
            false => match tokio::time::timeout(patience, next).await {
                Ok(Some(Event::ConnectionUnblocked)) => told.clear(),
                Ok(Some(_)) => {}
                Ok(None) => std::future::pending().await,
                Err(_) => return told,
            },
        }
    }
}

/// A short string of AMQP: at most 255 bytes. Ids of ours and of properties that came over AMQP
/// always fit.
pub(super) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_broker_that_takes_nothing_is_waited_for_as_long_as_there_is_patience() {
        let patience = Duration::from_millis(10);
        let alarm = || Event::ConnectionBlocked("low on memory".into());
        let told = |events: Vec<Event>| {
            let silence = futures_util::stream::pending();
            let all = futures_util::stream::iter(events).chain(silence);
            tokio::time::timeout(20 * patience, blocked(all, patience))
        };
        let says = Ok("it says: low on memory".to_owned());
        assert_eq!(told(vec![alarm()]).await, says);
        assert_eq!(
            told(vec![Event::Connected, alarm(), Event::ConnectionUnblocked, alarm()]).await,
            says
        );
        for calm in [vec![], vec![Event::Connected], vec![alarm(), Event::ConnectionUnblocked]] {
            assert!(told(calm).await.is_err(), "nothing is told while it takes messages");
        }
    }

    #[test]
    fn the_limit_is_read_from_the_brokers_words() {
        let text = "PRECONDITION_FAILED - message size 31000000 is larger than configured max size \
            16777216";
        assert_eq!(limit_in(text), Some(16_777_216));
        assert_eq!(limit_in("PRECONDITION_FAILED - inequivalent arg 'durable' 1"), None);
    }
}
