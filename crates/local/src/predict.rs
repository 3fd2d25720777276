//! `--predict IMAGE --models DIR --out DIR`: cuts a page into its layers with models
//! that were trained before, here or by Keras, as Rodan's classifier does.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use thiserror::Error;
use tracing::info;

use crate::folder::{FolderError, find_models, make_writable, parse_settings};
use crate::going_on::{stop_with_standard_input, watch_signals};
use crate::summary::Footer;
use base::exit_code::ExitCode;
use base::memory::peak_memory;
use domain::settings::{BATCH_SIZE, PATCH_HEIGHT, PATCH_WIDTH};
use domain::{Layer, SettingsMap};
use page_layers::keras::{self, Model, ReadError};
use page_layers::{
    Device, NetworkError, Page, PageError, PatchShape, PatchShapeError, Picture, PictureError,
    Predictor, Segmentation, Windows, choose_device, colour_name, draw_cutout, draw_preview,
};
use report::layer_name;

/// The settings that this command takes, with the classifier's windows only.
const SETTINGS: [&str; 3] = [PATCH_HEIGHT.name, PATCH_WIDTH.name, BATCH_SIZE.name];

/// The page with all layers in colours.
const OVERLAY: &str = "overlay.png";

/// Side of a patch in pixels, if neither models nor settings say it.
const DEFAULT_SIDE: usize = 256;

/// Windows that are computed together, if the settings don't say it. More windows take more memory,
/// but hardly less time.
const DEFAULT_BATCH: usize = 4;

/// Through which windows the models look at the page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WindowsOption {
    /// Large ones, whatever patches the models were trained on: soonest done
    #[default]
    Large,
    /// Those of Rodan's classifier, as large as the patches: to compare with what it returns
    Classifier,
}

/// The arguments of the command line.
#[derive(Clone, Debug)]
pub(crate) struct PredictArgs {
    /// The page, PNG or JPEG.
    pub(crate) image: PathBuf,
    /// The folder of the models.
    pub(crate) models: PathBuf,
    /// Where the layers go; made when it is not there.
    pub(crate) out: PathBuf,
    /// `NAME=VALUE` settings.
    pub(crate) set: Vec<String>,
    /// The windows.
    pub(crate) windows: WindowsOption,
    /// Whether it stops when standard input ends.
    pub(crate) attached: bool,
}

/// Why a page was not cut into layers.
#[derive(Debug, Error)]
pub(crate) enum PredictError {
    /// The folder of models or a setting can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Too few models to choose between.
    #[error("{}: there is no {missing}; each pixel goes to the most confident model, so Background \
        Model and at least one other are needed", folder.display())]
    Few {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A file is not a model of this network.
    #[error(transparent)]
    Model(#[from] ReadError),
    /// Two models were trained on patches of different sizes.
    #[error(
        "{first} was trained on patches of {}x{} pixels and {second} on {}x{}; use models of one \
        training, or say --set \"Patch height=…\" --set \"Patch width=…\"",
        sizes[0].width(), sizes[0].height(), sizes[1].width(), sizes[1].height()
    )]
    Shapes {
        /// One model.
        first: String,
        /// The other.
        second: String,
        /// Their patch sizes.
        sizes: [PatchShape; 2],
    },
    /// A setting that this command does not take.
    #[error(
        "--set {name:?}: only \"Patch height\", \"Patch width\" and \"Batch Size\" can be set with \
        {command}"
    )]
    Setting {
        /// Its name.
        name: String,
        /// The option that chose this command.
        command: &'static str,
    },
    /// A setting of the classifier's windows with others.
    #[error(
        "--set {0:?}: matters for the classifier's windows only; leave it out, or say --windows \
        classifier"
    )]
    SettingOfOthers(String),
    /// Windows that have nothing but rims.
    #[error(
        "Rodan's classifier finds nothing with windows of {}x{} pixels: its rims take {rims} of \
        each side; leave out --windows classifier",
        shape.width(), shape.height(), rims = Windows::CLASSIFIER_RIMS
    )]
    Narrow {
        /// Their size.
        shape: PatchShape,
    },
    /// The network can't have this patch size.
    #[error(transparent)]
    Patch(#[from] PatchShapeError),
    /// The page can't be used.
    #[error(
        "{}{source}",
        unnamed.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default()
    )]
    Page {
        /// The file, if the error does not name it by itself.
        unnamed: Option<PathBuf>,
        /// What is wrong with it.
        source: Box<PageError>,
    },
    /// A file that would be written is one that is read.
    #[error("{} would overwrite the input {}; give --out another \
        folder", output.display(), input.display())]
    Overwrite {
        /// The page or a model.
        input: PathBuf,
        /// The picture.
        output: PathBuf,
    },
    /// There is a folder where a picture would be written.
    #[error("{}: is a folder, but a picture is to be written there; move it, or give --out another \
        folder", .0.display())]
    Folded(PathBuf),
    /// The output folder can't be made or written.
    #[error("{}: can't be used for the output: {source}; give --out a folder that you may \
        write", path.display())]
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
    Write(#[from] PictureError),
    /// The signals that end a run can't be watched.
    #[error("can't watch for Ctrl-C: {0}")]
    Signals(#[source] std::io::Error),
    /// Ctrl-C.
    #[error("stopped before the page was cut into layers; nothing was written")]
    Stopped,
}

impl PredictError {
    /// The exit code that tells a script what went wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Network(_) => ExitCode::Training,
            Self::Signals(_) => ExitCode::Internal,
            Self::Stopped => ExitCode::Stopped,
            _ => ExitCode::Input,
        }
    }
}

/// Cuts the page into layers; returns the table to be shown.
///
/// Writes an RGBA PNG for each model, named like the layer (`Background.png`, `Layer 0.png`), and
/// `overlay.png`, the page with all layers in colours: all of them or, when it is stopped, none.
/// Each pixel goes to the most confident model; on a tie to the first, and the background is the
/// first of all. Everything that can be wrong with the input is found before the work begins.
///
/// # Errors
///
/// [`PredictError`], in one sentence that names the file and what to change.
pub(crate) fn run(arguments: &PredictArgs) -> Result<String, PredictError> {
    let started = Instant::now();
    let stop = watch_signals().map_err(PredictError::Signals)?;
    if arguments.attached {
        stop_with_standard_input(&stop);
    }
    let map = settings(&arguments.set, "--predict")?;
    let files = model_files(&arguments.models)?;
    let inputs = files.iter().map(|(_, path)| path).chain([&arguments.image]);
    keep_the_inputs(inputs, &outputs(&arguments.out, files.iter().map(|(layer, _)| *layer)))?;
    let models = open(&files)?;
    let windows = windows(arguments.windows, &models, &map)?;
    let page = read_page(&arguments.image)?;
    make_writable(&arguments.out)
        .map_err(|source| PredictError::Out { path: arguments.out.clone(), source })?;

    let (device, device_name) = choose_device();
    let found = cut(&page, &models, windows, &device, &|| stop.load(Ordering::Relaxed))?;
    let layers: Vec<Layer> = models.iter().map(|(layer, _)| *layer).collect();
    let table = write(&arguments.out, &page, &layers, &found, &|| stop.load(Ordering::Relaxed))?;
    let footer =
        Footer { time: started.elapsed(), peak_memory: peak_memory(), device: &device_name };
    Ok(format!(
        "{table}\n{footer}\nthe layers and overlay.png are in {}\n",
        arguments.out.display()
    ))
}

/// Cuts a page with the models; `stop` is asked before each of them looks through a window.
pub(crate) fn cut(
    page: &Page,
    models: &[(Layer, Model)],
    windows: Windows,
    device: &Device,
    stop: &dyn Fn() -> bool,
) -> Result<Segmentation, PredictError> {
    let (height, width) = windows.sides(page);
    info!(
        "page {}x{}, windows {width}x{height}, {} models",
        page.width(),
        page.height(),
        models.len()
    );
    let began = Instant::now();
    let predictors = Predictor::of_all(models.iter().map(|(_, model)| &model.weights), device)?;
    let see = |network: usize, images: &[f32], sides| {
        if stop() {
            return Err(PredictError::Stopped);
        }
        Ok(predictors[network].predict_within(images, sides, windows.rim())?)
    };
    let found = Segmentation::cut(page, windows, models.len(), see)?;
    info!("cut in {:.3} s", began.elapsed().as_secs_f64());
    Ok(found)
}

/// Reads the files of models.
pub(crate) fn open(files: &[(Layer, PathBuf)]) -> Result<Vec<(Layer, Model)>, ReadError> {
    files.iter().map(|(layer, path)| Ok((*layer, keras::read(path)?))).collect()
}

/// Draws all pictures and then gives them their names, so that there is either all of them or none;
/// returns the table.
fn write(
    out: &Path,
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
    stop: &dyn Fn() -> bool,
) -> Result<String, PredictError> {
    let go_on = || if stop() { Err(PredictError::Stopped) } else { Ok(()) };
    let mut pictures = Vec::with_capacity(layers.len() + 1);
    let mut table =
        format!("{:<12}{:>13}{:>8}  {:<10}{}\n", "layer", "pixels", "share", "overlay", "file");
    let _ = writeln!(table, "{}", "-".repeat(72)); // writing to a String can't fail
    for (index, layer) in layers.iter().enumerate() {
        go_on()?;
        let (name, path) = (layer_name(*layer), out.join(cutout_file(*layer)));
        let (pixels, picture) = draw_cutout(&path, page, index, found)?;
        pictures.push(picture);
        let share = 100.0 * pixels as f64 / (page.width() * page.height()) as f64;
        let colour = colour_name(*layer).unwrap_or("none");
        let _ = writeln!(
            table,
            "{name:<12}{pixels:>13}{share:>6.1} %  {colour:<10}{}",
            cutout_file(*layer)
        );
    }
    go_on()?;
    pictures.push(draw_preview(&out.join(OVERLAY), page, layers, found)?);
    go_on()?;
    pictures.into_iter().try_for_each(Picture::finish)?;
    Ok(table)
}

/// The file of a layer's pixels, named as Rodan's classifier names that output.
fn cutout_file(layer: Layer) -> String {
    format!("{}.png", layer_name(layer))
}

/// All files that will be written.
fn outputs(out: &Path, layers: impl Iterator<Item = Layer>) -> Vec<PathBuf> {
    layers.map(cutout_file).chain([OVERLAY.to_owned()]).map(|name| out.join(name)).collect()
}

/// Makes sure that no output is an input, under whatever name (including links), and that none is a
/// folder.
pub(crate) fn keep_the_inputs<'a>(
    inputs: impl Iterator<Item = &'a PathBuf>,
    outputs: &[PathBuf],
) -> Result<(), PredictError> {
    // A file whose metadata can't be read causes an error when it is opened.
    let identity = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let inputs: Vec<_> = inputs.filter_map(|path| Some((path, identity(path)?))).collect();
    for output in outputs {
        let Some(found) = identity(output) else { continue };
        if let Some((input, _)) = inputs.iter().find(|(_, input)| *input == found) {
            return Err(PredictError::Overwrite {
                input: input.to_path_buf(),
                output: output.clone(),
            });
        }
        if output.is_dir() {
            return Err(PredictError::Folded(output.clone()));
        }
    }
    Ok(())
}

fn read_page(image: &Path) -> Result<Page, PredictError> {
    Page::of_image(image).map_err(|source| {
        // For a name without extension, the error says only what the file is for.
        let unnamed = image.extension().is_none().then(|| image.to_owned());
        PredictError::Page { unnamed, source: Box::new(source) }
    })
}

pub(crate) fn settings(set: &[String], command: &'static str) -> Result<SettingsMap, PredictError> {
    let map = parse_settings(set)?;
    match map.keys().find(|name| !SETTINGS.contains(&name.as_str())) {
        Some(name) => Err(PredictError::Setting { name: name.clone(), command }),
        None => Ok(map),
    }
}

/// The files of the models, the background first.
pub(crate) fn model_files(folder: &Path) -> Result<Vec<(Layer, PathBuf)>, PredictError> {
    let mut files = find_models(folder)?;
    files.sort();
    let few = |missing| Err(PredictError::Few { folder: folder.to_owned(), missing });
    if files.iter().all(|(layer, _)| *layer != Layer::Background) {
        return few("Background Model");
    }
    if files.len() < 2 {
        return few("other model than Background Model");
    }
    Ok(files)
}

/// The windows: the large ones need nothing, the classifier's the size of the patches.
pub(crate) fn windows(
    option: WindowsOption,
    models: &[(Layer, Model)],
    map: &SettingsMap,
) -> Result<Windows, PredictError> {
    if option == WindowsOption::Large {
        return match map.keys().next() {
            Some(name) => Err(PredictError::SettingOfOthers(name.clone())),
            None => Ok(Windows::Large),
        };
    }
    let shape = shape(models, map)?;
    if shape.height().min(shape.width()) <= Windows::CLASSIFIER_RIMS {
        return Err(PredictError::Narrow { shape });
    }
    let batch =
        map.get(BATCH_SIZE.name).and_then(|n| n.as_str()?.parse().ok()).unwrap_or(DEFAULT_BATCH);
    Ok(Windows::Classifier { shape, batch })
}

/// The patch size in the settings, otherwise the one that the models were trained on. One side may
/// come from the settings and the other from the models.
fn shape(models: &[(Layer, Model)], map: &SettingsMap) -> Result<PatchShape, PredictError> {
    let side = |name| map.get(name).and_then(|n| n.as_str()?.parse::<usize>().ok());
    let (height, width) = (side(PATCH_HEIGHT.name), side(PATCH_WIDTH.name));
    let sides =
        |shape: PatchShape| (height.unwrap_or(shape.height()), width.unwrap_or(shape.width()));
    let mut named = models.iter().filter_map(|(layer, model)| Some((layer, model.shape?)));
    let Some((one, shape)) = named.next() else {
        return Ok(PatchShape::new(height.unwrap_or(DEFAULT_SIDE), width.unwrap_or(DEFAULT_SIDE))?);
    };
    if let Some((other, differs)) = named.find(|(_, other)| sides(*other) != sides(shape)) {
        let (first, second) = (one.model_name(), other.model_name());
        return Err(PredictError::Shapes { first, second, sizes: [shape, differs] });
    }
    let (height, width) = sides(shape);
    Ok(PatchShape::new(height, width)?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn stopped_between_two_pictures_it_leaves_none() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("page.png");
        image::RgbImage::new(20, 10).save(&image).unwrap();
        let page = read_page(&image).unwrap();
        let (found, out) = (Segmentation::new(&page), folder.path().join("out"));
        fs::create_dir(&out).unwrap();
        let layers = [Layer::Background, Layer::Numbered(0)];
        let asked = Cell::new(0);
        // It is asked before each of three pictures, and before they get their names.
        for last in 1..=4 {
            asked.set(0);
            let stop = || asked.replace(asked.get() + 1) + 1 == last;
            let error = write(&out, &page, &layers, &found, &stop).unwrap_err();
            assert!(matches!(error, PredictError::Stopped), "{error}");
            assert_eq!((asked.get(), out.read_dir().unwrap().count()), (last, 0));
        }
        write(&out, &page, &layers, &found, &|| false).unwrap();
        assert_eq!(out.read_dir().unwrap().count(), 3);
    }
}
