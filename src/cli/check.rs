//! `check`: one pass on the login node, and the commands of its operator.

mod attach;
mod cancel;
mod completions;
mod crontab;
mod details;
mod doctor;
mod doctor_table;
mod fail;
mod init;
mod logs;
mod purge;
mod retry;
mod shell;
mod status;
mod supervise;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::json;

use self::fail::fail;
use super::logging::{LogFormat, Verbosity};
use super::output::{complain, print, say};
use crate::bridge::{self, DryRun, Happening, Outcome, Stay};
use crate::config::{Config, Examined, Sources};
use base::exit_code::ExitCode;
use base::harden;
use base::text::printable_json;
use domain::JobId;

/// Takes training jobs from RabbitMQ, submits them to Slurm, and answers the ones that failed
///
/// Meant for cron: one pass, then the end. Nothing to do: exit code 0 in silence. The commands are
/// for its operator.
#[derive(Debug, Parser)]
#[command(
    name = "check",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "\
Exit codes: 0 done or nothing to do, 1 internal fault, 2 command line, 3 configuration, 4 \
RabbitMQ, \
5 Rodan, 6 Slurm, 7 spool, 8 a message was no job, 9 a job failed, 10 a reply is not delivered \
yet, \
12 stopped; of doctor also 13 something deserves a look, 14 something is broken.\n\
Whatever went wrong, nothing is lost: the next pass carries on."
)]
pub struct Arguments {
    /// Configuration file [default: credentials.env in $HPC_TRAINER_HOME, else here]
    #[arg(long, value_name = "FILE", global = true)]
    env_file: Option<PathBuf>,
    /// Directory of the job records, on the shared filesystem [default: $SPOOL_DIR]
    #[arg(long, value_name = "DIR", global = true)]
    spool: Option<PathBuf>,
    /// Take at most this many new jobs; 0 looks after the open ones only
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_jobs: u32,
    /// Stay, and pass whenever a message comes, or after so many seconds without one; for
    /// packaging/hpc-trainer-check.service
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "60",
        value_parser = clap::value_parser!(u64).range(1..=86_400),
        conflicts_with_all = ["dry_run", "watch"]
    )]
    stay: Option<u64>,
    /// Look at this one job until it is answered; for the watcher, slurm/handle_failure.sh
    #[arg(long, value_name = "ID", conflicts_with_all = ["dry_run", "max_jobs"])]
    watch: Option<String>,
    /// Show the next job, its job file and the sbatch command; take nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Logs(logs::Arguments),
    Attach(attach::Arguments),
    Shell(shell::Arguments),
    Cancel(cancel::Arguments),
    Retry(retry::Arguments),
    Purge(purge::Arguments),
    Doctor(doctor::Arguments),
    Init(init::Arguments),
    Completions(completions::Arguments),
    #[command(hide = true)]
    Supervise(supervise::Arguments),
}

/// Runs `check` and returns its exit code.
pub fn run(arguments: &Arguments) -> ExitCode {
    if let Some(Command::Completions(completions)) = &arguments.command {
        return completions::run(completions);
    }
    arguments.verbosity.start(tracing::Level::WARN);
    harden::process();
    harden::files();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(ExitCode::Internal, &error),
    };
    let code = runtime.block_on(command(arguments));
    // Nothing that is still open is worth waiting for.
    runtime.shutdown_background();
    code
}

async fn command(arguments: &Arguments) -> ExitCode {
    let sources = Sources::of_process(arguments.env_file.as_deref());
    let spool = arguments.spool.as_deref();
    // Commands that work with an incomplete configuration.
    if let Some(Command::Doctor(doctor)) = &arguments.command {
        return doctor::run(doctor, &Examined::new(&sources, spool), arguments.verbosity.quiet)
            .await;
    }
    if let Some(Command::Supervise(supervise)) = &arguments.command {
        return supervise::run(supervise).await;
    }
    if let Some(Command::Init(init)) = &arguments.command {
        return init::run(init, &sources, arguments.verbosity.quiet).await;
    }
    let config = match Config::load(&sources, spool) {
        Ok(config) => config,
        Err(error) => return fail(ExitCode::Config, &error),
    };
    if arguments.command.is_none() {
        for sentence in config.plain_connections() {
            tracing::warn!("{sentence}");
        }
    }
    match &arguments.command {
        Some(Command::Status(status)) => status::run(status, &config).await,
        Some(Command::Logs(logs)) => logs::run(logs, &config).await,
        Some(Command::Attach(attach)) => attach::run(attach, &config).await,
        Some(Command::Shell(shell)) => shell::run(shell, &config),
        Some(Command::Cancel(cancel)) => cancel::run(cancel, &config, &mut teller(arguments)).await,
        Some(Command::Retry(retry)) => retry::run(retry, &config, &mut teller(arguments)).await,
        Some(Command::Purge(purge)) => purge::run(purge, &config).await,
        // have returned above
        Some(
            Command::Doctor(_) | Command::Init(_) | Command::Completions(_) | Command::Supervise(_),
        ) => ExitCode::Internal,
        None if arguments.stay.is_some() => {
            let every = Duration::from_secs(arguments.stay.unwrap_or(60));
            let stay = Stay { every, max_jobs: arguments.max_jobs };
            match bridge::stay(&config, stay, &mut teller(arguments)).await {
                Ok(()) => ExitCode::Success,
                Err(error) => fail(ExitCode::Internal, &error),
            }
        }
        None if arguments.dry_run => show(arguments, &config).await,
        None => pass(arguments, &config).await,
    }
}

/// Prints what happens to each job.
fn teller(arguments: &Arguments) -> impl FnMut(Happening) + use<> {
    let Verbosity { quiet, log_format, .. } = arguments.verbosity;
    move |h: Happening| match log_format {
        LogFormat::Json => say(&printable_json(&json!(h).to_string())),
        LogFormat::Text if !quiet || matches!(h.what, "failed" | "waiting") => {
            say(&format_args!("{}  {:<9}  {}", h.job, h.what, h.detail));
        }
        LogFormat::Text => {}
    }
}

async fn pass(arguments: &Arguments, config: &Config) -> ExitCode {
    let verbose = arguments.verbosity.verbose;
    let mut tell = teller(arguments);
    let result = match &arguments.watch {
        Some(id) => match JobId::from_directory(id) {
            Some(id) => bridge::watch(config, &id, &mut tell).await,
            None => {
                return fail(
                    ExitCode::Usage,
                    &format!("--watch: '{id}' is no job's directory in spool/jobs"),
                );
            }
        },
        None => bridge::run(config, arguments.max_jobs, &mut tell).await,
    };
    match result {
        Ok(Outcome::Busy(who)) => {
            say(&format_args!("check: another check is at work ({who}); nothing done"));
            ExitCode::Success
        }
        Ok(Outcome::Done(code)) => {
            if verbose > 0 && code == ExitCode::Success {
                complain(&"check: done");
            }
            code
        }
        Err(error) => fail(error.exit_code(), &error),
    }
}

async fn show(arguments: &Arguments, config: &Config) -> ExitCode {
    let json = arguments.verbosity.log_format == LogFormat::Json;
    let (code, text) = match bridge::dry_run(config).await {
        Ok(DryRun::Nothing) if json => (ExitCode::Success, json!({"next": null}).to_string()),
        Ok(DryRun::Nothing) => (ExitCode::Success, "There is no job in the queue.".to_owned()),
        Ok(DryRun::Rejected { sentence }) => {
            let text = match json {
                true => json!({"next": "rejected", "error": sentence}).to_string(),
                false => format!("The next message is no job. The reply would say:\n  {sentence}"),
            };
            (ExitCode::Rejected, text)
        }
        Ok(DryRun::Job { properties, job_file, command }) if json => {
            let job = json!({
                "next": "job", "properties": properties, "job_file": job_file, "command": command
            });
            (ExitCode::Success, printable_json(&job.to_string()))
        }
        Ok(DryRun::Job { properties, job_file, command }) => {
            let text = format!(
                "The next job ({properties}) stays in the queue.\nJob \
                file:\n  {job_file}\nCommand:\n  {command}"
            );
            (ExitCode::Success, text)
        }
        Err(error) => return fail(error.exit_code(), &error),
    };
    print(&(text + "\n")).or(code)
}
