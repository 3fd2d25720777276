//! `run_trainer`, for the compute node, and for a page in a folder.

use std::process::ExitCode;

use clap::Parser as _;
use hpc_trainer::cli::run_trainer;

fn main() -> ExitCode {
    run_trainer::run(run_trainer::Arguments::parse()).into()
}
