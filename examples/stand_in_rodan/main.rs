//! Rodan's side for a demonstration: its HTTP server, and a workflow that sends a page and waits
//! for its models.
//!
//! `cargo run --example stand_in_rodan -- serve DIRECTORY` prints what belongs into
//! `credentials.env` and serves `DIRECTORY/page.png` as `/uploads/page.png`, for whoever logs in,
//! until it is stopped.
//!
//! `… stand_in_rodan -- send PAGE --uploads DIRECTORY --out DIRECTORY` takes a page in a folder, as
//! `run_trainer --local` does, to where the server finds it, publishes the job, and leaves the
//! models of the reply in the other directory. `./demo` uses both.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[path = "../../tests/support/rodan.rs"]
mod rodan;
mod workflow;

/// Rodan's side for a demonstration
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log clients in and give them the files of a directory, until it is stopped
    Serve {
        /// What is served as /uploads
        directory: PathBuf,
    },
    /// Publish a job with a page and wait for the reply
    Send(workflow::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { directory } => serve(directory),
        Command::Send(arguments) => match workflow::run(&arguments) {
            Ok(code) => code.into(),
            Err(error) => {
                eprintln!("stand_in_rodan: {error}");
                error.exit_code().into()
            }
        },
    }
}

fn serve(directory: PathBuf) -> ExitCode {
    if !directory.is_dir() {
        eprintln!("stand_in_rodan: {} is no directory", directory.display());
        return ExitCode::from(2);
    }
    let rodan = rodan::Rodan::with(rodan::Setup { directory: Some(directory), ..rodan::Setup::default() });
    println!("RODAN_HOST={}", rodan.url());
    println!("RODAN_USER={}", rodan.setup().user);
    println!("RODAN_PASSWORD='{}'", rodan.setup().password);
    loop {
        std::thread::park();
    }
}
