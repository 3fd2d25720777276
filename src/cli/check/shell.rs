//! `check shell`: a shell where a job runs.

use std::ffi::OsString;
use std::io::{IsTerminal as _, stdin};
use std::os::unix::process::CommandExt as _;

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use crate::bridge::operator::find;
use crate::ledger::Store;
use base::exit_code::ExitCode;
use scheduler::kinds_of_job;

/// Open a shell where a job runs, or run a command there
///
/// On a cluster this is a step of the job (srun --overlap), which ends with it. On a host without
/// Slurm it is a shell with the job's variables, and not a part of the job.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job: its id, the beginning of it, or its correlation id
    #[arg(value_name = "ID")]
    job: String,
    /// What to run there instead of a shell, such as nvidia-smi
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the shell. Returns only when that fails.
pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let seen = match find(&Store::unopened(&config.site.spool), &arguments.job) {
        Ok(seen) => seen,
        Err(error) => return fail(error.exit_code(), &error),
    };
    let id = &seen.record.job_id;
    let words = match arguments.command.is_empty() {
        true => vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())],
        false => arguments.command.clone(),
    };
    let slurm_id = seen.record.slurm_id.filter(|_| !seen.answered);
    let scheduler = kinds_of_job::scheduler(&config.site);
    let inside = |slurm_id| scheduler.inside(slurm_id, &words, stdin().is_terminal());
    let command = match slurm_id.map(inside).transpose() {
        Ok(command) => command.flatten(),
        Err(error) => return fail(ExitCode::Slurm, &error),
    };
    let Some(mut command) = command else {
        let why = format!("{id} does not run; check status {id} shows how it stands");
        return fail(ExitCode::Usage, &why);
    };
    // A shell needs to know its terminal.
    command.envs(std::env::var_os("TERM").map(|term| ("TERM", term)));
    let error = command.exec();
    let program = command.get_program().to_string_lossy().into_owned();
    fail(ExitCode::Slurm, &format!("{program} can't be run: {error}"))
}
