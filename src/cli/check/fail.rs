//! Why `check` has nothing more to do, in its own name.

use std::fmt::Display;

use base::exit_code::ExitCode;

/// Says it on standard error, and hands the exit code on.
pub(super) fn fail(code: ExitCode, error: &dyn Display) -> ExitCode {
    crate::cli::output::fail("check", code, error)
}
