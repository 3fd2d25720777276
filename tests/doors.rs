//! What `check` lets nobody see or hear. Needs no service: the broker is absent, or a listener that says nothing.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics, and says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

mod support;
use support::program::{Finished, Program, check};

/// Runs `check` with these addresses; names in `.invalid` never resolve.
fn run(broker: &str, rodan: &str, require_tls: &str) -> Finished {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("credentials.env");
    let text = format!(
        "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST={broker}\nRODAN_USER=u\nRODAN_PASSWORD=p\n\
         RODAN_HOST={rodan}\nREQUIRE_TLS={require_tls}\n"
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    Program::new(check()).env("HPC_TRAINER_HOME", home.path()).arg("--env-file").arg(&file).run()
}

#[test]
fn a_plain_host_elsewhere_is_warned_of_on_one_line() {
    let finished = run("rabbit.invalid", "rodan.invalid", "0");
    for name in ["RABBITMQ_HOST has no TLS", "RODAN_HOST has no TLS"] {
        assert_eq!(finished.stderr.lines().filter(|l| l.contains(name)).count(), 1, "{}", finished.stderr);
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
