//! `train_page`, for a page in a folder.

use std::process::ExitCode;

use base::harden;
use base::wipe::Wiping;
use clap::Parser as _;
use local::train_page;

#[global_allocator]
static MEMORY: Wiping = Wiping;

fn main() -> ExitCode {
    harden::guarded(|| train_page::run(train_page::Arguments::parse())).into()
}
