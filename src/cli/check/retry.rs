//! `check retry`: a job that waits is tried again at once.

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use crate::bridge::operator::{self, Retried, find};
use crate::ledger::{Outcome, Store};
use base::exit_code::ExitCode;
use terminal::say;

/// Try a waiting job again now: submit it, or deliver its reply
///
/// For a job that met a passing trouble, once that is mended; the next check would try it too. A
/// job that is with Slurm is left alone, and one that was answered stays answered: each gets one
/// reply.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job: its id, the beginning of it, or its correlation id
    #[arg(value_name = "ID")]
    job: String,
}

pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let id = match find(&Store::unopened(&config.site.spool), &arguments.job) {
        Ok(seen) => seen.record.job_id,
        Err(error) => return fail(error.exit_code(), &error),
    };
    let scheduler = config.site.scheduler;
    let with = |outcome| if outcome == Some(Outcome::Models) { "the models" } else { "an error" };
    let says = match operator::retry(&config, &id, &mut caller.teller()).await {
        Ok(Retried::Submitted(slurm_id)) => {
            format!("is {} now, as job {slurm_id}", scheduler.place())
        }
        Ok(Retried::Answered(outcome)) => {
            say(&format_args!("{id} is answered now, with {}.", with(outcome)));
            let is_done = outcome == Some(Outcome::Models);
            return if is_done { ExitCode::Success } else { ExitCode::Training };
        }
        Ok(Retried::Waits(code, why)) => {
            let why = why.unwrap_or_else(|| {
                format!("{} does not say whether it has the job already", scheduler.subject())
            });
            // Even a trouble that is nobody's fault leaves the job where it was.
            let code = if code == ExitCode::Success { ExitCode::Slurm } else { code };
            return fail(code, &format!("{id} still waits: {why}; the next check tries again"));
        }
        Ok(Retried::InSlurm(slurm_id)) => {
            let sentence = format!(
                "{id} is {} already, as job {slurm_id}: there is nothing to try again; \
                check status {id} shows how it stands, check cancel {id} ends it",
                scheduler.place()
            );
            return fail(ExitCode::Usage, &sentence);
        }
        Ok(Retried::Before(outcome)) => {
            let sentence = format!(
                "{id} was answered before, with {}: each job gets one reply, and Rodan has stopped \
                waiting; run the workflow in Rodan again",
                with(outcome)
            );
            return fail(ExitCode::Usage, &sentence);
        }
        Ok(Retried::Busy(who)) => {
            return fail(
                ExitCode::Spool,
                &format!("another check is at work ({who}); nothing done"),
            );
        }
        Err(error) => return fail(error.exit_code(), &error),
    };
    say(&format_args!("{id} {says}."));
    ExitCode::Success
}
