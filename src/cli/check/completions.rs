//! `check completions`: what a shell needs to complete the command line.

use clap::{Args, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::caller::Caller;
use base::exit_code::ExitCode;
use terminal::print;

/// Print the completions for a shell
///
/// bash: source <(./run_check completions bash), in ~/.bashrc with the whole path.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
    /// The command to complete: by what name check is called
    #[arg(long, value_name = "COMMAND", default_value = "run_check", value_parser = command)]
    name: String,
}

/// A name that is safe in a script of any shell.
fn command(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if text.is_empty() || text.starts_with('-') || !text.chars().all(fits) {
        return Err("give a name of letters, digits, _ and -".to_owned());
    }
    Ok(text.to_owned())
}

/// This needs no configuration: a shell asks for it wherever it starts.
pub(super) async fn run(arguments: &Arguments, _: &Caller<'_>) -> ExitCode {
    let mut script = Vec::new();
    generate(arguments.shell, &mut super::Arguments::command(), &arguments.name, &mut script);
    print(&String::from_utf8_lossy(&script)).or(ExitCode::Success)
}
