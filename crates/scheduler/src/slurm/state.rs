//! Slurm's job states.

use std::fmt;

/// A state as squeue and sacct print it (from `man squeue`, "JOB STATE CODES").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// `BOOT_FAIL`.
    BootFail,
    /// `CANCELLED`, also «CANCELLED by 1000».
    Cancelled,
    /// `COMPLETED`.
    Completed,
    /// `DEADLINE`.
    Deadline,
    /// `FAILED`.
    Failed,
    /// `NODE_FAIL`.
    NodeFail,
    /// `OUT_OF_MEMORY`.
    OutOfMemory,
    /// `PREEMPTED`.
    Preempted,
    /// `REVOKED`.
    Revoked,
    /// `TIMEOUT`.
    Timeout,
    /// It waits: `PENDING`, `REQUEUED`, `REQUEUE_HOLD`, `REQUEUE_FED`, `RESV_DEL_HOLD`,
    /// `SPECIAL_EXIT`, `EXPEDITING`.
    Waiting(&'static str),
    /// It runs, begins or ends: `RUNNING`, `CONFIGURING`, `COMPLETING`, `SUSPENDED` …
    Active(&'static str),
    /// Any other state: neither an end nor a success.
    Unknown(String),
}

/// What a state means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// On a node.
    Active,
    /// Over.
    Ended,
    /// Over, unless Slurm puts it back into the queue.
    PerhapsEnded,
    /// Nothing can be decided on it.
    Unknown,
}

const WAITING: [&str; 7] = [
    "PENDING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    // From 25.11: it waits to be started again.
    "EXPEDITING",
];
const ACTIVE: [&str; 8] = [
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "RESIZING",
];

impl JobState {
    /// Reads a state's long name; text after a space (such as "by 1000") is not part of it.
    pub fn parse(text: &str) -> Self {
        let name = text.trim().split([' ', '+']).next().unwrap_or_default();
        let known = |names: &[&'static str]| names.iter().copied().find(|n| *n == name);
        match name {
            "BOOT_FAIL" => Self::BootFail,
            "CANCELLED" => Self::Cancelled,
            "COMPLETED" => Self::Completed,
            "DEADLINE" => Self::Deadline,
            "FAILED" => Self::Failed,
            "NODE_FAIL" => Self::NodeFail,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            "PREEMPTED" => Self::Preempted,
            "REVOKED" => Self::Revoked,
            "TIMEOUT" => Self::Timeout,
            _ => match (known(&WAITING), known(&ACTIVE)) {
                (Some(name), _) => Self::Waiting(name),
                (_, Some(name)) => Self::Active(name),
                _ => Self::Unknown(base::text::printable(text, 40)),
            },
        }
    }

    /// What the state means for us.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Waiting(_) => Phase::Waiting,
            Self::Active(_) => Phase::Active,
            Self::Preempted | Self::NodeFail => Phase::PerhapsEnded,
            Self::Unknown(_) => Phase::Unknown,
            _ => Phase::Ended,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BootFail => "BOOT_FAIL",
            Self::Cancelled => "CANCELLED",
            Self::Completed => "COMPLETED",
            Self::Deadline => "DEADLINE",
            Self::Failed => "FAILED",
            Self::NodeFail => "NODE_FAIL",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::Preempted => "PREEMPTED",
            Self::Revoked => "REVOKED",
            Self::Timeout => "TIMEOUT",
            Self::Waiting(name) | Self::Active(name) => name,
            Self::Unknown(text) => text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_slurm_prints_them() {
        for name in WAITING {
            assert_eq!(JobState::parse(name).phase(), Phase::Waiting);
        }
        for name in ACTIVE {
            assert_eq!(JobState::parse(name).phase(), Phase::Active);
        }
        for name in [
            "BOOT_FAIL",
            "CANCELLED",
            "COMPLETED",
            "DEADLINE",
            "FAILED",
            "OUT_OF_MEMORY",
            "REVOKED",
            "TIMEOUT",
        ] {
            assert_eq!(
                (JobState::parse(name).phase(), JobState::parse(name).to_string().as_str()),
                (Phase::Ended, name)
            );
        }
        assert_eq!(JobState::parse("CANCELLED by 1000"), JobState::Cancelled);
        assert_eq!(JobState::parse("CANCELLED+"), JobState::Cancelled);
        assert_eq!(JobState::parse("PREEMPTED").phase(), Phase::PerhapsEnded);
        for odd in ["", "completed", "COMPLETED?", "COMPLETEDISH", "NEW_STATE"] {
            assert_eq!(JobState::parse(odd).phase(), Phase::Unknown, "{odd}");
        }
    }
}
