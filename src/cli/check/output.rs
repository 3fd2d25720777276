//! Text on standard output, also where nobody reads it to its end.

use std::fmt::Display;
use std::io::{self, Write as _};

use base::exit_code::ExitCode;

/// Prints a text. A reader that has gone, such as `head`, has what it wanted.
pub(super) fn print(text: &str) -> Result<(), ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ExitCode::Success),
        Err(error) => Err(fail(ExitCode::Internal, &error)),
    }
}

/// [`print()`], and the code to end with.
pub(super) fn print_all(text: &str) -> ExitCode {
    print(text).err().unwrap_or(ExitCode::Success)
}

/// Says on standard error why there is nothing more.
pub(super) fn fail(code: ExitCode, error: &dyn Display) -> ExitCode {
    eprintln!("check: {error}");
    code
}
