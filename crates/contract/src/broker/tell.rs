//! Publishing the messages of a conversation into the job's own reply queue, and looking whether it
//! is still there.

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, LongString};
use thiserror::Error;

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use super::publish::{PublishError, short};
use crate::wire::conversation::{APP_ID, Header, Message};
use base::text::printable;

/// A message of a conversation that is not in its queue.
#[derive(Debug, Error)]
pub enum TellError {
    /// The broker can't be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// No queue took it.
    #[error("the reply queue '{0}' does not exist: nobody waits for this job any more")]
    Gone(String),
    /// The queue of jobs or of requests is not there, although it was declared.
    #[error("the queue '{0}' was declared and vanished; it is declared again at the next attempt")]
    NoQueue(String),
    /// The broker refused to store it.
    #[error(
        "RabbitMQ did not accept a message for the queue '{0}' (negative confirmation); it may be \
        full"
    )]
    Refused(String),
    /// It is larger than the broker takes.
    #[error(
        "a message of {size} bytes is larger than RabbitMQ takes{}",
        limit.map_or_else(String::new, |limit| format!(" ({limit} bytes)"))
    )]
    TooLarge {
        /// Size of the body.
        size: u64,
        /// The limit, where the broker tells it.
        limit: Option<u64>,
    },
}

impl From<PublishError> for TellError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Broker(error) => Self::Broker(error),
            PublishError::NoQueue { queue, .. } => Self::Gone(queue),
            PublishError::Refused(queue) => Self::Refused(queue),
            PublishError::TooLarge { size, limit } => Self::TooLarge { size, limit },
        }
    }
}

impl Broker {
    /// Publishes a message of a conversation (persistent, mandatory) and waits for the broker's
    /// confirmation.
    ///
    /// The queue is the asker's: it is never declared here.
    ///
    /// # Errors
    /// When the message is not known to be in the queue.
    pub async fn tell(
        &mut self,
        queue: &str,
        correlation_id: &str,
        message: &Message<'_>,
    ) -> Result<(), TellError> {
        let size = message.body.len() as u64;
        if let Some(limit) = self.config.max_reply_bytes.filter(|limit| size > *limit) {
            return Err(TellError::TooLarge { size, limit: Some(limit) });
        }
        let action = "telling an asker";
        let properties = properties(correlation_id, message);
        if self.offer(action, queue, properties, &message.body).await? {
            return Ok(());
        }
        Err(TellError::Gone(printable(queue, 255)))
    }

    /// Looks whether a queue exists, without declaring it.
    ///
    /// A queue that only another connection may use exists. One whose node is away does too:
    /// RabbitMQ calls it not found, in other words.
    ///
    /// # Errors
    /// When the broker refuses otherwise, or does not answer.
    pub async fn exists(&mut self, queue: &str) -> Result<bool, BrokerError> {
        let action = "looking for a reply queue";
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(short(queue), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declared).await? {
            Ok(_) => Ok(true),
            Err(error) => match amqp_error(&error) {
                Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) => {
                    self.reopen().await?;
                    Ok(!error.to_string().contains("no queue"))
                }
                // It is another connection's own, or this account may only write to it.
                Some(AMQPErrorKind::Soft(
                    AMQPSoftError::RESOURCELOCKED | AMQPSoftError::ACCESSREFUSED,
                )) => {
                    self.reopen().await?;
                    Ok(true)
                }
                _ => Err(failed(action)(error)),
            },
        }
    }
}

fn properties(correlation_id: &str, message: &Message<'_>) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        let value = match value {
            Header::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
            Header::Number(number) => AMQPValue::LongLongInt(*number),
        };
        headers.insert((*name).into(), value);
    }
    let properties = BasicProperties::default()
        .with_correlation_id(short(correlation_id))
        .with_message_id(short(&message.message_id))
        .with_type(message.kind.word().into())
        .with_timestamp(u64::try_from(message.at.as_second()).unwrap_or_default())
        .with_app_id(APP_ID.into())
        .with_content_type(message.content_type.into())
        .with_delivery_mode(2);
    if message.headers.is_empty() { properties } else { properties.with_headers(headers) }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::wire::conversation::{JobState, Stage, model_messages};

    #[test]
    fn a_queue_of_jobs_that_is_gone_is_not_told_as_a_reply_queue() {
        let text = TellError::NoQueue("hpc-jobs".into()).to_string();
        assert!(text.contains("the queue 'hpc-jobs'") && !text.contains("reply"), "{text}");
        assert!(TellError::Gone("q".into()).to_string().contains("the reply queue 'q'"));
    }

    #[test]
    fn each_message_says_what_it_is_and_for_whom() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let state = JobState::new(Stage::Taken, at, "the cluster has the job").message("c-1");
        let told = properties("c-1", &state);
        let text =
            |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
        assert_eq!(text(told.correlation_id()).as_deref(), Some("c-1"));
        assert_eq!(text(told.message_id()), Some(state.message_id.clone()));
        assert_eq!(text(told.kind()).as_deref(), Some("job.state"));
        assert_eq!(text(told.app_id()).unwrap(), APP_ID);
        assert_eq!((*told.timestamp(), *told.delivery_mode()), (Some(1_700_000_000), Some(2)));
        assert!(told.headers().is_none() && told.expiration().is_none());

        let model = model_messages("c-1", "Model 0", at, b"abc", None).remove(0);
        let told = properties("c-1", &model);
        let headers = told.headers().clone().unwrap();
        let header = |name: &str| headers.inner().get(name).cloned();
        assert_eq!(header("name"), Some(AMQPValue::LongString("Model 0".into())));
        assert_eq!(header("size"), Some(AMQPValue::LongLongInt(3)));
        assert_eq!(header("parts"), Some(AMQPValue::LongLongInt(1)));
    }
}
