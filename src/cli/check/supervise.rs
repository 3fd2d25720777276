//! `check supervise`: the process that looks after one job of this host. Nobody types it: a pass
//! starts it for each job (`scheduler::local`).

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use base::exit_code::ExitCode;
use scheduler::local::{Directory, Supervised, begin, supervise};

/// Look after one job of this host; started by check itself
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Its directory in SPOOL_DIR/local
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// At most this many jobs run at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: u32,
    /// Have a job that failed answered at once
    #[arg(long)]
    answer: bool,
    /// Become the job, as a child of this process
    #[arg(long, value_name = "PID", conflicts_with_all = ["jobs", "answer"])]
    begin: Option<i32>,
}

pub(super) async fn run(arguments: &Arguments, _: &Caller<'_>) -> ExitCode {
    let directory = Directory::new(&arguments.directory);
    if let Some(supervisor) = arguments.begin {
        return fail(ExitCode::Internal, &begin(&directory, supervisor));
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(ExitCode::Internal, &error),
    };
    match supervise(&directory, arguments.jobs, &program).await {
        Ok(Supervised::Failed(name)) if arguments.answer => answer(&program, &name),
        Ok(Supervised::Failed(_) | Supervised::Done) => ExitCode::Success,
        Ok(Supervised::Stopped) => ExitCode::Stopped,
        Err(error) => fail(ExitCode::Spool, &error),
    }
}

/// Becomes `check --watch`, which answers a job that has failed. This is what the watcher is on a
/// cluster; here the process that looked after the job is still there to do it. Should it be killed
/// before that, the next pass answers.
fn answer(program: &Path, name: &str) -> ExitCode {
    // The job of `check doctor --on-node` is named hpcd-…; nobody waits for its answer.
    let Some(id) = name.strip_prefix("hpct-") else { return ExitCode::Success };
    fail(ExitCode::Internal, &Command::new(program).args(["--watch", id]).exec())
}
