//! `run_trainer`, for the compute node, and for a page in a folder.

use std::process::ExitCode;

use clap::Parser as _;
use hpc_trainer::cli::run_trainer;
use hpc_trainer::harden;
use hpc_trainer::wipe::Wiping;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| run_trainer::run(run_trainer::Arguments::parse())).into()
}
