//! The model file and its real consumer: TensorFlow 2.15.1 opens our files, and we open Keras's.
//!
//! `HPC_TRAINER_TEST_PYTHON` names a Python with `tensorflow-cpu==2.15.1`; `run_tests` makes one
//! and sets it.
#![cfg(feature = "trainer")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::Device;
use contract::wire::conversation::sha256;
use page_layers::keras::{self, Adjustment, CONV_LAYERS, Weights};
use page_layers::{PatchShape, Predictor};

/// Our results and TensorFlow's may differ by rounding only: this is the contract's limit.
const TOLERANCE: f32 = 1e-5;

/// The interpreter. A missing one fails the test: a check that can't run must not look like one
/// that passed.
pub(crate) fn python() -> PathBuf {
    let python = std::env::var_os("HPC_TRAINER_TEST_PYTHON").map(PathBuf::from);
    python
        .expect("no Python with TensorFlow 2.15.1: use ./run_tests, or set HPC_TRAINER_TEST_PYTHON")
}

fn script(python: &Path, mode: &str, folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keras/check_models.py");
    let output = Command::new(python).arg(script).arg(mode).arg(folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What Keras saved: `check_models.py save`, made once for all tests that need it, and made again
/// when that script has changed. It is only read.
fn saved(python: &Path) -> PathBuf {
    let script_text = include_bytes!("keras/check_models.py");
    let name = format!("keras-{}", &sha256(script_text)[..16]);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    // Whoever comes meanwhile waits.
    let whole = File::create(folder.join("lock")).unwrap();
    whole.lock().unwrap();
    if !folder.join("whole").exists() {
        script(python, "save", &folder);
        fs::write(folder.join("whole"), "").unwrap();
    }
    folder
}

/// Values in −1…1 from a linear congruential generator: reproducible, whatever the versions of
/// crates.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Uniform weights with a variance that keeps the signal of a ReLU network alive, and biases that
/// are not zero.
fn random_weights(seed: u64) -> Weights {
    let mut next = noise(seed);
    let mut tensors = Vec::new();
    for layer in CONV_LAYERS {
        let bound = (6.0 / (layer.kernel * layer.kernel * layer.input) as f32).sqrt();
        tensors.push((0..layer.kernel_len()).map(|_| next() * bound).collect());
        tensors.push((0..layer.output).map(|_| 0.05 + 0.05 * next()).collect());
    }
    Weights::new(tensors).unwrap()
}

fn predict(weights: &Weights, images: &[f32], height: usize, width: usize) -> Vec<f32> {
    Predictor::new(weights, &Device::Cpu).unwrap().predict(images, height, width).unwrap()
}

fn write_floats(path: &Path, values: &[f32]) {
    fs::write(path, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

fn read_floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn tensorflow_opens_what_was_written() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    for (seed, height, width) in [(1, 32, 64), (2, 64, 32)] {
        let shape = PatchShape::new(height, width).unwrap();
        let weights = random_weights(seed);
        let path = folder.path().join(format!("ours-{seed}.hdf5"));
        if seed == 1 {
            keras::write(&path, &weights, shape).unwrap();
        } else {
            // As a calibrated model: with an attribute that Keras does not know.
            keras::write_adjusted(&path, &weights, shape, Adjustment::NONE).unwrap();
        }
        // The script compares TensorFlow's predictions with these.
        let mut next = noise(100 + seed);
        let images: Vec<f32> = (0..3 * 3 * height * width).map(|_| next().abs()).collect();
        write_floats(&path.with_extension("x.f32"), &images);
        write_floats(&path.with_extension("y.f32"), &predict(&weights, &images, height, width));
    }
    let said = script(&python, "check", folder.path());
    println!("{said}");
    assert_eq!(
        said.lines().filter(|line| line.contains("predictions differ by")).count(),
        2,
        "{said}"
    );
}

#[test]
fn what_keras_saved_is_opened() {
    let folder = saved(&python());
    for name in ["keras", "masking"] {
        let model = keras::read(&folder.join(format!("{name}.hdf5"))).unwrap();
        assert_eq!(model.shape, Some(PatchShape::new(64, 96).unwrap()), "{name}");
        let images = read_floats(&folder.join(format!("{name}.x.f32")));
        let expected = read_floats(&folder.join(format!("{name}.y.f32")));
        let found = predict(&model.weights, &images, 64, 96);
        assert_eq!(found.len(), expected.len());
        let difference =
            found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: predictions differ by {difference:.1e}");
        assert!(difference < TOLERANCE, "{name}: {difference}");
    }
    let error = keras::read(&folder.join("other.hdf5")).unwrap_err().to_string();
    assert!(error.contains("kernel_size is [3,3], expected [2,2]"), "{error}");
}

#[test]
fn a_page_is_segmented_as_by_keras_with_models_that_keras_wrote() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let (saved, models) = (saved(&python), folder.path().join("models"));
    fs::create_dir(&models).unwrap();
    for (from, to) in [("keras", "Background Model"), ("masking", "Model 0")] {
        let from = saved.join(format!("{from}.hdf5"));
        fs::copy(from, models.join(format!("{to}.hdf5"))).unwrap();
    }
    let (width, height) = (150, 110);
    let mut next = noise(9);
    let pixels = (0..3 * width * height).map(|_| (next().abs() * 255.0) as u8).collect();
    let page = image::RgbImage::from_raw(width, height, pixels).unwrap();
    page.save(folder.path().join("page.png")).unwrap();
    script(&python, "segment", folder.path());

    let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
    command.arg("--predict").arg(folder.path().join("page.png")).arg("--models").arg(&models);
    command.args(["--windows", "classifier"]);
    let output = command.arg("--out").arg(folder.path().join("out")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let layer = image::open(folder.path().join("out/Layer 0.png")).unwrap().to_rgba8();
    let ours = layer.pixels().map(|pixel| u8::from(pixel[3] == 255));
    let theirs = fs::read(folder.path().join("labels.u8")).unwrap();
    assert!(
        theirs.contains(&0) && theirs.contains(&1),
        "the models agree everywhere: nothing to compare"
    );
    // The choice may differ only where two models are equally confident except for rounding.
    let gaps = read_floats(&folder.path().join("gap.f32"));
    let differ: Vec<f32> =
        ours.zip(theirs).zip(gaps).filter(|((a, b), _)| a != b).map(|(_, gap)| gap).collect();
    println!("{} of {} pixels differ", differ.len(), width * height);
    assert!(differ.iter().all(|gap| *gap < TOLERANCE), "{differ:?}");
}

#[test]
fn models_for_images_of_any_size_and_other_networks() {
    let saved = saved(&python());
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    let put = |from: &str, to: &str| {
        fs::copy(saved.join(from), models.join(format!("{to}.hdf5"))).unwrap();
    };
    put("open.hdf5", "Background Model");
    put("open.hdf5", "Model 0");
    image::RgbImage::new(40, 30).save(folder.path().join("page.png")).unwrap();
    let predict = |set: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        command.arg("--predict").arg(folder.path().join("page.png")).arg("--models").arg(&models);
        command.args(["--windows", "classifier"]);
        set.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        let output = command.arg("--out").arg(folder.path().join("out")).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // Nothing says how large the patches were, so the default of training is used.
    for (set, windows) in [(&[][..], "windows 256x256"), (&["Patch width=64"], "windows 64x256")] {
        let (code, said) = predict(set);
        assert!(code == Some(0) && said.contains(windows), "{said}");
    }
    // A model that has a size decides for all.
    put("keras.hdf5", "Model 1");
    let (code, said) = predict(&[]);
    assert!(code == Some(0) && said.contains("windows 96x64"), "{said}");
    put("other.hdf5", "Model 1");
    let (code, said) = predict(&[]);
    assert_eq!(code, Some(11), "{said}");
    assert!(
        said.contains("Model 1.hdf5: ") && said.contains("kernel_size is [3,3], expected [2,2]"),
        "{said}"
    );
}
