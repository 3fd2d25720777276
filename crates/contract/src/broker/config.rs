//! How the broker is reached.

use std::time::Duration;

use base::address::BrokerAddress;
use base::secret::Secret;
use base::tls::Identity;

/// How to reach RabbitMQ and how replies are published there.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where it listens.
    pub address: BrokerAddress,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// The certificate for a broker that asks for one.
    pub identity: Option<Identity>,
    /// Whether an absent reply queue is declared durable.
    pub reply_queue_durable: bool,
    /// How long a reply stays in its queue.
    pub reply_ttl: Duration,
    /// Largest message, bytes; `None`: publish and let the broker refuse.
    pub max_reply_bytes: Option<u64>,
}
