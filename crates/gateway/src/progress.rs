//! How far a run is, from what its training has told.

use domain::TrainingEvent;
use serde::{Deserialize, Serialize};

/// The latest of what a training has told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What computes, such as `CPU`.
    pub device: Option<String>,
    /// The name of the model that is being trained.
    pub model: String,
    /// The layer's number, from 1; 0 before the first.
    pub layer: usize,
    /// How many layers there are.
    pub layers: usize,
    /// The epoch, from 1; 0 before the first.
    pub epoch: usize,
    /// Most epochs of the layer.
    pub epochs: u32,
    /// Steps of the epoch that are done.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Loss of the latest step.
    pub loss: Option<f64>,
    /// Whether all layers are done and the pages are being cut with the models.
    pub predicting: bool,
}

impl Progress {
    /// Takes note of an event.
    pub fn note(&mut self, event: &TrainingEvent) {
        match event {
            TrainingEvent::Prepared { device, layers, .. } => {
                *self = Self { device: Some(device.clone()), layers: *layers, ..Self::default() };
            }
            TrainingEvent::Layer { model, number, layers, epochs, .. } => {
                let device = self.device.take();
                *self = Self {
                    device,
                    model: model.clone(),
                    layer: *number,
                    layers: *layers,
                    epochs: *epochs,
                    ..Self::default()
                };
            }
            TrainingEvent::Step { epoch, step, steps, loss } => {
                (self.epoch, self.step, self.steps, self.loss) = (*epoch, *step, *steps, *loss);
            }
            TrainingEvent::Epoch { report, .. } => {
                (self.epoch, self.step) = (report.epoch, self.steps);
            }
            TrainingEvent::Finished { .. } => {
                (self.epoch, self.step, self.steps) = (self.epochs as usize, 0, 0);
            }
            TrainingEvent::Predicting => self.predicting = true,
        }
    }

    /// Percent of the training that is done at least, 0 to 99: every layer may end before its last
    /// epoch.
    pub fn percent(&self) -> u8 {
        if self.predicting {
            return 99;
        }
        if self.layers == 0 || self.layer == 0 {
            return 0;
        }
        let epochs = f64::from(self.epochs.max(1));
        let step = if self.steps == 0 { 0.0 } else { self.step as f64 / self.steps as f64 };
        let epoch = match self.steps {
            0 => self.epoch as f64,
            _ => (self.epoch.max(1) - 1) as f64 + step,
        };
        let layers = (self.layer - 1) as f64 + (epoch / epochs).clamp(0.0, 1.0);
        (layers / self.layers as f64 * 100.0).clamp(0.0, 99.0) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(number: usize) -> TrainingEvent {
        let model = format!("Model {number}");
        TrainingEvent::Layer { model, number, layers: 4, train: 8, validation: 2, epochs: 10 }
    }

    #[test]
    fn percent_only_grow_while_a_training_goes_on() {
        let mut progress = Progress::default();
        let prepared = TrainingEvent::Prepared { device: "CPU".into(), seed: 1, layers: 4 };
        let mut seen = vec![progress.percent()];
        let step = |epoch, step| TrainingEvent::Step { epoch, step, steps: 8, loss: Some(0.5) };
        let finished = TrainingEvent::Finished { model: "Model 1".into() };
        for event in [
            prepared,
            layer(1),
            step(1, 4),
            step(1, 8),
            step(6, 0),
            finished,
            layer(2),
            step(10, 8),
            layer(4),
            step(10, 8),
            TrainingEvent::Predicting,
        ] {
            progress.note(&event);
            seen.push(progress.percent());
        }
        assert_eq!(seen, [0, 0, 0, 1, 2, 12, 25, 25, 50, 75, 99, 99]);
        assert_eq!(progress.device.as_deref(), Some("CPU"));
    }

    #[test]
    fn odd_numbers_stay_within_the_hundred() {
        let odd = Progress { layer: 9, layers: 4, epoch: 99, epochs: 0, ..Progress::default() };
        assert_eq!(odd.percent(), 99);
        assert_eq!(Progress { layer: 1, ..Progress::default() }.percent(), 0);
    }
}
