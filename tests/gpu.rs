//! `run_trainer --check-gpu`: says what is missing, or that the GPU computes what the CPU computes.
#![cfg(feature = "trainer")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and says where")]

use std::process::{Command, Output};

fn run_trainer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_run_trainer")).args(arguments).output().unwrap()
}

#[test]
fn the_gpu_is_compared_or_what_is_missing_is_named() {
    let found = run_trainer(&["--check-gpu"]);
    let (out, err) = (String::from_utf8_lossy(&found.stdout), String::from_utf8_lossy(&found.stderr));
    assert!(out.lines().chain(err.lines()).all(|line| !line.contains("panicked")), "{err}");
    if found.status.code() == Some(9) && err.contains("no usable GPU: ") {
        eprintln!("SKIPPED on a GPU: {}", err.trim());
        // The library, and what to do about it, in one line.
        assert!(err.contains("load the site's modules") || err.contains("version 9 is needed"), "{err}");
        assert!(out.is_empty());
    } else {
        assert_eq!(found.status.code(), Some(0), "{out}{err}");
        assert!(out.lines().any(|line| line.starts_with("f32 ") && line.contains(" yes ")), "{out}");
    }
}

#[test]
fn checking_the_gpu_goes_with_nothing_else() {
    for other in [&["--check-gpu", "--out", "x"][..], &["--check-gpu", "job.json"]] {
        assert_eq!(run_trainer(other).status.code(), Some(2), "{other:?}");
    }
}
