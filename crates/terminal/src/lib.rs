//! What a person at a terminal sees of every program: what it prints, and its log lines.

mod logging;
mod output;

pub use logging::{LogFormat, Verbosity};
pub use output::{Printed, complain, fail, print, say};
