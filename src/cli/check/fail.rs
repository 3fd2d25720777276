//! How `check` says why it can't go on.

use std::fmt::Display;

use base::exit_code::ExitCode;

/// Says the reason on standard error, after the program's name, and returns the exit code.
pub(super) fn fail(code: ExitCode, error: &dyn Display) -> ExitCode {
    terminal::fail("check", code, error)
}
