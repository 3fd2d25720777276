//! The figures of a training: what an epoch came to, and how well a layer was found.

use serde::{Deserialize, Serialize};

/// Metrics of one pass over a set of samples; a pixel counts as positive above a probability of
/// 0.5.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean binary cross entropy a pixel.
    pub loss: f64,
    /// Share of pixels on the right side of 0.5.
    pub accuracy: f64,
    /// Share of the pixels called positive that are positive; 0 when none was called so.
    pub precision: f64,
    /// Share of the positive pixels that were called positive; 0 when there is none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
}

/// The results of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Mean loss of the epoch's steps, each weighted by its samples.
    pub training_loss: f64,
    /// Metrics of the validation samples after the epoch; `None` when there are no such samples.
    pub validation: Option<Metrics>,
    /// Whether it is the best so far.
    pub best: bool,
    /// Seconds it took, with validation.
    pub seconds: f64,
}

/// How the training of a layer went.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// One report for each epoch, of the start that was kept.
    pub history: Vec<EpochReport>,
    /// Number of the epoch whose weights were kept.
    pub best_epoch: usize,
    /// How often the layer was started again because it learned nothing.
    pub restarts: usize,
    /// False when the last start learned nothing either.
    pub learned: bool,
}

impl Course {
    /// The report of the epoch whose weights were kept.
    pub fn best(&self) -> Option<&EpochReport> {
        self.history.iter().find(|report| report.epoch == self.best_epoch)
    }
}

/// How many samples a layer was trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleCounts {
    /// Samples learned from.
    pub train: usize,
    /// Samples validated with.
    pub validation: usize,
}

/// How well the pixels given to a layer agree with those drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Pixels given to the layer, and drawn in it.
    pub hits: u64,
    /// Pixels that were given to the layer but not drawn in it.
    pub extra: u64,
    /// Pixels that were drawn in the layer but not given to it.
    pub missed: u64,
}

impl Score {
    /// Share of the given pixels that were drawn; 0 when none was given.
    pub fn precision(self) -> f64 {
        share(self.hits, self.extra)
    }

    /// Share of the drawn pixels that were given; 0 when none was drawn.
    pub fn recall(self) -> f64 {
        share(self.hits, self.missed)
    }

    /// Harmonic mean of precision and recall.
    pub fn f1(self) -> f64 {
        // 2·hits / (2·hits + extra + missed), which is also defined where nothing was given.
        share(2 * self.hits, self.extra + self.missed)
    }
}

impl std::ops::AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.extra += other.extra;
        self.missed += other.missed;
    }
}

fn share(part: u64, rest: u64) -> f64 {
    if part == 0 { 0.0 } else { part as f64 / (part + rest) as f64 }
}
