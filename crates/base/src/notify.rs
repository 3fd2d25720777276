//! Telling systemd how this process is (`sd_notify(3)`): a line of text in a datagram, to the
//! socket that `NOTIFY_SOCKET` names. Without that variable nothing is told.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// It is ready.
pub const READY: &str = "READY=1";
/// It is ending.
pub const STOPPING: &str = "STOPPING=1";
/// It is alive.
const WATCHDOG: &str = "WATCHDOG=1";
/// How long a listener that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells systemd `state`. A service works without it, so what fails is only a line in the log.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!("systemd can't be told {state}: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    // A name that begins with @ is one without a file.
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    sender.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Tells systemd that this process is alive, where it waits for that.
pub fn alive() {
    if watchdog_interval().is_some() {
        tell(WATCHDOG);
    }
}

/// How often systemd wants to hear that this process is alive: half of what it waits for
/// (`WATCHDOG_USEC`), as its manual recommends. `None` where it does not wait.
pub fn watchdog_interval() -> Option<Duration> {
    let value = |name| std::env::var(name).ok();
    interval(
        value("WATCHDOG_USEC").as_deref(),
        value("WATCHDOG_PID").as_deref(),
        std::process::id(),
    )
}

fn interval(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    // Meant for another process: the variables were inherited.
    if pid.is_some_and(|pid| pid.trim().parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.trim().parse().ok().filter(|usec| *usec > 0)?;
    Some(Duration::from_micros(usec / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_arrives_at_a_socket_with_and_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("hpc-trainer-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ];
        for (socket, address) in sockets {
            send(&address, READY).unwrap();
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], READY.as_bytes());
        }
        assert!(send(dir.path().join("nobody").as_os_str(), READY).is_err());
    }

    #[test]
    fn half_of_the_watchdogs_time_is_its_interval() {
        let seconds = Duration::from_secs;
        assert_eq!(interval(Some("600000000"), Some("7"), 7), Some(seconds(300)));
        assert_eq!(interval(Some("600000000"), None, 7), Some(seconds(300)));
        assert_eq!(interval(Some("600000000"), Some("8"), 7), None);
        for none in [None, Some(""), Some("0"), Some("x")] {
            assert_eq!(interval(none, None, 7), None, "{none:?}");
        }
    }
}
