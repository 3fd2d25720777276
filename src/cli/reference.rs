//! The files that are made from the programs: `docs/cli.md` from what clap knows (as are the man
//! pages and the completions), `docs/exit-codes.md` from [`ExitCode`], `docs/settings.md` from the
//! table of settings, `docs/variables.md` and `credentials.env.example` from the table of
//! variables, `docs/openapi.json` from the gateway's handlers.
//!
//! `cargo run --example reference` writes them; a test compares them with the files.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use crate::config;
pub use crate::config::UPDATE;
use base::exit_code::ExitCode;
use domain::settings;

/// Width of the help texts in the document.
const WIDTH: usize = 100;

/// The programs.
pub fn programs() -> Vec<Command> {
    vec![
        super::check::Arguments::command(),
        super::run_trainer::Arguments::command(),
        #[cfg(feature = "gateway")]
        super::gateway::Arguments::command(),
    ]
}

/// Every file that is made from the programs: its path from the repository's root, and its text.
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("docs/cli.md", command_line()),
        ("docs/exit-codes.md", exit_codes()),
        ("docs/settings.md", settings::markdown(UPDATE)),
        ("docs/variables.md", config::markdown()),
        ("credentials.env.example", config::example()),
        #[cfg(feature = "gateway")]
        ("docs/openapi.json", gateway::openapi()),
    ]
}

/// The sentence below the title of a page.
fn made() -> String {
    format!("Made by `{UPDATE}` from the programs themselves; a test compares.")
}

/// `docs/cli.md`.
fn command_line() -> String {
    let mut text = format!(
        "# Commands\n\n{}\n\nOn the login node `./run_check …` is `check …`. The exit codes are \
         explained in\n[Exit codes](exit-codes.md), the variables of `credentials.env` in \
         [Variables](variables.md).\n",
        made()
    );
    for mut program in programs() {
        // Fills in what clap adds by itself, such as the global options of the subcommands.
        program.build();
        section(&mut text, &program, 2);
    }
    text
}

/// `docs/exit-codes.md`.
fn exit_codes() -> String {
    let mut text = format!(
        "# Exit codes\n\n{}\n\n\
         `check`, `run_trainer` and `gateway` say what happened and what to do about it, and end\n\
         with one of these codes. The codes never change their meaning. Whatever the code, a job\n\
         that `check` took is in the spool until it is answered.\n\n\
         | code | meaning | what to do |\n|---|---|---|\n",
        made()
    );
    for code in ExitCode::ALL {
        // Writing to a String can't fail.
        let _ = writeln!(text, "| {} | {} | {} |", code as u8, code.meaning(), code.advice());
    }
    text.push_str(
        "\n127: `run_check` or `hpc_training.sh` has not found its program, or the container of\n\
         `HPC_TRAINER_IMAGE`.\n",
    );
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
