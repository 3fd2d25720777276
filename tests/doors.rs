//! What `check` lets nobody see or hear. No service is needed: the broker is absent, or a listener
//! that says nothing.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support;
use support::program::{Finished, Program, check};

/// Runs `check` with these addresses; names in `.invalid` never resolve.
fn run(broker: &str, rodan: &str, require_tls: &str) -> Finished {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials.env");
    let text = format!(
        "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST={broker}\n\
         RODAN_USER=u\nRODAN_PASSWORD=p\nRODAN_HOST={rodan}\nREQUIRE_TLS={require_tls}\n"
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    Program::new(check()).env("HPC_TRAINER_HOME", home.path()).arg("--env-file").arg(&file).run()
}

#[test]
fn a_plain_host_elsewhere_is_warned_of_on_one_line() {
    let finished = run("rabbit.invalid", "rodan.invalid", "0");
    for name in ["RABBITMQ_HOST has no TLS", "RODAN_HOST has no TLS"] {
        assert_eq!(
            finished.stderr.lines().filter(|l| l.contains(name)).count(),
            1,
            "{}",
            finished.stderr
        );
    }
    let finished = run("127.0.0.1:1", "https://rodan.invalid", "0");
    assert!(!finished.stderr.contains("has no TLS"), "{}", finished.stderr);
}

#[test]
fn require_tls_refuses_plain_hosts_before_anything_is_sent() {
    let finished = run("rabbit.invalid", "rodan.invalid", "1");
    assert_eq!(finished.code(), Some(3), "{}", finished.stderr);
    for instead in ["write amqps://rabbit.invalid;", "write https://rodan.invalid;"] {
        assert!(finished.stderr.contains(instead), "{}", finished.stderr);
    }
}

/// A site for `check`, with a broker that accepts the connection and says nothing. Any account may
/// read it.
fn silent_site() -> (tempfile::TempDir, TcpListener) {
    let home = tempfile::tempdir().unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = home.path().join("credentials.env");
    let text = format!(
        "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST={}\n\
         RODAN_USER=u\nRODAN_PASSWORD=p\nRODAN_HOST=127.0.0.1:1\n",
        broker.local_addr().unwrap()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    (home, broker)
}

#[test]
fn a_check_at_work_leaves_no_core_and_can_not_be_looked_into() {
    let (home, broker) = silent_site();
    let mut command = Command::new(check());
    let own = rustix::process::geteuid();
    if own.is_root() {
        // Root may look into everything, so the test uses another account, which needs a program
        // that it can reach.
        let program = home.path().join("check");
        fs::copy(check(), &program).unwrap();
        for path in
            [home.path().to_path_buf(), home.path().join("credentials.env"), program.clone()]
        {
            std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
        }
        command = Command::new(program);
        command.uid(65534).gid(65534);
    }
    let mut child = command
        .env_clear()
        .env("HPC_TRAINER_HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // By now it has read its passwords and speaks to the broker.
    let _connection = broker.accept().unwrap();
    let of_process = |name: &str| format!("/proc/{}/{name}", child.id());
    let limits = fs::read_to_string(of_process("limits")).unwrap();
    let owner = fs::metadata(of_process("environ")).unwrap().uid();
    child.kill().unwrap();
    child.wait().unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert_eq!(owner, 0, "a process that can't be dumped belongs to root in /proc");
}

#[test]
fn the_spool_is_made_for_this_account_alone_whatever_the_umask() {
    let (home, _broker) = silent_site();
    drop(_broker);
    let shell = format!("umask 000; exec '{}'", check().display());
    Program::new("/bin/sh").args(["-c", &shell]).env("HPC_TRAINER_HOME", home.path()).run();
    let mut seen = 0;
    for path in ["spool", "spool/jobs", "spool/done", "spool/rejected", "logs"] {
        let path = home.path().join(path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
        for file in
            fs::read_dir(&path).unwrap().flatten().filter(|e| e.file_type().unwrap().is_file())
        {
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{}", file.path().display());
            seen += 1;
        }
    }
    assert!(seen > 0, "the lock, at least");
}

#[test]
fn a_spool_of_another_account_or_behind_a_link_is_refused() {
    let (home, _broker) = silent_site();
    let run = || {
        Program::new(check()).env("HPC_TRAINER_HOME", home.path()).current_dir(home.path()).run()
    };
    fs::create_dir_all(home.path().join("spool")).unwrap();
    symlink("/tmp", home.path().join("spool/jobs")).unwrap();
    let finished = run();
    assert_eq!(finished.code(), Some(7), "{finished}");
    assert!(
        finished.stderr.contains("spool/jobs can't be") && finished.stderr.contains("SPOOL_DIR"),
        "{finished}"
    );
    if rustix::process::geteuid().is_root() {
        fs::remove_file(home.path().join("spool/jobs")).unwrap();
        std::os::unix::fs::chown(home.path().join("spool"), Some(65534), None).unwrap();
        let finished = run();
        assert_eq!(finished.code(), Some(7), "{finished}");
        assert!(finished.stderr.contains("it belongs to user 65534"), "{finished}");
        std::os::unix::fs::chown(home.path().join("spool"), Some(0), None).unwrap();
        std::os::unix::fs::chown(home.path().join("credentials.env"), Some(65534), None).unwrap();
        let finished = run();
        assert_eq!(finished.code(), Some(3), "{finished}");
        assert!(
            finished.stderr.contains("belongs to user 65534, who could change it"),
            "{finished}"
        );
    }
}
