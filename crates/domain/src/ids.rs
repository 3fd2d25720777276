//! The three ids of a job: the asker's, ours, and Slurm's.

use std::fmt;

use base::text::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The asker's id of a job: it comes from outside and can be any text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CorrelationId(pub String);

/// Our id of a job: safe as a file name and as a Slurm job name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// The correlation id itself if it is safe, otherwise a hash of it.
    pub fn from_correlation_id(id: &CorrelationId) -> Self {
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=64).contains(&id.0.len()) && id.0.chars().all(safe) && !id.0.starts_with(['-', '_'])
        {
            return Self(id.0.clone());
        }
        Self(format!("x-{}", &hex_sha256(id.0.as_bytes())[..32]))
    }

    /// The id of the `count`-th later job with a correlation id that is already known.
    #[must_use]
    pub fn again(&self, body_sha256: &str, count: u32) -> Self {
        Self(format!("x-{}", &hex_sha256(format!("{self} {body_sha256} {count}").as_bytes())[..32]))
    }

    /// The id in the name of a directory of the spool; `None` when it can't be one.
    pub fn from_directory(name: &str) -> Option<Self> {
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ((1..=64).contains(&name.len()) && name.chars().all(safe)).then(|| Self(name.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its watcher's Slurm job.
    pub fn watcher_name(&self) -> String {
        format!("hpcw-{}", self.0)
    }

    /// The name of its Slurm job; a job whose number is not known is found by it.
    pub fn slurm_name(&self) -> String {
        format!("hpct-{}", self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Slurm's number of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlurmJobId(pub u64);

impl fmt::Display for SlurmJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 in hexadecimal.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
