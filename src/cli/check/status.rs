//! `check status`: what became of the jobs.

use clap::Args;
use jiff::Timestamp;

use super::caller::Caller;
use super::fail::fail;
use super::{details, table};
use crate::bridge::operator;
use base::exit_code::ExitCode;
use base::text::printable_json;
use terminal::print;

/// Show the open jobs, or everything about one
///
/// Takes no lock and changes nothing.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job: its id, the beginning of it, or its correlation id
    #[arg(value_name = "ID")]
    job: Option<String>,
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
    /// Show the answered jobs in spool/done as well
    #[arg(long, conflicts_with = "job")]
    all: bool,
}

pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let now = Timestamp::now();
    let text = if let Some(job) = &arguments.job {
        match operator::details(&config, job).await {
            Ok(found) if arguments.json => as_json(&found),
            Ok(found) => Ok(details::render(&found, now)),
            Err(error) => return fail(error.exit_code(), &error),
        }
    } else {
        match operator::status(&config, arguments.all).await {
            Ok(found) if arguments.json => as_json(&found),
            Ok(found) => Ok(table::render(&found, now)),
            Err(error) => return fail(ExitCode::Spool, &error),
        }
    };
    match text {
        Ok(text) => print(&text).or(ExitCode::Success),
        Err(error) => fail(ExitCode::Internal, &error),
    }
}

fn as_json(found: &impl serde::Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(found).map(|text| printable_json(&text) + "\n")
}
