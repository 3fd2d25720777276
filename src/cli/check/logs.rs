//! `check logs`: what a job has printed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use crate::bridge::operator::{FindError, find, logs_of};
use crate::ledger::Store;
use base::exit_code::ExitCode;
use base::text::acts_on_terminal;
use domain::JobId;
use terminal::{Printed, complain, print};

/// The time between two looks for more.
const PAUSE: Duration = Duration::from_millis(500);
/// How much is read at once.
const CHUNK: u64 = 64 * 1024;

/// Print the Slurm logs of a job and of its watcher
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job: its id, the beginning of it, or its correlation id
    #[arg(value_name = "ID")]
    job: String,
    /// Go on until the job is answered
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let store = Store::unopened(&config.site.spool);
    let id = match find(&store, &arguments.job) {
        Ok(seen) => seen.record.job_id,
        Err(error) => return fail(error.exit_code(), &error),
    };
    let mut reader = Reader::default();
    loop {
        // This is looked up before the logs are read, so that everything written until then is
        // shown.
        let answered = match is_answered(&store, &id) {
            Ok(answered) => answered,
            Err(error) => return fail(error.exit_code(), &error),
        };
        let last = answered || !arguments.follow;
        let logs = match logs_of(&config.site.logs, &id) {
            Ok(logs) => logs,
            Err(error) => {
                let why = format!("LOG_DIR {} can't be read: {error}", config.site.logs.display());
                return fail(ExitCode::Spool, &why);
            }
        };
        for log in &logs {
            match reader.read(&log.path, last || logs.len() > 1, last) {
                Ok(Printed::Whole) => {}
                Ok(printed) => return printed.or(ExitCode::Success),
                Err(error) => {
                    return fail(
                        ExitCode::Spool,
                        &format!("{} can't be read: {error}", log.path.display()),
                    );
                }
            }
        }
        if last {
            if logs.is_empty() {
                complain(&format_args!(
                    "check: there is no log of {id} in {}",
                    config.site.logs.display()
                ));
            } else if arguments.follow {
                complain(&format_args!("check: {id} is answered"));
            }
            return ExitCode::Success;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// True once a job is answered, or gone.
fn is_answered(store: &Store, id: &JobId) -> Result<bool, FindError> {
    match store.see(id) {
        Ok(seen) => Ok(seen.is_none_or(|seen| seen.answered)),
        Err(why) => Err(FindError::Unreadable { id: id.clone(), why: why.to_string() }),
    }
}

/// How far each log has been read, and from which one the last text came.
#[derive(Default)]
struct Reader {
    read: HashMap<PathBuf, u64>,
    shown: Option<PathBuf>,
}

impl Reader {
    /// Prints what is new in a log: whole lines, and with `to_the_end` what follows them. What is
    /// not printed whole is the end of it.
    fn read(&mut self, path: &Path, named: bool, to_the_end: bool) -> io::Result<Printed> {
        let mut file = File::open(path)?;
        let start = self.read.entry(path.to_path_buf()).or_default();
        file.seek(SeekFrom::Start(*start))?;
        loop {
            let mut bytes = Vec::new();
            file.by_ref().take(CHUNK).read_to_end(&mut bytes)?;
            let is_full = bytes.len() as u64 == CHUNK;
            let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(newline) => newline + 1,
                // A line that is longer than a chunk is shown in pieces.
                None if is_full || to_the_end => bytes.len(),
                None => 0,
            };
            let show = if to_the_end && !is_full { bytes.len() } else { whole };
            if show == 0 {
                return Ok(Printed::Whole);
            }
            let mut text = String::new();
            if named && self.shown.as_deref() != Some(path) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                text = format!("{}==> {name} <==\n", if self.shown.is_some() { "\n" } else { "" });
            }
            self.shown = Some(path.to_path_buf());
            text.push_str(&shown(&bytes[..show]));
            let printed = print(&text);
            if printed != Printed::Whole {
                return Ok(printed);
            }
            *start += show as u64;
            file.seek(SeekFrom::Start(*start))?;
            if !is_full {
                return Ok(Printed::Whole);
            }
        }
    }
}

/// A log's text, without characters that a terminal could act on.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if acts_on_terminal(c) && !matches!(c, '\n' | '\t') { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_can_not_be_read_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::unopened(dir.path());
        let id = JobId::from_directory("a-job").unwrap();
        assert!(is_answered(&store, &id).unwrap(), "it is gone");
        let record = dir.path().join("jobs/a-job/record.json");
        std::fs::create_dir_all(record.parent().unwrap()).unwrap();
        std::fs::write(&record, "{").unwrap();
        let error = is_answered(&store, &id).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Spool, "{error}");
    }
}
