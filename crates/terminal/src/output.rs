//! Standard output and standard error of all programs, either of which may be full, closed, or
//! read by nobody.
//!
//! Nothing here panics: what a pass does for a job never depends on whether somebody can read about
//! it. `println!` and its kin panic where they can't write, so clippy refuses them in this
//! workspace (`print_stdout`, `print_stderr`).

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use base::exit_code::ExitCode;

/// What became of a text for standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Printed {
    /// It is written.
    Whole,
    /// Nobody reads any more, such as `head` that has what it wanted.
    NobodyReads,
    /// It can't be written, which standard error has been told.
    Lost,
}

impl Printed {
    /// The exit code of a command whose text is all that was asked for, and which would end with
    /// `code`.
    pub fn or(self, code: ExitCode) -> ExitCode {
        match self {
            Self::Lost if code == ExitCode::Success => ExitCode::Internal,
            _ => code,
        }
    }
}

/// Prints a text, as it is, on standard output.
pub fn print(text: &str) -> Printed {
    written(&mut io::stdout().lock(), text)
}

fn written(stdout: &mut impl Write, text: &str) -> Printed {
    static TOLD: AtomicBool = AtomicBool::new(false);
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Printed::Whole,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Printed::NobodyReads,
        Err(error) => {
            if !TOLD.swap(true, Ordering::Relaxed) {
                complain(&format_args!("standard output can't be written: {error}"));
            }
            Printed::Lost
        }
    }
}

/// Prints a line about something that is done, whether anybody reads of it or not.
pub fn say(line: &dyn Display) {
    let _ = print(&format!("{line}\n")); // what is done is done
}

/// Says a line on standard error. Where that is gone there is nobody to tell.
pub fn complain(line: &dyn Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Says on standard error why there is nothing more, with the name of the program.
pub fn fail(program: &str, code: ExitCode, error: &dyn Display) -> ExitCode {
    complain(&format_args!("{program}: {error}"));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refuses(io::ErrorKind);

    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_text_that_is_lost_changes_only_the_code_of_what_was_asked_for() {
        let print = |kind| written(&mut Refuses(kind), "text");
        assert_eq!(written(&mut Vec::new(), "text"), Printed::Whole);
        assert_eq!(print(io::ErrorKind::BrokenPipe), Printed::NobodyReads);
        assert_eq!(print(io::ErrorKind::StorageFull), Printed::Lost);
        for printed in [Printed::Whole, Printed::NobodyReads, Printed::Lost] {
            assert_eq!(printed.or(ExitCode::Unsound), ExitCode::Unsound);
            let expected =
                if printed == Printed::Lost { ExitCode::Internal } else { ExitCode::Success };
            assert_eq!(printed.or(ExitCode::Success), expected);
        }
    }
}
