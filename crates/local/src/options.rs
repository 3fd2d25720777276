//! The options for pages in folders, and what each of them starts.

use std::path::PathBuf;

use clap::Args;

use crate::check_gpu;
use crate::cores::use_the_cores_of_the_allocation;
use crate::evaluate::{self, EvaluateArgs};
use crate::predict::{self, PredictArgs, WindowsOption};
use crate::train::{self, LocalArgs};
use base::exit_code::ExitCode;
use terminal::{fail, print};

/// The version, and what this build can compute on; `check doctor` reads it.
pub const VERSION: &str = if cfg!(feature = "cuda") {
    concat!(env!("CARGO_PKG_VERSION"), " (CUDA)")
} else {
    concat!(env!("CARGO_PKG_VERSION"), " (CPU)")
};

/// The options that `run_trainer` and `train_page` share.
#[derive(Debug, Args)]
pub struct Options {
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
    /// Folder with models, such as an earlier --out: to predict with, or to go on training from
    #[arg(long, value_name = "DIR", requires = "out")]
    models: Option<PathBuf>,
    /// Folder for the models, preview.png, training.json and report.html, or for the layers; made
    /// when it is not there
    #[arg(long, value_name = "DIR")]
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
    #[arg(long, conflicts_with_all = ["predict", "evaluate", "check_gpu", "quiet"])]
    debug_wait: bool,
    /// Stops when standard input ends; for programs that start run_trainer
    #[arg(long, hide = true, requires = "out")]
    attached: bool,
}

/// What `--set` may name.
fn set_help() -> String {
    format!(
        "A setting that wins over settings.json, such as \"Patch height=64\"; may be given more \
        than once:\n{}",
        domain::settings::help().trim_end()
    )
}

impl Options {
    /// Whether the training waits for a debugger before its first step: by the option, or by
    /// `HPC_TRAINER_DEBUG_WAIT=1`.
    pub fn debug_wait(&self) -> bool {
        let asked = std::env::var_os("HPC_TRAINER_DEBUG_WAIT").is_some_and(|value| value == "1");
        self.debug_wait || asked
    }

    /// Does what is asked for and prints the result; `None` when these options ask for nothing.
    /// `program` is the name of the program in its messages; `quiet` leaves out the progress bar.
    pub fn run(self, program: &'static str, quiet: bool) -> Option<ExitCode> {
        if self.check_gpu {
            return Some(check_gpu::run(program));
        }
        let debug_wait = self.debug_wait();
        let Self { local: pages, predict, evaluate, json, windows, models, out, set, .. } = self;
        let Self { tensorboard, checkpoints, progress, attached, .. } = self;
        let out = out?;
        use_the_cores_of_the_allocation();
        let result = match (predict, evaluate, models) {
            (Some(image), _, Some(models)) => {
                predict::run(&PredictArgs { image, models, out, set, windows, attached })
                    .map_err(|error| (error.exit_code(), error.to_string()))
            }
            (_, Some(page), Some(models)) => {
                evaluate::run(&EvaluateArgs { program, page, models, out, set, windows, json })
                    .map_err(|error| (error.exit_code(), error.to_string()))
            }
            (_, _, models) => train::run(&LocalArgs {
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
        Some(match result {
            Ok(table) => {
                // Whoever asks for JSON has nothing else. In the other cases files are written, and
                // the table says little more than they do.
                let printed = print(&table);
                if json { printed.or(ExitCode::Success) } else { ExitCode::Success }
            }
            Err((code, error)) => fail(program, code, &error),
        })
    }
}
