//! The messages exchanged with Rodan: the only place that knows Rodan's key names.

mod job;
mod reply;

pub use job::{JobFile, JobFileError, JobMessage, MessageError};
pub use reply::{Envelope, Reply, ReplyError};
