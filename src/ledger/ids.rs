//! How a job is called: by Rodan, and by us.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::text::hex;

/// Rodan's id of a job: it comes from outside and can be any text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CorrelationId(pub String);

/// Our id of a job: safe as a file name and as a Slurm job name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// The correlation id itself where it is safe, else a hash of it.
    pub fn from_correlation_id(id: &CorrelationId) -> Self {
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=64).contains(&id.0.len()) && id.0.chars().all(safe) && !id.0.starts_with(['-', '_']) {
            return Self(id.0.clone());
        }
        Self(format!("x-{}", hash(&id.0)))
    }

    /// The id of the `count`-th later job that came with a correlation id that is already known.
    #[must_use]
    pub fn again(&self, body_sha256: &str, count: u32) -> Self {
        Self(format!("x-{}", hash(&format!("{self} {body_sha256} {count}"))))
    }

    /// A name of a directory in the spool, taken as an id; `None` when it can't be one.
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

    /// The name of its Slurm job, by which a job is found whose number is not known.
    pub fn slurm_name(&self) -> String {
        format!("hpct-{}", self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 32 characters that stand for a text.
fn hash(text: &str) -> String {
    let mut hash = hex(&Sha256::digest(text.as_bytes()));
    hash.truncate(32);
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_job_id_is_safe_whatever_the_correlation_id(id in ".{0,80}") {
            let job = JobId::from_correlation_id(&CorrelationId(id));
            prop_assert_eq!(JobId::from_directory(job.as_str()), Some(job.clone()));
            let again = job.again("", 1);
            prop_assert!(JobId::from_directory(again.as_str()).is_some());
        }
    }

    #[test]
    fn a_uuid_stays_as_it_is() {
        let id = "3f0b5a52-6f0e-4a3e-9d55-0d7a1c1f9a10";
        assert_eq!(JobId::from_correlation_id(&CorrelationId(id.into())).as_str(), id);
        assert!(JobId::from_correlation_id(&CorrelationId("../x".into())).as_str().starts_with("x-"));
    }
}
