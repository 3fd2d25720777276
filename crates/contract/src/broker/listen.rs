//! Waiting for a message without asking for it again and again: `check --stay`.
//!
//! The broker pushes the next job to a consumer that takes one message at a time, on a channel of
//! its own. Such a message is not acknowledged: it is the message that the next pass takes
//! ([`Broker::take`]), and it goes back to its place in the queue when the pass does not want it,
//! or when the connection ends in whatever way. It is handed to the pass, and not put back for the
//! pass to fetch, because a message that is handed out twice is marked as redelivered; a job
//! without a correlation id is then taken for one that came before, and a quorum queue counts the
//! delivery.
//!
//! A request in `hpc-control` only wakes: it goes back before the pass, which reads it. Requests
//! may come twice.

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::connect::{Broker, BrokerError, CALL_DEADLINE, amqp_error, failed, within};
use super::intake::JOBS_QUEUE;
use super::listening::Listening;
use crate::wire::conversation::CONTROL_QUEUE;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A job, which [`Broker::take`] takes next.
    Job,
    /// A request, which goes back to its queue by [`Broker::give_requests_back`].
    Request,
}

impl Broker {
    /// Has the broker push the next job, and tell of the next request. False when there is no queue
    /// of jobs yet, or this account may not consume from it: then only asking helps.
    ///
    /// # Errors
    /// When the broker refuses otherwise, or does not answer.
    pub async fn listen(&mut self) -> Result<bool, BrokerError> {
        if self.listening.as_ref().is_some_and(|listening| listening.requests.is_none()) {
            let requests = self.consume(CONTROL_QUEUE).await?;
            if let Some(listening) = &mut self.listening {
                listening.requests = requests;
            }
        }
        if self.listening.is_some() {
            return Ok(true);
        }
        let Some((channel, jobs)) = self.consume(JOBS_QUEUE).await? else { return Ok(false) };
        let requests = self.consume(CONTROL_QUEUE).await?;
        self.listening = Some(Listening { channel, jobs, held: None, requests });
        Ok(true)
    }

    /// True while the broker pushes.
    pub fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// A consumer of one message at a time; `None` where there is no such queue, or no right to it.
    pub(super) async fn consume(
        &self,
        queue: &str,
    ) -> Result<Option<(Channel, Consumer)>, BrokerError> {
        let action = "waiting for messages";
        let channel = within(CALL_DEADLINE, action, self.connection.create_channel())
            .await?
            .map_err(failed(action))?;
        let one = channel.basic_qos(1, BasicQosOptions::default());
        within(CALL_DEADLINE, action, one).await?.map_err(failed(action))?;
        let consumer = channel.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        match within(CALL_DEADLINE, action, consumer).await? {
            Ok(consumer) => Ok(Some((channel, consumer))),
            Err(error)
                if matches!(
                    amqp_error(&error),
                    Some(AMQPErrorKind::Soft(
                        AMQPSoftError::NOTFOUND
                            | AMQPSoftError::ACCESSREFUSED
                            | AMQPSoftError::RESOURCELOCKED
                    ))
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed(action)(error)),
        }
    }

    /// Waits until something comes; for ever where the broker pushes nothing. It may be given up at
    /// any time, and what has come is not lost.
    ///
    /// # Errors
    /// When the connection is lost, or the queue is removed.
    pub async fn woken(&mut self) -> Result<Wake, BrokerError> {
        let Some(listening) = &mut self.listening else { return std::future::pending().await };
        if listening.held.is_some() {
            return Ok(Wake::Job);
        }
        let Listening { jobs, requests, held, .. } = listening;
        let request = async {
            match requests {
                Some((_, consumer)) => consumer.next().await,
                None => std::future::pending().await,
            }
        };
        let action = "waiting for messages";
        let ended = || BrokerError::Failed {
            action,
            detail: "the queue was removed, or the connection is closed".to_owned(),
        };
        tokio::select! {
            job = jobs.next() => {
                *held = Some(job.ok_or_else(ended)?.map_err(failed(action))?);
                Ok(Wake::Job)
            }
            request = request => {
                request.ok_or_else(ended)?.map_err(failed(action))?;
                Ok(Wake::Request)
            }
        }
    }

    /// Gives a request back to its queue: its channel is closed. The next [`Broker::listen`] opens
    /// another.
    pub async fn give_requests_back(&mut self) {
        let requests = self.listening.as_mut().and_then(|listening| listening.requests.take());
        if let Some((channel, _)) = requests {
            close(channel).await;
        }
    }

    /// Has the broker push nothing more. A job that has come and was not taken goes back to its
    /// place in the queue.
    pub async fn stop_listening(&mut self) {
        self.give_requests_back().await;
        if let Some(Listening { channel, .. }) = self.listening.take() {
            close(channel).await;
        }
    }
}

/// Closes a channel. Where that fails the connection is lost, and the channel with it.
async fn close(channel: Channel) {
    let goodbye = channel.close(200, "done".into());
    if let Ok(Err(error)) = within(CALL_DEADLINE, "closing a channel", goodbye).await {
        tracing::debug!("closing a channel to RabbitMQ: {error}");
    }
}
