//! `gateway`, the front door for browsers and programs.

use std::process::ExitCode;

use base::harden;
use base::wipe::Wiping;
use clap::Parser as _;
use hpc_trainer::cli::gateway;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| gateway::run(&gateway::Arguments::parse())).into()
}
