//! `run_trainer --predict IMAGE --models DIR --out DIR`: a page cut into its layers by models that were trained before,
//! here or by Keras, as Rodan's classifier does it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use thiserror::Error;
use tracing::info;

use super::local::{
    FolderError, Footer, find_models, make_writable, parse_settings, peak_memory, watch_signals,
};
use crate::exit_code::ExitCode;
use crate::keras::{self, Model, ReadError};
use crate::train::{
    NetworkError, Page, PageError, PatchShape, PatchShapeError, Predictor, PreviewError, Segmentation,
    choose_device, colour_name, write_cutout, write_preview,
};
use crate::wire::{Layer, SettingsMap};

/// The settings that mean something here.
const SETTINGS: [&str; 3] = ["Patch height", "Patch width", "Batch Size"];

/// Side of a patch in pixels where neither models nor settings say.
const DEFAULT_SIDE: usize = 256;

/// Windows that are looked at together, where the settings don't say: more take more memory, and hardly less time.
const DEFAULT_BATCH: usize = 4;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct PredictArgs {
    /// The page, PNG or JPEG.
    pub image: PathBuf,
    /// The folder of the models.
    pub models: PathBuf,
    /// Where the layers go; made when it is not there.
    pub out: PathBuf,
    /// `NAME=VALUE` settings.
    pub set: Vec<String>,
}

/// Why a page was not cut into layers.
#[derive(Debug, Error)]
pub enum PredictError {
    /// The folder of models or a setting can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Too few models to choose between.
    #[error("{}: there is no {missing}; a pixel goes to the surest of the models, so Background Model and at least one other are needed", folder.display())]
    Few {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A file is no model of this network.
    #[error(transparent)]
    Model(#[from] ReadError),
    /// Two models see patches of different sizes.
    #[error(
        "{first} was trained on patches of {}x{} pixels and {second} on {}x{}; use models of one training, or say --set \"Patch height=…\" --set \"Patch width=…\"",
        sizes[0].height(), sizes[0].width(), sizes[1].height(), sizes[1].width()
    )]
    Shapes {
        /// One model.
        first: String,
        /// The other.
        second: String,
        /// Their patch sizes.
        sizes: [PatchShape; 2],
    },
    /// A setting that means nothing here.
    #[error(
        "--set {0:?}: only \"Patch height\", \"Patch width\" and \"Batch Size\" can be set with --predict"
    )]
    Setting(String),
    /// The patch size is none.
    #[error(transparent)]
    Patch(#[from] PatchShapeError),
    /// The page can't be used.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The output folder can't be made or written.
    #[error("{}: can't be used for the output: {source}; give --out a folder that you may write", path.display())]
    Out {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The network can't be computed.
    #[error("the page can't be predicted: {0}")]
    Network(#[from] NetworkError),
    /// A picture can't be written.
    #[error(transparent)]
    Write(#[from] PreviewError),
    /// The signals that end a run can't be watched.
    #[error("can't watch for Ctrl-C: {0}")]
    Signals(#[source] std::io::Error),
    /// Ctrl-C.
    #[error("stopped before the page was cut into layers; nothing was written")]
    Stopped,
}

impl PredictError {
    /// The exit code that tells a script what went wrong.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Network(_) => ExitCode::Training,
            Self::Signals(_) => ExitCode::Internal,
            Self::Stopped => ExitCode::Stopped,
            _ => ExitCode::Input,
        }
    }
}

/// Cuts the page into layers; returns the table that is to be shown.
///
/// Writes an RGBA PNG for each model, named like the layer (`Background.png`, `Layer 0.png`), and `overlay.png`, the
/// page with all layers in colours. Everything that can be wrong with the input is found before the work.
///
/// # Errors
/// [`PredictError`], in one sentence that names the file and what to change.
pub fn run(arguments: &PredictArgs) -> Result<String, PredictError> {
    let started = Instant::now();
    let stop = watch_signals().map_err(PredictError::Signals)?;
    let map = settings(&arguments.set)?;
    let models = read_models(arguments)?;
    let shape = shape(&models, &map)?;
    let batch = map.get(SETTINGS[2]).and_then(|n| n.as_str()?.parse().ok()).unwrap_or(DEFAULT_BATCH);
    let page = Page::of_image(&arguments.image)?;
    make_writable(&arguments.out)
        .map_err(|source| PredictError::Out { path: arguments.out.clone(), source })?;

    let (device, device_name) = choose_device();
    let (height, width) = (shape.height(), shape.width());
    info!("page {}x{}, windows {height}x{width}, {} models", page.height(), page.width(), models.len());
    let mut found = Segmentation::new(&page);
    for (layer, model) in &models {
        let (began, predictor) = (Instant::now(), Predictor::new(&model.weights, &device)?);
        found.add_layer(&page, shape, batch, |images| {
            if stop.load(Ordering::Relaxed) {
                return Err(PredictError::Stopped);
            }
            Ok(predictor.predict(images, height, width)?)
        })?;
        info!("{}: {:.1} s", layer.model_name(), began.elapsed().as_secs_f64());
    }

    let mut table = format!("{:<12}{:>13}{:>8}  {:<10}{}\n", "layer", "pixels", "share", "overlay", "file");
    let _ = writeln!(table, "{}", "-".repeat(72)); // writing to a String can't fail
    for (index, (layer, _)) in models.iter().enumerate() {
        let name = layer_name(*layer);
        let file = format!("{name}.png");
        let pixels = write_cutout(&arguments.out.join(&file), &page, index, &found)?;
        let share = 100.0 * pixels as f64 / (page.width() * page.height()) as f64;
        let colour = colour_name(*layer).unwrap_or("none");
        let _ = writeln!(table, "{name:<12}{pixels:>13}{share:>6.1} %  {colour:<10}{file}");
    }
    let layers: Vec<Layer> = models.iter().map(|(layer, _)| *layer).collect();
    write_preview(&arguments.out.join("overlay.png"), &page, &layers, &found)?;
    let footer = Footer { time: started.elapsed(), peak_memory: peak_memory(), device: &device_name };
    Ok(format!("{table}\n{footer}\nthe layers and overlay.png are in {}\n", arguments.out.display()))
}

/// What Rodan's classifier calls the output of a layer.
fn layer_name(layer: Layer) -> String {
    match layer {
        Layer::Numbered(number) => format!("Layer {number}"),
        other => other.input_name(),
    }
}

fn settings(set: &[String]) -> Result<SettingsMap, PredictError> {
    let map = parse_settings(set)?;
    match map.keys().find(|name| !SETTINGS.contains(&name.as_str())) {
        Some(name) => Err(PredictError::Setting(name.clone())),
        None => Ok(map),
    }
}

fn read_models(arguments: &PredictArgs) -> Result<Vec<(Layer, Model)>, PredictError> {
    let mut files = find_models(&arguments.models)?;
    files.sort();
    let few = |missing| Err(PredictError::Few { folder: arguments.models.clone(), missing });
    if files.iter().all(|(layer, _)| *layer != Layer::Background) {
        return few("Background Model");
    }
    if files.len() < 2 {
        return few("other model than Background Model");
    }
    files.into_iter().map(|(layer, path)| Ok((layer, keras::read(&path)?))).collect()
}

/// The patch size that the settings name, else the one that the models were trained on.
fn shape(models: &[(Layer, Model)], map: &SettingsMap) -> Result<PatchShape, PredictError> {
    let side = |name| map.get(name).and_then(|n| n.as_str()?.parse::<usize>().ok());
    let (height, width) = (side(SETTINGS[0]), side(SETTINGS[1]));
    let mut named = models.iter().filter_map(|(layer, model)| Some((layer, model.shape?)));
    let first = named.next();
    if let (Some((one, shape)), true) = (first, height.is_none() || width.is_none())
        && let Some((other, differs)) = named.find(|(_, other)| *other != shape)
    {
        let (first, second) = (one.model_name(), other.model_name());
        return Err(PredictError::Shapes { first, second, sizes: [shape, differs] });
    }
    let (usual_height, usual_width) =
        first.map_or((DEFAULT_SIDE, DEFAULT_SIDE), |(_, shape)| (shape.height(), shape.width()));
    Ok(PatchShape::new(height.unwrap_or(usual_height), width.unwrap_or(usual_width))?)
}
