//! `--local PAGE_DIR --out DIR`: trains pages in folders, without broker, Slurm or Rodan.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use thiserror::Error;
use tracing::info;

use crate::debug_wait;
use crate::folder::{FolderError, find_models, find_page, make_writable, read_settings};
use crate::going_on::{self, Telling, stop_with_standard_input, watch_signals};
use crate::parts::{layer_parts, page_parts, picture};
use crate::progress_bar::Progress;
use crate::summary::Summary;
use crate::training_json::{self, ReportError};
use base::exit_code::ExitCode;
use base::files::Replace;
use base::memory::peak_memory;
use base::text::wrap;
use domain::{Calibration, Layer, TrainingEvent, TrainingSettings};
use page_layers::look_at_pages as look;
use page_layers::{
    Checkpoints, EventLogs, JobObserver as _, PageInputs, PictureError, Stop, TrainError,
    TrainingInputs, TrainingJob, WithEvents, choose_device, spent_line, write_preview,
};
use report::{Content, MOST_PICTURES, Pictures};

/// The arguments of the command line.
#[derive(Clone, Debug)]
pub(crate) struct LocalArgs {
    /// The folders of the pages.
    pub(crate) pages: Vec<PathBuf>,
    /// A folder with models to start from.
    pub(crate) models: Option<PathBuf>,
    /// Where models, picture and report go; made when it is not there.
    pub(crate) out: PathBuf,
    /// `NAME=VALUE` settings that win over `settings.json`.
    pub(crate) set: Vec<String>,
    /// Where TensorBoard's event files go, if they are wanted.
    pub(crate) tensorboard: Option<PathBuf>,
    /// Where a checkpoint is kept and looked for, if the run is to be gone on with after a stop.
    pub(crate) checkpoints: Option<PathBuf>,
    /// The file that is told how far the run is.
    pub(crate) progress: Option<PathBuf>,
    /// Whether the run stops when its standard input ends, as it does with whoever started it.
    pub(crate) attached: bool,
    /// No progress bar.
    pub(crate) quiet: bool,
    /// Waits for a debugger before the first step.
    pub(crate) debug_wait: bool,
}

/// Why a local run did not end with models.
#[derive(Debug, Error)]
pub(crate) enum LocalError {
    /// The folder or its settings can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The output folder can't be made or written.
    #[error("{}: can't be used for the output: {source}; give --out a folder that you may \
        write", path.display())]
    Out {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The page can't be used, or the training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A trained network can't be run on the page.
    #[error("the models are written, but the page can't be predicted with them: {0}")]
    Predict(#[from] page_layers::NetworkError),
    /// The picture can't be written.
    #[error(transparent)]
    Preview(#[from] PictureError),
    /// The report can't be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The checkpoints can't be kept.
    #[error("{}: can't be used for checkpoints: {source}; give --checkpoints a folder that you \
        may write", path.display())]
    Checkpoints {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file for the progress can't be made.
    #[error("{}: can't be written: {source}; give --progress a file that you may \
        write", path.display())]
    Progress {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The signals that end a run can't be watched.
    #[error("can't watch for Ctrl-C: {0}")]
    Signals(#[source] std::io::Error),
}

impl LocalError {
    /// The exit code that tells a script what went wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Folder(_)
            | Self::Out { .. }
            | Self::Checkpoints { .. }
            | Self::Progress { .. }
            | Self::Preview(_)
            | Self::Report(_) => ExitCode::Input,
            Self::Train(error) if error.is_input() => ExitCode::Input,
            Self::Train(TrainError::Stopped { .. }) => ExitCode::Stopped,
            Self::Train(_) | Self::Predict(_) => ExitCode::Training,
            Self::Signals(_) => ExitCode::Internal,
        }
    }
}

/// Trains the pages in the folders; returns the table to be shown.
///
/// Writes `<model name>.hdf5` for each layer, `preview.png` (of several pages `preview_1.png` …),
/// `training.json` and `report.html`. The settings are those of the first folder. Everything that
/// can be wrong with the input is found before the first layer is trained and before anything is
/// written.
///
/// # Errors
///
/// [`LocalError`], in one sentence that names the file and what to change.
pub(crate) fn run(arguments: &LocalArgs) -> Result<String, LocalError> {
    let started = Instant::now();
    let stop = watch_signals().map_err(LocalError::Signals)?;
    if arguments.attached {
        stop_with_standard_input(&stop);
    }
    let several = arguments.pages.len() > 1;
    let page = |folder: &PathBuf| {
        let label = several.then(|| folder.display().to_string());
        find_page(folder).map(|page| PageInputs { label, ..page })
    };
    let pages = arguments.pages.iter().map(page).collect::<Result<_, _>>()?;
    let models = arguments.models.as_deref().map_or(Ok(Vec::new()), find_models)?;
    let first = arguments.pages.first().map_or(Path::new("."), PathBuf::as_path);
    let (map, settings) = read_settings(first, &arguments.set)?;
    let inputs = TrainingInputs { pages, models };
    let open = |path: &PathBuf| {
        going_on::checkpoints(path, &inputs, &settings)
            .map_err(|source| LocalError::Checkpoints { path: path.clone(), source })
    };
    let mut checkpoints = arguments.checkpoints.as_ref().map(open).transpose()?;
    // What was drawn belongs to the seed that the checkpoint has.
    let found = checkpoints.as_ref().and_then(Checkpoints::seed);
    let settings = TrainingSettings { seed: settings.seed.or(found), ..settings };
    let job = TrainingJob::prepare(&inputs, &settings)?;
    make_writable(&arguments.out)
        .map_err(|source| LocalError::Out { path: arguments.out.clone(), source })?;

    let (device, device_name) = choose_device();
    let events = arguments.tensorboard.as_deref().map(EventLogs::new);
    let (seed, layers) = (job.seed(), job.layers());
    let inner = Progress::new(arguments.quiet, Arc::clone(&stop));
    let told = arguments.progress.as_deref();
    let mut inner = Telling::new(inner, told, checkpoints.is_some(), layers).map_err(|source| {
        LocalError::Progress { path: told.unwrap_or(Path::new("")).to_owned(), source }
    })?;
    inner.tell(&TrainingEvent::Prepared { device: device_name.clone(), seed, layers });
    let mut observer = WithEvents { inner, events };
    if arguments.debug_wait {
        debug_wait::wait(&debug_wait::Way::of_process(None), &|| stop.load(Ordering::Relaxed));
    }
    let mut trained =
        job.train_from(checkpoints.as_mut(), &device, &arguments.out, &mut observer)?;

    observer.inner.tell(&TrainingEvent::Predicting);
    let calibrating = Instant::now();
    let go_on = || observer.inner.stop() == Stop::No;
    let calibration = job.calibrate(&mut trained, &device, &go_on).map_err(TrainError::from)?;
    let calibrated = calibrating.elapsed();
    info!("predicting the page{}", if several { "s" } else { "" });
    let predicting = Instant::now();
    let layers: Vec<Layer> = trained.iter().map(|layer| layer.layer).collect();
    let mut pictures = Vec::new();
    let scores =
        look(&job, &trained, &device, job.pages().len(), &|| Ok(()), |number, page, found| {
            let name =
                if several { format!("preview_{}.png", number + 1) } else { "preview.png".into() };
            let path = arguments.out.join(name);
            write_preview(&path, page, &layers, found)?;
            if number < MOST_PICTURES {
                pictures.push(
                    picture(page, &layers, found)
                        .map_err(|source| PictureError { path, source })?,
                );
            }
            Ok::<_, LocalError>(())
        })?;
    let predicted = predicting.elapsed();

    let summary = Summary {
        layers: layer_parts(&trained, &scores),
        time: started.elapsed(),
        peak_memory: peak_memory(),
        device: device_name,
        seed: job.seed(),
    };
    let mut steps = job.spent(&trained).parts().to_vec();
    if calibration != Calibration::Off {
        steps.push(("calibrate", calibrated));
    }
    steps.push(("predict", predicted));
    info!("time: {}", spent_line(&steps));
    let path = arguments.out.join("training.json");
    training_json::write(&path, &map, &settings, &job, &summary, (&calibration, &steps))?;
    let labels: Vec<_> = inputs.pages.iter().map(|page| page.label.clone()).collect();
    let html = report::render(&Content {
        ended: Timestamp::now(),
        pages: page_parts(&job, &labels),
        patch: (job.shape().height(), job.shape().width()),
        seed: job.seed(),
        device: &summary.device,
        given: &map,
        effective: settings.shown(),
        layers: layer_parts(&trained, &scores),
        calibration: &calibration,
        pictures: Pictures::Drawn(pictures),
        steps,
        whole: summary.time,
        peak_memory: summary.peak_memory,
    });
    let path = arguments.out.join("report.html");
    Replace::USERS
        .write(&path, html.as_bytes())
        .map_err(|source| ReportError { path: path.clone(), source })?;
    let mut calibrated = String::new();
    if let Some(words) = calibration.in_words() {
        wrap(&mut calibrated, &format!("calibration: {words}"), 0);
    }
    Ok(format!(
        "{}{calibrated}models, {} and training.json are in {}\nto look at: {}\n",
        summary.table(),
        if several { "previews" } else { "preview.png" },
        arguments.out.display(),
        path.display()
    ))
}
