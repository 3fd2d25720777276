//! Everything about one job, line by line.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use super::table::{nodes, place, progress, reason, since, state, task};
use crate::bridge::operator::{Details, InSlurm};
use crate::ledger::{Outcome, State, TooSmall};
use base::text::{printable, span, wrap};
use contract::wire::conversation::{Asked, Origin};
use domain::Walltime;

/// Width of the names.
const NAMES: usize = 16;
/// Most settings that are shown.
const MOST_SETTINGS: usize = 40;

struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: impl AsRef<str>) {
        let _ = write!(self.0, "{name:NAMES$}"); // writing to a String can't fail
        wrap(&mut self.0, value.as_ref(), NAMES);
    }

    fn add_some(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// A path is not broken into lines, so that it can be copied.
    fn path(&mut self, name: &str, path: &std::path::Path) {
        let _ = writeln!(self.0, "{name:NAMES$}{}", printable(&path.to_string_lossy(), 4096));
    }
}

/// What Slurm is asked for; of what was chosen, by what.
fn asked(asked: &Asked) -> String {
    let chosen = |from: Origin| match from {
        Origin::Job => "",
        Origin::Site => " (the site's default)",
        Origin::Estimate => " (estimated from its settings)",
        Origin::Measured => " (from finished jobs of this site)",
        Origin::Raised => " (more than at first, which was not enough)",
        Origin::Unknown => " (chosen by another program)",
    };
    let time = Walltime::from_seconds(asked.time_seconds)
        .map_or_else(|_| String::new(), |time| time.to_string());
    let tasks = asked.instances.map_or_else(String::new, |instances| {
        let chosen = match instances.from {
            Origin::Estimate => " (one for each layer)",
            Origin::Site => " (the site gives no more)",
            _ => "",
        };
        let word = if instances.number == 1 { "task" } else { "tasks" };
        format!("{} {word}{chosen}, each with ", instances.number)
    });
    format!(
        "{tasks}{} CPUs{}, {} MB{}, {time}{}",
        asked.cpus,
        chosen(asked.cpus_from),
        asked.memory_mb,
        chosen(asked.memory_from),
        chosen(asked.time_from)
    )
}

/// The view of one job.
pub(super) fn render(found: &Details, now: Timestamp) -> String {
    let (job, record) = (&found.job, &found.job.record);
    let at = |time: Timestamp| format!("{time:.0} ({} ago)", span(since(time, now)));
    let mut lines = Lines(String::new());
    lines.add("job", record.job_id.as_str());
    let made_up = if record.correlation_id_generated { " (the message had none)" } else { "" };
    lines.add("correlation id", format!("{}{made_up}", printable(&record.correlation_id.0, 300)));
    lines.add("reply queue", printable(&record.reply_to, 300));
    lines.add("message id", printable(&record.message_id, 100));
    lines.add("state", state(job));
    lines.add_some("reason", reason(job));
    if let Some(waiting) = &job.waiting {
        lines.add("place", place(waiting));
        lines.add_some("nodes", nodes(waiting));
        let start = waiting.expected_start;
        lines.add_some("expected start", start.map(|start| format!("{start:.0}, says Slurm")));
    }
    lines.add("taken", at(record.received_at));
    lines.add("state since", at(record.changed_at));
    let number = record.slurm_id.map(|id| id.to_string());
    let word = if found.is_local { "number" } else { "Slurm job" };
    lines.add_some(word, number.map(|id| format!("{id}{}", in_slurm(job.slurm.as_ref()))));
    lines.add_some("asks for", record.asked.as_ref().map(asked));
    for small in &record.too_small {
        let TooSmall { slurm_id, memory_mb, .. } = small;
        lines.add("out of memory", format!("with {memory_mb} MB, as Slurm job {slurm_id}"));
    }
    let watcher = record.watcher.map(|id| id.to_string());
    lines.add_some(
        "watcher",
        watcher.map(|id| format!("{id}{}", in_slurm(job.slurm_watcher.as_ref()))),
    );
    lines.add_some("unknown since", record.missing_since.map(at));
    lines.add_some(
        if found.is_local { "queue" } else { "Slurm" },
        found.slurm_error.as_ref().map(|error| format!("does not answer: {error}")),
    );
    if let Some(note) = &job.progress {
        let standing = &note.standing;
        lines.add(
            "progress",
            format!("{}, step {}/{}", progress(standing), standing.step, standing.steps),
        );
        for one in &standing.tasks {
            lines.add(&format!("  task {}", one.task), task(one));
        }
        lines.add_some("loss", standing.loss.map(|loss| format!("{loss:.4}")));
        lines.add_some("accuracy", standing.accuracy.map(|accuracy| format!("{accuracy:.4}")));
        lines.add_some("F1", standing.f1.map(|f1| format!("{f1:.4}")));
        lines.add("noted", at(note.updated_at));
        lines
            .add_some("restarts", (note.restart_count > 0).then(|| note.restart_count.to_string()));
        lines.add_some("peak memory", standing.peak_memory_mb.map(|mb| format!("{mb} MB")));
    }
    let end = |time: Timestamp| {
        format!("{time:.0} (in {}) at the latest, at this pace", span(since(now, time)))
    };
    lines.add_some("expected end", job.expected_end.map(end));
    lines.add_some("last error", record.last_error.as_ref());
    lines.add_some("cancelled", job.being_cancelled.as_ref());
    match (&record.state, record.outcome) {
        (State::Failed { sentence }, _) => lines.add("outcome", format!("an error: {sentence}")),
        (_, Some(Outcome::Models)) => lines.add("outcome", "the models"),
        (_, Some(Outcome::Error)) => {
            let sentence =
                found.error_reply.as_ref().map_or_else(String::new, |text| format!(": {text}"));
            lines.add("outcome", format!("an error{sentence}"));
        }
        (_, None) => {}
    }
    lines.path("directory", &found.directory);
    if let Some(report) = &found.report {
        lines.path("report", report);
    }
    for log in &found.logs {
        lines.path("log", log);
    }
    if found.logs.is_empty() {
        lines.add("log", format!("none yet in {}", found.log_directory.display()));
    }
    if !found.settings.is_empty() {
        lines.0.push_str("settings\n");
    }
    for (name, value) in found.settings.iter().take(MOST_SETTINGS) {
        let value = match value {
            Value::String(text) => printable(text, 100),
            other => printable(&other.to_string(), 100),
        };
        let name = format!("  {}:", printable(name, 60));
        lines.0.push_str(&name);
        lines.0.push(' ');
        wrap(&mut lines.0, &value, name.chars().count() + 1);
    }
    lines.0
}

fn in_slurm(info: Option<&InSlurm>) -> String {
    info.map_or_else(String::new, |info| {
        format!(", {}, ran for {}", printable(&info.state, 40), info.elapsed)
    })
}
