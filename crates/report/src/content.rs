//! The content of the report, as plain values.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use domain::{Calibration, Course, Layer, SampleCounts, Score, SettingsMap};

use crate::picture::Picture;

/// Everything that the report tells of a run.
#[derive(Debug)]
pub struct Content<'a> {
    /// When it ended.
    pub ended: Timestamp,
    /// The pages that were learned from.
    pub pages: Vec<PagePart<'a>>,
    /// Height and width of the patches.
    pub patch: (usize, usize),
    /// The seed of all random choices.
    pub seed: u64,
    /// What computed.
    pub device: &'a str,
    /// Settings as they were given, unknown ones included.
    pub given: &'a SettingsMap,
    /// The values that were used.
    pub effective: Map<String, Value>,
    /// The layers in the order in which they were trained.
    pub layers: Vec<LayerPart<'a>>,
    /// What became of their joint calibration.
    pub calibration: &'a Calibration,
    /// The pages as the models see them.
    pub pictures: Pictures,
    /// The steps around the training, by name, and how long each took.
    pub steps: Vec<(&'static str, Duration)>,
    /// From the start to the end.
    pub whole: Duration,
    /// Largest resident memory in bytes, if the system tells it.
    pub peak_memory: Option<u64>,
}

/// A page.
#[derive(Debug)]
pub struct PagePart<'a> {
    /// The user's name for it, where there are several.
    pub label: Option<&'a str>,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

/// A layer.
#[derive(Debug)]
pub struct LayerPart<'a> {
    /// Which one it is.
    pub layer: Layer,
    /// How many samples it was trained with.
    pub samples: SampleCounts,
    /// How its training went.
    pub course: &'a Course,
    /// How long its training took.
    pub time: Duration,
    /// How well it was found on all of the pages, if that was computed.
    pub score: Option<Score>,
}

/// The pages in pictures.
#[derive(Debug)]
pub enum Pictures {
    /// Those of the first pages.
    Drawn(Vec<Picture>),
    /// Why there is none.
    None(String),
}

/// The user's name for a layer.
pub fn layer_name(layer: Layer) -> String {
    match layer {
        Layer::Numbered(number) => format!("Layer {number}"),
        other => other.input_name(),
    }
}
