//! Sends one job's conversation. What must arrive is sent from disk at the end; what need not
//! arrive is sent while the training goes on.
//!
//! A trainer that learns from a stranger's files holds no password, so what it has to tell
//! meanwhile is published by a process of its own (`live` starts it, `child` is it). What is left
//! at the end, the trainer or `check` sends from the outbox (`rest`).

#[cfg(feature = "trainer")]
mod child;
#[cfg(feature = "trainer")]
mod live;
mod log_tail;
mod rest;

#[cfg(feature = "trainer")]
pub use child::run as run_child;
#[cfg(feature = "trainer")]
pub use live::{Courier, Errand};
pub use log_tail::{tail, tail_of};
pub use rest::{Rest, RestError};
