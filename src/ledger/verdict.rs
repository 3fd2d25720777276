//! Why a job is answered with an error: a fact, which its record keeps. What the reply says of it
//! is [`crate::sentences`]'s.

use serde::{Deserialize, Serialize};

/// Why a job is answered with an error, where `check` and not the trainer has found that out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Verdict {
    /// The message is no job, or asks for more than the site gives.
    NoJob {
        /// What is wrong with it.
        problem: String,
    },
    /// Rodan could not be reached in time.
    RodanAway,
    /// Rodan refused the log-in, or what answered is not Rodan.
    RodanRefused,
    /// Slurm refused the job.
    Refused {
        /// In these words.
        words: String,
    },
    /// Slurm could not be asked to take it for as long as the site waits.
    NotTaken,
    /// It waited in vain: in Slurm's queue, or for room under a limit of jobs.
    NotStarted {
        /// Slurm's reason, in its own word; empty where it gave none.
        reason: String,
        /// After so many hours; `None` where the reason can't pass.
        waited_hours: Option<u64>,
    },
    /// The operator has cancelled it.
    Cancelled,
    /// Whoever asked for it has cancelled it.
    CancelledByAsker,
    /// Its reply queue is gone: nobody asks for it any more.
    Abandoned,
    /// Slurm has forgotten it, and it left no reply.
    Vanished,
    /// It ran into its time limit.
    OutOfTime {
        /// How long it had run, in Slurm's form; `None` where it never ran.
        ran: Option<String>,
    },
    /// The memory that it asked for was not enough.
    OutOfMemory {
        /// What it used, in Slurm's MB, where that explains the end: Slurm looks from time to time
        /// only.
        used_mb: Option<u64>,
    },
    /// Somebody cancelled it on the cluster, by other means than `check cancel`.
    CancelledOnCluster {
        /// How long it had run.
        ran: Option<String>,
    },
    /// Its node failed.
    NodeFailed {
        /// How long it had run.
        ran: Option<String>,
    },
    /// The cluster took its node back.
    TakenBack {
        /// How long it had run.
        ran: Option<String>,
    },
    /// It was killed, and nothing says why.
    Killed {
        /// How long it had run.
        ran: Option<String>,
    },
    /// It ended otherwise, without a reply.
    NoResult {
        /// How long it had run.
        ran: Option<String>,
        /// Slurm's word for how it ended.
        state: String,
        /// Exit code and signal, where Slurm tells them.
        exit_code: Option<String>,
    },
    /// The reply has vanished from the spool.
    ReplyLost,
    /// The reply is larger than the broker takes.
    ReplyTooLarge {
        /// By how much.
        problem: String,
    },
}

impl Verdict {
    /// True where the job is to end whatever its state: the operator or its asker has cancelled it,
    /// or nobody asks for it any more.
    pub fn ends_in_any_state(&self) -> bool {
        matches!(self, Self::Cancelled | Self::CancelledByAsker | Self::Abandoned)
    }
}
