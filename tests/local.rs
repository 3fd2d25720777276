//! `run_trainer --local`: a page in a folder gives models, a picture and a table; a bad page gives
//! a clear sentence.
#![cfg(feature = "trainer")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use image::{DynamicImage, GenericImageView, ImageFormat, Rgba};
use page_layers::PatchShape;
use page_layers::keras;

use crate::support::keras_file;

/// The generator of the example page, to draw it again here.
#[path = "../examples/make_page.rs"]
mod make_page;

const LAYERS: [&str; 4] = ["background.png", "layer_0.png", "layer_1.png", "layer_2.png"];
pub(crate) const TINY: [&str; 5] = [
    "Patch height=32",
    "Patch width=32",
    "Maximum number of training epochs=1",
    "Seed=7",
    "Calibrate=no",
];

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page")
}

/// A page to be spoiled: a part of the example page with neumes, lines and letters, and a folder
/// for the output.
pub(crate) struct Page {
    folder: tempfile::TempDir,
}

impl Page {
    fn new() -> Self {
        Self::cut(150, 150)
    }

    pub(crate) fn cut(width: u32, height: u32) -> Self {
        let page = Self { folder: tempfile::tempdir().unwrap() };
        for name in LAYERS.into_iter().chain(["image.png", "regions.png"]) {
            let whole = image::open(example().join(name)).unwrap();
            page.put(name, &whole.crop_imm(70, 40, width, height));
        }
        page
    }

    /// The same without its second and third layer.
    pub(crate) fn with_two_layers() -> Self {
        let page = Self::new();
        std::fs::remove_file(page.path("layer_1.png")).unwrap();
        std::fs::remove_file(page.path("layer_2.png")).unwrap();
        page
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn get(&self, name: &str) -> DynamicImage {
        image::open(self.path(name)).unwrap()
    }

    fn put(&self, name: &str, image: &DynamicImage) {
        image.save_with_format(self.path(name), ImageFormat::Png).unwrap();
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    fn run(&self, set: &[&str]) -> Output {
        self.run_into(&self.out(), set)
    }

    fn run_into(&self, out: &Path, set: &[&str]) -> Output {
        self.command(out, set).output().unwrap()
    }

    pub(crate) fn command(&self, out: &Path, set: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        command.env_clear().arg("--local").arg(self.folder.path()).arg("--out").arg(out);
        for setting in set {
            command.args(["--set", setting]);
        }
        command
    }

    /// Runs with few samples, which must succeed; returns the output.
    fn trained(&self) -> (String, String) {
        self.trained_with(&[])
    }

    fn trained_with(&self, more: &[&str]) -> (String, String) {
        let few = ["Maximum number of samples per label=20"];
        let output = self.run(&[&TINY[..], &few, more].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{out}\n{err}");
        (out, err)
    }

    /// Runs on input that can't be used: exit code 11, one sentence with all `parts`, nothing
    /// written.
    #[track_caller]
    fn refused(&self, set: &[&str], parts: &[&str]) {
        let output = self.run(&[&TINY[..], set].concat());
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{err}");
        let sentences: Vec<_> =
            err.lines().filter(|line| line.starts_with("run_trainer: ")).collect();
        assert_eq!(sentences.len(), 1, "{err}");
        for part in parts {
            assert!(sentences[0].contains(part), "{part:?} is not in: {err}");
        }
        let written: Vec<_> = self.out().read_dir().into_iter().flatten().collect();
        assert!(written.is_empty(), "{written:?}");
    }
}

#[test]
fn as_many_threads_compute_as_the_allocation_has_cores() {
    let page = Page::new();
    let set = [&TINY[..], &["Maximum number of samples per label=5"]].concat();
    for (variables, threads) in [
        (&[("SLURM_CPUS_PER_TASK", "3")][..], 3),
        // The variable that the batch script sets wins.
        (&[("SLURM_CPUS_PER_TASK", "3"), ("RAYON_NUM_THREADS", "2")], 2),
        (&[], std::thread::available_parallelism().unwrap().get()),
    ] {
        let out = page.path(&format!("out-{threads}"));
        let output = page.command(&out, &set).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(json(&out.join("training.json"))["device"], format!("CPU ({threads} threads)"));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_page_becomes_models_a_picture_and_a_table() {
    let page = Page::new();
    let (table, log) = page.trained_with(&["Calibrate=yes"]);
    let out = page.out();
    for name in ["Background Model", "Model 0", "Model 1", "Model 2"] {
        let model = keras::read(&out.join(format!("{name}.hdf5"))).unwrap();
        assert_eq!(model.shape, Some(PatchShape::new(32, 32).unwrap()), "{name}");
    }
    let preview = image::open(out.join("preview.png")).unwrap();
    assert_eq!(preview.dimensions(), (150, 150));

    let report = json(&out.join("training.json"));
    assert_eq!(report["seed"], 7);
    assert_eq!(report["settings"]["Patch height"], "32");
    assert_eq!(report["layers"].as_array().unwrap().len(), 4);
    assert_eq!(report["layers"][1]["model"], "Model 0");
    let epoch = &report["layers"][1]["history"][0];
    let [accuracy, precision, recall, f1] = ["accuracy", "precision", "recall", "f1"].map(|name| {
        epoch[format!("validation_{name}")].as_f64().unwrap_or_else(|| panic!("{name}: {report}"))
    });
    let mean = if f1 == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
    assert!((f1 - mean).abs() < 1e-9, "{epoch}");
    let line = format!("accuracy {accuracy:.4}, F1 {f1:.4} (best)");
    assert!(
        log.lines().any(|l| l.contains("Model 0: epoch 1/1") && l.contains(&line)),
        "{line}\n{log}"
    );
    let times = report["times"].as_object().unwrap();
    let of = |part: &str| times[part].as_f64().unwrap();
    let parts = ["decode", "sample", "train", "validate", "write", "calibrate", "predict"].map(of);
    assert!(parts.iter().all(|seconds| *seconds > 0.0) && times.len() == parts.len(), "{times:?}");
    let layers = report["layers"].as_array().unwrap();
    let layers: f64 = layers.iter().map(|layer| layer["seconds"].as_f64().unwrap()).sum();
    assert!(
        (parts[2] + parts[3] + parts[4] - layers).abs() < 1e-6,
        "{times:?}, {layers} for the layers"
    );
    assert!(log.contains(&format!("validate {:.2} s", of("validate"))), "{log}");

    for part in ["Background", "Layer 0", "Layer 1", "Layer 2", "peak memory", "seed 7", "blue"] {
        assert!(table.contains(part), "{part:?} is not in:\n{table}");
    }
    let fits = |line: &str| {
        line.chars().count() <= 80
            || line.contains("training.json are in")
            || line.starts_with("to look at:")
    };
    assert!(table.lines().all(fits), "{table}");
    let last = format!("to look at: {}", out.join("report.html").display());
    assert_eq!(table.lines().last(), Some(last.as_str()));
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    let number = |name: &str| format!("{:.4}", report["layers"][1][name].as_f64().unwrap());
    let on_the_page =
        format!("Layer 0<td>{}<td>{}<td>{}<", number("precision"), number("recall"), number("f1"));
    for part in [
        on_the_page.as_str(),
        &format!("<td>{accuracy:.4}<td>{precision:.4}<td>{recall:.4}<td>{f1:.4}<"),
        "Patch height<td>32<",
        "max samples<td>20<",
        "seed<td>7<",
        "150 × 150",
        "CPU (",
    ] {
        assert!(html.contains(part), "{part:?} is not in\n{html}");
    }
    assert_eq!(html.matches("<svg role=\"img\"").count(), 8, "two charts a layer");
    let picture = html
        .split("data:image/jpeg;base64,")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    let picture = base64::engine::general_purpose::STANDARD.decode(picture).unwrap();
    assert_eq!(image::load_from_memory(&picture).unwrap().dimensions(), (150, 150));
    // No other file is left behind.
    let mut names: Vec<_> = out.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let expected = [
        "Background Model.hdf5",
        "Model 0.hdf5",
        "Model 1.hdf5",
        "Model 2.hdf5",
        "preview.png",
        "report.html",
        "training.json",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_same_seed_gives_the_same_models_whatever_the_number_of_threads() {
    let page = Page::with_two_layers();
    let model_of = |threads: &str| {
        let more = ["Maximum number of samples per label=40", "Calibrate=yes"];
        let set = [&TINY[..], &more].concat();
        let output =
            page.command(&page.out(), &set).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        std::fs::read(page.out().join("Model 0.hdf5")).unwrap()
    };
    let first = model_of("1");
    assert!(first == model_of("1"), "another model from the same seed");
    assert!(first == model_of("3"), "another model with three threads");
}

#[test]
fn patches_may_cover_the_layer_and_vary_and_another_metric_may_decide() {
    let page = Page::with_two_layers();
    let settings = [
        "Maximum number of samples per label=20",
        "Early stopping metric=f1",
        "Patch selection=covering",
        "Augmentation: brightness (%)=10",
        "Augmentation: shift (pixels)=8",
        "Augmentation: flip=horizontal",
    ];
    let run = |settings: &[&str]| {
        let output = page.run(&[&TINY[..], settings].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let models = ["Background Model", "Model 0"];
        let read = |name| std::fs::read(page.out().join(format!("{name}.hdf5"))).unwrap();
        (models.map(read), text(&output.stderr))
    };
    let (models, log) = run(&settings);
    let too_few = "places of the layer got no patch of their own and may be seen by none; raise \
                   \"Maximum number of samples per label\"";
    assert!(log.contains("Background Model") && log.contains(too_few), "{log}");
    let effective = &json(&page.out().join("training.json"))["effective"];
    assert_eq!(effective["early_stopping_metric"], "F1");
    assert_eq!(effective["patch_selection"], "covering");
    assert_eq!(
        (&effective["brightness_percent"], &effective["shift_pixels"], &effective["flip"]),
        (&10.into(), &8.into(), &"horizontal".into())
    );
    assert!(run(&settings).0 == models, "the same seed gave other models");
    for setting in 2..settings.len() {
        let others: Vec<_> =
            settings.iter().enumerate().filter(|(i, _)| *i != setting).map(|(_, s)| *s).collect();
        assert!(run(&others).0 != models, "{} changed nothing", settings[setting]);
    }
}

#[test]
fn a_third_of_a_layer_s_patches_lies_around_the_other_layers() {
    let page = Page::new();
    std::fs::remove_file(page.path("layer_2.png")).unwrap();
    let run = |more: &[&str]| {
        page.trained_with(more);
        let effective = json(&page.out().join("training.json"))["effective"].clone();
        let read = |name| std::fs::read(page.out().join(format!("{name}.hdf5"))).unwrap();
        let models = ["Background Model", "Model 0", "Model 1"].map(read);
        (models, effective["patches_around_others_percent"].as_u64())
    };
    let (third, share) = run(&[]);
    assert_eq!(share, Some(33));
    let (none, share) = run(&["Patches around other layers (%)=0"]);
    assert_eq!(share, Some(0));
    assert!(third[0] == none[0], "the background has no such patches");
    assert!(third[1] != none[1] && third[2] != none[2], "the setting changed nothing");
}

#[test]
fn several_pages_are_learned_from_together() {
    let (one, two) = (Page::new(), Page::cut(180, 160));
    std::fs::remove_file(two.path("layer_2.png")).unwrap();
    std::fs::remove_file(two.path("regions.png")).unwrap();
    let set = [&TINY[..], &["Maximum number of samples per label=60"]].concat();
    let alone = one.run(&set);
    let samples = |out: &Path| -> Vec<u64> {
        let report = json(&out.join("training.json"));
        let of = |layer: &serde_json::Value| layer["train_samples"].as_u64().unwrap();
        report["layers"].as_array().unwrap().iter().map(of).collect()
    };
    assert!(alone.status.success(), "{}", text(&alone.stderr));
    let of_one = samples(&one.out());
    let model = || std::fs::read(one.path("out/Model 0.hdf5")).unwrap();
    let model_of_one = model();
    let both =
        one.command(&one.out(), &set).arg("--local").arg(two.folder.path()).output().unwrap();
    assert!(both.status.success(), "{}", text(&both.stderr));
    assert_eq!(json(&one.out().join("training.json"))["pages"][1]["width"], 180);
    assert!(model() != model_of_one, "the second page has changed nothing");
    for (name, size) in [("preview_1.png", (150, 150)), ("preview_2.png", (180, 160))] {
        assert_eq!(image::open(one.out().join(name)).unwrap().dimensions(), size);
    }
    assert_eq!(
        samples(&one.out()).len(),
        of_one.len(),
        "a layer that is on one page only is trained too"
    );

    // With several pages, an error names the page.
    std::fs::remove_file(two.path("layer_1.png")).unwrap();
    std::fs::write(two.path("layer_0.png"), "no image").unwrap();
    let output =
        one.command(&one.out(), &set).arg("--local").arg(two.folder.path()).output().unwrap();
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{err}");
    let place = format!("{}: rgba PNG - Layer 0", two.folder.path().display());
    assert!(err.contains(&place), "{err}");
}

#[test]
fn training_goes_on_from_models() {
    let page = Page::new();
    let learned = page.path("learned");
    let set = [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of samples per label=40",
        "Batch Size=4",
        "Seed=7",
    ];
    let epochs = |n| format!("Maximum number of training epochs={n}");
    let loss = |out: &Path, layer: usize| {
        json(&out.join("training.json"))["layers"][layer]["history"][0]["training_loss"]
            .as_f64()
            .unwrap()
    };
    let first = page.run_into(&learned, &[&set[..], &[&epochs(6), "Calibrate=yes"]].concat());
    assert!(first.status.success(), "{}", text(&first.stderr));
    let calibration = &json(&learned.join("training.json"))["calibration"];
    assert!(calibration["done"].is_boolean(), "{calibration}");
    assert!(text(&first.stdout).contains("calibration: "), "{}", text(&first.stdout));
    // One layer starts anew, the others from models as older and newer Keras versions write them.
    std::fs::remove_file(learned.join("Model 2.hdf5")).unwrap();
    for (name, config, layout) in [
        ("Background Model", keras_file::CONFIG_2_3, keras_file::KERAS_2),
        ("Model 0", keras_file::CONFIG_3_15, keras_file::KERAS_3),
    ] {
        let path = learned.join(format!("{name}.hdf5"));
        let weights = keras::read(&path).unwrap().as_trained().unwrap();
        std::fs::write(&path, keras_file::bytes(config, layout, &weights)).unwrap();
    }
    let second = page
        .command(&page.out(), &[&set[..], &[&epochs(1)]].concat())
        .arg("--models")
        .arg(&learned)
        .output();
    let second = second.unwrap();
    assert!(second.status.success(), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains("Model 0: goes on from the model that was given"));
    for layer in [0, 1, 2] {
        let (cold, warm) = (loss(&learned, layer), loss(&page.out(), layer));
        assert!(warm < 0.9 * cold, "layer {layer}: {warm} after {cold}");
    }
    assert!(!text(&second.stderr).contains("Model 2: goes on"));
}

#[test]
fn the_new_models_keep_a_share_of_the_given_ones_and_an_average_over_their_steps() {
    let page = Page::new();
    let few = [&TINY[..], &["Maximum number of samples per label=20"]].concat();
    let run = |name: &str, models: Option<&str>, more: &[&str]| {
        let mut command = page.command(&page.path(name), &[&few[..], more].concat());
        if let Some(models) = models {
            command.arg("--models").arg(page.path(models));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let model = keras::read(&page.path(name).join("Background Model.hdf5")).unwrap();
        model.as_trained().unwrap().tensors().concat()
    };
    let given = run("given", None, &[]);
    let learned = run("learned", Some("given"), &["Keep of the given models (%)=0"]);
    let kept = run("kept", Some("given"), &[]);
    assert!(learned != given);
    for ((given, learned), kept) in given.iter().zip(&learned).zip(&kept) {
        let between = 0.25 * given + 0.75 * learned;
        assert!((kept - between).abs() < 1e-6, "{given}, {learned}: {kept}");
    }
    // Eight steps: the average is taken after the fourth and the eighth.
    let steps = ["Batch Size=1"];
    let last = run("last", Some("given"), &steps);
    let averaged = run("averaged", Some("given"), &[&steps[..], &["Averaged steps=50"]].concat());
    assert!(averaged != last && averaged != given);
}

#[test]
fn models_that_can_not_be_gone_on_from_are_named() {
    let page = Page::new();
    let models = page.path("models");
    std::fs::create_dir(&models).unwrap();
    let refused = |part: &str| {
        let output =
            page.command(&page.out(), &TINY).arg("--models").arg(&models).output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{err}");
        assert!(err.contains(part), "{part:?} is not in: {err}");
        assert!(!page.out().exists());
    };
    refused("there is no model in it");
    std::fs::write(models.join("Model 1.h5"), "no model").unwrap();
    refused("the input \"Model 1\" can't be used: not a readable HDF5 file");
    std::fs::rename(models.join("Model 1.h5"), models.join("Model 9.h5")).unwrap();
    refused("\"Model 9\" belongs to no layer that is trained");
    std::fs::write(models.join("Model 9.hdf5"), "no model").unwrap();
    refused("Model 9 is there twice");
}

#[test]
fn grey_16_bit_and_jpeg_pages_and_pages_without_regions_are_trained() {
    let page = Page::new();
    for name in ["layer_1.png", "layer_2.png", "regions.png"] {
        std::fs::remove_file(page.path(name)).unwrap();
    }
    let whole = page.get("image.png");
    page.put("image.png", &DynamicImage::ImageLuma16(whole.to_luma16()));
    page.trained();
    page.put("image.png", &DynamicImage::ImageRgba8(whole.to_rgba8()));
    page.trained();
    std::fs::remove_file(page.path("image.png")).unwrap();
    whole.save_with_format(page.path("image.jpg"), ImageFormat::Jpeg).unwrap();
    page.trained();
    let bytes = std::fs::read(page.path("image.jpg")).unwrap();
    std::fs::write(page.path("image.jpg"), &bytes[..bytes.len() / 2]).unwrap();
    std::fs::remove_dir_all(page.out()).unwrap();
    page.refused(&[], &["Image (", "image.jpg", "ends before the page does"]);
}

#[test]
fn a_page_smaller_than_two_patches_is_mirrored() {
    let page = Page::cut(62, 60);
    std::fs::remove_file(page.path("layer_2.png")).unwrap();
    let (_, log) = page.trained();
    assert!(log.contains("mirror"), "{log}");
}

#[test]
fn layer_numbers_may_have_gaps() {
    let page = Page::new();
    std::fs::rename(page.path("layer_2.png"), page.path("layer_7.png")).unwrap();
    std::fs::remove_file(page.path("layer_1.png")).unwrap();
    page.trained();
    assert!(page.out().join("Model 7.hdf5").exists() && !page.out().join("Model 1.hdf5").exists());
}

#[test]
fn a_missing_image_is_named() {
    let page = Page::new();
    std::fs::remove_file(page.path("image.png")).unwrap();
    page.refused(&[], &["there is no image.png"]);
}

#[test]
fn a_file_that_is_no_image_is_named() {
    let page = Page::new();
    std::fs::write(page.path("layer_1.png"), "<html>not found</html>").unwrap();
    page.refused(&[], &["rgba PNG - Layer 1", "layer_1.png", "neither a PNG nor a JPEG"]);
}

#[test]
fn a_layer_of_another_size_is_named_with_both_sizes() {
    let page = Page::new();
    let layer = page.get("layer_2.png").crop_imm(0, 0, 150, 149);
    page.put("layer_2.png", &layer);
    page.refused(&[], &["rgba PNG - Layer 2", "150x149", "150x150"]);
}

#[test]
fn a_layer_without_alpha_is_named() {
    let page = Page::new();
    let layer = page.get("layer_0.png");
    page.put("layer_0.png", &DynamicImage::ImageRgb8(layer.to_rgb8()));
    page.refused(&[], &["rgba PNG - Layer 0", "no alpha channel"]);
}

#[test]
fn an_empty_layer_is_named_before_anything_is_trained() {
    let page = Page::new();
    // Almost opaque is not opaque: nothing belongs to the layer.
    let mut layer = page.get("layer_2.png").to_rgba8();
    layer.pixels_mut().for_each(|p| *p = Rgba([0, 0, 0, p[3].min(254)]));
    page.put("layer_2.png", &DynamicImage::ImageRgba8(layer));
    page.refused(&[], &["rgba PNG - Layer 2", "no pixel belongs to this layer"]);
}

#[test]
fn bad_settings_are_named() {
    let page = Page::new();
    page.refused(&["Patch height=33"], &["--set", "Patch height", "multiple of 4"]);
    page.refused(&["Patch hight=32"], &["Patch hight", "no such setting"]);
    page.refused(&["Augmentation: shift (pixels)=17"], &["shift (pixels)", "from 0 to 16, not 17"]);
    page.refused(&["Patch selection=all"], &["must be \"random\" or \"covering\", not all"]);
    page.refused(&["Patch height"], &["--set \"Patch height=64\""]);
    std::fs::write(page.path("settings.json"), "[1]").unwrap();
    page.refused(&[], &["settings.json", "not a JSON object"]);
}

#[test]
fn an_output_folder_that_can_not_be_written_is_named() {
    let page = Page::new();
    std::fs::write(page.path("file"), "").unwrap();
    let output = page.run_into(&page.path("file"), &TINY);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{err}");
    assert!(err.contains("file: can't be used for the output"), "{err}");
}

#[test]
fn the_example_page_is_what_its_generator_draws() {
    let mut total = 0;
    for (name, content) in make_page::files(&make_page::HANDS[0]).unwrap() {
        assert!(
            std::fs::read(example().join(&name)).unwrap() == content,
            "{name} differs: run the generator"
        );
        total += content.len();
    }
    assert!(total < 600_000, "{total} bytes");
}

#[test]
fn other_hands_draw_pages_whose_layers_share_no_pixel() {
    for (hand, layers) in make_page::HANDS.iter().zip([3, 3, 3, 2]) {
        let files = make_page::files(hand).unwrap();
        let drawn: Vec<_> = files
            .iter()
            .filter(|(name, _)| name == "background.png" || name.starts_with("layer_"))
            .map(|(_, content)| image::load_from_memory(content).unwrap().to_rgba8())
            .collect();
        assert_eq!(drawn.len(), 1 + layers);
        for at in 0..drawn[0].as_raw().len() / 4 {
            let owners = drawn.iter().filter(|layer| layer.as_raw()[4 * at + 3] == 255).count();
            assert_eq!(owners, 1, "pixel {at}");
        }
        for layer in &drawn {
            let own = layer.pixels().filter(|pixel| pixel.0[3] == 255).count();
            assert!(own > 3_000, "{own} pixels");
        }
    }
}
