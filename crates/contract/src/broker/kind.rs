//! Whether it costs a message something to be looked at.
//!
//! AMQP 0-9-1 can only show a message by handing it out; it is put back afterwards. In a classic queue it
//! is then as before, but for the mark that it was handed out. A quorum queue counts that, and drops a
//! message that was handed out too often (20 times by default from RabbitMQ 4.0 on).

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, within};

const TYPE: &str = "x-queue-type";
/// No queue has this type, so that what is declared here always differs from what there is, and is never
/// made.
const NO_TYPE: &str = "hpc-trainer-asks";
/// A queue has fewer arguments.
const MOST_ARGUMENTS: usize = 16;

/// What it costs a message of a queue to be looked at.
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
    /// Finds out what it costs to look at the messages of a queue, without looking at any. The queue is
    /// declared as it can't be, and the broker says how it is instead.
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
                // This argument is compared before the type: as it is, it is no difference.
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

/// The argument that differs, and how it is: its value, and its type where the broker names it.
///
/// The broker says `inequivalent arg 'NAME' for queue …: received … but current is …`, and then
/// `the value '1' of type 'long'`, or `'quorum'` where both have the same type, or `none`.
fn inequivalent(text: &str) -> Option<(&str, Option<(&str, &str)>)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (name, rest) = rest.split_once('\'')?;
    // The name of a queue may hold anything: what counts is what stands last.
    let (_, current) = rest.rsplit_once("but current is ")?;
    let value = match current.strip_prefix("the value '") {
        Some(value) => {
            value.split_once("' of type '").and_then(|(value, kind)| Some((value, kind.split_once('\'')?.0)))
        }
        None => current.strip_prefix('\'').and_then(|value| Some((value.split_once('\'')?.0, ""))),
    };
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
        // As RabbitMQ 3.10 says it.
        let says = |name: &str, rest: &str| {
            format!(
                "PRECONDITION_FAILED - inequivalent arg '{name}' for queue 'it's mine' in vhost '/': received {rest}"
            )
        };
        let read = |name: &str, rest: &str| {
            let text = says(name, rest);
            let (name, value) = inequivalent(&text).unwrap();
            (name.to_owned(), value.map(|(value, kind)| (value.to_owned(), kind.to_owned())))
        };
        let some = |value: &str, kind: &str| Some((value.to_owned(), kind.to_owned()));
        for (name, rest, value) in [
            (TYPE, "'hpc-trainer-asks' but current is 'quorum'", some("quorum", "")),
            (TYPE, "'hpc-trainer-asks' but current is 'classic'", some("classic", "")),
            (TYPE, "the value 'hpc-trainer-asks' of type 'longstr' but current is none", None),
            ("durable", "'true' but current is 'false'", some("false", "")),
            (
                "x-max-length",
                "none but current is the value '1000' of type 'signedint'",
                some("1000", "signedint"),
            ),
            (
                "x-dead-letter-exchange",
                "none but current is the value '' of type 'longstr'",
                some("", "longstr"),
            ),
        ] {
            assert_eq!(read(name, rest), (name.to_owned(), value), "{rest}");
        }
        let other = "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'hpc-jobs'";
        assert_eq!(inequivalent(other), None);
        assert_eq!(typed("20", "signedint"), Some(AMQPValue::LongLongInt(20)));
        assert_eq!(typed("true", "bool"), Some(AMQPValue::Boolean(true)));
        assert_eq!((typed("[]", "array"), typed("x", "long")), (None, None));
    }
}
