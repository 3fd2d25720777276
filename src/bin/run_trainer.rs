//! Trains the models of one page: `run_trainer --local PAGE_DIR --out DIR`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hpc_trainer::cli::local::{self, LocalArgs};
use tracing_subscriber::filter::LevelFilter;

/// Trains one network for each layer of a page.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with image.png (or .jpg), background.png, regions.png, layer_0.png …, settings.json.
    #[arg(long, value_name = "PAGE_DIR")]
    local: PathBuf,
    /// Folder for the models, preview.png and training.json; made when it is not there.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A setting that wins over settings.json, such as "Patch height=64"; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Says more.
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Says nothing but errors and the table.
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let level = match (arguments.verbose, arguments.quiet) {
        (true, _) => LevelFilter::DEBUG,
        (_, true) => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let (page, out, set, quiet) = (arguments.local, arguments.out, arguments.set, arguments.quiet);
    match local::run(&LocalArgs { page, out, set, quiet }) {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code().into()
        }
    }
}
