//! Looking at a queue without changing it.

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use base::text::printable;

/// What can be seen of a queue from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueFacts {
    /// Messages that wait in it.
    pub messages: u32,
    /// Number of its consumers.
    pub consumers: u32,
    /// How it differs from the queue that Rodan declares, in the broker's words; `None` if it does
    /// not, or if that can't be seen.
    pub differs: Option<String>,
}

impl Broker {
    /// Looks at a queue; `None` when it does not exist.
    ///
    /// First it is looked up passively. Only if it exists is it declared with Rodan's arguments,
    /// which changes nothing: the broker agrees, or closes our channel and says what differs.
    ///
    /// # Errors
    ///
    /// When the broker refuses or does not answer.
    pub async fn inspect(&mut self, queue: &str) -> Result<Option<QueueFacts>, BrokerError> {
        let action = "looking at a queue";
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(queue.into(), passive, FieldTable::default());
        let found = match within(CALL_DEADLINE, action, declared).await? {
            Ok(found) => found,
            Err(error)
                if matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
                ) =>
            {
                self.reopen().await?;
                return Ok(None);
            }
            Err(error) => return Err(failed(action)(error)),
        };
        let as_rodan = self.channel.queue_declare(
            queue.into(),
            QueueDeclareOptions::default(),
            FieldTable::default(),
        );
        let differs = match within(CALL_DEADLINE, action, as_rodan).await? {
            Ok(_) => None,
            Err(error) => {
                self.reopen().await?;
                let is_other = matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
                );
                is_other.then(|| printable(&error.to_string(), 300))
            }
        };
        Ok(Some(QueueFacts {
            messages: found.message_count(),
            consumers: found.consumer_count(),
            differs,
        }))
    }
}
