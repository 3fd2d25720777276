//! `check doctor`: every link, tried out one by one.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::caller::Caller;
use super::doctor_table::render;
use super::fail::fail;
use crate::config::Examined;
use crate::doctor::{self, Download, Ended, Grade, NodeCheck, Options};
use base::exit_code::ExitCode;
use terminal::{complain, print};

/// Try every link out and say what to do about each that fails
///
/// Configuration, spool, RabbitMQ, Rodan, Slurm, trainer, cron. Changes nothing. Exit code 0: all
/// is well; 13: something deserves a look; 14: something keeps jobs from getting through.
#[derive(Debug, Default, Args)]
pub(super) struct Arguments {
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
    /// Also look from a compute node: submits a job of minutes with the site's options and waits
    /// for it
    #[arg(long)]
    on_node: bool,
    /// How long --on-node waits for its job, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "on_node")]
    wait: u64,
    /// A file to fetch from Rodan with the token [default: the page of the last job]
    #[arg(long, value_name = "PATH")]
    download: Option<String>,
    /// Fetch no file from Rodan
    #[arg(long, conflicts_with = "download")]
    no_download: bool,
    /// On a compute node: write what is seen into this directory
    #[arg(
        long,
        value_name = "DIR",
        hide = true,
        conflicts_with_all = ["json", "on_node", "download", "no_download"]
    )]
    as_node: Option<PathBuf>,
}

/// Works with an incomplete configuration: what is wrong with it is among the rows.
pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let found = Examined::new(&caller.sources, caller.spool);
    if let Some(directory) = &arguments.as_node {
        return match doctor::write_rows(&found, directory).await {
            Ok(()) => ExitCode::Success,
            Err(error) => {
                fail(ExitCode::Spool, &format!("{} can't be written: {error}", directory.display()))
            }
        };
    }
    let download = match &arguments.download {
        Some(location) => Download::This(location.clone()),
        None if arguments.no_download => Download::Nothing,
        None => Download::LastPage,
    };
    let on_node =
        arguments.on_node.then(|| NodeCheck { wait: Duration::from_secs(arguments.wait) });
    let mut tell = |text: &str| {
        if !caller.verbosity.quiet {
            complain(&format_args!("check: {text}"));
        }
    };
    let has_job = on_node.is_some();
    let options = Options { download, on_node };
    let (report, ended) = match stop(has_job) {
        Ok(stop) => doctor::doctor(&found, options, &mut tell, stop).await,
        Err(error) => return fail(ExitCode::Internal, &error),
    };
    let text = if arguments.json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => text + "\n",
            Err(error) => return fail(ExitCode::Internal, &error),
        }
    } else {
        render(&report)
    };
    let code = match (ended, report.verdict) {
        (Some(Ended::Stopped), _) => ExitCode::Stopped,
        (_, Grade::Fail) => ExitCode::Unsound,
        (_, Grade::Warn) => ExitCode::Doubtful,
        _ => ExitCode::Success,
    };
    print(&text).or(code)
}

/// Resolves when somebody wants the program to stop and there is a job to clear away first;
/// otherwise a signal ends it at once.
fn stop(has_job: bool) -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = match has_job {
        true => Some((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)),
        false => None,
    };
    Ok(async move {
        match signals {
            Some((mut interrupt, mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            None => std::future::pending().await,
        }
    })
}
