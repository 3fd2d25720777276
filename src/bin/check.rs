//! `check`, for the login node's crontab.

use std::process::ExitCode;

use clap::Parser as _;
use hpc_trainer::cli::check;
use hpc_trainer::harden;
use hpc_trainer::wipe::Wiping;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| check::run(&check::Arguments::parse())).into()
}
