//! The command lines: each parses its arguments, calls the library and maps errors to exit codes.

pub mod check;
mod logging;

pub use logging::{LogFormat, Verbosity};
