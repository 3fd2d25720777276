//! How a training shows its progress: a bar in a terminal, a line per epoch in Slurm's log, and a
//! note that `check status` reads.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};

use support::SECONDS;
use support::desk::Desk;
use support::program::{Program, run_trainer};

/// The text without the sequences that move a terminal's cursor.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // ESC [ … letter
            chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

/// A page of 48×48 pixels, background on the left, neumes on the right.
fn small_page(folder: &Path) {
    let write = |name: &str, pixel: &dyn Fn(u32) -> [u8; 4]| {
        let file = fs::File::create(folder.join(name)).unwrap();
        let mut encoder = png::Encoder::new(file, 48, 48);
        encoder.set_color(png::ColorType::Rgba);
        let pixels: Vec<u8> = (0..48 * 48).flat_map(|i| pixel(i % 48)).collect();
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    };
    write("image.png", &|x| [if x < 24 { 220 } else { 20 }, 99, 99, 255]);
    write("background.png", &|x| [0, 0, 0, if x < 24 { 255 } else { 0 }]);
    write("layer_0.png", &|x| [0, 0, 0, if x < 24 { 0 } else { 255 }]);
}

#[test]
fn a_terminal_of_80_columns_gets_bars_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    small_page(folder.path());
    let script = folder.path().join("train");
    let trainer = run_trainer().unwrap();
    support::write_script(
        &script,
        &format!(
            "stty cols 80 rows 24\nexec {} --local {folder} --out {folder}/out --set 'Patch \
             height=16' --set 'Patch width=16' \
             --set 'Maximum number of training epochs=3' --set 'Maximum number of samples per \
             label=10' --set 'Batch Size=4' \
             --set Patience=9 --set Seed=7",
            trainer.display(),
            folder = folder.path().display()
        ),
    );
    let finished = Program::new("script")
        .args(["-qec", script.to_str().unwrap(), "/dev/null"])
        .env("TERM", "xterm")
        .limit(SECONDS(240))
        .run()
        .success();
    let text = plain(&finished.stdout);
    let is_bar = |frame: &&str| frame.contains("] epoch ");
    let bars: Vec<&str> = text.split(['\r', '\n']).filter(is_bar).collect();
    for name in ["Background Model [", "Model 0 ["] {
        assert!(bars.iter().any(|bar| bar.starts_with(name)), "no bar of {name}\n{text}");
    }
    for bar in &bars {
        assert!(bar.trim_end().chars().count() <= 80, "{bar:?} is wider than the terminal");
    }
    let says_all = |bar: &&str| {
        ["/3, loss ", ", acc ", ", F1 ", ", ≤", "="].iter().all(|part| bar.contains(part))
    };
    assert!(bars.iter().any(says_all), "{bars:#?}");
}

fn note(path: &Path) -> Option<Value> {
    // Whenever the file is there, it is whole.
    fs::read(path).ok().map(|text| serde_json::from_slice(&text).unwrap())
}

#[test]
fn a_job_notes_layer_epoch_and_end_and_its_log_has_a_line_an_epoch() {
    let desk = Desk::new();
    let mut asked = desk.short_job();
    for (name, value) in [
        ("Maximum number of training epochs", 5000),
        ("Patience", 5000),
        ("Batch Size", 1),
        ("Seed", 7),
    ] {
        asked["settings"][name] = json!(value);
    }
    let id = desk.vhost.publish_job(&asked);
    desk.check().run().success();
    let path = desk.directory(&id).join("progress.json");
    let told = support::wait_for("a note with the expected end", SECONDS(200), || {
        note(&path)
            .filter(|note| !note["expected_end"].is_null() && note["epoch"].as_u64() >= Some(2))
    });
    assert_eq!(
        (&told["layer"], &told["layer_number"], &told["layers"]),
        (&json!("Background Model"), &json!(1), &json!(2))
    );
    assert_eq!((&told["epochs"], &told["restart_count"]), (&json!(5000), &json!(0)));
    for name in ["loss", "accuracy", "f1", "peak_memory_mb"] {
        assert!(told[name].as_f64().is_some_and(|value| value.is_finite()), "{name}: {told}");
    }
    let time = |name: &str| -> Timestamp { told[name].as_str().unwrap().parse().unwrap() };
    assert!(time("expected_end") > time("updated_at"), "{told}");

    let shown = desk.check().args(["status", &id]).run().success().stdout;
    for part in [
        "progress        Background Model (1/2), epoch ",
        "/5000, step ",
        "expected end    20",
        " at the latest, at this pace",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let table = desk.check().arg("status").run().success().stdout;
    assert!(table.contains("Background Model (1/2), epoch ") && table.contains(" left"), "{table}");

    let log = desk.log(&id);
    for epoch in 1..=2 {
        let lines = log.matches(&format!("Background Model: epoch {epoch}/5000, loss ")).count();
        assert_eq!(lines, 1, "epoch {epoch} in\n{log}");
    }
    assert!(
        !log.contains('\r') && !log.contains('\u{1b}') && !log.contains("[="),
        "no bars in a file:\n{log}"
    );
    desk.check().args(["cancel", &id]).limit(SECONDS(120)).run().success();
}
