//! `check`, for the login node's crontab.

use std::process::ExitCode;

use clap::Parser as _;
use hpc_trainer::cli::check;

fn main() -> ExitCode {
    check::run(&check::Arguments::parse()).into()
}
