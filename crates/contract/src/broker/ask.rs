//! The asker's side of a conversation: it declares its reply queue, asks, hears what comes, and
//! forgets the queue when the conversation is over.

use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use super::intake::JOBS_QUEUE;
use super::publish::short;
use super::tell::TellError;
use crate::wire::conversation::{APP_ID, CONTROL_QUEUE, Cancel, Header, REPLY_QUEUE_EXPIRES};
use base::crash;
use base::text::printable;

/// A message of a reply queue. It stays in the queue until it is acknowledged.
#[derive(Debug)]
pub struct Said {
    delivery: Delivery,
}

impl Said {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.delivery.data
    }

    /// The property `type`; empty where there is none.
    pub fn kind(&self) -> String {
        text(self.delivery.properties.kind())
    }

    /// The property `message_id`; empty where there is none.
    pub fn message_id(&self) -> String {
        text(self.delivery.properties.message_id())
    }

    /// The property `correlation_id`; empty where there is none.
    pub fn correlation_id(&self) -> String {
        text(self.delivery.properties.correlation_id())
    }

    /// The header of this name, where it is a text or a whole number.
    pub fn header(&self, name: &str) -> Option<Header> {
        match self.delivery.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(Header::Text(text.to_string())),
            AMQPValue::ShortString(text) => Some(Header::Text(text.to_string())),
            AMQPValue::LongLongInt(number) => Some(Header::Number(*number)),
            AMQPValue::LongInt(number) => Some(Header::Number((*number).into())),
            AMQPValue::LongUInt(number) => Some(Header::Number((*number).into())),
            AMQPValue::ShortInt(number) => Some(Header::Number((*number).into())),
            AMQPValue::ShortShortInt(number) => Some(Header::Number((*number).into())),
            _ => None,
        }
    }

    /// Takes the message out of its queue.
    ///
    /// # Errors
    /// When the connection is lost; the message then comes again.
    pub async fn acknowledge(self) -> Result<(), BrokerError> {
        let action = "acknowledging a message of a reply queue";
        crash::point("before acknowledging what was heard");
        let ack = self.delivery.acker.ack(BasicAckOptions::default());
        within(CALL_DEADLINE, action, ack).await?.map_err(failed(action))?;
        crash::point("after acknowledging what was heard");
        Ok(())
    }
}

fn text(property: &Option<lapin::types::ShortString>) -> String {
    property.as_ref().map(ToString::to_string).unwrap_or_default()
}

impl Broker {
    /// Asks for a job: its reply queue is declared, then the job is published (persistent,
    /// mandatory) and confirmed. The same job may be asked for again: it has the same ids.
    ///
    /// An absent queue of jobs is declared, durable; one that is there stays as it is.
    ///
    /// # Errors
    /// When the job is not known to be in its queue.
    pub async fn ask(
        &mut self,
        correlation_id: &str,
        reply_to: &str,
        body: &[u8],
    ) -> Result<(), TellError> {
        self.declare_own(reply_to).await?;
        if self.depth(JOBS_QUEUE).await?.is_none() {
            self.declare_durable(JOBS_QUEUE).await?;
        }
        let properties = request("job", correlation_id)
            .with_reply_to(short(reply_to))
            .with_message_id(short(correlation_id));
        if self.offer("asking for a job", JOBS_QUEUE, properties, body).await? {
            return Ok(());
        }
        Err(TellError::NoQueue(JOBS_QUEUE.to_owned()))
    }

    /// Asks for the end of a job.
    ///
    /// # Errors
    /// When the request is not known to be in its queue.
    pub async fn ask_to_cancel(&mut self, cancel: &Cancel) -> Result<(), TellError> {
        if self.depth(CONTROL_QUEUE).await?.is_none() {
            self.declare_durable(CONTROL_QUEUE).await?;
        }
        let body = serde_json::to_vec(cancel).unwrap_or_default();
        let properties = request("job.cancel", &cancel.correlation_id);
        let action = "asking for the end of a job";
        if self.offer(action, CONTROL_QUEUE, properties, &body).await? {
            return Ok(());
        }
        Err(TellError::NoQueue(CONTROL_QUEUE.to_owned()))
    }

    /// Hears what comes into a reply queue, one message at a time; `None` when there is no such
    /// queue. The stream ends when the queue is removed or the connection is lost.
    ///
    /// # Errors
    /// When the broker refuses otherwise, or does not answer.
    pub async fn hear(
        &self,
        queue: &str,
    ) -> Result<Option<impl Stream<Item = Result<Said, BrokerError>> + Send + use<>>, BrokerError>
    {
        let action = "listening to a reply queue";
        let Some((channel, consumer)) = self.consume(queue).await? else { return Ok(None) };
        Ok(Some(stream::unfold((channel, consumer), move |(channel, mut consumer)| async move {
            // The channel lives as long as what it has brought may be acknowledged.
            let said = consumer.next().await?;
            let said = said.map(|delivery| Said { delivery }).map_err(failed(action));
            Some((said, (channel, consumer)))
        })))
    }

    /// Removes a reply queue with all that is in it. One that is gone is no error.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn forget(&mut self, queue: &str) -> Result<(), BrokerError> {
        let action = "removing a reply queue";
        crash::point("before removing a reply queue");
        let delete = self.channel.queue_delete(short(queue), QueueDeleteOptions::default());
        match within(CALL_DEADLINE, action, delete).await? {
            Ok(_) => {}
            Err(error)
                if matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
                ) =>
            {
                self.reopen().await?;
            }
            Err(error) => return Err(failed(action)(error)),
        }
        crash::point("after removing a reply queue");
        Ok(())
    }

    /// Declares a reply queue as an asker does: durable, and gone when nobody has looked into it
    /// for two weeks.
    async fn declare_own(&mut self, queue: &str) -> Result<(), BrokerError> {
        let action = "declaring a reply queue";
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(REPLY_QUEUE_EXPIRES));
        crash::point("before declaring a reply queue");
        let declare = self.channel.queue_declare(short(queue), options, arguments);
        within(CALL_DEADLINE, action, declare).await?.map_err(failed(action))?;
        crash::point("after declaring a reply queue");
        Ok(())
    }

    async fn declare_durable(&mut self, queue: &str) -> Result<(), BrokerError> {
        let action = "declaring an absent queue";
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declare = self.channel.queue_declare(short(queue), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declare).await? {
            Ok(_) => Ok(()),
            // Somebody has declared it meanwhile, in another way.
            Err(error)
                if matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED))
                ) =>
            {
                self.reopen().await
            }
            Err(error) => {
                let detail = printable(&error.to_string(), 300);
                tracing::debug!("{queue} can't be declared: {detail}");
                Err(failed(action)(error))
            }
        }
    }
}

fn request(kind: &str, correlation_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_correlation_id(short(correlation_id))
        .with_type(kind.into())
        .with_app_id(APP_ID.into())
        .with_timestamp(u64::try_from(Timestamp::now().as_second()).unwrap_or_default())
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_whatever_kind_of_number_its_headers_have() {
        let mut headers = FieldTable::default();
        headers.insert("name".into(), AMQPValue::LongString("Model 0".into()));
        headers.insert("part".into(), AMQPValue::LongInt(2));
        headers.insert("size".into(), AMQPValue::LongLongInt(3));
        headers.insert("odd".into(), AMQPValue::Boolean(true));
        let properties = BasicProperties::default()
            .with_type("job.model".into())
            .with_message_id("m-1".into())
            .with_headers(headers);
        let mut delivery = Delivery::mock(1, "".into(), "q".into(), false, b"abc".to_vec());
        delivery.properties = properties;
        let said = Said { delivery };
        assert_eq!((said.kind(), said.message_id()), ("job.model".into(), "m-1".into()));
        assert_eq!((said.correlation_id(), said.body()), (String::new(), &b"abc"[..]));
        assert_eq!(said.header("name"), Some(Header::Text("Model 0".into())));
        assert_eq!(said.header("part"), Some(Header::Number(2)));
        assert_eq!(said.header("size"), Some(Header::Number(3)));
        assert_eq!((said.header("odd"), said.header("absent")), (None, None));
    }
}
