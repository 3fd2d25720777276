//! One `check` at a time on one spool, even from two login nodes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use base::files::read_own;
use base::files::{create_atomic, write_atomic};
use base::host_name;

/// How long the lock of another host is valid without a new heartbeat.
const STALE_AFTER: Duration = Duration::from_secs(600);
/// How often a heartbeat is written.
const BEAT_EVERY: Duration = Duration::from_secs(60);

/// What the holder of the lock is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A pass over all jobs.
    #[default]
    Check,
    /// Work on one job: its watcher's, `check cancel`'s or `check retry`'s. It mostly takes
    /// seconds, so that a pass waits for it for a while.
    Watcher,
}

/// The holder of the lock, by its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// Its host.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its latest heartbeat.
    pub heartbeat: Timestamp,
    /// What it is doing.
    pub role: Role,
}

impl HeldBy {
    fn new(role: Role, now: Timestamp) -> Self {
        Self { host: host_name(), pid: std::process::id(), heartbeat: now, role }
    }

    /// False when the next `check` would take the lock over.
    pub fn is_alive(&self, now: Timestamp) -> bool {
        if self.host == host_name() { self.is_running() } else { self.is_fresh(now) }
    }

    fn is_running(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        now.duration_since(self.heartbeat).unsigned_abs() < STALE_AFTER
    }
}

/// What stands in the holder's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    #[serde(flatten)]
    pub(super) who: HeldBy,
    /// Tells this lock from another one of the same process.
    token: String,
}

/// Where the holder of a lock says who it is.
pub(super) fn holder_path(lock: &Path) -> PathBuf {
    lock.with_extension("holder")
}

/// The lock of the spool, held until dropped.
///
/// It has two parts. The kernel's lock on the file `lock` ends with its process in any case, but it
/// may not reach other nodes (NFS without a lock manager, Lustre mounted with `localflock`). So
/// there is also the file `lock.holder` with host, process and a heartbeat. It is made by a link,
/// which the file server either makes or refuses. A holder on this host without the kernel's lock
/// is dead; one on another host counts until its heartbeat is ten minutes old. Before each step,
/// the holder makes sure that the file is still its own.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    holder: Holder,
    /// The kernel's lock lives as long as this file is open.
    _kernel: File,
}

/// Why the lock can't be taken, or is no longer ours.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another check is at work: {who}")]
    Held {
        /// Process, host and heartbeat.
        who: String,
        /// What it is doing.
        role: Role,
    },
    /// Another host took the lock because it looked stale: this process stood still for more than
    /// ten minutes.
    #[error("another host has taken the spool's lock over; this pass ends, the other carries on")]
    Lost,
    /// The lock file can't be used.
    #[error("can't lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Holder {
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&read_own(path).ok()?).ok()
    }

    fn text(&self) -> io::Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(io::Error::other)
    }
}

fn held(holder: Option<&Holder>) -> LockError {
    let role = holder.map_or(Role::Check, |holder| holder.who.role);
    let who = match holder.map(|holder| &holder.who) {
        Some(HeldBy { host, pid, heartbeat, .. }) => {
            format!("process {pid} on {host}, last seen {heartbeat}")
        }
        None => "it has not said who it is yet".to_owned(),
    };
    LockError::Held { who, role }
}

impl Lock {
    /// Takes the lock of `path`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it, else when its files can't be read or
    /// written.
    pub fn acquire(path: &Path, role: Role, now: Timestamp) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_path_buf(), source };
        let kernel = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let file = holder_path(path);
        let has_kernel_lock = match flock(&kernel, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held(Holder::read(&file).as_ref())),
            // A filesystem without locks: only the holder's file decides.
            Err(
                rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP,
            ) => false,
            Err(error) => return Err(io(error.into())),
        };
        let holder = Holder { who: HeldBy::new(role, now), token: Uuid::new_v4().to_string() };
        let text = holder.text().map_err(io)?;
        // Two attempts, because the first may find a stale lock.
        for _ in 0..2 {
            if create_atomic(&file, &text).map_err(io)? {
                return Ok(Self { path: file, holder, _kernel: kernel });
            }
            let Some(other) = Holder::read(&file) else {
                // It was damaged by hand, or has just been removed.
                remove_stale(&file, None).map_err(io)?;
                continue;
            };
            let is_dead = match other.who.host == holder.who.host {
                true => has_kernel_lock || !other.who.is_running(),
                false => !other.who.is_fresh(now),
            };
            if !is_dead || !remove_stale(&file, Some(&other)).map_err(io)? {
                return Err(held(Some(&other)));
            }
        }
        Err(held(Holder::read(&file).as_ref()))
    }

    /// Makes sure that the lock is still ours, and renews the heartbeat from time to time. Call it
    /// before each step.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] when another process has taken the lock, or when the file can't be
    /// written.
    pub fn heartbeat(&mut self, now: Timestamp) -> Result<(), LockError> {
        if Holder::read(&self.path).is_none_or(|h| h.token != self.holder.token) {
            return Err(LockError::Lost);
        }
        if now.duration_since(self.holder.who.heartbeat).unsigned_abs() < BEAT_EVERY {
            return Ok(());
        }
        self.holder.who.heartbeat = now;
        let write = |holder: &Holder| write_atomic(&self.path, &holder.text()?);
        write(&self.holder).map_err(|source| LockError::Io { path: self.path.clone(), source })
    }
}

/// Removes the file of a dead holder; false when somebody else was quicker. It uses a rename: of
/// several hosts that try at once only one moves the file, and can then look at what it has moved.
fn remove_stale(file: &Path, seen: Option<&Holder>) -> io::Result<bool> {
    let aside = file.with_extension(format!("stale-{}", Uuid::new_v4()));
    match fs::rename(file, &aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    }
    let moved = Holder::read(&aside);
    let as_seen = moved.as_ref().map(|h| &h.token) == seen.map(|h| &h.token);
    if !as_seen {
        // It is the new lock of a quicker host, so it is put back. If there is an even newer one,
        // that one counts, and the owner of this one will notice at its next step.
        let _ = fs::hard_link(&aside, file);
    }
    fs::remove_file(&aside)?;
    Ok(as_seen)
}

impl Drop for Lock {
    fn drop(&mut self) {
        if Holder::read(&self.path).is_some_and(|h| h.token == self.holder.token) {
            // If this fails, the next process on this host finds no kernel lock, and other hosts
            // wait until the heartbeat is old.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        (dir, path)
    }

    fn take(path: &Path, now: Timestamp) -> Result<Lock, LockError> {
        Lock::acquire(path, Role::Check, now)
    }

    fn write_holder(path: &Path, host: &str, heartbeat: Timestamp) {
        let who = HeldBy { host: host.into(), pid: 7, heartbeat, role: Role::Check };
        let holder = Holder { who, token: String::new() };
        fs::write(holder_path(path), holder.text().unwrap()).unwrap();
    }

    #[test]
    fn one_holder_at_a_time() {
        let (dir, path) = lock();
        let lock = Lock::acquire(&path, Role::Watcher, Timestamp::now()).unwrap();
        let error = take(&path, Timestamp::now()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        assert!(matches!(error, LockError::Held { role: Role::Watcher, .. }));
        drop(lock);
        assert!(take(&path, Timestamp::now()).is_ok());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "only the kernel's lock file stays"
        );
    }

    #[test]
    fn the_lock_of_another_host_counts_until_it_is_stale() {
        let (_dir, path) = lock();
        let now = Timestamp::now();
        write_holder(&path, "elsewhere.example", now);
        assert!(matches!(take(&path, now), Err(LockError::Held { .. })));
        assert!(take(&path, now + STALE_AFTER).is_ok());
    }

    #[test]
    fn a_crashed_holder_on_this_host_does_not_lock_it_for_ever() {
        let (_dir, path) = lock();
        write_holder(&path, &host_name(), Timestamp::now()); // as a killed process leaves it
        assert!(take(&path, Timestamp::now()).is_ok());
        fs::write(path.with_extension("holder"), "{\"host\":").unwrap();
        assert!(take(&path, Timestamp::now()).is_ok(), "a torn file is nobody's");
    }

    #[test]
    fn a_holder_that_was_taken_for_dead_notices_before_its_next_step() {
        let (_dir, path) = lock();
        let now = Timestamp::now();
        let mut lock = take(&path, now).unwrap();
        lock.heartbeat(now).unwrap();
        write_holder(&path, "elsewhere.example", now);
        assert!(matches!(lock.heartbeat(now), Err(LockError::Lost)));
        drop(lock);
        assert!(path.with_extension("holder").exists(), "the other's lock stays");
    }

    #[test]
    fn a_heartbeat_is_written_once_a_minute() {
        let (_dir, path) = lock();
        let now = Timestamp::now();
        let mut lock = take(&path, now).unwrap();
        let seen = || Holder::read(&holder_path(&path)).unwrap().who.heartbeat;
        lock.heartbeat(now + Duration::from_secs(5)).unwrap();
        assert_eq!(seen(), now);
        lock.heartbeat(now + BEAT_EVERY).unwrap();
        assert_eq!(seen(), now + BEAT_EVERY);
    }

    #[test]
    fn of_two_hosts_that_find_a_stale_lock_one_gets_it() {
        let (_dir, path) = lock();
        let now = Timestamp::now();
        let holder = path.with_extension("holder");
        write_holder(&path, "dead.example", now - STALE_AFTER * 2);
        let seen = Holder::read(&holder).unwrap();
        // The other host was quicker between our look and our rename.
        let who = HeldBy { host: "quick.example".into(), heartbeat: now, ..seen.who.clone() };
        let quick = Holder { token: Uuid::new_v4().to_string(), who };
        fs::write(&holder, quick.text().unwrap()).unwrap();
        assert!(!remove_stale(&holder, Some(&seen)).unwrap());
        assert_eq!(
            Holder::read(&holder).unwrap().who.host,
            "quick.example",
            "its lock is back in place"
        );
    }
}
