//! `run_trainer`: a job inside an allocation, or a page in a folder.

use std::path::PathBuf;

use clap::Parser;

use super::evaluate::{self, EvaluateArgs};
use super::gpu;
use super::local::{self, LocalArgs};
use super::logging::Verbosity;
use super::output::{fail, print};
use super::predict::{self, PredictArgs, WindowsOption};
use crate::courier::run_child;
use crate::worker::cores::use_the_cores_of_the_allocation;
use crate::worker::tasks::{TaskArgs, run_task};
use crate::worker::{self, JobArgs};
use base::exit_code::ExitCode;
use base::harden;

/// The version, and what this build can compute on; `check doctor` reads it.
const VERSION: &str = if cfg!(feature = "cuda") {
    concat!(env!("CARGO_PKG_VERSION"), " (CUDA)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (CPU)")
};

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
        conflicts_with_all = ["local", "predict", "evaluate", "check_gpu", "courier"]
    )]
    job_file: Option<PathBuf>,
    /// Queue of the reply [default: the job file's reply_to, else hpc-results]
    #[arg(value_name = "REPLY_QUEUE")]
    reply_queue: Option<String>,
    /// Correlation id of the reply [default: the job file's correlation_id]
    #[arg(value_name = "CORRELATION_ID")]
    correlation_id: Option<String>,
    /// Folder with image.png (or .jpg), background.png, regions.png, layer_0.png …, settings.json;
    /// may be given more than once to learn from several pages, with the first one's settings
    #[arg(long, value_name = "PAGE_DIR", requires = "out")]
    local: Vec<PathBuf>,
    /// Cuts this page (PNG or JPEG) into layers with the models in --models, as Rodan's classifier
    /// does
    #[arg(
        long,
        value_name = "IMAGE",
        requires_all = ["models", "out"],
        conflicts_with = "local",
        group = "cutting"
    )]
    predict: Option<PathBuf>,
    /// Cuts the page in this folder, laid out as for --local, with the models in --models, and
    /// compares the layers with the drawn ones: precision, recall and F1, what was taken for what,
    /// and errors.png in --out
    #[arg(
        long,
        value_name = "PAGE_DIR",
        requires_all = ["models", "out"],
        conflicts_with = "local",
        group = "cutting"
    )]
    evaluate: Option<PathBuf>,
    /// Prints the figures of --evaluate as JSON
    #[arg(long, requires = "evaluate")]
    json: bool,
    /// Through which windows the models look at the page
    #[arg(long, value_name = "KIND", value_enum, default_value_t, requires = "cutting")]
    windows: WindowsOption,
    /// Compares what the GPU computes with the CPU, measures a training step in each precision, and
    /// prints a table
    #[arg(long, conflicts_with_all = ["local", "predict", "evaluate", "out"])]
    check_gpu: bool,
    /// Publishes what a training tells meanwhile; started by run_trainer itself
    #[arg(
        long,
        hide = true,
        conflicts_with_all = ["local", "predict", "evaluate", "check_gpu", "out"]
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
    /// Folder with models, such as an earlier --out: to predict with, or to go on training from
    #[arg(long, value_name = "DIR", requires = "out")]
    models: Option<PathBuf>,
    /// Folder for the models, preview.png, training.json and report.html, or for the layers; made
    /// when it is not there
    #[arg(long, value_name = "DIR", conflicts_with = "job_file")]
    out: Option<PathBuf>,
    /// A setting that wins over settings.json, such as "Patch height=64"; may be given more than
    /// once
    #[arg(long, value_name = "NAME=VALUE", requires = "out", long_help = set_help())]
    set: Vec<String>,
    /// Writes the curves of the training to event files for TensorBoard, a directory a layer
    #[arg(long, value_name = "DIR", requires = "local")]
    tensorboard: Option<PathBuf>,
    /// Keeps a checkpoint in this folder, where Ctrl-C or SIGTERM then leaves one instead of the
    /// best epoch so far; the same command goes on from it
    #[arg(long, value_name = "DIR", requires = "local")]
    checkpoints: Option<PathBuf>,
    /// Writes to this file how far the training is, a JSON object a line
    #[arg(long, value_name = "FILE", requires = "local")]
    progress: Option<PathBuf>,
    /// Waits for a debugger before the first step, and says how to attach one; SIGUSR2 lets it go
    /// on without. In a job of check: HPC_TRAINER_DEBUG_WAIT=1 in site.sh
    #[arg(
        long,
        conflicts_with_all = ["predict", "evaluate", "check_gpu", "courier", "quiet"]
    )]
    debug_wait: bool,
    /// Stops when standard input ends; for programs that start run_trainer
    #[arg(long, hide = true, requires = "out")]
    attached: bool,
    /// Configuration file [default: credentials.env in $HPC_TRAINER_HOME, else here]
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    env_file: Option<PathBuf>,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// What `--set` may name.
fn set_help() -> String {
    format!(
        "A setting that wins over settings.json, such as \"Patch height=64\"; may be given more \
        than once:\n{}",
        domain::settings::help().trim_end()
    )
}

/// Runs `run_trainer` and returns its exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    arguments.verbosity.start(tracing::Level::INFO);
    harden::process();
    let quiet = arguments.verbosity.quiet;
    let asked = std::env::var_os("HPC_TRAINER_DEBUG_WAIT").is_some_and(|value| value == "1");
    let debug_wait = arguments.debug_wait || asked;
    if arguments.courier {
        return run_child(arguments.env_file.as_deref());
    }
    if arguments.check_gpu {
        return gpu::run();
    }
    if let Some(out) = arguments.out {
        use_the_cores_of_the_allocation();
        let Arguments { local: pages, predict, evaluate, models, set, .. } = arguments;
        let Arguments { tensorboard, windows, json, checkpoints, progress, attached, .. } =
            arguments;
        let result = match (predict, evaluate, models) {
            (Some(image), _, Some(models)) => {
                predict::run(&PredictArgs { image, models, out, set, windows, attached })
                    .map_err(|error| (error.exit_code(), error.to_string()))
            }
            (_, Some(page), Some(models)) => {
                evaluate::run(&EvaluateArgs { page, models, out, set, windows, json })
                    .map_err(|error| (error.exit_code(), error.to_string()))
            }
            (_, _, models) => local::run(&LocalArgs {
                pages,
                models,
                out,
                set,
                tensorboard,
                checkpoints,
                progress,
                attached,
                quiet,
                debug_wait,
            })
            .map_err(|error| (error.exit_code(), error.to_string())),
        };
        return match result {
            Ok(table) => {
                // Whoever asks for JSON has nothing else. In the other cases files are written, and
                // the table says little more than they do.
                let printed = print(&table);
                if json { printed.or(ExitCode::Success) } else { ExitCode::Success }
            }
            Err((code, error)) => fail("run_trainer", code, &error),
        };
    }
    // clap requires a job file if there is no --local.
    let Some(job_file) = arguments.job_file else { return ExitCode::Usage };
    if let Some(task) = arguments.task {
        return run_task(&TaskArgs { job_file, task, quiet, debug_wait });
    }
    let Arguments { reply_queue, correlation_id, env_file, .. } = arguments;
    worker::run(&JobArgs { job_file, reply_queue, correlation_id, env_file, quiet, debug_wait })
}
