//! `check`: one pass on the login node, and the commands of its operator.

mod attach;
mod caller;
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

use self::caller::Caller;
use self::fail::fail;
use crate::bridge::{self, DryRun, JobNews, PassEnd, Stay};
use crate::config::{Config, Sources};
use base::exit_code::ExitCode;
use base::harden;
use base::text::printable_json;
use domain::JobId;
use terminal::{LogFormat, Verbosity};
use terminal::{complain, print, say};

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
RabbitMQ, 5 Rodan, 6 Slurm, 7 spool, 8 a message was no job, 9 a job failed, 10 a reply is not \
delivered yet, 12 stopped; of doctor also 13 something deserves a look, 14 something is broken.\n\
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

/// Makes the commands, in the order in which `--help` lists them: of each, the module (a file in
/// `check/` with `Arguments` and `run`) and the name. A new one is its file, its `mod` line and a
/// line in this list. (`mod` lines made by the macro would hide the files from rustfmt.)
macro_rules! commands {
    ($($(#[$attribute:meta])* $module:ident $name:ident;)*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($(#[$attribute])* $name($module::Arguments),)*
        }

        impl Command {
            async fn run(&self, caller: &Caller<'_>) -> ExitCode {
                match self {
                    $(Self::$name(arguments) => $module::run(arguments, caller).await,)*
                }
            }
        }
    };
}

commands! {
    status Status;
    logs Logs;
    attach Attach;
    shell Shell;
    cancel Cancel;
    retry Retry;
    purge Purge;
    doctor Doctor;
    init Init;
    completions Completions;
    #[command(hide = true)]
    supervise Supervise;
}

/// Runs `check` and returns its exit code.
pub fn run(arguments: &Arguments) -> ExitCode {
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
    let caller = Caller {
        sources: Sources::of_process(arguments.env_file.as_deref()),
        spool: arguments.spool.as_deref(),
        verbosity: arguments.verbosity,
    };
    if let Some(command) = &arguments.command {
        return command.run(&caller).await;
    }
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    for sentence in config.plain_connections() {
        tracing::warn!("{sentence}");
    }
    let mut tell = caller.teller();
    if let Some(seconds) = arguments.stay {
        let stay = Stay { every: Duration::from_secs(seconds), max_jobs: arguments.max_jobs };
        return match bridge::stay(&config, stay, &mut tell).await {
            Ok(()) => ExitCode::Success,
            Err(error) => fail(ExitCode::Internal, &error),
        };
    }
    match arguments.dry_run {
        true => show(arguments, &config).await,
        false => pass(arguments, &config, &mut tell).await,
    }
}

async fn pass(arguments: &Arguments, config: &Config, tell: &mut dyn FnMut(JobNews)) -> ExitCode {
    let verbose = arguments.verbosity.verbose;
    let result = match &arguments.watch {
        Some(id) => match JobId::from_directory(id) {
            Some(id) => bridge::watch(config, &id, tell).await,
            None => {
                return fail(
                    ExitCode::Usage,
                    &format!("--watch: '{id}' is no job's directory in spool/jobs"),
                );
            }
        },
        None => bridge::run(config, arguments.max_jobs, tell).await,
    };
    match result {
        Ok(PassEnd::Busy(who)) => {
            say(&format_args!("check: another check is at work ({who}); nothing done"));
            ExitCode::Success
        }
        Ok(PassEnd::Done(code)) => {
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
