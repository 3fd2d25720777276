//! `training.json`: everything that is needed to explain, or to repeat, how the models were made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::summary::Summary;
use base::files::Replace;
use domain::{Calibration, SettingsMap, TrainingSettings};
use page_layers::{EpochReport, TrainingJob};

/// A report that could not be written.
#[derive(Debug, Error)]
#[error("{}: can't write the report: {source}; check that the folder is writable and has \
    room", path.display())]
pub(crate) struct ReportError {
    /// The file.
    pub(crate) path: PathBuf,
    /// What went wrong.
    pub(crate) source: std::io::Error,
}

#[derive(Serialize)]
struct Report<'a> {
    program: &'static str,
    version: &'static str,
    seed: u64,
    device: &'a str,
    pages: Vec<Size>,
    patch: Size,
    /// The settings as they were given, by the wire's names; unknown ones included.
    settings: &'a SettingsMap,
    /// The values that were used.
    effective: Map<String, Value>,
    layers: Vec<LayerReport>,
    /// What became of the layers' calibration; null where it was not wanted.
    calibration: Value,
    seconds: f64,
    /// Seconds of each part of the run.
    times: BTreeMap<&'static str, f64>,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Size {
    height: usize,
    width: usize,
}

#[derive(Serialize)]
struct LayerReport {
    model: String,
    train_samples: usize,
    validation_samples: usize,
    best_epoch: usize,
    restarts: usize,
    learned: bool,
    history: Vec<Epoch>,
    /// On the whole page, inside the selected regions.
    precision: f64,
    recall: f64,
    f1: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Epoch {
    training_loss: f64,
    validation_loss: Option<f64>,
    validation_accuracy: Option<f64>,
    validation_precision: Option<f64>,
    validation_recall: Option<f64>,
    validation_f1: Option<f64>,
    seconds: f64,
}

impl From<&EpochReport> for Epoch {
    fn from(report: &EpochReport) -> Self {
        Self {
            training_loss: report.training_loss,
            validation_loss: report.validation.map(|metrics| metrics.loss),
            validation_accuracy: report.validation.map(|metrics| metrics.accuracy),
            validation_precision: report.validation.map(|metrics| metrics.precision),
            validation_recall: report.validation.map(|metrics| metrics.recall),
            validation_f1: report.validation.map(|metrics| metrics.f1),
            seconds: report.seconds,
        }
    }
}

/// Writes the report.
///
/// # Errors
/// When the file can't be written.
pub(crate) fn write(
    path: &Path,
    map: &SettingsMap,
    settings: &TrainingSettings,
    job: &TrainingJob,
    summary: &Summary<'_>,
    (calibration, steps): (&Calibration, &[(&'static str, Duration)]),
) -> Result<(), ReportError> {
    let layers = summary.layers.iter().map(|part| {
        let score = part.score.unwrap_or_default();
        LayerReport {
            model: part.layer.model_name(),
            train_samples: part.samples.train,
            validation_samples: part.samples.validation,
            best_epoch: part.course.best_epoch,
            restarts: part.course.restarts,
            learned: part.course.learned,
            history: part.course.history.iter().map(Epoch::from).collect(),
            precision: score.precision(),
            recall: score.recall(),
            f1: score.f1(),
            seconds: part.time.as_secs_f64(),
        }
    });
    let report = Report {
        program: base::PRODUCT,
        version: env!("CARGO_PKG_VERSION"),
        seed: job.seed(),
        device: &summary.device,
        pages: job
            .pages()
            .iter()
            .map(|page| Size { height: page.height(), width: page.width() })
            .collect(),
        patch: Size { height: job.shape().height(), width: job.shape().width() },
        settings: map,
        effective: settings.shown(),
        layers: layers.collect(),
        calibration: calibration.to_json(),
        seconds: summary.time.as_secs_f64(),
        times: steps.iter().map(|(name, took)| (*name, took.as_secs_f64())).collect(),
        peak_memory_bytes: summary.peak_memory,
    };
    let failed = |source| ReportError { path: path.to_owned(), source };
    let mut text = serde_json::to_vec_pretty(&report).map_err(|e| failed(e.into()))?;
    text.push(b'\n');
    Replace::USERS.write(path, &text).map_err(failed)
}
