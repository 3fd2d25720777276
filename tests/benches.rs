//! The scripts in `bench/` work: each runs at a size that takes seconds. The test checks the table,
//! not the figures.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use crate::keras_models::python;
use support::SECONDS;
use support::desk::page as part_of;
use support::program::{self, Finished, Program};
use support::services::repository;

/// The directory of the programs, with all examples that the scripts use. They are built once, by
/// whichever test comes first.
fn programs() -> PathBuf {
    program::with_examples(&["stand_in_rodan", "tile_page", "time_steps"])
}

/// Runs `bench/NAME.py` as its shell script does once everything is built.
fn bench<'a>(name: &str, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
    let script = repository().join("bench").join(name);
    Program::new("python3")
        .arg(script)
        .args(arguments)
        .env("RAYON_NUM_THREADS", "2")
        .limit(SECONDS(600))
        .run()
}

/// The figures in the line that begins with `row`.
fn figures(finished: &Finished, row: &str) -> Vec<f64> {
    let line = finished.stdout.lines().map(str::trim_start).find(|line| line.starts_with(row));
    let line = line.unwrap_or_else(|| panic!("no row {row}: {finished}"));
    let words = line[row.len()..].split_whitespace();
    words.filter_map(|word| word.trim_end_matches(['%', 'x', ',']).parse().ok()).collect()
}

#[test]
fn a_job_is_taken_apart() {
    let programs = programs();
    let (rodan, trainer) = (programs.join("examples/stand_in_rodan"), programs.join("run_trainer"));
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().to_owned();
    for name in ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png"] {
        fs::write(page.join(name), part_of(name)).unwrap();
    }
    let settings = [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of training epochs=1",
        "Maximum number of samples per label=5",
    ];
    let arguments =
        [&page, &PathBuf::from("--rodan"), &rodan, &PathBuf::from("--trainer"), &trainer];
    let arguments = arguments.into_iter().map(|path| path.to_str().unwrap());
    let finished =
        bench("job.py", arguments.chain(settings.into_iter().flat_map(|set| ["--set", set])))
            .success();
    let whole = figures(&finished, "whole");
    let parts = "download decode sample train validate write calibrate encode spool other";
    let parts: f64 = parts.split(' ').map(|part| figures(&finished, part)[0]).sum();
    assert!(whole[0] > 0.0 && (parts - whole[0]).abs() < 0.05, "{finished}");
    // Ten parts, each rounded to a hundredth.
    assert!(whole[1] >= whole[0] - 0.05, "with the program's start it is not shorter: {finished}");
}

#[test]
fn a_step_is_timed() {
    let ours = programs().join("examples/time_steps");
    let sizes =
        ["--batch", "1", "--size", "32", "--rounds", "2", "--warm-up", "1", "--threads", "2"];
    let finished =
        bench("compare.py", sizes.into_iter().chain(["--ours", ours.to_str().unwrap()])).success();
    let [median, least, most] = figures(&finished, "ours, f32")[..3] else { panic!("{finished}") };
    assert!(least > 0.0 && least <= median && median <= most, "{finished}");
    assert!(finished.stdout.contains("One training step of 1 patches of 32x32"), "{finished}");
}

#[test]
fn memory_is_compared_with_the_networks_own() {
    let programs = programs();
    let (tile, trainer) = (programs.join("examples/tile_page"), programs.join("run_trainer"));
    let page = repository().join("examples/page");
    let options = [
        "--size",
        "256x256",
        "--samples",
        "40,80",
        "--steps",
        "1",
        "--patch",
        "64",
        "--batch",
        "16",
    ];
    let paths = ["--tile", tile.to_str().unwrap(), "--trainer", trainer.to_str().unwrap()];
    let finished =
        bench("memory.py", [page.to_str().unwrap()].into_iter().chain(options).chain(paths))
            .success();
    // 16 patches of 64x64 are one of 256x256: 56 + 129 MiB for a step, and as much again for
    // weights, gradients and everything else. Other parts of a run (choosing the first weights,
    // validation, the picture) must not need a second step's memory in addition: docs/quality.md
    // relies on that.
    let network = figures(&finished, "the network by itself, one batch:")[0];
    assert!((200.0..400.0).contains(&network), "{finished}");
    let [before, after] = ["40 ", "80 "].map(|row| figures(&finished, row));
    assert!(before.len() >= 4 && after.len() >= 4, "{finished}");
    // First the number of drawn samples, then the steps after which the run was stopped.
    assert!(after[0] > 16.0 && (1.0..=after[0] / 16.0).contains(&after[1]), "{finished}");
}

/// Models of a part of the example page, for patches of 64×64, which have hardly learned.
fn small_models(trainer: &Path, folder: &Path) -> PathBuf {
    let (page, models) = (folder.join("part"), folder.join("models"));
    fs::create_dir(&page).unwrap();
    for name in ["image.png", "background.png", "regions.png", "layer_0.png"] {
        // Samples need a patch's room on all sides.
        let whole = image::open(repository().join("examples/page").join(name)).unwrap();
        whole.crop_imm(60, 50, 240, 200).save(page.join(name)).unwrap();
    }
    let settings = [
        "Patch height=64",
        "Patch width=64",
        "Maximum number of training epochs=1",
        "Maximum number of samples per label=5",
        "Calibrate=no",
    ];
    let sets = settings.into_iter().flat_map(|set| ["--set", set]);
    Program::new(trainer)
        .arg("--local")
        .arg(&page)
        .arg("--out")
        .arg(&models)
        .arg("--quiet")
        .args(sets)
        .run()
        .success();
    models
}

#[test]
fn cutting_a_page_is_timed() {
    let trainer = programs().join("run_trainer");
    // The classifier's windows of 64x64 follow each other by 13 pixels: a part of the page will do.
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.png");
    let whole = image::open(repository().join("examples/page/image.png")).unwrap();
    whole.crop_imm(70, 40, 70, 66).save(&page).unwrap();
    let models = small_models(&trainer, folder.path());
    let options = ["--rounds", "1", "--without-keras", "--models"];
    let [page, models, trainer] = [&page, &models, &trainer].map(|path| path.to_str().unwrap());
    let paths = [models, "--trainer", trainer];
    let finished = bench("cut.py", [page].into_iter().chain(options).chain(paths)).success();
    for row in ["large windows", "classifier's windows"] {
        assert!(figures(&finished, row)[0] > 0.0, "{finished}");
    }
}

#[test]
fn models_are_compared_with_what_was_drawn() {
    let trainer = programs().join("run_trainer");
    let folder = tempfile::tempdir().unwrap();
    for name in ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png"] {
        fs::write(folder.path().join(name), part_of(name)).unwrap();
    }
    let page = folder.path().to_str().unwrap();
    let small = "--only ours --seeds 1 --patch 32 --samples 5 --epochs 1 --trainer";
    // The same page twice: trained on, and compared with.
    let finished = Program::new(python())
        .arg(repository().join("bench/quality.py"))
        .args([page, page].into_iter().chain(small.split(' ')))
        .arg(trainer)
        .limit(SECONDS(300))
        .run()
        .success();
    for model in ["Background Model", "Model 0", "Model 1"] {
        let row = finished.stdout.lines().find(|line| line.starts_with(model)).unwrap();
        let shares: Vec<f64> =
            row.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // The accuracy, and precision, recall and F1 on both pages; a layer's number before them.
        let [.., a, b, c, d, e, f] = shares[..] else { panic!("{finished}") };
        assert!([a, b, c] == [d, e, f] && (0.0..=1.0).contains(&c), "{finished}");
    }
    assert!(figures(&finished, "unseen   page: ours")[0] > 0.0, "{finished}");
}

#[test]
fn several_tasks_are_measured_beside_one() {
    let programs = programs();
    let (rodan, trainer) = (programs.join("examples/stand_in_rodan"), programs.join("run_trainer"));
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().to_owned();
    for name in ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png"] {
        fs::write(page.join(name), part_of(name)).unwrap();
    }
    let settings = [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of training epochs=1",
        "Maximum number of samples per label=5",
    ];
    let arguments =
        [&page, &PathBuf::from("--rodan"), &rodan, &PathBuf::from("--trainer"), &trainer];
    let arguments = arguments.into_iter().map(|path| path.to_str().unwrap());
    let arguments = arguments.chain(["--cores", "2"]);
    let arguments = arguments.chain(settings.into_iter().flat_map(|set| ["--set", set]));
    let finished = bench("spread.py", arguments).success();
    assert!(!finished.stdout.contains("OTHERS"), "{finished}");
    assert_eq!(finished.stdout.matches("the same").count(), 4, "{finished}");
    // Tasks, threads of each, seconds.
    for (row, threads) in [("1", 2.0), ("2", 1.0), ("4", 1.0)] {
        let found = figures(&finished, &format!("{row} "));
        assert!(found[0] == threads && found[1] > 0.0, "{found:?} {finished}");
    }
    assert!(finished.stdout.contains("4             1"), "{finished}");
    assert!(finished.stdout.contains("(more threads than cores)"), "{finished}");
}

#[test]
#[cfg(feature = "gateway")]
fn the_gateway_is_measured() {
    let program = program::gateway().unwrap().to_str().unwrap();
    let small = "--runs 5 --times 3 --watchers 3 --uploads 3 --side 300 --megapixels 1";
    let finished = bench("gateway.py", ["--gateway", program].into_iter().chain(small.split(' ')));
    let finished = finished.success();
    assert!(figures(&finished, "memory while nothing happens")[0] > 1.0);
    for path in ["/v1/runs?page_size=50", "/"] {
        assert!(figures(&finished, &format!("GET {path}, 5 runs"))[0] > 0.0);
    }
    assert_eq!(figures(&finished, "3 uploads at once, 0 megapixels each")[0], 3.0);
    for name in ["3 watchers hear of a run's end", "a page of 1 megapixels", "memory of a watcher"]
    {
        assert!(!figures(&finished, name).is_empty(), "{finished}");
    }
}
