//! `run_trainer --check-gpu`: says what is missing, or that the GPU computes what the CPU computes.
#![cfg(feature = "trainer")]

use std::process::{Command, Output};

use crate::local::Page;

fn run_trainer(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_run_trainer")).args(arguments).output().unwrap()
}

#[test]
fn the_gpu_is_compared_or_what_is_missing_is_named() {
    let found = run_trainer(&["--check-gpu"]);
    let (out, err) =
        (String::from_utf8_lossy(&found.stdout), String::from_utf8_lossy(&found.stderr));
    assert!(out.lines().chain(err.lines()).all(|line| !line.contains("panicked")), "{err}");
    if found.status.code() == Some(9) && err.contains("no usable GPU: ") {
        eprintln!("SKIPPED on a GPU: {}", err.trim());
        // One line names the library and what to do about it.
        assert!(
            err.contains("load the site's modules") || err.contains("version 9 is needed"),
            "{err}"
        );
        assert!(out.is_empty());
    } else {
        assert_eq!(found.status.code(), Some(0), "{out}{err}");
        assert!(
            out.lines().any(|line| line.starts_with("f32 ") && line.contains(" yes ")),
            "{out}"
        );
    }
}

#[test]
fn checking_the_gpu_goes_with_nothing_else() {
    for other in [&["--check-gpu", "--out", "x"][..], &["--check-gpu", "job.json"]] {
        assert_eq!(run_trainer(other).status.code(), Some(2), "{other:?}");
    }
}

#[test]
fn a_missing_gpu_is_a_warning_only_where_somebody_expects_one() {
    let page = Page::cut(100, 100);
    let settings = [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of samples per label=5",
        "Maximum number of training epochs=1",
        "Calibrate=no",
    ];
    let line = |given: Option<&str>| {
        let out = tempfile::tempdir().unwrap();
        let mut trainer = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        trainer.arg("--local").arg(page.path("")).arg("--out").arg(out.path());
        trainer.args(settings.into_iter().flat_map(|set| ["--set", set]));
        for name in
            ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "HPC_TRAINER_DEVICE"]
        {
            trainer.env_remove(name);
        }
        let output = trainer.envs(given.map(|card| ("SLURM_JOB_GPUS", card))).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        said.lines()
            .find(|line| line.contains("GPU"))
            .unwrap_or_else(|| panic!("no line about it: {said}"))
            .to_owned()
    };
    if std::path::Path::new("/dev/nvidiactl").exists() {
        eprintln!("SKIPPED: a driver is here");
        return;
    }
    let unexpected = line(None);
    assert!(
        unexpected.contains("no GPU here: training on the CPU") && !unexpected.contains("WARN"),
        "{unexpected}"
    );
    let expected = line(Some("0"));
    assert!(
        expected.contains("WARN") && expected.contains("no usable GPU (NVIDIA's driver"),
        "{expected}"
    );
}
