//! What the report says, as plain values.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::picture::Picture;
use crate::train::{EpochReport, Score, TrainedLayer, TrainingJob};
use crate::wire::{Layer, SettingsMap};

/// What is told of a run.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    /// When it ended.
    pub(crate) ended: Timestamp,
    /// The pages that were learned from.
    pub(crate) pages: Vec<PagePart<'a>>,
    /// Height and width of the patches.
    pub(crate) patch: (usize, usize),
    /// Where all chance came from.
    pub(crate) seed: u64,
    /// What computed.
    pub(crate) device: &'a str,
    /// Settings as they were given, unknown ones included.
    pub(crate) given: &'a SettingsMap,
    /// What was made of them.
    pub(crate) effective: Map<String, Value>,
    /// The layers in the order in which they were trained.
    pub(crate) layers: Vec<LayerPart<'a>>,
    /// The pages as the models see them.
    pub(crate) pictures: Pictures,
    /// The steps around the training, by name, and how long each took.
    pub(crate) steps: Vec<(&'static str, Duration)>,
    /// From the start to the end.
    pub(crate) whole: Duration,
    /// Largest resident memory in bytes, where the system tells.
    pub(crate) peak_memory: Option<u64>,
}

/// A page.
#[derive(Debug)]
pub(crate) struct PagePart<'a> {
    /// What its user calls it, where there are several.
    pub(crate) label: Option<&'a str>,
    /// Height in pixels.
    pub(crate) height: usize,
    /// Width in pixels.
    pub(crate) width: usize,
}

/// A layer.
#[derive(Debug)]
pub(crate) struct LayerPart<'a> {
    /// Which one it is.
    pub(crate) layer: Layer,
    /// Samples learned from.
    pub(crate) train: usize,
    /// Samples validated with.
    pub(crate) validation: usize,
    /// Every epoch of the last start.
    pub(crate) history: &'a [EpochReport],
    /// The epoch whose weights were kept.
    pub(crate) best_epoch: usize,
    /// How often it was started again.
    pub(crate) restarts: usize,
    /// False when it learned nothing.
    pub(crate) learned: bool,
    /// How long its training took.
    pub(crate) time: Duration,
    /// How well it was found on the whole of the pages, where that was looked at.
    pub(crate) score: Option<Score>,
}

/// The pages in pictures.
#[derive(Debug)]
pub(crate) enum Pictures {
    /// Those of the first pages.
    Drawn(Vec<Picture>),
    /// Why there is none.
    None(String),
}

impl<'a> LayerPart<'a> {
    /// The parts of the layers; `scores` are those of the same layers, or empty.
    pub(crate) fn all(trained: &'a [TrainedLayer], scores: &[Score]) -> Vec<Self> {
        let part = |(index, layer): (usize, &'a TrainedLayer)| Self {
            layer: layer.layer,
            train: layer.train_samples,
            validation: layer.validation_samples,
            history: &layer.history,
            best_epoch: layer.best_epoch,
            restarts: layer.restarts,
            learned: layer.learned,
            time: layer.time,
            score: scores.get(index).copied(),
        };
        trained.iter().enumerate().map(part).collect()
    }

    /// The report of the epoch that was kept.
    pub(crate) fn kept(&self) -> Option<&EpochReport> {
        self.history.iter().find(|report| report.epoch == self.best_epoch)
    }
}

impl<'a> PagePart<'a> {
    /// The pages of a training, with the labels that their inputs had.
    pub(crate) fn all(job: &TrainingJob, labels: &'a [Option<String>]) -> Vec<Self> {
        let label = |index: usize| labels.get(index).and_then(Option::as_deref);
        let pages = job.pages().iter().enumerate();
        pages
            .map(|(index, page)| Self { label: label(index), height: page.height(), width: page.width() })
            .collect()
    }
}

/// A layer, as its user calls it.
pub(crate) fn layer_name(layer: Layer) -> String {
    match layer {
        Layer::Numbered(number) => format!("Layer {number}"),
        other => other.input_name(),
    }
}
