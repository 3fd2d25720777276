//! The command lines as documents: `docs/cli.md`, man pages and completions are all made from what clap knows.
//!
//! `cargo run --example cli_reference` writes them; a test compares `docs/cli.md`.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

/// Width of the help texts in the document.
const WIDTH: usize = 100;

/// The command that writes `docs/cli.md` anew.
pub const UPDATE: &str = "cargo run --locked --example cli_reference";

/// Both programs.
pub fn programs() -> [Command; 2] {
    [super::check::Arguments::command(), super::run_trainer::Arguments::command()]
}

/// `docs/cli.md`.
pub fn markdown() -> String {
    let mut text = format!(
        "# The command line\n\nMade by `{UPDATE}` from the programs themselves; a test compares. The exit codes are explained in the\n\
         [README](../README.md#when-something-goes-wrong), the variables of `credentials.env` in\n\
         [`credentials.env.example`](../credentials.env.example). On the login node `./run_check …` is `check …`.\n"
    );
    for mut program in programs() {
        // Fills in what clap adds by itself, such as the global options of the subcommands.
        program.build();
        section(&mut text, &program, 2);
    }
    text
}

fn section(text: &mut String, command: &Command, level: usize) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let help = command.clone().term_width(WIDTH).render_long_help().to_string();
    let help: String = help.lines().flat_map(|line| [line.trim_end(), "\n"]).collect();
    // Writing to a String can't fail.
    let _ = write!(text, "\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), help.trim_end());
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        section(text, subcommand, level + 1);
    }
}
