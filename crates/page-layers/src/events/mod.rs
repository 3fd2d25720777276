//! TensorBoard's event files: the curves of a training while it runs.

mod message;
mod observer;
mod record;
mod writer;

pub use observer::{EventLogs, WithEvents};
