//! `run_trainer`, for the compute node, and for a page in a folder.

use std::process::ExitCode;

use base::harden;
use base::wipe::Wiping;
use clap::Parser as _;
use hpc_trainer::cli::run_trainer;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| run_trainer::run(run_trainer::Arguments::parse())).into()
}
