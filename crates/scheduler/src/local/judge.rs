//! What the files of a job mean, and what is to be done about it: pure functions.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::files::{End, Found};
use crate::slurm::{JobInfo, JobState};
use domain::SlurmJobId;

/// How often a job is started again after its supervisor or its host has failed. Slurm's own limit
/// (`MaxBatchRequeue`) is the same. Runs that a job itself has asked for don't count.
const MOST_LOST_RUNS: u64 = 5;
/// How long a job that is over can be asked about.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is to be done about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tending {
    /// Nothing.
    Nothing,
    /// It gets a supervisor.
    Supervise,
    /// It ends without having run.
    End,
    /// What is left of its run is ended, and it waits again.
    PutBack,
    /// What is left of its run is ended, and so is the job, as on a failed node.
    Lost,
    /// It is over for so long that it is removed.
    Remove,
}

impl Found {
    /// True on the host that the job was submitted on.
    fn is_here(&self) -> bool {
        self.entry.host == base::host_name()
    }

    /// The job's state, in Slurm's words.
    pub(super) fn state(&self) -> JobState {
        let Self { end, run, entry, .. } = self;
        match (end, run) {
            (Some(end), _) => JobState::parse(&end.state),
            // Its processes can't be looked at from here: nothing is decided about it.
            _ if !self.is_here() => JobState::Unknown(format!("on the host {}", entry.host)),
            (None, Some(_)) if self.supervised => JobState::Active("RUNNING"),
            (None, Some(_)) => JobState::NodeFail,
            (None, None) => JobState::Waiting("PENDING"),
        }
    }

    /// What is to be done about it at `now`.
    pub(super) fn tending(&self, now: Timestamp) -> Tending {
        let Self { end, run, entry, lost_runs, cancelled, .. } = self;
        if let Some(end) = end {
            let is_old = now.duration_since(end.ended_at) > KEPT;
            return if is_old { Tending::Remove } else { Tending::Nothing };
        }
        match run {
            _ if self.supervised || !self.is_here() => Tending::Nothing,
            None if *cancelled => Tending::End,
            None => Tending::Supervise,
            Some(_) if entry.requeue && !cancelled && *lost_runs < MOST_LOST_RUNS => {
                Tending::PutBack
            }
            Some(_) => Tending::Lost,
        }
    }

    /// What Slurm would say of it at `now`; `ahead`: how many jobs start before it.
    pub(super) fn info(&self, ahead: usize, now: Timestamp) -> JobInfo {
        let Self { end, run, entry, beat, .. } = self;
        let state = self.state();
        let began =
            end.as_ref().map_or(run.as_ref().map(|run| run.started_at), |end| end.started_at);
        let until = match (end, beat) {
            (Some(end), _) => end.ended_at,
            // Nobody knows when a lost run ended; it was alive then.
            (None, beat) if state == JobState::NodeFail => {
                beat.map(|beat| beat.at).or(began).unwrap_or(now)
            }
            (None, _) => now,
        };
        let ran = began.map_or(0, |began| until.duration_since(began).as_secs().max(0));
        let reason = match state {
            JobState::Waiting(_) if ahead > 0 => "Priority",
            JobState::Waiting(_) => "Resources",
            _ => "",
        };
        JobInfo {
            id: SlurmJobId(entry.number),
            name: entry.name.clone(),
            state,
            reason: reason.to_owned(),
            elapsed: elapsed(u64::try_from(ran).unwrap_or(0)),
            used_mb: end.as_ref().map_or(beat.map(|beat| beat.peak_mb), |end| end.peak_mb),
            exit_code: end.as_ref().and_then(|end| end.exit_code.clone()),
        }
    }
}

/// Slurm's form of a time: `[DAYS-]HH:MM:SS`.
fn elapsed(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days}-{time}") } else { time }
}

/// The jobs that wait and are looked after, and the GPUs of those that run.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Numbers of the jobs that wait, in order.
    pub(super) waiting: Vec<u64>,
    /// The GPUs that are in use; as many entries as jobs that run, or that have left processes.
    pub(super) running: Vec<Option<String>>,
}

impl Queue {
    /// From all jobs. One that waits without a supervisor holds nobody up: it takes its turn again
    /// once `check` has given it one. A run that was lost counts as one that goes on until `check`
    /// has ended what is left of it.
    pub(super) fn of(jobs: &[Found]) -> Self {
        let mut line = Self::default();
        for job in jobs.iter().filter(|job| job.is_here()) {
            match (&job.end, &job.run) {
                (None, Some(run)) => line.running.push(run.gpu.clone()),
                (None, None) if job.supervised => line.waiting.push(job.entry.number),
                _ => {}
            }
        }
        line
    }

    /// How many jobs wait that start before this one.
    pub(super) fn ahead_of(&self, number: u64) -> usize {
        self.waiting.iter().filter(|other| **other < number).count()
    }

    /// The GPU that this job gets if it may start now, which may be none; `None` when it has to
    /// wait. At most `most` jobs run, and no GPU is given to two.
    pub(super) fn turn(
        &self,
        number: u64,
        wants_gpu: bool,
        most: usize,
        gpus: &[String],
    ) -> Option<Option<String>> {
        if self.ahead_of(number) > 0 || self.running.len() >= most {
            return None;
        }
        if !wants_gpu || gpus.is_empty() {
            return Some(None);
        }
        let is_free = |gpu: &&String| !self.running.iter().flatten().any(|used| used == *gpu);
        gpus.iter().find(is_free).map(|gpu| Some(gpu.clone()))
    }
}

/// Why a supervisor has ended a run, if it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    /// An end was asked for.
    pub(super) cancelled: bool,
    /// Its time was over.
    pub(super) time: bool,
    /// It used more memory than it had asked for, or the system refused it more.
    pub(super) memory: bool,
}

/// The state and the exit code of a run that has ended, in Slurm's words.
pub(super) fn ending(
    limit: Limit,
    code: Option<i32>,
    signal: Option<i32>,
) -> (&'static str, String) {
    let state = match (limit, code) {
        (Limit { cancelled: true, .. }, _) => "CANCELLED",
        (Limit { time: true, .. }, _) => "TIMEOUT",
        (Limit { memory: true, .. }, _) => "OUT_OF_MEMORY",
        (_, Some(0)) => "COMPLETED",
        _ => "FAILED",
    };
    (state, format!("{}:{}", code.unwrap_or(0), signal.unwrap_or(0)))
}

/// Whether a run that has lasted for `ran` is to be warned, and whether its time is over.
pub(super) fn limit_of(ran: Duration, seconds: u64, warning_seconds: u64) -> (bool, bool) {
    let is_over = ran >= Duration::from_secs(seconds);
    let left = Duration::from_secs(seconds).saturating_sub(ran);
    (warning_seconds > 0 && left <= Duration::from_secs(warning_seconds), is_over)
}

/// The end of a job that never ran.
pub(super) fn cancelled_before_it_ran(now: Timestamp) -> End {
    End {
        state: "CANCELLED".to_owned(),
        exit_code: None,
        started_at: None,
        ended_at: now,
        peak_mb: None,
    }
}

/// The end of a run whose supervisor or host has failed.
pub(super) fn lost(found: &Found, now: Timestamp) -> End {
    let started_at = found.run.as_ref().map(|run| run.started_at);
    let state = if found.cancelled { "CANCELLED" } else { "NODE_FAIL" };
    End {
        state: state.to_owned(),
        exit_code: None,
        started_at,
        ended_at: found.beat.map(|beat| beat.at).or(started_at).unwrap_or(now),
        peak_mb: found.beat.map(|beat| beat.peak_mb),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
