//! `run_trainer --predict`: a page is cut into its layers by models on disk.
#![cfg(feature = "trainer")]

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{DynamicImage, GenericImageView as _, GrayImage, ImageBuffer, ImageFormat, Luma, Rgb};
use page_layers::keras;
use page_layers::{PatchShape, initial_weights};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::keras_file;

/// A page of 150×140 pixels, and a folder with models of the seeds 1, 2 … for patches of this size.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(models: &[&str], height: usize, width: usize) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        let page =
            image::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page/image.png"))
                .unwrap();
        page.crop_imm(70, 40, 150, 140).save(desk.path("page.png")).unwrap();
        std::fs::create_dir(desk.path("models")).unwrap();
        for (seed, name) in models.iter().enumerate() {
            desk.model(name, seed as u64 + 1, height, width);
        }
        desk
    }

    fn model(&self, name: &str, seed: u64, height: usize, width: usize) {
        let path = self.path("models").join(name);
        keras::write(
            &path,
            &initial_weights(seed).unwrap(),
            PatchShape::new(height, width).unwrap(),
        )
        .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, image: &str, out: &Path, set: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        command.env_clear().arg("--predict").arg(self.path(image));
        command.arg("--models").arg(self.path("models")).arg("--out").arg(out);
        set.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        // The settings are about the classifier's windows.
        if !set.is_empty() {
            command.args(["--windows", "classifier"]);
        }
        command
    }

    fn predict(&self, image: &str, set: &[&str]) -> Output {
        self.command(image, &self.path("out"), set).output().unwrap()
    }

    fn table(&self, image: &str, set: &[&str]) -> String {
        let output = self.predict(image, set);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn image(&self, name: &str) -> DynamicImage {
        image::open(self.path("out").join(name)).unwrap()
    }

    #[track_caller]
    fn refused(&self, image: &str, set: &[&str], parts: &[&str]) {
        self.refused_into(&self.path("out"), image, set, parts);
        assert!(!self.path("out").exists());
    }

    /// Runs on input that can't be used: exit code 11, one sentence with all `parts`, no window
    /// looked at.
    #[track_caller]
    fn refused_into(&self, out: &Path, image: &str, set: &[&str], parts: &[&str]) {
        let output = self.command(image, out, set).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{error}");
        assert!(!error.contains(", windows "), "work was done before: {error}");
        let sentences: Vec<_> =
            error.lines().filter(|line| line.starts_with("run_trainer: ")).collect();
        assert_eq!(sentences.len(), 1, "{error}");
        for part in parts {
            assert!(sentences[0].contains(part), "{part:?} is not in: {error}");
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        folder.read_dir().unwrap().map(|entry| name(entry).into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_pixel_is_in_one_layer_and_looks_as_on_the_page() {
    let names = ["Background Model.hdf5", "Model 0.h5", "Model 3.hdf5"];
    let desk = Desk::new(&names, 32, 48);
    std::fs::write(desk.path("models").join("notes.txt"), "not a model").unwrap();
    let table = desk.table("page.png", &[]);
    let page = image::open(desk.path("page.png")).unwrap().to_rgb8();
    let layers =
        ["Background.png", "Layer 0.png", "Layer 3.png"].map(|name| desk.image(name).to_rgba8());
    let mut counts = [0; 3];
    for (column, row, pixel) in page.enumerate_pixels() {
        let mut owners = 0;
        for (layer, count) in layers.iter().zip(&mut counts) {
            match layer.get_pixel(column, row).0 {
                [r, g, b, 255] => {
                    assert_eq!([r, g, b], pixel.0);
                    (owners, *count) = (owners + 1, *count + 1);
                }
                other => assert_eq!(other, [255, 255, 255, 0]),
            }
        }
        assert_eq!(owners, 1, "row {row}, column {column}");
    }
    assert!(
        counts.iter().filter(|count| **count > 0).count() > 1,
        "one layer has won everywhere: {counts:?}"
    );
    for count in counts {
        assert!(table.contains(&format!(" {count} ")), "{count} is not in\n{table}");
    }
    assert!(
        table.lines().all(|line| line.chars().count() <= 80 || line.contains("are in")),
        "{table}"
    );
    assert_eq!(desk.image("overlay.png").dimensions(), (150, 140));
    assert_eq!(desk.path("out").read_dir().unwrap().count(), 4, "nothing half-made is left");
}

#[test]
fn the_picture_is_that_of_the_training() {
    let desk = Desk::new(&[], 0, 0);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page");
    for name in ["background.png", "layer_0.png"] {
        image::open(page.join(name))
            .unwrap()
            .crop_imm(70, 40, 150, 140)
            .save(desk.path(name))
            .unwrap();
    }
    std::fs::rename(desk.path("page.png"), desk.path("image.png")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
    command
        .env_clear()
        .arg("--local")
        .arg(desk.folder.path())
        .arg("--out")
        .arg(desk.path("models"));
    for set in [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of samples per label=40",
        "Batch Size=4",
        "Maximum number of training epochs=8",
    ] {
        command.args(["--set", set]);
    }
    let trained = command.output().unwrap();
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    desk.table("image.png", &[]);
    let preview = image::open(desk.path("models").join("preview.png")).unwrap().to_rgb8();
    assert!(preview == desk.image("overlay.png").to_rgb8());
    assert!(preview != image::open(desk.path("image.png")).unwrap().to_rgb8(), "a layer was found");
}

#[test]
fn a_jpeg_smaller_than_a_window_and_the_older_names() {
    let desk =
        Desk::new(&["Background Model.hdf5", "Staff Lines Model.hdf5", "Text Model.hdf5"], 64, 64);
    let page = image::open(desk.path("page.png")).unwrap().crop_imm(0, 0, 40, 30);
    page.save_with_format(desk.path("small.jpg"), ImageFormat::Jpeg).unwrap();
    for set in [&[][..], &["Patch height=80", "Patch width=64", "Batch Size=2"]] {
        let table = desk.table("small.jpg", set);
        for name in ["Background", "Staff Layer", "Text"] {
            assert!(table.contains(name), "{table}");
            assert_eq!(desk.image(&format!("{name}.png")).dimensions(), (40, 30));
        }
    }
}

#[test]
fn a_jpeg_is_seen_alike_however_it_is_stored_and_half_of_it_is_refused() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    let jpegs = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/page-layers/src/page/jpegs");
    let seen = |how: &str| {
        let bytes = std::fs::read(jpegs.join(format!("ycc_22_{how}.jpg"))).unwrap();
        std::fs::write(desk.path("whole.jpg"), &bytes).unwrap();
        desk.table("whole.jpg", &[]);
        let pictures =
            ["overlay.png", "Background.png", "Layer 0.png"].map(|name| desk.image(name));
        std::fs::remove_dir_all(desk.path("out")).unwrap();
        std::fs::write(desk.path("half.jpg"), &bytes[..bytes.len() / 2]).unwrap();
        desk.refused(
            "half.jpg",
            &[],
            &["half.jpg", "ends before the page does", "export it again"],
        );
        pictures
    };
    let plain = seen("plain");
    for how in ["restart", "progressive", "separate", "paired"] {
        assert!(seen(how) == plain, "{how}");
    }
}

#[test]
fn models_of_other_keras_versions_cut_the_page_as_ours_do() {
    // The size that the configurations name.
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 64);
    let pictures = || {
        desk.table("page.png", &[]);
        ["Background.png", "Layer 0.png"].map(|name| desk.image(name).to_rgba8())
    };
    let ours = pictures();
    for (name, seed, config, layout) in [
        ("Background Model.hdf5", 1, keras_file::CONFIG_2_3, keras_file::KERAS_2),
        ("Model 0.hdf5", 2, keras_file::CONFIG_3_15, keras_file::KERAS_3),
    ] {
        let file = keras_file::bytes(config, layout, &initial_weights(seed).unwrap());
        std::fs::write(desk.path("models").join(name), file).unwrap();
    }
    assert!(pictures() == ours);
    std::fs::write(desk.path("models").join("Model 0.hdf5"), b"PK\x03\x04").unwrap();
    std::fs::remove_dir_all(desk.path("out")).unwrap();
    desk.refused("page.png", &[], &["Model 0.hdf5: a .keras file; load it with"]);
}

#[test]
fn what_can_not_be_used_is_named() {
    let desk = Desk::new(&["Model 1.hdf5", "Model 2.hdf5"], 64, 64);
    desk.refused("page.png", &[], &["there is no Background Model", "the most confident"]);
    desk.model("Background Model.hdf5", 3, 64, 96);
    let sizes = ["Background Model was trained on patches of 96x64", "Model 1 on 64x64", "--set"];
    desk.refused("page.png", &["Batch Size=2"], &sizes);
    let narrow = ["with windows of 48x52 pixels", "51 of each side", "leave out --windows"];
    desk.refused("page.png", &["Patch height=52", "Patch width=48"], &narrow);
    desk.refused("page.png", &["Patience=3"], &["Patience", "only \"Patch height\""]);
    desk.refused("page.png", &["Patch height=33"], &["multiple of 4"]);
    desk.refused(
        "gone.png",
        &["Patch height=64", "Patch width=64"],
        &["gone.png", "can't be read"],
    );
    desk.refused("gone.png", &[], &["gone.png", "can't be read"]);
    let mut command = desk.command("page.png", &desk.path("out"), &[]);
    let output = command.args(["--set", "Batch Size=2"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(11), "{error}");
    assert!(error.contains("Batch Size") && error.contains("--windows classifier"), "{error}");
    std::fs::write(desk.path("models").join("Model 2.hdf5"), "no model").unwrap();
    desk.refused("page.png", &[], &["Model 2.hdf5: not a readable HDF5 file"]);
    std::fs::remove_file(desk.path("models").join("Model 1.hdf5")).unwrap();
    std::fs::remove_file(desk.path("models").join("Model 2.hdf5")).unwrap();
    desk.refused("page.png", &[], &["there is no other model"]);
}

#[test]
fn a_run_that_is_interrupted_leaves_no_picture() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    // Nine megapixels: far from done when the first line is out.
    GrayImage::from_pixel(3000, 3000, Luma([200])).save(desk.path("large.png")).unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = desk.command("large.png", &desk.path("out"), &[]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("windows 488x488") {
            line.clear();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended without a word of windows");
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(12), "{rest}");
        assert!(rest.contains("nothing was written"), "{rest}");
        assert_eq!(names(&desk.path("out")), [""; 0]);
    }
}

#[test]
fn models_may_differ_where_the_settings_decide() {
    let desk = Desk::new(&["Background Model.hdf5"], 64, 96);
    desk.model("Model 0.hdf5", 2, 128, 96);
    desk.refused("page.png", &["Batch Size=4"], &["96x64", "96x128"]);
    desk.refused("page.png", &["Patch width=96"], &["96x64", "96x128"]);
    let output = desk.predict("page.png", &["Patch height=128"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("windows 96x128"), "{said}");
    // The large windows ask for no size.
    let output = desk.predict("page.png", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("windows 208x196"), "{said}");
    desk.model("Model 1.hdf5", 3, 64, 64);
    std::fs::remove_dir_all(desk.path("out")).unwrap();
    desk.refused("page.png", &["Patch height=128"], &["96x64", "64x64"]);
}

#[test]
fn an_input_is_not_written_over() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    let (out, page, model) =
        (desk.path("out"), desk.path("page.png"), desk.path("models").join("Model 0.hdf5"));
    let before = [&page, &model].map(|path| std::fs::read(path).unwrap());
    std::fs::create_dir(&out).unwrap();
    let spared = |out: &Path, image: &str, output: &str, input: &str| {
        let parts = [&format!("{output} would overwrite the input "), input];
        desk.refused_into(out, image, &[], &parts.map(|part| part as &str));
        assert!(before == [&page, &model].map(|path| std::fs::read(path).unwrap()));
    };
    // The page itself lies in the output folder.
    std::fs::copy(&page, out.join("overlay.png")).unwrap();
    spared(&out, "out/overlay.png", "overlay.png", "out/overlay.png");
    // The same folder under another name.
    std::os::unix::fs::symlink(&out, desk.path("same")).unwrap();
    spared(&desk.path("same"), "out/overlay.png", "same/overlay.png", "out/overlay.png");
    // An output that is a link to the page, is the page under another name, or is a link to a
    // model.
    std::fs::remove_file(out.join("overlay.png")).unwrap();
    std::os::unix::fs::symlink(&page, out.join("Layer 0.png")).unwrap();
    spared(&out, "page.png", "Layer 0.png", "page.png");
    std::fs::remove_file(out.join("Layer 0.png")).unwrap();
    std::fs::hard_link(&page, out.join("Background.png")).unwrap();
    spared(&out, "page.png", "Background.png", "page.png");
    std::fs::remove_file(out.join("Background.png")).unwrap();
    std::os::unix::fs::symlink(&model, out.join("overlay.png")).unwrap();
    spared(&out, "page.png", "overlay.png", "Model 0.hdf5");
    // Any other file that is in the way is replaced.
    std::fs::remove_file(out.join("overlay.png")).unwrap();
    std::fs::write(out.join("overlay.png"), "an older one").unwrap();
    desk.table("page.png", &[]);
    assert_eq!(names(&out), ["Background.png", "Layer 0.png", "overlay.png"]);
    assert_eq!(desk.image("overlay.png").dimensions(), (150, 140));
}

#[test]
fn a_place_that_can_not_be_written_is_named() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    let refused =
        |out: &str, part: &str| desk.refused_into(&desk.path(out), "page.png", &[], &[out, part]);
    std::fs::write(desk.path("file"), "").unwrap();
    refused("file", "can't be used for the output");
    refused("file/deeper", "can't be used for the output");
    // A place where even root can't make files.
    refused("/proc/layers", "can't be used for the output");
    std::fs::create_dir_all(desk.path("folder/overlay.png")).unwrap();
    refused("folder", "overlay.png: is a folder");
    assert_eq!(names(&desk.path("folder")), ["overlay.png"]);

    let locked = desk.path("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o555)).unwrap();
    if std::fs::write(locked.join("probe"), "").is_ok() {
        // Modes don't stop root.
        std::fs::remove_file(locked.join("probe")).unwrap();
        let output = desk.command("page.png", &locked, &[]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    } else {
        refused("locked", "can't be used for the output");
    }
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_that_is_no_model_or_no_page_is_named() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    desk.model("Model 0.h5", 2, 32, 32);
    desk.refused("page.png", &[], &["Model 0 is there twice"]);
    let model = desk.path("models").join("Model 0.h5");
    std::fs::remove_file(desk.path("models").join("Model 0.hdf5")).unwrap();
    std::fs::write(&model, "").unwrap();
    desk.refused("page.png", &[], &["Model 0.h5: not a readable HDF5 file"]);
    std::fs::write(&model, hdf5_pure::FileBuilder::new().finish().unwrap()).unwrap();
    desk.refused("page.png", &[], &["Model 0.h5: the HDF5 file has no Keras weights"]);
    desk.model("Model 0.h5", 2, 32, 32);

    std::fs::write(desk.path("text.png"), "no image").unwrap();
    desk.refused("text.png", &[], &["text.png", "neither a PNG nor a JPEG"]);
    std::fs::write(desk.path("empty.png"), "").unwrap();
    desk.refused("empty.png", &[], &["empty.png", "neither a PNG nor a JPEG"]);
    let page = std::fs::read(desk.path("page.png")).unwrap();
    std::fs::write(desk.path("half.png"), &page[..page.len() / 2]).unwrap();
    desk.refused("half.png", &[], &["half.png", "ends before the page does", "export it again"]);
    // A file name that does not say what is in it.
    std::fs::write(desk.path("upload"), "no image").unwrap();
    desk.refused("upload", &[], &["/upload: ", "neither a PNG nor a JPEG"]);
    std::fs::write(desk.path("upload"), page).unwrap();
    desk.table("upload", &[]);
}

#[test]
fn every_kind_of_png_is_seen_alike() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5"], 32, 32);
    let grey = image::open(desk.path("page.png")).unwrap().crop_imm(0, 0, 70, 60).to_luma8();
    let rgb = DynamicImage::ImageLuma8(grey.clone()).to_rgb8();
    // Alpha is ignored, whatever it is; of 16 bits the upper 8 count.
    let mut rgba = DynamicImage::ImageRgb8(rgb.clone()).to_rgba8();
    rgba.enumerate_pixels_mut().for_each(|(x, y, pixel)| pixel[3] = (x * y) as u8);
    let wide = |(value, low): (u8, u32)| u16::from(value) << 8 | (low % 256) as u16;
    let deep = ImageBuffer::from_fn(70, 60, |x, y| Luma([wide((grey.get_pixel(x, y)[0], x * y))]));
    let deep_rgb = ImageBuffer::from_fn(70, 60, |x, y| {
        Rgb([0, 9, 77].map(|low| wide((grey.get_pixel(x, y)[0], low))))
    });
    let mut palette = Vec::new();
    let mut encoder = png::Encoder::new(&mut palette, 70, 60);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette((0..=255u8).rev().flat_map(|value| [value; 3]).collect::<Vec<u8>>());
    let indices: Vec<u8> = grey.as_raw().iter().map(|value| 255 - value).collect();
    encoder.write_header().unwrap().write_image_data(&indices).unwrap();

    let seen = |name: &str| {
        desk.table(name, &[]);
        ["Background.png", "Layer 0.png", "overlay.png"]
            .map(|picture| std::fs::read(desk.path("out").join(picture)).unwrap())
    };
    DynamicImage::ImageRgb8(rgb).save(desk.path("rgb.png")).unwrap();
    let expected = seen("rgb.png");
    assert!(expected[0] != expected[1], "one layer has won everywhere");
    let others = [
        ("grey.png", DynamicImage::ImageLuma8(grey.clone())),
        ("rgba.png", DynamicImage::ImageRgba8(rgba)),
        ("grey16.png", DynamicImage::ImageLuma16(deep)),
        ("rgb16.png", DynamicImage::ImageRgb16(deep_rgb)),
    ];
    for (name, image) in others {
        image.save(desk.path(name)).unwrap();
        assert!(seen(name) == expected, "{name}");
    }
    std::fs::write(desk.path("palette.png"), palette).unwrap();
    assert!(seen("palette.png") == expected, "palette.png");
}

#[test]
fn of_models_that_are_equally_sure_the_first_wins() {
    let desk = Desk::new(&[], 0, 0);
    for name in ["Background Model.hdf5", "Model 0.hdf5", "Model 5.hdf5"] {
        desk.model(name, 7, 32, 32);
    }
    let table = desk.table("page.png", &[]);
    assert!(table.contains(" 21000 100.0 %"), "{table}");
    let background = desk.image("Background.png").to_rgba8();
    assert!(background.pixels().all(|pixel| pixel[3] == 255), "the background comes first");
    assert!(desk.image("Layer 0.png").to_rgba8().pixels().all(|pixel| pixel[3] == 0));
}
