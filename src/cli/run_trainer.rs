//! `run_trainer`: a job inside an allocation, or a page in a folder.

use std::path::PathBuf;

use clap::Parser;

use crate::courier::run_child;
use crate::worker::tasks::{TaskArgs, run_task};
use crate::worker::{self, JobArgs};
use base::exit_code::ExitCode;
use base::harden;
use local::{Options, VERSION};
use terminal::Verbosity;

/// Trains one network for each layer of a manuscript page
///
/// As a job: reads JOB_FILE, downloads the page from Rodan, and publishes the models to the reply
/// queue. With --local: takes the page from a folder and leaves the models in another, without
/// broker, Slurm, Rodan or GPU. With --predict: cuts a page into layers with such models. With
/// --evaluate: compares such layers with drawn ones.
#[derive(Debug, Parser)]
#[command(
    name = "run_trainer",
    version = VERSION,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 the models are delivered (or written), 1 internal fault, 2 command line, 3 \
configuration, 5 Rodan, 8 the job file is no job, 9 training failed, 10 the reply is not delivered \
yet, 11 an input can't be used, 12 stopped before there was a result. A job gets its one reply \
whatever the code: the next check sends what the trainer could not. After 12 Slurm may start the \
job again instead."
)]
pub struct Arguments {
    /// The job file: JSON with inputs, settings and token
    #[arg(
        value_name = "JOB_FILE",
        required_unless_present_any = ["local", "predict", "evaluate", "check_gpu", "courier"],
        conflicts_with_all = ["local", "predict", "evaluate", "check_gpu", "courier", "out"]
    )]
    job_file: Option<PathBuf>,
    /// Queue of the reply [default: the job file's reply_to, else hpc-results]
    #[arg(value_name = "REPLY_QUEUE")]
    reply_queue: Option<String>,
    /// Correlation id of the reply [default: the job file's correlation_id]
    #[arg(value_name = "CORRELATION_ID")]
    correlation_id: Option<String>,
    /// Publishes what a training tells meanwhile; started by run_trainer itself
    #[arg(
        long,
        hide = true,
        conflicts_with_all = ["local", "predict", "evaluate", "check_gpu", "out", "debug_wait"]
    )]
    courier: bool,
    /// The number of one of several tasks of a job; started by run_trainer itself
    #[arg(
        long,
        hide = true,
        value_name = "NUMBER",
        requires = "job_file",
        conflicts_with_all = ["reply_queue", "env_file"]
    )]
    task: Option<u32>,
    #[command(flatten)]
    options: Options,
    /// Configuration file [default: credentials.env in $HPC_TRAINER_HOME, else here]
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    env_file: Option<PathBuf>,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// Runs `run_trainer` and returns its exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    arguments.verbosity.start(tracing::Level::INFO);
    harden::process();
    let quiet = arguments.verbosity.quiet;
    if arguments.courier {
        return run_child(arguments.env_file.as_deref());
    }
    let debug_wait = arguments.options.debug_wait();
    if let Some(code) = arguments.options.run("run_trainer", quiet) {
        return code;
    }
    // clap requires a job file where nothing else is asked for.
    let Some(job_file) = arguments.job_file else { return ExitCode::Usage };
    if let Some(task) = arguments.task {
        return run_task(&TaskArgs { job_file, task, quiet, debug_wait });
    }
    let Arguments { reply_queue, correlation_id, env_file, .. } = arguments;
    worker::run(&JobArgs { job_file, reply_queue, correlation_id, env_file, quiet, debug_wait })
}
