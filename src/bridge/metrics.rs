//! What each pass of `check` leaves for Prometheus: `METRICS_FILE`, read by node_exporter's
//! textfile collector.
//!
//! A pass is over in seconds and nobody could scrape it. The file says how things stand at its end,
//! and what all jobs came to so far. No number of it decides anything here, so what can't be
//! measured or written is a warning.

use std::fs;
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::exposition::Exposition;

use crate::ledger::{Cause, Record, State, Store, StoreError, Tally};
use base::exit_code::ExitCode;
use base::files::Replace;
use contract::broker::JOBS_QUEUE;

/// A file of ours has a few kilobytes.
const MAX_BYTES: u64 = 1 << 20;

const LAST_PASS: &str = "hpc_trainer_last_pass_timestamp_seconds";
const LAST_CODE: &str = "hpc_trainer_last_pass_exit_code";
const LAST_DURATION: &str = "hpc_trainer_last_pass_duration_seconds";

/// How a pass went.
#[derive(Clone, Copy, Debug)]
struct LastPass {
    ended: Timestamp,
    code: ExitCode,
    milliseconds: u128,
}

impl LastPass {
    fn now(began: Instant, code: ExitCode) -> Self {
        Self { ended: Timestamp::now(), code, milliseconds: began.elapsed().as_millis() }
    }

    /// True when the bridge itself did all that it had to. A job that failed was answered as it
    /// should be.
    fn is_success(&self) -> bool {
        matches!(self.code, ExitCode::Success | ExitCode::Rejected | ExitCode::Training)
    }

    /// Name, help and value of each of its metrics.
    fn values(&self) -> [(&'static str, &'static str, String); 3] {
        let took = format!("{}.{:03}", self.milliseconds / 1000, self.milliseconds % 1000);
        [
            (LAST_PASS, "When the last pass of check ended.", seconds(self.ended)),
            (
                LAST_CODE,
                "Exit code of the last pass: 0 done, 8 a message was no job, 9 a job failed, \
                others are trouble.",
                (self.code as u8).to_string(),
            ),
            (LAST_DURATION, "How long the last pass took.", took),
        ]
    }
}

/// How things stand at the end of a pass.
struct Gauges {
    jobs: Vec<Record>,
    unreadable: usize,
    rejected: usize,
    /// Messages in `hpc-jobs`; nothing where the broker was not asked.
    queue: Option<u32>,
    paused: bool,
}

/// Seconds since 1970, with a fraction.
fn seconds(time: Timestamp) -> String {
    let milliseconds = time.as_millisecond().max(0);
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

impl Pass<'_> {
    /// Writes the metrics, where the site wants them. `result` is what the pass came to so far.
    pub(super) async fn measure(&mut self, began: Instant, result: &Result<(), BridgeError>) {
        let Some(path) = self.config.site.metrics_file.clone() else { return };
        let code = match result {
            Ok(()) => self.code(),
            Err(error) => error.exit_code(),
        };
        // Without the lock another process may be writing the counters. Where the spool failed they
        // can't be trusted.
        if matches!(result, Err(BridgeError::Lock(_) | BridgeError::Store(_)))
            || self.beat().is_err()
        {
            return amend(&path, &LastPass::now(began, code));
        }
        let queue = match result {
            Ok(()) => self.queue_depth().await,
            Err(_) => None,
        };
        let last = LastPass::now(began, code);
        match self.gauges(queue, last.ended).and_then(|gauges| Ok((gauges, self.tally(&last)?))) {
            Ok((gauges, tally)) => put(&path, &render(&gauges, &tally, &last)),
            Err(error) => {
                tracing::warn!("the metrics are not brought up to date: {error}");
                amend(&path, &last);
            }
        }
    }

    async fn queue_depth(&mut self) -> Option<u32> {
        let depth = match self.broker().await {
            Ok(broker) => broker.depth(JOBS_QUEUE).await,
            Err(error) => Err(error),
        };
        match depth {
            Ok(messages) => Some(messages.unwrap_or(0)),
            Err(error) => {
                tracing::debug!(queue = JOBS_QUEUE, "its length is not known: {error}");
                None
            }
        }
    }

    fn gauges(&self, queue: Option<u32>, now: Timestamp) -> Result<Gauges, StoreError> {
        let (open, _) = self.store.ids()?;
        let (mut jobs, mut unreadable) = (Vec::new(), 0);
        for id in &open {
            match self.store.see(id) {
                Ok(Some(seen)) if !seen.answered => jobs.push(seen.record),
                Ok(_) => {}
                Err(_) => unreadable += 1,
            }
        }
        let paused = self.store.breaker().paused_until(now).is_some();
        Ok(Gauges { jobs, unreadable, rejected: self.store.rejected_files()?.len(), queue, paused })
    }

    fn tally(&self, last: &LastPass) -> Result<Tally, StoreError> {
        let before = self.store.tally();
        let mut tally = before.clone();
        tally.count(&self.store)?;
        if last.is_success() {
            tally.last_success = Some(last.ended);
        }
        self.store.save_tally(&tally, &before)?;
        Ok(tally)
    }
}

/// Counts what is answered, for a command that is about to remove it. To be called with the lock in
/// hand.
pub(super) fn count(store: &Store) -> Result<(), StoreError> {
    let before = store.tally();
    let mut tally = before.clone();
    tally.count(store)?;
    store.save_tally(&tally, &before)
}

fn render(gauges: &Gauges, tally: &Tally, last: &LastPass) -> String {
    let mut out = Exposition::default();
    out.gauge("hpc_trainer_build_info", "The version of check.").labelled(
        "version",
        env!("CARGO_PKG_VERSION"),
        1,
    );
    let mut family = out.gauge("hpc_trainer_jobs", "Open jobs by state.");
    for (name, count) in by_state(&gauges.jobs) {
        family = family.labelled("state", name, count);
    }
    let oldest = gauges.jobs.iter().filter(|job| waits(job)).map(|job| job.received_at).min();
    let waited = oldest.map_or(0, |since| last.ended.duration_since(since).as_secs().max(0));
    out.gauge(
        "hpc_trainer_oldest_waiting_job_seconds",
        "How long ago the oldest job that has not started was taken; 0 without one.",
    )
    .value(waited);
    let undelivered = gauges
        .jobs
        .iter()
        .filter(|job| matches!(job.state, State::Failed { .. } | State::ResultSpooled { .. }))
        .count();
    out.gauge("hpc_trainer_replies_waiting", "Replies in the spool that are not delivered.")
        .value(undelivered);
    if let Some(messages) = gauges.queue {
        out.gauge(
            "hpc_trainer_queue_messages",
            "Jobs that wait in RabbitMQ; absent where it did not answer.",
        )
        .labelled("queue", JOBS_QUEUE, messages);
    }
    out.gauge("hpc_trainer_intake_paused", "1 while no jobs are taken because submissions failed.")
        .value(u8::from(gauges.paused));
    out.gauge(
        "hpc_trainer_unreadable_jobs",
        "What lies among the open jobs and can't be read as one.",
    )
    .value(gauges.unreadable);
    out.gauge("hpc_trainer_rejected_messages", "Messages that were no jobs, kept in rejected/.")
        .value(gauges.rejected);
    out.counter(
        "hpc_trainer_jobs_answered_total",
        "Answered jobs by what they were answered with.",
    )
    .labelled("outcome", "models", tally.models)
    .labelled("outcome", "error", tally.errors());
    let mut family =
        out.counter("hpc_trainer_job_failures_total", "Jobs answered with an error, by cause.");
    for cause in Cause::ALL {
        family = family.labelled(
            "cause",
            cause.word(),
            tally.failures.get(&cause).copied().unwrap_or_default(),
        );
    }
    out.histogram(
        "hpc_trainer_job_wait_seconds",
        "Time from taking a job to the start of its training, of answered jobs.",
        &tally.waits,
    );
    out.histogram(
        "hpc_trainer_job_run_seconds",
        "Time from the start of a training to its answer, of answered jobs.",
        &tally.runs,
    );
    let chosen = tally.chosen;
    out.counter(
        "hpc_trainer_chosen_memory_megabytes_total",
        "Memory of jobs that named none and have models: what Slurm was asked for, and their \
        peaks.",
    )
    .labelled("kind", "asked", chosen.memory_asked_mb)
    .labelled("kind", "used", chosen.memory_used_mb);
    out.counter(
        "hpc_trainer_chosen_time_seconds_total",
        "Time of jobs that named none and have models: what Slurm was asked for, and how long they \
        ran.",
    )
    .labelled("kind", "asked", chosen.seconds_asked)
    .labelled("kind", "used", chosen.seconds_used);
    for (name, help, value) in last.values() {
        out.gauge(name, help).value(value);
    }
    if let Some(success) = tally.last_success {
        out.gauge(
            "hpc_trainer_last_successful_pass_timestamp_seconds",
            "When the last pass ended that met no trouble of its own (exit code 0, 8 or 9).",
        )
        .value(seconds(success));
    }
    out.finish()
}

/// True until the training begins.
fn waits(job: &Record) -> bool {
    matches!(job.state, State::Received | State::Submitting { .. } | State::Submitted { .. })
}

fn by_state(jobs: &[Record]) -> [(&'static str, usize); 6] {
    let count = |is: fn(&State) -> bool| jobs.iter().filter(|job| is(&job.state)).count();
    [
        ("received", count(|state| matches!(state, State::Received))),
        ("submitting", count(|state| matches!(state, State::Submitting { .. }))),
        ("submitted", count(|state| matches!(state, State::Submitted { .. }))),
        ("running", count(|state| matches!(state, State::Running { .. }))),
        ("failed", count(|state| matches!(state, State::Failed { .. }))),
        (
            "result_spooled",
            count(|state| matches!(state, State::ResultSpooled { .. } | State::Replied)),
        ),
    ]
}

/// Writes the metrics of a pass that failed; the others stay as an earlier pass wrote them.
pub(super) fn pass_failed(path: &Path, began: Instant, code: ExitCode) {
    amend(path, &LastPass::now(began, code));
}

fn amend(path: &Path, last: &LastPass) {
    let values = last.values();
    // A line of the last pass: its sample, or its head.
    let is_ours =
        |line: &str| values.iter().any(|(name, ..)| line.split(' ').any(|word| word == *name));
    let old = fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MAX_BYTES);
    let old = old.and_then(|_| fs::read_to_string(path).ok()).unwrap_or_default();
    let mut text: String =
        old.lines().filter(|line| !is_ours(line)).flat_map(|line| [line, "\n"]).collect();
    let mut out = Exposition::default();
    for (name, help, value) in values {
        out.gauge(name, help).value(value);
    }
    text.push_str(&out.finish());
    put(path, &text);
}

/// Replaces the file whole, so that it is never read half-written; what is not finished does not
/// end in `.prom`, and the exporter passes it over. Everybody may read it: the exporter has an
/// account of its own, and there is nothing in it but numbers.
fn put(path: &Path, text: &str) {
    if let Err(error) = Replace::PUBLIC.write(path, text.as_bytes()) {
        tracing::warn!(
            "METRICS_FILE {} can't be written: {error}; its directory must exist, and this account \
            must be able to write there",
            path.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pass_that_failed_changes_its_own_metrics_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.prom");
        let began = Instant::now();
        pass_failed(&path, began, ExitCode::Spool);
        let alone = fs::read_to_string(&path).unwrap();
        assert!(alone.contains("\nhpc_trainer_last_pass_exit_code 7\n"), "{alone}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        let other = "# HELP other of something else\n# TYPE other gauge\nother{a=\"b\"} 1\n";
        fs::write(&path, format!("{alone}{other}")).unwrap();
        pass_failed(&path, began, ExitCode::Config);
        let both = fs::read_to_string(&path).unwrap();
        assert!(
            both.starts_with(other) && both.contains("\nhpc_trainer_last_pass_exit_code 3\n"),
            "{both}"
        );
        assert_eq!(both.lines().count(), alone.lines().count() + other.lines().count());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
        // What can't be written is a warning.
        pass_failed(&dir.path().join("nowhere/a.prom"), began, ExitCode::Spool);
    }
}
