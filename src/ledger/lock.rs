//! One `check` at a time on one spool, also from two login nodes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long the lock of another host counts without a new heartbeat.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Holder {
    host: String,
    pid: u32,
    heartbeat: Timestamp,
}

/// The lock of the spool, held until dropped.
///
/// The kernel's lock ends with the process, whatever ends it. It may not reach across nodes (NFS without a lock
/// manager, Lustre mounted with `localflock`), so the file also names host, process and a heartbeat: a lock that
/// another host wrote counts until its heartbeat is ten minutes old.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why the lock can't be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another `check` holds it.
    #[error("another check is at work: {0}")]
    Held(String),
    /// The lock file can't be used.
    #[error("can't lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn describe(text: &str) -> String {
    match serde_json::from_str::<Holder>(text) {
        Ok(holder) => format!("process {} on {}, last seen {}", holder.pid, holder.host, holder.heartbeat),
        Err(_) => "it has not said who it is yet".to_owned(),
    }
}

impl Lock {
    /// Takes the lock of `path`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it, else when the file can't be opened, read or written.
    pub fn acquire(path: &Path, now: Timestamp) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_path_buf(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(describe(&text))),
            Err(error) => return Err(io(error.into())),
        }
        if let Ok(holder) = serde_json::from_str::<Holder>(&text) {
            let age = now.duration_since(holder.heartbeat);
            let fresh = age.unsigned_abs() < STALE_AFTER;
            if holder.host != host_name() && fresh {
                return Err(LockError::Held(describe(&text)));
            }
        }
        let mut lock = Self { file };
        lock.heartbeat(now).map_err(io)?;
        Ok(lock)
    }

    /// Says that the holder is alive. To be called more often than every ten minutes.
    ///
    /// # Errors
    /// When the lock file can't be written.
    pub fn heartbeat(&mut self, now: Timestamp) -> io::Result<()> {
        let holder = Holder { host: host_name(), pid: std::process::id(), heartbeat: now };
        let text = serde_json::to_string(&holder).map_err(io::Error::other)?;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Another host that can't see the kernel's lock reads the file: an empty one is free. If this fails, the
        // heartbeat grows stale instead.
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::acquire(&path, Timestamp::now()).unwrap();
        let error = Lock::acquire(&path, Timestamp::now()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert!(Lock::acquire(&path, Timestamp::now()).is_ok());
    }

    #[test]
    fn the_lock_of_another_host_counts_until_it_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let now = Timestamp::now();
        std::fs::write(&path, format!(r#"{{"host":"elsewhere.example","pid":7,"heartbeat":"{now}"}}"#))
            .unwrap();
        assert!(matches!(Lock::acquire(&path, now), Err(LockError::Held(_))));
        assert!(Lock::acquire(&path, now + STALE_AFTER).is_ok());
    }

    #[test]
    fn a_crashed_holder_on_this_host_does_not_lock_it_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::acquire(&path, Timestamp::now()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        drop(lock);
        std::fs::write(&path, text).unwrap(); // as a killed process leaves it
        assert!(Lock::acquire(&path, Timestamp::now()).is_ok());
    }
}
