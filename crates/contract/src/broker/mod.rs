//! RabbitMQ: taking jobs, publishing replies, holding conversations, being woken; asking for
//! jobs and hearing of them.
//!
//! # What a transport has to be able to do
//!
//! Another one than RabbitMQ would lie beside this folder, and offer what [`Broker`] does:
//! - **Jobs** (`check`): [`take`](Broker::take) the next one, which stays the queue's until it is
//!   [acknowledged](Broker::acknowledge) or [put back](Broker::put_back) into its place;
//!   [`discard`](Broker::discard) what can't be read; tell a queue's [`depth`](Broker::depth), and
//!   what [`looking`](Broker::looking) at a message costs.
//! - **Requests** of those who asked, such as to cancel (`check`): [`request`](Broker::request),
//!   [`acknowledge_request`](Broker::acknowledge_request),
//!   [`discard_request`](Broker::discard_request).
//! - **The one reply** (`check` and the trainer): [`publish`](Broker::publish) so that it survives
//!   the broker and is confirmed, or nothing is sure; say whether a queue already
//!   [`holds`](Broker::holds) it.
//! - **Conversations** (`check` and the courier): [`tell`](Broker::tell), confirmed, into a queue
//!   that is never declared here; say whether that queue [`exists`](Broker::exists).
//! - **Asking** (the gateway): [`ask`](Broker::ask) for a job, whose reply queue is there first;
//!   [`ask_to_cancel`](Broker::ask_to_cancel); [`hear`](Broker::hear) what is told in reply queues;
//!   [`forget`](Broker::forget) one.
//! - **Waking** (`check --stay`): [`listen`](Broker::listen), [`woken`](Broker::woken),
//!   [`give_requests_back`](Broker::give_requests_back),
//!   [`stop_listening`](Broker::stop_listening).
//!
//! Its errors are [`BrokerError`], [`PublishError`] and [`TellError`]: what they call refused,
//! gone, too large or blocked decides whether a reply is tried again. `check doctor` besides [looks
//! into](Broker::inspect) queues and [rights](Broker::control_access).

mod ask;
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

pub use ask::Said;
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
