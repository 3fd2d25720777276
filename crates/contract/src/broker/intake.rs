//! Taking one job at a time from `hpc-jobs`.

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use base::crash;

/// The queue that Rodan publishes jobs to.
pub const JOBS_QUEUE: &str = "hpc-jobs";

/// A message that was taken and is not yet acknowledged: dropping the connection puts it back.
#[derive(Debug)]
pub struct Taken {
    pub(super) delivery: Delivery,
    /// The message is no longer in the queue.
    pub(super) gone: bool,
    /// It came by the channel that waits for messages.
    pushed: bool,
}

impl Taken {
    pub(super) fn new(delivery: Delivery) -> Self {
        Self { delivery, gone: false, pushed: false }
    }

    /// A message that was taken out of its queue for good.
    pub(super) fn gone(delivery: Delivery) -> Self {
        Self { gone: true, ..Self::new(delivery) }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.delivery.data
    }

    /// The property `correlation_id`, where it is not empty.
    pub fn correlation_id(&self) -> Option<String> {
        self.delivery
            .properties
            .correlation_id()
            .as_ref()
            .map(ToString::to_string)
            .filter(|id| !id.is_empty())
    }

    /// The property `reply_to`, where it is not empty.
    pub fn reply_to(&self) -> Option<String> {
        self.delivery
            .properties
            .reply_to()
            .as_ref()
            .map(ToString::to_string)
            .filter(|queue| !queue.is_empty())
    }

    /// True when the broker has handed out this message before.
    pub fn redelivered(&self) -> bool {
        self.delivery.redelivered
    }
}

impl Broker {
    /// Takes the next job; `None` when the queue is empty or absent (nobody has declared it: no
    /// job).
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn take(&mut self) -> Result<Option<Taken>, BrokerError> {
        let action = "looking for a job in hpc-jobs";
        if let Some(held) = self.listening.as_mut().and_then(|listening| listening.held.take()) {
            return Ok(Some(Taken { pushed: true, ..Taken::new(held) }));
        }
        if self.depth(JOBS_QUEUE).await?.is_none() {
            return Ok(None);
        }
        let got = self.channel.basic_get(JOBS_QUEUE.into(), BasicGetOptions { no_ack: false });
        let got = self.message(action, got).await?;
        Ok(got.map(|message| Taken::new(message.delivery)))
    }

    /// Drops the next message because it can't be read. Call it on a fresh connection after
    /// [`Broker::take`] has failed with [`BrokerError::Unreadable`]; such a message would otherwise
    /// come again and again. Returns a message if the next one can be read after all, because
    /// somebody else has taken the unreadable one meanwhile.
    ///
    /// # Errors
    ///
    /// When the broker refuses or does not answer.
    pub async fn discard(&mut self) -> Result<Option<Taken>, BrokerError> {
        let action = "dropping a message that can't be read";
        let got = self.channel.basic_get(JOBS_QUEUE.into(), BasicGetOptions { no_ack: true });
        match self.message(action, got).await {
            Ok(got) => Ok(got.map(|message| Taken::gone(message.delivery))),
            Err(BrokerError::Unreadable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Number of messages in a queue; `None` when it does not exist. The queue is only looked up,
    /// never declared.
    ///
    /// # Errors
    ///
    /// When the broker refuses or does not answer.
    pub async fn depth(&mut self, queue: &str) -> Result<Option<u32>, BrokerError> {
        let action = "looking for a queue";
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declared).await? {
            Ok(queue) => Ok(Some(queue.message_count())),
            Err(error)
                if matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
                ) =>
            {
                self.reopen().await?;
                Ok(None)
            }
            Err(error) => Err(failed(action)(error)),
        }
    }

    /// Acknowledges a message, and waits until the broker has seen that.
    ///
    /// # Errors
    /// When the broker does not answer; the message may then come again.
    pub async fn acknowledge(&mut self, taken: Taken) -> Result<(), BrokerError> {
        let action = "acknowledging a job";
        crash::point("before the acknowledgement");
        if taken.gone {
            return Ok(());
        }
        let ack = taken.delivery.acker.ack(BasicAckOptions::default());
        within(CALL_DEADLINE, action, ack).await?.map_err(failed(action))?;
        // The broker does not answer an acknowledgement; but it answers a later request on the same
        // channel after it.
        match self.listening.as_ref().filter(|_| taken.pushed) {
            Some(listening) => {
                let passive = QueueDeclareOptions { passive: true, ..Default::default() };
                let queue = JOBS_QUEUE.into();
                let asked = listening.channel.queue_declare(queue, passive, FieldTable::default());
                within(CALL_DEADLINE, action, asked).await?.map_err(failed(action))?;
            }
            None => drop(self.depth(JOBS_QUEUE).await?),
        }
        crash::point("after the acknowledgement");
        Ok(())
    }

    /// Puts a message back into its place in the queue.
    ///
    /// # Errors
    /// When the broker does not answer; closing the connection puts the message back too.
    pub async fn put_back(&mut self, taken: Taken) -> Result<(), BrokerError> {
        let action = "putting a job back";
        let nack = taken.delivery.acker.nack(BasicNackOptions { requeue: true, multiple: false });
        within(CALL_DEADLINE, action, nack).await?.map_err(failed(action))?;
        self.depth(JOBS_QUEUE).await.map(|_| ())
    }
}
