//! One connection to RabbitMQ, with a deadline on every call.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::types::LongString;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use thiserror::Error;

use super::config::BrokerConfig;
use super::listening::Listening;
use base::advice::Advice;
use base::text::printable;

/// How long a connection may take to be made, with TLS and login.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// How long the broker may take to answer a small request.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// How long the broker may take to store and confirm a reply of many megabytes.
pub(super) const PUBLISH_DEADLINE: Duration = Duration::from_secs(180);

/// How long a broker that takes no messages for now is waited for by whoever holds up others.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

/// The largest frame that we accept, in bytes: RabbitMQ's own default. It is named before the
/// broker's value is known, because lapin makes two buffers of 32 frames. If they have this size
/// from the beginning, they are memory that is not touched until something comes; if lapin grows
/// them later, it writes 8 MiB of zeros.
const FRAME_MAX: u32 = 128 << 10;

/// A connection to RabbitMQ with one open channel.
pub struct Broker {
    pub(super) connection: Connection,
    pub(super) channel: Channel,
    pub(super) config: BrokerConfig,
    /// How long a broker that takes no messages for now is waited for.
    pub(super) patience: Duration,
    /// What waits for messages, where that is wanted.
    pub(super) listening: Option<Listening>,
}

/// The broker can't be used.
#[derive(Clone, Debug, Error)]
pub enum BrokerError {
    /// No connection.
    #[error("can't reach RabbitMQ at {address}: {detail}; {}", CHECK_ADDRESS)]
    Unreachable {
        /// Host, port and whether TLS is used.
        address: String,
        /// What the system says.
        detail: String,
    },
    /// There is a connection, but it can't be trusted.
    #[error("can't trust RabbitMQ at {address}: {detail}")]
    Tls {
        /// Host, port and whether TLS is used.
        address: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// Wrong user or password.
    #[error("RabbitMQ at {address} refuses the login of {user}; {}", CHECK_LOGIN)]
    Login {
        /// Host, port and whether TLS is used.
        address: String,
        /// The user name.
        user: String,
    },
    /// The virtual host is absent or closed to this user.
    #[error("RabbitMQ at {address} does not let {user} into the vhost '{vhost}'; {}", CHECK_VHOST)]
    Vhost {
        /// Host, port and whether TLS is used.
        address: String,
        /// The user name.
        user: String,
        /// The virtual host.
        vhost: String,
    },
    /// It stopped answering.
    #[error("RabbitMQ does not answer ({action} took more than {} s)", deadline.as_secs())]
    Silent {
        /// What was asked.
        action: &'static str,
        /// How long we waited.
        deadline: Duration,
    },
    /// A look at a message of this queue would be counted as a delivery.
    #[error(
        "the queue '{queue}' can't be looked into without cost: it is a quorum queue, which counts \
         each look as \
         a delivery and drops a message after too many (its delivery limit); {}",
        LOOK_ELSEWHERE
    )]
    Counted {
        /// The queue.
        queue: String,
    },
    /// Nobody can say whether such a look would be counted.
    #[error(
        "the queue '{queue}' can't be looked into without cost: RabbitMQ does not tell its type to \
         this user, and a quorum queue would count each look as a delivery; {}",
        GIVE_THE_RIGHT
    )]
    PerhapsCounted {
        /// The queue.
        queue: String,
    },
    /// It takes no messages for now.
    #[error("RabbitMQ takes no messages for now: {reason}; {}", GIVE_IT_ROOM)]
    Blocked {
        /// What it says.
        reason: String,
    },
    /// It sent something that is not valid AMQP for us, such as a property that is not UTF-8.
    #[error("RabbitMQ: {action} failed: what it sent can't be read ({detail})")]
    Unreadable {
        /// What was asked.
        action: &'static str,
        /// What the library says.
        detail: String,
    },
    /// It refused a request, or the connection broke.
    #[error("RabbitMQ: {action} failed: {detail}")]
    Failed {
        /// What was asked.
        action: &'static str,
        /// What the broker says.
        detail: String,
    },
}

const CHECK_ADDRESS: &str = "check RABBITMQ_HOST, the port, TLS and the firewall";
const CHECK_LOGIN: &str = "check RABBITMQ_USER and RABBITMQ_PASSWORD";
const CHECK_VHOST: &str = "check the path of RABBITMQ_HOST and the user's permissions";

const LOOK_ELSEWHERE: &str =
    "take the job with check --max-jobs 1, or look at the queue in RabbitMQ's own interface";
const GIVE_THE_RIGHT: &str = "give RABBITMQ_USER the right to configure the queue";
const GIVE_IT_ROOM: &str = "it needs more memory or disk";

impl Advice for BrokerError {
    fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Unreachable { .. } => Some(CHECK_ADDRESS.into()),
            Self::Login { .. } => Some(CHECK_LOGIN.into()),
            Self::Vhost { .. } => Some(CHECK_VHOST.into()),
            Self::Counted { .. } => Some(LOOK_ELSEWHERE.into()),
            Self::PerhapsCounted { .. } => Some(GIVE_THE_RIGHT.into()),
            Self::Blocked { .. } => Some(GIVE_IT_ROOM.into()),
            Self::Tls { .. }
            | Self::Silent { .. }
            | Self::Unreadable { .. }
            | Self::Failed { .. } => None,
        }
    }
}

/// Waits for the broker's answer, with a deadline.
pub(super) async fn within<T>(
    deadline: Duration,
    action: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<lapin::Result<T>, BrokerError> {
    tokio::time::timeout(deadline, call).await.map_err(|_| BrokerError::Silent { action, deadline })
}

pub(super) fn failed(action: &'static str) -> impl FnOnce(lapin::Error) -> BrokerError {
    move |error| {
        let detail = printable(&error.to_string(), 300);
        match error.kind() {
            ErrorKind::ParsingError(_) => BrokerError::Unreadable { action, detail },
            // These are lapin's words about a frame that it received. If we had sent it, the broker
            // would use other words.
            ErrorKind::ProtocolError(error)
                if error.get_message().as_str().starts_with("frame too large") =>
            {
                BrokerError::Unreadable { action, detail }
            }
            _ => BrokerError::Failed { action, detail },
        }
    }
}

/// The AMQP error behind a failure, if there is one.
pub(super) fn amqp_error(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.kind()),
        _ => None,
    }
}

impl Broker {
    /// Connects, logs in and opens a channel.
    ///
    /// # Errors
    /// When the broker can't be reached, does not answer, or refuses the login or the virtual host.
    pub async fn connect(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let address = &config.address;
        // The same TLS as to Rodan, so that the same is refused in the same words.
        let tls = match address.tls {
            true => Some(Arc::new(base::tls::client_config(config.identity.as_ref()).map_err(
                |error| BrokerError::Tls {
                    address: address.to_string(),
                    detail: error.to_string(),
                },
            )?)),
            false => None,
        };
        let uri = AMQPUri {
            scheme: if address.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: config.user.clone(),
                    password: config.password.expose().to_owned(),
                },
                host: address.host.clone(),
                port: address.port,
            },
            vhost: address.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: Some(60),
                frame_max: Some(FRAME_MAX),
                ..Default::default()
            },
        };
        let name = LongString::from(format!("{} {}", base::PRODUCT, env!("CARGO_PKG_VERSION")));
        let properties = ConnectionProperties::default().with_connection_name(name);
        let action = "connecting";
        let runtime = lapin::runtime::default_runtime().map_err(|error| {
            BrokerError::Unreachable { address: address.to_string(), detail: error.to_string() }
        })?;
        let connecting = Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let host = uri.authority.host;
                let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                Ok(match &tls {
                    Some(tls) => {
                        stream.into_rustls(&RustlsConnector::from(Arc::clone(tls)), &host).await?
                    }
                    None => stream,
                })
            },
            properties,
        );
        let connection = within(CONNECT_DEADLINE, action, connecting)
            .await
            .map_err(|error| BrokerError::Unreachable {
                address: address.to_string(),
                detail: error.to_string(),
            })?
            .map_err(|error| refusal(config, &error))?;
        let channel = within(CALL_DEADLINE, action, connection.create_channel())
            .await?
            .map_err(failed(action))?;
        Ok(Self {
            connection,
            channel,
            config: config.clone(),
            patience: PUBLISH_DEADLINE,
            listening: None,
        })
    }

    /// The same connection for whoever holds up others: a broker that takes no messages for now is
    /// waited for no longer than a few seconds.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.patience = SHORT_PATIENCE;
        self
    }

    /// Opens a new channel after the broker closed the last one, as it does with every refusal.
    pub(super) async fn reopen(&mut self) -> Result<(), BrokerError> {
        let action = "opening a channel";
        self.channel = within(CALL_DEADLINE, action, self.connection.create_channel())
            .await?
            .map_err(failed(action))?;
        Ok(())
    }

    /// The answer to a request for a message, or what happened to the connection. When a message
    /// can't be read, the library ends the connection and leaves the request without an answer.
    pub(super) async fn message<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        let events = self.connection.events_listener();
        let lost = async move {
            let mut events = pin!(events);
            while let Some(event) = events.next().await {
                if let Event::Error(error) = event {
                    return error;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answer = within(CALL_DEADLINE, action, call) => answer?.map_err(failed(action)),
            error = lost => Err(failed(action)(error)),
        }
    }

    /// Closes the connection. Whatever was published and confirmed is safe without it.
    pub async fn close(self) {
        let goodbye = self.connection.close(200, "done".into());
        if let Ok(Err(error)) = within(CALL_DEADLINE, "closing", goodbye).await {
            tracing::debug!("closing the connection to RabbitMQ: {error}");
        }
    }
}

fn refusal(config: &BrokerConfig, error: &lapin::Error) -> BrokerError {
    let (address, user) = (config.address.to_string(), config.user.clone());
    match amqp_error(error) {
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => {
            BrokerError::Login { address, user }
        }
        Some(AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)) => {
            BrokerError::Vhost { address, user, vhost: config.address.vhost.clone() }
        }
        _ => match base::tls::explain(error) {
            Some(refusal) => BrokerError::Tls { address, detail: refusal.to_string() },
            // A refused client certificate: the alert that says so is lost if the broker closes
            // before our first words.
            None if config.address.tls && is_broken_off(error) => {
                let detail = format!(
                    "it broke the connection off ({error}); if it asks for a client certificate, \
                    it has accepted none: see RABBITMQ_CLIENT_CERT"
                );
                BrokerError::Tls { address, detail }
            }
            None => BrokerError::Unreachable { address, detail: error.to_string() },
        },
    }
}

fn is_broken_off(error: &lapin::Error) -> bool {
    use io::ErrorKind as K;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe
            );
        }
        next = error.source();
    }
    false
}
