//! `check cancel`: the operator ends a job.

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use crate::bridge::operator::{self, Cancelled, find};
use crate::ledger::{Outcome, Store};
use base::exit_code::ExitCode;
use terminal::say;

/// End a job and answer it with an error reply
///
/// Waits up to half a minute for Slurm to end it; else the next check answers.
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
    let (code, says) = match operator::cancel(&config, &id, &mut caller.teller()).await {
        Ok(Cancelled::Answered(Some(Outcome::Models))) => (
            ExitCode::Success,
            "was done before it could be cancelled; the models are sent".to_owned(),
        ),
        Ok(Cancelled::Answered(_)) => {
            (ExitCode::Success, "is over and answered with an error".to_owned())
        }
        Ok(Cancelled::Before(outcome)) => {
            let with = if outcome == Some(Outcome::Models) { "the models" } else { "an error" };
            (
                ExitCode::Success,
                format!("was answered before, with {with}; nothing is left to cancel"),
            )
        }
        Ok(Cancelled::Ending) => (
            ExitCode::Success,
            "is cancelled and still ending; the next check answers it".to_owned(),
        ),
        Ok(Cancelled::Later(code)) => {
            let why = format!(
                "{id} is marked as cancelled, but not answered yet; the next check carries on"
            );
            return fail(code, &why);
        }
        Ok(Cancelled::Busy(who)) => {
            return fail(
                ExitCode::Spool,
                &format!("another check is at work ({who}); nothing done"),
            );
        }
        Err(error) => return fail(error.exit_code(), &error),
    };
    say(&format_args!("{id} {says}."));
    code
}
