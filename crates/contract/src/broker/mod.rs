//! RabbitMQ: taking jobs and publishing replies.

mod config;
mod connect;
mod control;
mod hello;
mod inspect;
mod intake;
mod kind;
mod listen;
mod listening;
mod publish;
mod tell;

pub use config::BrokerConfig;
pub use connect::{Broker, BrokerError};
pub use control::ControlAccess;
pub use hello::{Hello, hello};
pub use inspect::QueueFacts;
pub use intake::{JOBS_QUEUE, Taken};
pub use kind::Looking;
pub use listen::Wake;
pub use publish::{DEFAULT_REPLY_QUEUE, PublishError};
pub use tell::TellError;
