//! `check`, for the login node's crontab.

use std::process::ExitCode;

use base::harden;
use base::wipe::Wiping;
use clap::Parser as _;
use hpc_trainer::cli::check;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| check::run(&check::Arguments::parse())).into()
}
