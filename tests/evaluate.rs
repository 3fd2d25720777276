//! `run_trainer --evaluate`: models beside a page whose layers are drawn.
#![cfg(feature = "trainer")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use page_layers::{PatchShape, initial_weights, keras};
use serde_json::Value;

/// Width and height of the part of the example page that is cut, in pixels.
const SIDES: (u32, u32) = (100, 90);

/// A part of the example page in a folder, and models that have learned nothing.
struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new(models: &[&str]) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/page");
        std::fs::create_dir(desk.path("page")).unwrap();
        for file in std::fs::read_dir(example).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "png") {
                let part = image::open(&file).unwrap().crop_imm(70, 40, SIDES.0, SIDES.1);
                part.save(desk.path("page").join(file.file_name().unwrap())).unwrap();
            }
        }
        std::fs::create_dir(desk.path("models")).unwrap();
        for (seed, name) in models.iter().enumerate() {
            let weights = initial_weights(seed as u64 + 1).unwrap();
            let file = desk.path("models").join(name);
            keras::write(&file, &weights, PatchShape::new(64, 64).unwrap()).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_run_trainer"));
        command.env_clear().current_dir(self.folder.path());
        command.args(arguments).output().unwrap()
    }

    /// What `--evaluate` prints.
    fn evaluate(&self, more: &[&str]) -> String {
        let arguments = ["--evaluate", "page", "--models", "models", "--out", "out"];
        let output = self.run(&[&arguments[..], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Where a picture of the page's size is opaque.
    fn opaque(&self, name: &str) -> Vec<bool> {
        let picture = image::open(self.path(name)).unwrap().to_rgba8();
        picture.pixels().map(|pixel| pixel.0[3] == 255).collect()
    }
}

#[test]
fn the_figures_are_those_of_the_layers_that_predict_writes() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 0.hdf5", "Model 1.hdf5"]);
    for windows in ["large", "classifier"] {
        let said: Value =
            serde_json::from_str(&desk.evaluate(&["--json", "--windows", windows])).unwrap();
        let predict = ["--predict", "page/image.png", "--models", "models", "--out", "layers"];
        let predicted = desk.run(&[&predict[..], &["--windows", windows]].concat());
        assert!(predicted.status.success());
        let regions = match desk.path("page/regions.png") {
            path if path.exists() => desk.opaque("page/regions.png"),
            _ => vec![true; (SIDES.0 * SIDES.1) as usize],
        };
        let count = |test: &dyn Fn(usize) -> bool| {
            (0..regions.len()).filter(|at| regions[*at] && test(*at)).count()
        };
        assert_eq!(said["pixels"], count(&|_| true));
        for (index, (drawn, name)) in
            [("background", "Background"), ("layer_0", "Layer 0"), ("layer_1", "Layer 1")]
                .into_iter()
                .enumerate()
        {
            let drawn = desk.opaque(&format!("page/{drawn}.png"));
            let given = desk.opaque(&format!("layers/{name}.png"));
            let layer = &said["layers"][index];
            assert_eq!(layer["layer"], name);
            assert_eq!(layer["drawn"], count(&|at| drawn[at]), "{layer:#}");
            assert_eq!(layer["given"], count(&|at| given[at]), "{layer:#}");
            assert_eq!(layer["right"], count(&|at| drawn[at] && given[at]), "{layer:#}");
            for other in ["Background", "Layer 0", "Layer 1"] {
                let given = desk.opaque(&format!("layers/{other}.png"));
                let both = count(&|at| drawn[at] && given[at]);
                assert_eq!(layer["given_to"][other], both, "{layer:#}");
            }
        }
    }
    let picture = image::open(desk.path("out/errors.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), SIDES);
    let table = desk.evaluate(&[]);
    for word in ["drawn as", "mean F1", "Layer 1", "errors.png"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn what_can_not_be_evaluated_is_named() {
    let desk = Desk::new(&["Background Model.hdf5", "Model 9.hdf5"]);
    let refused = |arguments: &[&str], code: i32, parts: &[&str]| {
        let output = desk.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(output.stdout.is_empty() && !desk.path("out").exists());
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    };
    let whole = ["--evaluate", "page", "--models", "models", "--out", "out"];
    refused(&whole, 11, &["page: none of its layers", "layer_0.png", "Model 0"]);
    let gone = ["--evaluate", "gone", "--models", "models", "--out", "out"];
    refused(&gone, 11, &["gone: can't be read as a folder", "--evaluate"]);
    refused(&[&whole[..], &["--set", "Patience=3"]].concat(), 11, &["Patience", "--evaluate"]);
    refused(&whole[..2], 2, &["--models"]);
    refused(&["--local", "page", "--out", "out", "--json"], 2, &["--evaluate"]);
    std::fs::rename(desk.path("models/Model 9.hdf5"), desk.path("models/Model 0.hdf5")).unwrap();
    std::fs::write(desk.path("page/layer_0.png"), "no picture").unwrap();
    refused(&whole, 11, &["layer_0.png"]);
    std::fs::remove_file(desk.path("page/background.png")).unwrap();
    refused(&whole, 11, &["there is no background.png"]);
}
