//! Who may publish a job's reply.
//!
//! The trainer, the watcher and `check` run on different machines, and a node that Slurm has given
//! up may still be at work. So before the first byte of a reply goes to the broker, its publisher
//! creates the file `claim` in the job's directory, which only one of them can do. If a claim is
//! there already, somebody may have published: the one reply is then looked for in its queue before
//! it is sent again (not in a quorum queue). A conversation is sent again: its messages have the
//! ids of the first. The callers, each before its first byte: `worker/deliver.rs` and
//! `courier/child.rs` as [`Publisher::Trainer`], `bridge/deliver.rs` as [`Publisher::Check`].

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::files::JobFiles;
use base::files::read_own;
use base::files::{create_atomic, write_atomic};

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Publisher {
    /// `run_trainer`, while its Slurm job is alive.
    Trainer,
    /// `check`, or the watcher: whoever holds the lock of the spool, once the Slurm job is over.
    Check,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    by: Publisher,
    host: String,
    pid: u32,
    at: Timestamp,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody has published before.
    First,
    /// An earlier attempt may have published: look before sending again.
    Again,
    /// It is not ours to publish: `check` has taken the job over.
    TakenOver,
}

/// Claims the reply of a job. `check` takes over any claim, because it claims only when the job is
/// over. A trainer takes over a trainer's claim, which is that of the same job before it was
/// requeued.
///
/// # Errors
///
/// When the claim can't be written; the reply must not be published then.
pub fn claim(files: &JobFiles, by: Publisher) -> io::Result<Claimed> {
    let host = base::host_name();
    let claim = Claim { by, host, pid: std::process::id(), at: Timestamp::now() };
    let text = serde_json::to_vec(&claim).map_err(io::Error::other)?;
    let path = files.claim();
    if create_atomic(&path, &text)? {
        return Ok(Claimed::First);
    }
    let earlier: Option<Claim> =
        read_own(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if by == Publisher::Trainer && earlier.is_none_or(|earlier| earlier.by == Publisher::Check) {
        return Ok(Claimed::TakenOver);
    }
    write_atomic(&path, &text)?;
    Ok(Claimed::Again)
}

/// Who has claimed a job's reply, as far as that can be read.
pub fn claimed_by(files: &JobFiles) -> Option<Publisher> {
    let claim: Claim = serde_json::from_slice(&read_own(&files.claim()).ok()?).ok()?;
    Some(claim.by)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn check_takes_a_trainers_claim_over_and_not_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let files = JobFiles::new(dir.path());
        assert_eq!(claimed_by(&files), None);
        assert_eq!(claim(&files, Publisher::Trainer).unwrap(), Claimed::First);
        assert_eq!(claimed_by(&files), Some(Publisher::Trainer));
        assert_eq!(claim(&files, Publisher::Trainer).unwrap(), Claimed::Again);
        assert_eq!(claim(&files, Publisher::Check).unwrap(), Claimed::Again);
        assert_eq!(claim(&files, Publisher::Trainer).unwrap(), Claimed::TakenOver);
        assert_eq!(claim(&files, Publisher::Check).unwrap(), Claimed::Again);
    }

    #[test]
    fn a_claim_that_can_not_be_read_is_checks() {
        let dir = tempfile::tempdir().unwrap();
        let files = JobFiles::new(dir.path());
        fs::write(files.claim(), "{").unwrap();
        assert_eq!(claim(&files, Publisher::Trainer).unwrap(), Claimed::TakenOver);
        assert_eq!(claim(&files, Publisher::Check).unwrap(), Claimed::Again);
    }

    #[test]
    fn without_a_directory_nothing_is_claimed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(claim(&JobFiles::new(&dir.path().join("gone")), Publisher::Trainer).is_err());
    }
}
