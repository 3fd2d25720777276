//! `check attach`: how far a training is, as it goes on.

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use super::table;
use crate::bridge::operator::{FindError, find};
use crate::ledger::{Progress, Store};
use base::exit_code::ExitCode;
use domain::Standing;
use terminal::{Printed, complain, print};

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Places of the bar.
const WIDTH: usize = 20;

/// Watch how far a training is, until its job is answered
///
/// On a terminal one line that changes, else a line for each epoch. Ctrl-C ends the look, not the
/// job.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The job: its id, the beginning of it, or its correlation id
    #[arg(value_name = "ID")]
    job: String,
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
    let is_terminal = stdout().is_terminal();
    let mut told = String::new();
    loop {
        // A job that is being filed away may be seen open once more.
        let seen = match store.see(&id) {
            Ok(seen) => seen.filter(|seen| !seen.answered),
            Err(why) => {
                let error = FindError::Unreadable { id, why: why.to_string() };
                return fail(error.exit_code(), &error);
            }
        };
        let note = seen.as_ref().and_then(|seen| Progress::read(&seen.files.progress()));
        let standing = note.map(|note| note.standing);
        let line = standing.as_ref().map_or_else(
            || "nothing is known of its training yet".to_owned(),
            |standing| if is_terminal { bar(standing) } else { table::progress(standing) },
        );
        if seen.is_some() && line != told {
            let text = if is_terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") };
            match print(&text) {
                Printed::Whole => told = line,
                printed => return printed.or(ExitCode::Success),
            }
        }
        if seen.is_none() {
            let end = if is_terminal && !told.is_empty() { "\n" } else { "" };
            complain(&format_args!("{end}check: {id} is answered; check status {id} says how"));
            return ExitCode::Success;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A line with a bar over the epochs of the layer.
fn bar(standing: &Standing) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to WIDTH"
    )]
    let full = (standing.of_layer() * WIDTH as f64) as usize;
    let loss = standing.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4}"));
    let f1 = standing.f1.map_or_else(String::new, |f1| format!(", F1 {f1:.3}"));
    format!(
        "[{}{}] {}{loss}{f1}",
        "=".repeat(full),
        " ".repeat(WIDTH - full),
        table::progress(standing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_with_the_steps_of_a_layer() {
        let standing = |epoch, step| -> Standing {
            let text = serde_json::json!({
                "slurm_job_id": 17, "restart_count": 0, "layer": "Model 0", "layer_number": 2,
                "layers": 2, "epoch": epoch, "epochs": 2, "step": step, "steps": 10, "loss": 0.25,
                "accuracy": 0.9, "f1": 0.75, "updated_at": "2026-01-01T00:00:00Z",
                "peak_memory_mb": null, "expected_end": null
            });
            serde_json::from_value::<Progress>(text).unwrap().standing
        };
        let places = |standing: &Standing| bar(standing).matches('=').count();
        let cases = [(0, 0, 0), (1, 0, 0), (1, 5, 5), (2, 0, 10), (2, 10, 20), (3, 10, 20)];
        for (epoch, step, full) in cases {
            assert_eq!(places(&standing(epoch, step)), full, "epoch {epoch}, step {step}");
        }
        assert_eq!(
            bar(&standing(2, 0)),
            "[==========          ] Model 0 (2/2), epoch 2/2, loss 0.2500, F1 0.750"
        );
        let empty = Standing { epochs: 0, steps: 0, ..standing(1, 0) };
        assert_eq!(places(&empty), 0);
    }
}
