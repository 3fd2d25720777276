//! TensorBoard's own reader reads our event files.
//!
//! `HPC_TRAINER_TEST_PYTHON` names a Python with `tensorflow-cpu==2.15.1`; `run_tests` makes one
//! and sets it.
#![cfg(feature = "trainer")]

use std::path::Path;
use std::process::Command;

use domain::Layer;
use page_layers::{EpochReport, EventLogs, JobObserver, Metrics, Stop, WithEvents};
use serde_json::{Value, json};

/// What TensorBoard finds in the directories below this one: `{name: {tag: [[step, value], …]}}`.
fn read(directory: &Path) -> Value {
    let python = std::env::var_os("HPC_TRAINER_TEST_PYTHON");
    let python = python.expect(
        "no Python with TensorFlow 2.15.1: use ./run_tests, or set HPC_TRAINER_TEST_PYTHON",
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keras/read_events.py");
    let output = Command::new(python).arg(script).arg(directory).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {err}"))
}

/// Trains the middle of the example page, with the background and one layer, for two epochs.
fn train(folder: &Path, tensorboard: &Path) -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page");
    for name in ["image.png", "regions.png", "background.png", "layer_0.png"] {
        let part = image::open(example.join(name)).unwrap().crop_imm(70, 40, 150, 150);
        part.save(folder.join(name)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
    command.env_clear().arg("--local").arg(folder).arg("--out").arg(folder.join("out"));
    command.arg("--tensorboard").arg(tensorboard);
    let settings =
        ["Patch height=32", "Patch width=32", "Seed=7", "Maximum number of training epochs=2"];
    for set in settings.into_iter().chain(["Maximum number of samples per label=20"]) {
        command.args(["--set", set]);
    }
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    err
}

#[test]
fn tensorboard_reads_what_training_json_says() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("new/events");
    train(folder.path(), &events);
    let found = read(&events);
    let report = std::fs::read(folder.path().join("out/training.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let tags = [
        ("loss", "training_loss"),
        ("validation loss", "validation_loss"),
        ("validation accuracy", "validation_accuracy"),
        ("validation F1", "validation_f1"),
        ("seconds per epoch", "seconds"),
    ];
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(found.as_object().unwrap().len(), layers.len());
    for layer in layers {
        let run = found[layer["model"].as_str().unwrap()].as_object().unwrap();
        assert_eq!(run.len(), tags.len(), "{run:?}");
        for (tag, name) in tags {
            let epochs = layer["history"].as_array().unwrap();
            assert_eq!(epochs.len(), 2);
            let expected: Vec<_> = (1..)
                .zip(epochs)
                .map(|(step, epoch)| (step, epoch[name].as_f64().unwrap() as f32))
                .collect();
            let seen: Vec<(u64, f64)> = serde_json::from_value(run[tag].clone()).unwrap();
            let seen: Vec<_> = seen.into_iter().map(|(step, value)| (step, value as f32)).collect();
            assert_eq!(seen, expected, "{tag}");
        }
    }
}

/// An observer that does nothing.
#[derive(Debug)]
struct Nobody;

impl JobObserver for Nobody {
    fn stop(&self) -> Stop {
        Stop::KeepBest
    }
}

fn report(epoch: usize, loss: f64) -> EpochReport {
    let validation = Some(Metrics { loss, accuracy: 0.5, precision: 0.5, recall: 0.5, f1: 0.5 });
    EpochReport { epoch, training_loss: loss, validation, best: true, seconds: 1.0 }
}

#[test]
fn what_is_trained_again_replaces_what_was_written_before() {
    let folder = tempfile::tempdir().unwrap();
    let layer = Layer::Background;
    let observer = || WithEvents { inner: Nobody, events: Some(EventLogs::new(folder.path())) };
    let mut first = observer();
    assert_eq!(first.stop(), Stop::KeepBest, "the other observer is asked");
    first.layer_started(layer, 1, 8, 2, 4);
    // A layer that is started anew after two epochs.
    for (epoch, loss) in [(1, 9.0), (2, 9.0), (1, 8.0), (2, 7.0), (3, 6.0)] {
        first.epoch(layer, &report(epoch, loss));
    }
    // What is written can be read at once, whatever happens to the program.
    assert_eq!(
        read(folder.path())["Background Model"]["loss"],
        json!([[1, 8.0], [2, 7.0], [3, 6.0]])
    );
    // A run that continues from a checkpoint after its second epoch, in a file of its own.
    let mut second = observer();
    second.layer_started(layer, 1, 8, 2, 4);
    for (epoch, loss) in [(3, 5.0), (4, 4.0)] {
        second.epoch(layer, &EpochReport { validation: None, ..report(epoch, loss) });
    }
    assert_eq!(folder.path().join("Background Model").read_dir().unwrap().count(), 2);
    let run = &read(folder.path())["Background Model"];
    assert_eq!(run["loss"], json!([[1, 8.0], [2, 7.0], [3, 5.0], [4, 4.0]]));
    assert_eq!(
        run["validation F1"],
        json!([[1, 0.5], [2, 0.5]]),
        "no value, and no 0, without validation"
    );
}

#[test]
fn events_that_can_not_be_written_are_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let log = train(folder.path(), &file);
    assert_eq!(log.matches("no more events for TensorBoard: ").count(), 1, "{log}");
    assert!(folder.path().join("out/Model 0.hdf5").exists());
}
