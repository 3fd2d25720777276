//! What the integration tests share. Each file says what it stands for:
//!
//! - [`services`]: the private broker and cluster that `./run_tests` has started, or one of a
//!   test's own;
//! - [`broker`]: a vhost for one test, and Rodan's side of the queues;
//! - [`asker`]: the asker's side of a conversation;
//! - [`browser`]: a real browser without a window;
//! - [`proxy`]: stands before the broker and breaks connections at a chosen moment;
//! - [`rodan`]: the stand-in for Rodan's HTTP side;
//! - [`slurm`]: what Slurm says about a job;
//! - [`program`]: runs a program with a clean environment and a deadline;
//! - [`desk`]: all of these together;
//! - [`site`]: a directory like an operator's, with `run_check`, the batch script and
//!   `credentials.env`;
//! - `gateway`: a gateway of a test's own, and its clients;
//! - `keras_file`: files as Keras writes them.
#![allow(
    dead_code,
    unused_imports,
    reason = "a build without the trainer or the gateway uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics, and says where"
)]

pub(crate) mod asker;
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod desk;
#[cfg(feature = "gateway")]
pub(crate) mod gateway;
#[cfg(feature = "trainer")]
#[path = "../../crates/page-layers/tests/support/keras_file.rs"]
pub(crate) mod keras_file;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod rodan;
pub(crate) mod services;
pub(crate) mod site;
pub(crate) mod slurm;

use std::time::{Duration, Instant};

/// So many seconds.
pub(crate) const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Polls until `look` finds something: every 50 ms, and more seldom where a look takes long. Most
/// looks start a program (scontrol, a pass of `check`), and the cores belong to what is waited
/// for.
///
/// # Panics
/// After `limit`, naming what was waited for.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        let start = Instant::now();
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} for {what}, in vain");
        std::thread::sleep(
            (start.elapsed() * 4).clamp(Duration::from_millis(50), Duration::from_millis(500)),
        );
    }
}

/// Whether `run_tests` has found the packages of this name (`clients`, `notebook`, `servers`): a
/// test that can't use them fails then, and is not left out.
pub(crate) fn is_installed(packages: &str) -> bool {
    let installed = std::env::var("HPC_TRAINER_TEST_INSTALLED").unwrap_or_default();
    installed.split_whitespace().any(|name| name == packages)
}

/// A shell script that can be run.
pub(crate) fn write_script(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/bash\n{text}\n")).expect("the script can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("its mode");
}

/// A port on which nobody listens, and which no other test is given meanwhile.
pub(crate) const DEAD_PORT: u16 = 1;
