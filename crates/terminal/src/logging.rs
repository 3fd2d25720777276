//! Where log lines go: standard error, as text or JSON.

use std::io::{self, IsTerminal as _};

use clap::{ArgAction, Args, ValueEnum};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::output::complain;

/// The crates of this product, as their log lines are named.
const OURS: [&str; 11] = [
    "hpc_trainer",
    "base",
    "contract",
    "domain",
    "gateway",
    "kernels",
    "local",
    "page_layers",
    "report",
    "scheduler",
    "terminal",
];

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// How much is said.
#[derive(Clone, Copy, Debug, Args)]
pub struct Verbosity {
    /// Say more; twice: say everything
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet", global = true)]
    pub verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Form of the lines
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", global = true)]
    pub log_format: LogFormat,
}

impl Verbosity {
    /// Starts logging, with `usual` as the level without `-v` and `-q`.
    ///
    /// Only our own lines are shown: libraries may print what they send.
    pub fn start(self, usual: Level) {
        let level = match (self.quiet, self.verbose, usual) {
            (true, ..) => Level::ERROR,
            (_, 0, usual) => usual,
            (_, 1, Level::WARN) => Level::INFO,
            (_, 1, _) | (_, 2, Level::WARN) => Level::DEBUG,
            _ => Level::TRACE,
        };
        let filter = Targets::new().with_targets(OURS.map(|name| (name, level)));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            // A line that can't be written is lost; to say so there would panic.
            .log_internal_errors(false)
            .with_ansi(io::stderr().is_terminal());
        let registry = tracing_subscriber::registry().with(filter);
        let started = match self.log_format {
            LogFormat::Text => registry.with(lines).try_init(),
            LogFormat::Json => registry.with(lines.json()).try_init(),
        };
        if let Err(error) = started {
            complain(&format_args!("logging can't be started: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_lines_of_every_crate_are_shown() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut crates: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace('-', "_"))
            .collect();
        crates.insert("hpc_trainer".to_owned());
        assert_eq!(crates, OURS.map(str::to_owned).into());
    }
}
