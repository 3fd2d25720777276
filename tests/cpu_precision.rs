//! `HPC_TRAINER_CPU_PRECISION`: bfloat16 where the processor has it, and f32 where it has not.
#![cfg(feature = "trainer")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::local::{Page, TINY};

/// What a training came to.
struct Trained {
    model: Vec<u8>,
    device: String,
    losses: Vec<f64>,
    said: String,
}

const SET: [&str; 2] = ["Maximum number of samples per label=20", "Keep of the given models (%)=0"];

/// Models to go on from. One that goes on learns slowly: a network's first step moves each weight
/// by the learning rate, and rounding decides in which direction where the gradient is nearly 0.
fn models(page: &Page) -> PathBuf {
    let out = page.path("given");
    let set = [&TINY[..], &SET[..]].concat();
    let output = page.command(&out, &set).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    out
}

fn train(page: &Page, models: &Path, variables: &[(&str, &str)]) -> Trained {
    let out = page.path("out");
    let set = [&TINY[..], &SET[..]].concat();
    let mut command = page.command(&out, &set);
    command.arg("--models").arg(models).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let told: Value =
        serde_json::from_slice(&fs::read(out.join("training.json")).unwrap()).unwrap();
    let layers = told["layers"].as_array().unwrap();
    let loss = |layer: &Value| layer["history"][0]["validation_loss"].as_f64().unwrap();
    Trained {
        model: fs::read(out.join("Model 0.hdf5")).unwrap(),
        device: told["device"].as_str().unwrap().to_owned(),
        losses: layers.iter().map(loss).collect(),
        said,
    }
}

const BF16: (&str, &str) = ("HPC_TRAINER_CPU_PRECISION", "bf16");

/// Near enough that rounding alone can explain it, and not the same.
fn assert_near(rounded: &Trained, exact: &Trained) {
    assert!(rounded.model != exact.model, "nothing was rounded");
    for (rounded, exact) in rounded.losses.iter().zip(&exact.losses) {
        assert!((rounded / exact - 1.0).abs() < 0.02, "{rounded} {exact}");
    }
}

#[test]
fn bf16_gives_nearly_the_same_models_with_any_number_of_threads() {
    let page = Page::with_two_layers();
    let models = models(&page);
    let exact = train(&page, &models, &[("RAYON_NUM_THREADS", "1")]);
    assert_eq!((&*exact.device, exact.losses.len()), ("CPU (1 threads)", 2));
    // Imitated, so that this is tested on every processor.
    let portable = ("HPC_TRAINER_SIMD", "portable");
    let imitated = train(&page, &models, &[BF16, portable, ("RAYON_NUM_THREADS", "1")]);
    assert_eq!(imitated.device, "CPU (1 threads, bf16)");
    assert_near(&imitated, &exact);
    let three = train(&page, &models, &[BF16, portable, ("RAYON_NUM_THREADS", "3")]);
    assert!(three.model == imitated.model, "another model with three threads");

    let own = train(&page, &models, &[BF16, ("RAYON_NUM_THREADS", "1")]);
    if own.device == "CPU (1 threads)" {
        assert!(own.said.contains("no AVX-512 BF16 can be used here"), "{}", own.said);
        assert!(own.model == exact.model);
        return;
    }
    assert_near(&own, &exact);
    assert_near(&own, &imitated);
    assert!(train(&page, &models, &[BF16, ("RAYON_NUM_THREADS", "3")]).model == own.model);
}

#[test]
fn what_can_not_be_had_is_said_and_f32_is_taken() {
    let page = Page::with_two_layers();
    let models = models(&page);
    let exact = train(&page, &models, &[]);
    for (precision, simd, sentence) in [
        ("bf16", "avx2", "HPC_TRAINER_CPU_PRECISION=bf16, but no AVX-512 BF16 can be used here"),
        ("half", "", "HPC_TRAINER_CPU_PRECISION=\"half\" is neither f32 nor bf16: f32 is taken"),
    ] {
        let variables = [("HPC_TRAINER_CPU_PRECISION", precision), ("HPC_TRAINER_SIMD", simd)];
        let trained = train(&page, &models, &variables);
        assert!(trained.said.contains(sentence), "{}", trained.said);
        assert!(!trained.device.contains("bf16") && trained.model == exact.model, "{precision}");
    }
}
