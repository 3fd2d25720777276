//! Rodan's side for a demonstration: its HTTP server.
//!
//! `cargo run --example stand_in_rodan -- serve DIRECTORY` prints what belongs into
//! `credentials.env` and serves `DIRECTORY/page.png` as `/uploads/page.png`, for whoever logs in,
//! until it is stopped. `./demo` uses it; `rodan/send` sends the pages that lie there.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is not one of the programs")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[path = "../../tests/support/rodan.rs"]
mod rodan;

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
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { directory } => serve(directory),
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
