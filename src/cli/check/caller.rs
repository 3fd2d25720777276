//! Who has called a command: the options that all of them share.

use std::path::Path;

use serde_json::json;

use super::fail::fail;
use crate::bridge::JobNews;
use crate::config::{Config, Sources};
use base::exit_code::ExitCode;
use base::text::printable_json;
use terminal::say;
use terminal::{LogFormat, Verbosity};

/// The options of `check` itself. The configuration is read when a command asks for it, because
/// some work without one.
pub(super) struct Caller<'a> {
    /// Where the configuration comes from.
    pub(super) sources: Sources<'a>,
    /// `--spool`.
    pub(super) spool: Option<&'a Path>,
    /// How much is said.
    pub(super) verbosity: Verbosity,
}

impl Caller<'_> {
    /// The configuration; where it can't be used that is said, and this is the exit code.
    pub(super) fn config(&self) -> Result<Config, ExitCode> {
        Config::load(&self.sources, self.spool).map_err(|error| fail(ExitCode::Config, &error))
    }

    /// Prints what happens to each job.
    pub(super) fn teller(&self) -> impl FnMut(JobNews) + use<> {
        let Verbosity { quiet, log_format, .. } = self.verbosity;
        move |news: JobNews| match log_format {
            LogFormat::Json => say(&printable_json(&json!(news).to_string())),
            LogFormat::Text if !quiet || matches!(news.what, "failed" | "waiting") => {
                say(&format_args!("{}  {:<9}  {}", news.job, news.what, news.detail));
            }
            LogFormat::Text => {}
        }
    }
}
