//! The command lines: each command parses its arguments, calls the library, shows the result and
//! maps errors to exit codes.

pub mod check;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "trainer")]
pub mod reference;
#[cfg(feature = "trainer")]
pub mod run_trainer;

pub use terminal::{LogFormat, Verbosity};
