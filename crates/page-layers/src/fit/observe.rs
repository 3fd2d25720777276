//! What observers are told while a job is trained, and how the training loop's part of it is passed
//! on.

use tracing::warn;

use crate::fit::outcome::TrainedLayer;
use crate::fit::outcome::{Collapse, FitObserver, FitState, Stop};
use crate::fit::resume::Checkpoints;
use domain::EpochReport;
use domain::Layer;

/// Is told what happens while a job is trained. Every method has a default that does nothing.
pub trait JobObserver {
    /// A layer begins or continues: the `number`-th, from 1. It has `train` samples to learn from
    /// and at most `epochs` epochs.
    fn layer_started(
        &mut self,
        _layer: Layer,
        _number: usize,
        _train: usize,
        _validation: usize,
        _epochs: u32,
    ) {
    }
    /// A step of an epoch is done.
    fn step(&mut self, _layer: Layer, _epoch: usize, _step: usize, _steps: usize, _loss: f32) {}
    /// An epoch is done.
    fn epoch(&mut self, _layer: Layer, _report: &EpochReport) {}
    /// A layer's model is written.
    fn layer_finished(&mut self, _layer: &TrainedLayer) {}
    /// Whether training has to end, and in which way.
    fn stop(&self) -> Stop {
        Stop::No
    }
}

/// Adds the layer to what the job's observer is told, and keeps the checkpoints.
pub(crate) struct LayerObserver<'a> {
    pub(crate) layer: Layer,
    /// Its number, from 1.
    pub(crate) number: usize,
    pub(crate) seed: u64,
    pub(crate) job: &'a mut dyn JobObserver,
    pub(crate) checkpoints: Option<&'a mut Checkpoints>,
}

impl FitObserver for LayerObserver<'_> {
    fn on_step(&mut self, epoch: usize, step: usize, steps: usize, loss: f32) {
        self.job.step(self.layer, epoch, step, steps, loss);
    }

    fn on_epoch(&mut self, report: &EpochReport) {
        self.job.epoch(self.layer, report);
    }

    fn on_restart(&mut self, restart: usize, seed: u64, why: Collapse) {
        let model = self.layer.model_name();
        warn!("{model} {why}: start {} from other weights (seed {seed})", restart + 1);
    }

    fn stop(&self) -> Stop {
        self.job.stop()
    }

    fn checkpoint_due(&self, stopping: bool) -> bool {
        self.checkpoints.as_ref().is_some_and(|checkpoints| stopping || checkpoints.is_due())
    }

    fn on_checkpoint(&mut self, state: FitState) {
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.save(self.seed, Some(state));
        }
    }
}
