//! The table of the jobs, for a terminal of 80 columns.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;

use crate::bridge::operator::{JobStatus, Status, Waiting};
use crate::ledger::{HeldBy, Outcome, Role, State};
use base::text::{COLUMNS, printable, span, wrap};
use domain::{Standing, TaskStanding};
use scheduler::slurm::Phase;

/// With less room than this beside an id, the text about a job gets a line of its own.
const NARROW: usize = 24;
/// Width of the columns for state and age.
const STATE: usize = 11;
const AGE: usize = 7;

/// The table, followed by what keeps the whole bridge from working.
pub(super) fn render(status: &Status, now: Timestamp) -> String {
    let mut text = String::new();
    if status.jobs.is_empty() {
        text.push_str("There are no open jobs.\n");
    } else {
        rows(&mut text, &status.jobs, now);
    }
    if let Some(spool) = &status.absent_spool {
        let sentence =
            format!("There is no {} yet; the first pass of check makes it.", spool.display());
        wrapped(&mut text, &sentence);
    }
    if let Some(jobs) = status.local_jobs.filter(|_| !status.jobs.is_empty()) {
        let most = if jobs == 1 { "one runs".to_owned() } else { format!("{jobs} run") };
        wrapped(&mut text, &format!("Jobs run on this host, at most {most} at a time."));
    }
    if let Some(error) = &status.slurm_error {
        let who = if status.local_jobs.is_some() { "The queue of this host" } else { "Slurm" };
        let sentence =
            format!("{who} does not answer ({error}). States are those of the last pass of check.");
        wrapped(&mut text, &sentence);
    }
    if let Some(pause) = &status.paused {
        let sentence = format!(
            "No new jobs are taken until {:.0}: {} submissions in a row failed, the last because: \
            {}",
            pause.until, pause.failures, pause.last
        );
        wrapped(&mut text, &sentence);
    }
    if let Some(holder) = &status.lock {
        wrapped(&mut text, &lock(holder, now));
    }
    for (id, why) in &status.unreadable {
        wrapped(&mut text, &format!("{id} in the spool can't be read: {why}"));
    }
    text
}

fn rows(text: &mut String, jobs: &[JobStatus], now: Timestamp) {
    let slurm_id =
        |job: &JobStatus| job.record.slurm_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let id_width = jobs.iter().map(|job| job.short.len()).max().unwrap_or(0);
    let slurm_width =
        jobs.iter().map(|job| slurm_id(job).len()).max().unwrap_or(0).max("SLURM".len());
    let before = id_width + slurm_width + STATE + AGE + 8;
    let room = COLUMNS.saturating_sub(before);
    let mut line = |id: &str, slurm: &str, state: &str, age: &str, rest: &str| {
        let line =
            format!("{id:id_width$}  {slurm:>slurm_width$}  {state:STATE$}  {age:>AGE$}  {rest}");
        let _ = writeln!(text, "{}", line.trim_end()); // writing to a String can't fail
    };
    line("ID", "SLURM", "STATE", "AGE", "");
    for job in jobs {
        let says = summary(job, now);
        let beside = says.as_deref().filter(|says| room >= NARROW && says.chars().count() <= room);
        let age = span(since(job.record.received_at, now));
        line(&job.short, &slurm_id(job), &state(job), &age, beside.unwrap_or_default());
        let below = says.clone().filter(|_| beside.is_none());
        let error = job.record.last_error.as_ref().filter(|_| !job.answered);
        for says in below.into_iter().chain(error.map(|error| format!("last error: {error}"))) {
            line(&format!("    {}", printable(&says, COLUMNS - 5)), "", "", "", "");
        }
    }
}

/// Where a job stands, in a word or two: Slurm's view if it is newer than the record.
pub(super) fn state(job: &JobStatus) -> String {
    match (&job.record.state, job.slurm.as_ref()) {
        (
            State::Submitting { .. } | State::Submitted { .. } | State::Running { .. },
            Some(info),
        ) => match info.phase {
            Phase::Waiting => "waiting".to_owned(),
            Phase::Active if info.state == "RUNNING" => "running".to_owned(),
            _ => printable(&info.state.to_lowercase(), STATE - 1),
        },
        (State::Received, _) => "received".to_owned(),
        (State::Submitting { .. }, None) => "submitting".to_owned(),
        (State::Submitted { .. }, None) => "waiting".to_owned(),
        (State::Running { .. }, None) => "running".to_owned(),
        (State::Failed { .. }, _) => "failed".to_owned(),
        (State::ResultSpooled { .. }, _) => "to deliver".to_owned(),
        (State::Replied, _) => "answered".to_owned(),
    }
}

/// Further text about a job.
fn summary(job: &JobStatus, now: Timestamp) -> Option<String> {
    match &job.record.state {
        State::Failed { sentence } => return Some(sentence.clone()),
        State::ResultSpooled { outcome: Outcome::Models } => return Some("the models".to_owned()),
        State::ResultSpooled { outcome: Outcome::Error } => {
            return Some("an error reply".to_owned());
        }
        State::Replied => {
            return Some(match job.record.outcome {
                Some(Outcome::Models) => "with the models".to_owned(),
                Some(Outcome::Error) => "with an error".to_owned(),
                None => return None,
            });
        }
        _ => {}
    }
    if job.being_cancelled.is_some() {
        return Some("is being cancelled".to_owned());
    }
    let phase = job.slurm.as_ref().map(|info| info.phase);
    match phase {
        Some(Phase::Waiting) => {
            let says = [reason(job), job.waiting.as_ref().map(place)];
            let says: Vec<String> = says.into_iter().flatten().collect();
            (!says.is_empty()).then(|| says.join(", "))
        }
        Some(Phase::Active) | None => {
            let note = job.progress.as_ref().filter(|_| is_running(job))?;
            let mut says = progress(&note.standing);
            if let Some(end) = job.expected_end {
                let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
                let _ = write!(says, ", ≤ {} left", span(left)); // writing to a String can't fail
            }
            Some(says)
        }
        _ if job.delivered => {
            Some("over, and its reply is delivered; the next check files it away".to_owned())
        }
        _ => Some("over; the next check answers".to_owned()),
    }
}

fn is_running(job: &JobStatus) -> bool {
    matches!(job.record.state, State::Running { .. }) || job.slurm.is_some()
}

/// Why a job waits.
pub(super) fn reason(job: &JobStatus) -> Option<String> {
    let info = job.slurm.as_ref().filter(|info| !info.reason.is_empty())?;
    let reason = printable(&info.reason, 60);
    Some(match info.reason_in_words {
        Some(words) => format!("{words} ({reason})"),
        None => reason,
    })
}

/// Where a job stands in the queue: `3rd of 5 pending in gpu`.
pub(super) fn place(waiting: &Waiting) -> String {
    let Waiting { position, of, partition, .. } = waiting;
    let end = match (position % 10, position % 100) {
        (1, n) if n != 11 => "st",
        (2, n) if n != 12 => "nd",
        (3, n) if n != 13 => "rd",
        _ => "th",
    };
    format!("{position}{end} of {of} pending in {}", printable(partition, 30))
}

/// How many nodes have what a job asks for.
pub(super) fn nodes(waiting: &Waiting) -> Option<String> {
    let Waiting { memory_mb, cpus, fitting_nodes, nodes, .. } = waiting;
    let (memory_mb, cpus, all) = ((*memory_mb)?, (*cpus)?, (*nodes)?);
    let fits = match (*fitting_nodes)? {
        0 if all == 1 => "the only node there has not".to_owned(),
        _ if all == 1 => "the only node there has".to_owned(),
        0 => format!("none of the {all} nodes there has"),
        n if n == all => format!("all {all} nodes there have"),
        1 => format!("only 1 of {all} nodes there has"),
        n => format!("only {n} of {all} nodes there have"),
    };
    Some(format!("asks for {memory_mb} MB and {cpus} CPUs, which {fits}"))
}

/// How far a training has got.
pub(super) fn progress(standing: &Standing) -> String {
    if standing.layer_number == 0 {
        return "fetching the page".to_owned();
    }
    let others = match standing.tasks.len().saturating_sub(1) {
        0 => String::new(),
        1 => ", and 1 more task".to_owned(),
        n => format!(", and {n} more tasks"),
    };
    format!(
        "{} ({}/{}), epoch {}/{}{others}",
        printable(&standing.layer, 30),
        standing.layer_number,
        standing.layers,
        standing.epoch,
        standing.epochs
    )
}

/// What one of several tasks trains.
pub(super) fn task(task: &TaskStanding) -> String {
    let TaskStanding { layer, epoch, epochs, step, steps, .. } = task;
    format!("{}, epoch {epoch}/{epochs}, step {step}/{steps}", printable(layer, 30))
}

/// Who holds the lock.
fn lock(holder: &HeldBy, now: Timestamp) -> String {
    let HeldBy { host, pid, heartbeat, role } = holder;
    let who = match role {
        Role::Check => "a check",
        Role::Watcher => "a watcher, or a command of the operator",
    };
    if holder.is_alive(now) {
        format!("The spool is locked by {who}: process {pid} on {host}, last seen {heartbeat:.0}.")
    } else {
        format!(
            "A lock is left of process {pid} on {host}, which is gone; the next check takes it \
            over."
        )
    }
}

/// The time since then; zero if it lies in the future.
pub(super) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// Adds a sentence, broken into lines of at most 80 columns.
fn wrapped(text: &mut String, sentence: &str) {
    wrap(text, sentence, 0);
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
