//! The messages exchanged with Rodan. The names of inputs and settings are in `domain`.

mod answer;
mod chosen;
pub mod conversation;
mod job;
mod reply;

pub use answer::{Answer, AnswerError};
pub use chosen::{Chosen, Pace, choose, peak_memory_mb};
pub use conversation::Protocol;
pub use job::{JobFile, JobFileError, JobMessage, MessageError};
pub use reply::{Envelope, Reply, ReplyError};
