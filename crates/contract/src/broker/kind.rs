//! Whether looking at a message of a queue is counted as a delivery.
//!
//! AMQP 0-9-1 can only show a message by handing it out; it is put back afterwards. In a classic
//! queue it is then as before, but for the mark that it was handed out. A quorum queue counts that,
//! and drops a message that was handed out too often (20 times by default from RabbitMQ 4.0 on).

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, within};

const TYPE: &str = "x-queue-type";
/// No queue has this type, so the declaration always differs from the queue and never creates one.
const NO_TYPE: &str = "hpc-trainer-asks";
/// A queue has fewer arguments.
const MOST_ARGUMENTS: usize = 16;

/// What looking at a message of a queue does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looking {
    /// Nothing.
    IsFree,
    /// It is counted as a delivery.
    IsCounted,
    /// The broker does not say: this user may not configure the queue.
    Unknown,
}

impl Broker {
    /// Finds out what looking at the messages of a queue does, without looking at any. The queue is
    /// declared with arguments that it can't have, and the broker's refusal names those that it
    /// has.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn looking(&mut self, queue: &str) -> Result<Looking, BrokerError> {
        let action = "asking for a queue's type";
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        arguments.insert(TYPE.into(), AMQPValue::LongString(NO_TYPE.into()));
        for _ in 0..MOST_ARGUMENTS {
            let declared = self.channel.queue_declare(queue.into(), options, arguments.clone());
            let Err(error) = within(CALL_DEADLINE, action, declared).await? else { break };
            self.reopen().await?;
            let is_other =
                matches!(amqp_error(&error), Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)));
            let text = error.to_string();
            match inequivalent(&text).filter(|_| is_other) {
                Some((TYPE, None | Some(("classic", _)))) => return Ok(Looking::IsFree),
                Some((TYPE, Some(_))) => return Ok(Looking::IsCounted),
                // Quorum queues are durable, and stay when nobody reads them.
                Some(("durable" | "auto_delete", _)) => return Ok(Looking::IsFree),
                // The broker compares this argument before the type. It is given as the queue has
                // it, so that the type is what differs.
                Some((name, Some((value, kind)))) => {
                    let Some(value) = typed(value, kind) else { break };
                    arguments.insert(name.into(), value);
                }
                Some((_, None)) | None => break,
            }
        }
        Ok(Looking::Unknown)
    }
}

/// The argument that differs, and how it is: its value and its type. The broker says
/// `inequivalent arg 'x' for queue …: received … but current is the value '1' of type
/// 'long'` or, of one that is not set, `… current is none`, and of `durable` and the like `…
/// current is 'true'`.
fn inequivalent(text: &str) -> Option<(&str, Option<(&str, &str)>)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (name, rest) = rest.split_once('\'')?;
    // The name of a queue may hold anything, so only the end of the text counts.
    let (_, current) = rest.rsplit_once("but current is ")?;
    let value = current.strip_prefix("the value '").and_then(|value| {
        let (value, kind) = value.split_once("' of type '")?;
        Some((value, kind.split_once('\'')?.0))
    });
    Some((name, value))
}

/// A value of one of the broker's types; none of those that no argument of a queue has.
fn typed(value: &str, kind: &str) -> Option<AMQPValue> {
    match kind {
        "longstr" => Some(AMQPValue::LongString(value.into())),
        "bool" => value.parse().ok().map(AMQPValue::Boolean),
        // Numbers are compared by value, whatever their width.
        "byte" | "short" | "signedint" | "long" | "unsignedbyte" | "unsignedshort" | "unsignedint" => {
            value.parse().ok().map(AMQPValue::LongLongInt)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_read_from_the_brokers_words() {
        let says = |name: &str, rest: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg '{name}' for queue 'it's mine' in vhost '/': {rest}"
            )
        };
        let quorum = says(
            TYPE,
            "received the value 'x' of type 'longstr' but current is the value 'quorum' of type 'longstr'",
        );
        assert_eq!(inequivalent(&quorum), Some((TYPE, Some(("quorum", "longstr")))));
        let classic = says(TYPE, "received the value 'x' of type 'longstr' but current is none");
        assert_eq!(inequivalent(&classic), Some((TYPE, None)));
        let transient = says("durable", "received 'true' but current is 'false'");
        assert_eq!(inequivalent(&transient), Some(("durable", None)));
        let other = "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'hpc-jobs'";
        assert_eq!(inequivalent(other), None);
        assert_eq!(typed("20", "signedint"), Some(AMQPValue::LongLongInt(20)));
        assert_eq!(typed("true", "bool"), Some(AMQPValue::Boolean(true)));
        assert_eq!((typed("[]", "array"), typed("x", "long")), (None, None));
    }
}
