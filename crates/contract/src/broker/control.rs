//! Requests about jobs: the queue `hpc-control`.

use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use super::intake::Taken;
use super::kind::Looking;
use crate::wire::conversation::CONTROL_QUEUE;
use base::crash;

/// What a program may do with the control queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAccess {
    /// It is there and can be read; so many requests wait.
    Readable(u32),
    /// It is there with so many requests, and reading was not tried: the queue counts each look.
    Untried(u32),
    /// It is there, and this account may not read it.
    Unreadable,
    /// There is none.
    Absent,
}

impl Broker {
    /// Takes the next request; `None` when there is none.
    ///
    /// An absent queue is declared, durable: whoever comes first does that. An account that may not
    /// configure it, or not read it, has no requests; `check doctor` tells which right is missing.
    ///
    /// # Errors
    /// [`BrokerError::Unreadable`] for a request that [`Broker::discard_request`] is to drop; or
    /// when the broker refuses otherwise, or does not answer.
    pub async fn request(&mut self) -> Result<Option<Taken>, BrokerError> {
        let action = "looking for a request in hpc-control";
        match self.look_at_control().await? {
            Some(0) => return Ok(None),
            Some(_) => {}
            None => {
                self.declare_control().await?;
                return Ok(None);
            }
        }
        let got = self.channel.basic_get(CONTROL_QUEUE.into(), BasicGetOptions { no_ack: false });
        match self.message(action, got).await {
            Ok(got) => Ok(got.map(|message| Taken::new(message.delivery))),
            // A message that can't be read ends the connection, as in hpc-jobs.
            Err(error @ BrokerError::Unreadable { .. }) => Err(error),
            Err(error) => {
                if self.channel.status().connected() {
                    return Err(error);
                }
                self.reopen().await?; // fails where it was the connection
                tracing::debug!("{CONTROL_QUEUE} can't be read: {error}");
                Ok(None)
            }
        }
    }

    /// Drops the next request, which can't be read: to be called on a fresh connection. Returns a
    /// request if the next one can be read after all, because somebody else has taken the
    /// unreadable one meanwhile.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    pub async fn discard_request(&mut self) -> Result<Option<Taken>, BrokerError> {
        let action = "dropping a request that can't be read";
        let got = self.channel.basic_get(CONTROL_QUEUE.into(), BasicGetOptions { no_ack: true });
        match self.message(action, got).await {
            Ok(got) => Ok(got.map(|message| Taken::gone(message.delivery))),
            Err(BrokerError::Unreadable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Acknowledges a request, and waits until the broker has seen that.
    ///
    /// # Errors
    /// When the broker does not answer; the request may then come again.
    pub async fn acknowledge_request(&mut self, taken: Taken) -> Result<(), BrokerError> {
        let action = "acknowledging a request";
        crash::point("before acknowledging a request");
        if taken.gone {
            return Ok(());
        }
        let ack = taken.delivery.acker.ack(BasicAckOptions::default());
        within(CALL_DEADLINE, action, ack).await?.map_err(failed(action))?;
        // The broker does not answer an acknowledgement; but it answers a later request on the same
        // channel after it.
        self.depth(CONTROL_QUEUE).await?;
        crash::point("after acknowledging a request");
        Ok(())
    }

    /// What this account may do with the control queue. A request that is looked at goes back to
    /// its place.
    ///
    /// # Errors
    /// When the broker refuses otherwise, or does not answer.
    pub async fn control_access(&mut self) -> Result<ControlAccess, BrokerError> {
        let action = "looking at hpc-control";
        let waiting = match self.passive_look().await? {
            Ok(waiting) => waiting,
            Err(error) if is_refused(&error) => return Ok(ControlAccess::Unreadable),
            Err(_) => return Ok(ControlAccess::Absent),
        };
        if waiting > 0 && self.looking(CONTROL_QUEUE).await? != Looking::IsFree {
            return Ok(ControlAccess::Untried(waiting));
        }
        let channel = within(CALL_DEADLINE, action, self.connection.create_channel())
            .await?
            .map_err(failed(action))?;
        let got = channel.basic_get(CONTROL_QUEUE.into(), BasicGetOptions { no_ack: false });
        // A request that can't be read ends the connection, as in hpc-jobs.
        match self.message(action, got).await {
            Ok(_) => {
                // The message goes back to the queue when the channel closes.
                let close = channel.close(200, "looked".into());
                within(CALL_DEADLINE, action, close).await?.map_err(failed(action))?;
                Ok(ControlAccess::Readable(waiting))
            }
            // A refusal closes the channel alone.
            Err(BrokerError::Failed { .. })
                if !channel.status().connected() && self.connection.status().connected() =>
            {
                Ok(ControlAccess::Unreadable)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of requests that wait; 0 if this account may not look at the queue, `None` if
    /// there is no queue.
    async fn look_at_control(&mut self) -> Result<Option<u32>, BrokerError> {
        Ok(match self.passive_look().await? {
            Ok(waiting) => Some(waiting),
            Err(error) if is_refused(&error) => Some(0),
            Err(_) => None,
        })
    }

    /// The number of requests, or why there is none: no such queue, or no right to look at it.
    async fn passive_look(&mut self) -> Result<Result<u32, lapin::Error>, BrokerError> {
        let action = "looking at hpc-control";
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared =
            self.channel.queue_declare(CONTROL_QUEUE.into(), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declared).await? {
            Ok(queue) => Ok(Ok(queue.message_count())),
            Err(error) => {
                let is_absent = matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
                );
                if !is_absent && !is_refused(&error) {
                    return Err(failed(action)(error));
                }
                self.reopen().await?;
                Ok(Err(error))
            }
        }
    }

    async fn declare_control(&mut self) -> Result<(), BrokerError> {
        let action = "declaring hpc-control";
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        let declare =
            self.channel.queue_declare(CONTROL_QUEUE.into(), options, FieldTable::default());
        match within(CALL_DEADLINE, action, declare).await? {
            Ok(_) => {
                tracing::debug!("declared the absent queue {CONTROL_QUEUE}");
                Ok(())
            }
            Err(error) if is_refused(&error) => {
                self.reopen().await?;
                tracing::debug!(
                    "there is no {CONTROL_QUEUE}, and this account may not declare it: {error}"
                );
                Ok(())
            }
            Err(error) => Err(failed(action)(error)),
        }
    }
}

/// Refused for want of a right, or because somebody has just declared it otherwise: it exists then.
fn is_refused(error: &lapin::Error) -> bool {
    matches!(
        amqp_error(error),
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::PRECONDITIONFAILED))
    )
}
