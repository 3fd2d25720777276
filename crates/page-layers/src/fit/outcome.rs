//! What goes into a training and what comes out of it.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::fit::average::Average;
use crate::gpu::device::Device;
use crate::hyperparameters::{LEARNING_RATE, LEARNING_RATE_FROM_SCRATCH, MAX_RESTARTS};
use crate::keras::{Weights, WeightsError};
use crate::net::adam::AdamState;
use crate::net::error::NetworkError;
use domain::{Course, EpochReport, Layer, SampleCounts, TrainingSettings};

/// How to train.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// Where to compute.
    pub device: Device,
    /// Decides first weights and the samples' order. In a job each layer has one of its own, drawn
    /// from the job's seed.
    pub seed: u64,
    /// Weights to start from instead of random ones. A restart uses random ones in any case.
    pub initial: Option<Weights>,
    /// Adam's learning rates.
    pub learning_rates: LearningRates,
    /// How often a network that learns nothing is replaced by one from another seed.
    pub max_restarts: usize,
    /// The job's settings: epochs, batch size, patience, metric and augmentation are read here.
    pub settings: TrainingSettings,
}

impl FitOptions {
    /// The values of a job that names none: batch 16, patience 3; and three restarts, which the
    /// original trainer does not have.
    pub fn new(device: impl Into<Device>, epochs: u32, seed: u64) -> Self {
        Self {
            device: device.into(),
            seed,
            initial: None,
            learning_rates: LearningRates::default(),
            max_restarts: MAX_RESTARTS,
            settings: TrainingSettings { epochs, ..TrainingSettings::default() },
        }
    }

    /// The weights that a network goes on from: the given ones, unless it was started anew.
    pub(crate) fn given(&self, restarts: usize) -> Option<&Weights> {
        self.initial.as_ref().filter(|_| restarts == 0)
    }

    /// Adam's learning rate after so many restarts.
    pub(crate) fn learning_rate(&self, restarts: usize) -> f64 {
        match self.given(restarts) {
            Some(_) => self.learning_rates.fine_tuning,
            None => self.learning_rates.from_scratch,
        }
    }
}

/// Adam's learning rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRates {
    /// Of a network that starts from random weights.
    pub from_scratch: f64,
    /// Of a network that goes on from given weights.
    pub fine_tuning: f64,
}

impl LearningRates {
    /// The same rate for both.
    pub const fn both(rate: f64) -> Self {
        Self { from_scratch: rate, fine_tuning: rate }
    }
}

impl Default for LearningRates {
    fn default() -> Self {
        Self { from_scratch: LEARNING_RATE_FROM_SCRATCH, fine_tuning: LEARNING_RATE }
    }
}

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// All epochs were trained.
    Epochs,
    /// No better epoch for as long as the patience allows.
    Patience,
    /// The observer asked for it.
    Interrupted,
}

/// A trained network.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Weights of the best epoch by the setting `Early stopping metric`. By the validation loss if
    /// no epoch was more accurate than a constant output (with F1: if none found a pixel of the
    /// layer); by the training loss if there are no validation samples.
    pub weights: Weights,
    /// How it went.
    pub course: Course,
    /// Why training ended.
    pub stopped: StopReason,
    /// How long the validation of all epochs took, in this run of the program.
    pub validating: Duration,
}

/// A layer that was trained and whose model is written.
#[derive(Clone, Debug)]
pub struct TrainedLayer {
    /// Which layer it is. Its model's name is [`Layer::model_name`].
    pub layer: Layer,
    /// The model file.
    pub path: PathBuf,
    /// What the file holds.
    pub weights: Weights,
    /// How many samples it was trained with.
    pub samples: SampleCounts,
    /// How it went.
    pub course: Course,
    /// How long it took.
    pub times: LayerTimes,
}

/// How long a layer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTimes {
    /// All of it, in all runs of the program.
    pub whole: Duration,
    /// The part of that time that this run of the program spent on training, without validation.
    pub training: Duration,
    /// The part of that time that this run of the program spent on validation.
    pub validating: Duration,
    /// How long writing the file took.
    pub writing: Duration,
}

/// Whether a training has to end early, and in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// It continues.
    #[default]
    No,
    /// It ends after this step, and its best epoch is the result. An epoch whose steps are all done
    /// is still validated.
    KeepBest,
    /// It ends after this step or this batch of validation, to be resumed from its checkpoint.
    Suspend,
}

/// A training between two steps: everything that the later steps depend on, and what the final
/// report needs.
///
/// The order of the samples depends only on seed and epoch, so the number of the step is enough to
/// know it.
#[derive(Clone, Debug, PartialEq)]
pub struct FitState {
    /// How often training was started anew.
    pub restarts: usize,
    /// Whether this start has learned something, as far as that was checked.
    pub learned: bool,
    /// The finished epochs of this start.
    pub history: Vec<EpochReport>,
    /// Steps done in the epoch that follows them.
    pub step: usize,
    /// Sum of the losses of those steps, each multiplied by its number of samples.
    pub loss_sum: f64,
    /// Seconds that this epoch has taken.
    pub seconds: f64,
    /// The weights now.
    pub weights: Weights,
    /// The state of the optimiser.
    pub adam: AdamState,
    /// The average over the weights so far, where one is wanted.
    pub average: Option<Average>,
    /// The best epoch so far.
    pub best: Option<Best>,
}

impl FitState {
    /// How long this start has been trained, with its validations.
    pub(crate) fn time(&self) -> Duration {
        let epochs = self.history.iter().map(|epoch| epoch.seconds).sum::<f64>();
        Duration::try_from_secs_f64(epochs + self.seconds).unwrap_or_default()
    }
}

/// The best epoch of a start.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// Number of the epoch.
    pub epoch: usize,
    /// What epochs are compared by; higher is better: the metric, or minus a loss (see
    /// [`Trained::weights`]).
    pub score: f64,
    /// The weights after it.
    pub weights: Weights,
}

/// Why a network is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// Its output is the same everywhere.
    Constant,
    /// One of the two channels before its last layer is silent on all samples.
    LostChannel,
}

impl std::fmt::Display for Collapse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Constant => "learned nothing (a constant output)",
            Self::LostChannel => "lost one of the two channels that it decides by",
        })
    }
}

/// Watches training and may end it.
pub trait FitObserver {
    /// A step was done: `step` of `steps` (from 1) of `epoch` (from 1), with its batch's loss.
    fn on_step(&mut self, epoch: usize, step: usize, steps: usize, loss: f32) {
        let _ = (epoch, step, steps, loss);
    }
    /// An epoch was trained and validated.
    fn on_epoch(&mut self, report: &EpochReport) {
        let _ = report;
    }
    /// The network collapsed; restart number `restart` (from 1) follows, with weights from `seed`.
    fn on_restart(&mut self, restart: usize, seed: u64, why: Collapse) {
        let _ = (restart, seed, why);
    }
    /// Asked before every epoch, after every step, and between the batches of validation.
    fn stop(&self) -> Stop {
        Stop::No
    }
    /// Asked after every step, and with `stopping` before training ends early: whether a checkpoint
    /// is wanted.
    fn checkpoint_due(&self, stopping: bool) -> bool {
        let _ = stopping;
        false
    }
    /// The checkpoint that was wanted.
    fn on_checkpoint(&mut self, state: FitState) {
        let _ = state;
    }
}

/// Training that can't go on.
#[derive(Debug, Error)]
pub enum FitError {
    /// There is nothing to train on.
    #[error("there are no training samples")]
    NoSamples,
    /// Validation patches of another size than the training patches.
    #[error("training and validation patches differ in size")]
    Shapes,
    /// An option is 0 without which nothing can be trained.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The loss became NaN or infinite.
    #[error("training diverged: the loss of epoch {epoch}, step {step} is {loss}")]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
        /// Step, from 1.
        step: usize,
        /// What the loss was.
        loss: f32,
    },
    /// The observer asked to end before the first epoch was finished, so there are no weights worth
    /// keeping.
    #[error("training was interrupted before the end of its first epoch")]
    Interrupted,
    /// The network couldn't be computed.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl From<candle_core::Error> for FitError {
    fn from(error: candle_core::Error) -> Self {
        Self::Network(error.into())
    }
}

impl From<WeightsError> for FitError {
    fn from(error: WeightsError) -> Self {
        Self::Network(error.into())
    }
}
