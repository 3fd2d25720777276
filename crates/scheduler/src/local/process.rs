//! Processes: which one it is, whether it lives, how much memory its session uses.

use std::fs;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

/// One process for as long as the host exists: no other ever has the same three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Its number.
    pub(super) pid: i32,
    /// When it started, in clock ticks since the host did (field 22 of `/proc/PID/stat`).
    pub(super) started: u64,
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub(super) boot: String,
}

/// What is used of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    /// One letter; `Z` is a process that has ended.
    state: char,
    session: i32,
    started: u64,
}

/// Reads a line of `/proc/PID/stat`. The name in parentheses may hold anything, so the fields are
/// counted from the last parenthesis.
fn stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn stat_of(pid: i32) -> Option<Stat> {
    stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The boot of this host; empty where the system does not tell it.
pub(super) fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

impl Identity {
    /// The process of this number; `None` when there is none.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: stat_of(pid)?.started, boot: boot() })
    }

    /// This process.
    pub(super) fn own() -> Option<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// True while just this process runs.
    pub(super) fn is_alive(&self) -> bool {
        self.boot == boot()
            && stat_of(self.pid).is_some_and(|stat| {
                stat.started == self.started && !matches!(stat.state, 'Z' | 'X')
            })
    }

    /// Sends a signal to this process, and to no other that has its number now.
    pub(super) fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended meanwhile, which is what a signal is mostly for.
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends a signal to this process and to all of its group. The group's number is not given out
    /// again while a process of it lives; the boot still has to be the same.
    pub(super) fn signal_group(&self, signal: Signal) {
        if self.boot != boot() {
            return;
        }
        // The number of a leader that is gone may have been given to another process since; then
        // that process leads the group, and it is not ours.
        let is_anothers = stat_of(self.pid).is_some_and(|stat| stat.started != self.started);
        if !is_anothers && let Some(pid) = Pid::from_raw(self.pid) {
            let _ = kill_process_group(pid, signal);
        }
        self.signal(signal);
    }
}

/// The memory that the processes of a session have for themselves, in MB (1,048,576 bytes): without
/// files that are mapped, which the system can take back.
pub(super) fn session_mb(session: i32) -> u64 {
    let mut kibibytes = 0;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat_of(pid).is_some_and(|stat| stat.session == session) {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            kibibytes += own_kibibytes(&text);
        }
    }
    kibibytes.div_ceil(1024)
}

/// The resident memory of `/proc/PID/status` that no file stands behind.
fn own_kibibytes(status: &str) -> u64 {
    let of_line = |line: &str| {
        let rest = line.strip_prefix("RssAnon:").or_else(|| line.strip_prefix("RssShmem:"))?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    status.lines().filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_programs_name() {
        let rest =
            "S 1 40 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 999 88 18446744073709551615";
        for name in ["sh", "a b", "x) R 7 8 9 (", ""] {
            let found = stat(&format!("42 ({name}) {rest}"));
            assert_eq!(found, Some(Stat { state: 'S', session: 41, started: 12345 }), "{name:?}");
        }
        for odd in ["", "42 (sh) S", "42 (sh", "42 (sh) S 1 40 x 0"] {
            assert_eq!(stat(odd), None, "{odd:?}");
        }
        let status = "Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t     300 kB\nRssFile:\t 590 kB\n\
            RssShmem:\t      10 kB\n";
        assert_eq!((own_kibibytes(status), own_kibibytes("")), (310, 0));
    }

    #[test]
    fn a_process_is_itself_and_not_another_of_its_number() {
        let own = Identity::own().unwrap();
        assert!(own.is_alive());
        let other = Identity { started: own.started + 1, ..own.clone() };
        assert!(!other.is_alive(), "another process had this number before");
        let rebooted = Identity { boot: "another boot".into(), ..own.clone() };
        assert!(!rebooted.is_alive(), "the host was started again since");
        assert!(!Identity { pid: i32::MAX, ..own }.is_alive());
    }

    #[test]
    fn a_process_that_has_ended_and_is_not_yet_waited_for_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while stat_of(pid).is_some_and(|stat| stat.state != 'Z') {
            assert!(std::time::Instant::now() < end, "it does not end");
            std::thread::yield_now();
        }
        assert!(Identity::of(pid).is_some_and(|identity| !identity.is_alive()));
        child.wait().unwrap();
    }

    #[test]
    fn the_memory_of_a_session_is_counted() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};
        // A session of its own: what else runs in the tests' session comes and goes.
        let mut child = Command::new("setsid")
            .args(["sh", "-c", "x=$(head -c 16777216 /dev/zero | tr '\\0' a); echo there; read y"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let held = session_mb(i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((16..200).contains(&held), "{held}");
        assert_eq!(session_mb(i32::MAX), 0);
    }
}
