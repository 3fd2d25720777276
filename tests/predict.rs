//! `run_trainer --predict`: a page cut into its layers by models on disk.
#![cfg(feature = "trainer")]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hpc_trainer::keras;
use hpc_trainer::train::{PatchShape, initial_weights};
use image::{DynamicImage, GenericImageView as _, ImageFormat};

/// A page of 150×140 pixels and a folder with models of the seeds 1, 2 … for patches of this size.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(models: &[&str], height: usize, width: usize) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        let page =
            image::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page/image.png")).unwrap();
        page.crop_imm(70, 40, 150, 140).save(desk.path("page.png")).unwrap();
        std::fs::create_dir(desk.path("models")).unwrap();
        for (seed, name) in models.iter().enumerate() {
            desk.model(name, seed as u64 + 1, height, width);
        }
        desk
    }

    fn model(&self, name: &str, seed: u64, height: usize, width: usize) {
        let path = self.path("models").join(name);
        keras::write(&path, &initial_weights(seed).unwrap(), PatchShape::new(height, width).unwrap())
            .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn predict(&self, image: &str, set: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        command.env_clear().arg("--predict").arg(self.path(image));
        command.arg("--models").arg(self.path("models")).arg("--out").arg(self.path("out"));
        set.iter().for_each(|setting| {
            command.args(["--set", setting]);
        });
        command.output().unwrap()
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
        let output = self.predict(image, set);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(11), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert!(!self.path("out").exists());
    }
}

#[test]
fn every_pixel_is_in_one_layer_and_looks_as_on_the_page() {
    let names = ["Background Model.hdf5", "Model 0.h5", "Model 3.hdf5"];
    let desk = Desk::new(&names, 32, 48);
    std::fs::write(desk.path("models").join("notes.txt"), "not a model").unwrap();
    let table = desk.table("page.png", &[]);
    let page = image::open(desk.path("page.png")).unwrap().to_rgb8();
    let layers = ["Background.png", "Layer 0.png", "Layer 3.png"].map(|name| desk.image(name).to_rgba8());
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
    assert!(table.lines().all(|line| line.chars().count() <= 80 || line.contains("are in")), "{table}");
    assert_eq!(desk.image("overlay.png").dimensions(), (150, 140));
    assert_eq!(desk.path("out").read_dir().unwrap().count(), 4, "nothing half-made is left");
}

#[test]
fn the_picture_is_that_of_the_training() {
    let desk = Desk::new(&[], 0, 0);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page");
    for name in ["background.png", "layer_0.png"] {
        image::open(page.join(name)).unwrap().crop_imm(70, 40, 150, 140).save(desk.path(name)).unwrap();
    }
    std::fs::rename(desk.path("page.png"), desk.path("image.png")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
    command.env_clear().arg("--local").arg(desk.folder.path()).arg("--out").arg(desk.path("models"));
    for set in ["Patch height=32", "Patch width=32", "Maximum number of samples per label=80", "Batch Size=4"]
    {
        command.args(["--set", set]);
    }
    let trained =
        command.args(["--set", "Maximum number of training epochs=40", "--set", "Patience=40"]).output();
    let trained = trained.unwrap();
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    desk.table("image.png", &["Batch Size=3"]);
    let preview = image::open(desk.path("models").join("preview.png")).unwrap().to_rgb8();
    assert!(preview == desk.image("overlay.png").to_rgb8());
    assert!(preview != image::open(desk.path("image.png")).unwrap().to_rgb8(), "a layer was found");
}

#[test]
fn a_jpeg_smaller_than_a_window_and_the_older_names() {
    let desk = Desk::new(&["Background Model.hdf5", "Staff Lines Model.hdf5", "Text Model.hdf5"], 64, 64);
    let page = image::open(desk.path("page.png")).unwrap().crop_imm(0, 0, 40, 30);
    page.save_with_format(desk.path("small.jpg"), ImageFormat::Jpeg).unwrap();
    let table = desk.table("small.jpg", &["Patch height=32"]);
    for name in ["Background", "Staff Layer", "Text"] {
        assert!(table.contains(name), "{table}");
        assert_eq!(desk.image(&format!("{name}.png")).dimensions(), (40, 30));
    }
}

#[test]
fn what_can_not_be_used_is_named() {
    let desk = Desk::new(&["Model 1.hdf5", "Model 2.hdf5"], 32, 32);
    desk.refused("page.png", &[], &["there is no Background Model", "the surest"]);
    desk.model("Background Model.hdf5", 3, 32, 64);
    let sizes = ["Background Model was trained on patches of 32x64", "Model 1 on 32x32", "--set"];
    desk.refused("page.png", &[], &sizes);
    desk.refused("page.png", &["Patience=3"], &["Patience", "only \"Patch height\""]);
    desk.refused("page.png", &["Patch height=33"], &["multiple of 4"]);
    desk.refused("gone.png", &["Patch height=32", "Patch width=32"], &["gone.png", "can't be read"]);
    std::fs::write(desk.path("models").join("Model 2.hdf5"), "no model").unwrap();
    desk.refused("page.png", &[], &["Model 2.hdf5: not a readable HDF5 file"]);
    std::fs::remove_file(desk.path("models").join("Model 1.hdf5")).unwrap();
    std::fs::remove_file(desk.path("models").join("Model 2.hdf5")).unwrap();
    desk.refused("page.png", &[], &["there is no other model"]);
}
