//! How far a training is: in the trainer's note for `check`, in the `job.progress` of a
//! conversation, and in the gateway's store.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::training_event::TrainingEvent;

/// Where a training stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The model under way, such as `Background Model`; empty before the first.
    pub layer: String,
    /// Its number, from 1; 0 before the first.
    pub layer_number: usize,
    /// How many layers there are.
    pub layers: usize,
    /// The epoch that is being trained, from 1; 0 before the first.
    pub epoch: usize,
    /// Most epochs of a layer.
    pub epochs: usize,
    /// Steps of the epoch that are done.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Loss of the latest step.
    pub loss: Option<f64>,
    /// Validation accuracy after the latest epoch of this layer.
    pub accuracy: Option<f64>,
    /// F1 of the layer's pixels in the validation samples after that epoch.
    pub f1: Option<f64>,
    /// The best validation accuracy of this layer so far.
    pub best: Option<f64>,
    /// The largest resident memory so far, in Slurm's MB (1,048,576 bytes).
    pub peak_memory_mb: Option<u64>,
    /// When the training ends at the latest if it goes on at the pace of this run. A layer that
    /// learns nothing more ends earlier. Nothing before the pace is known.
    pub expected_end: Option<Timestamp>,
    /// What computes, such as `CPU`, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether all layers are done and the pages are being cut with their models.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub predicting: bool,
    /// Where several tasks train: what each of them trains. The values above are then those of the
    /// first task, but `layer_number` is one more than the layers that all tasks have done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskStanding>,
}

/// Where one of several tasks stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStanding {
    /// Its number, from 0.
    pub task: u32,
    /// The model under way.
    pub layer: String,
    /// The epoch that is being trained, from 1; 0 before the first.
    pub epoch: usize,
    /// Most epochs.
    pub epochs: usize,
    /// Steps of the epoch that are done.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
}

/// How much of a layer is done, 0 to 1.
fn of_layer(epoch: usize, epochs: usize, step: usize, steps: usize) -> f64 {
    let [epochs, epoch, steps, step] = [epochs, epoch, steps, step].map(|n| n as f64);
    if epochs < 1.0 || epoch < 1.0 {
        return 0.0;
    }
    let of_epoch = if steps < 1.0 { 0.0 } else { step / steps };
    ((epoch - 1.0 + of_epoch) / epochs).clamp(0.0, 1.0)
}

impl Standing {
    /// Takes note of an event of the training.
    pub fn note(&mut self, event: &TrainingEvent) {
        match event {
            TrainingEvent::Prepared { device, layers, .. } => {
                *self = Self { device: Some(device.clone()), layers: *layers, ..Self::default() };
            }
            TrainingEvent::Layer { model, number, layers, epochs, .. } => {
                *self = Self {
                    layer: model.clone(),
                    layer_number: *number,
                    layers: *layers,
                    epochs: *epochs as usize,
                    device: self.device.take(),
                    peak_memory_mb: self.peak_memory_mb,
                    expected_end: self.expected_end,
                    ..Self::default()
                };
            }
            TrainingEvent::Step { epoch, step, steps, loss } => {
                (self.epoch, self.step, self.steps, self.loss) = (*epoch, *step, *steps, *loss);
            }
            TrainingEvent::Epoch { report, .. } => {
                (self.epoch, self.step) = (report.epoch, self.steps);
                self.accuracy = report.validation.map(|metrics| metrics.accuracy);
                self.f1 = report.validation.map(|metrics| metrics.f1);
                self.best = self.accuracy.into_iter().chain(self.best).reduce(f64::max);
            }
            TrainingEvent::Finished { .. } => {
                // It may have ended before its last epoch.
                let steps = self.steps.max(1);
                (self.epoch, self.step, self.steps) = (self.epochs, steps, steps);
            }
            TrainingEvent::Predicting => self.predicting = true,
        }
    }

    /// How much of all epochs of all layers is done at least, 0 to 1. A layer that stops early
    /// makes it jump forward.
    pub fn fraction(&self) -> f64 {
        if self.predicting {
            return 1.0;
        }
        if self.layers == 0 || self.layer_number == 0 {
            return 0.0;
        }
        let under_way: f64 = if self.tasks.is_empty() {
            self.of_layer()
        } else {
            let of_task = |t: &TaskStanding| of_layer(t.epoch, t.epochs, t.step, t.steps);
            self.tasks.iter().map(of_task).sum()
        };
        let [layers, done] = [self.layers, self.layer_number - 1].map(|n| n as f64);
        ((done + under_way) / layers).clamp(0.0, 1.0)
    }

    /// The same in whole percent, 0 to 99: the end is told otherwise.
    pub fn percent(&self) -> u8 {
        (self.fraction() * 100.0).clamp(0.0, 99.0) as u8
    }

    /// How much of the epochs of this layer is done, 0 to 1.
    pub fn of_layer(&self) -> f64 {
        of_layer(self.epoch, self.epochs, self.step, self.steps)
    }

    /// Most steps that are left: if every layer takes all of its epochs, and if those to come are
    /// as large as this one. `None` before the first step, or if the numbers contradict each other.
    pub fn steps_left(&self) -> Option<u64> {
        let Self { layer_number, layers, epoch, epochs, step, steps, .. } = *self;
        if layer_number == 0 || epoch == 0 {
            return None;
        }
        let of_epoch = steps.checked_sub(step)?;
        let of_layer = epochs.checked_sub(epoch)?.checked_mul(steps)?;
        let of_others =
            layers.checked_sub(layer_number)?.checked_mul(epochs)?.checked_mul(steps)?;
        u64::try_from(of_epoch.checked_add(of_layer)?.checked_add(of_others)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{EpochReport, Metrics};

    fn standing() -> Standing {
        Standing {
            layer: "Model 0".into(),
            layer_number: 2,
            layers: 4,
            epoch: 3,
            epochs: 4,
            step: 5,
            steps: 10,
            ..Standing::default()
        }
    }

    #[test]
    fn how_far_a_training_is_follows_from_its_counts() {
        let standing = standing();
        assert!((standing.fraction() - (1.0 + 2.5 / 4.0) / 4.0).abs() < 1e-12);
        assert_eq!(standing.percent(), 40);
        // One layer is done, one half done, one has not begun.
        let task =
            |epoch, step| TaskStanding { epoch, epochs: 4, step, steps: 10, ..Default::default() };
        let several = Standing { tasks: vec![task(3, 0), task(0, 0)], ..standing.clone() };
        assert!((several.fraction() - (1.0 + 0.5) / 4.0).abs() < 1e-12);
        // A layer that has not begun is no reason to forget those before it.
        assert_eq!(Standing { epoch: 0, ..standing.clone() }.fraction(), 0.25);
        assert_eq!(Standing { epochs: 0, ..standing.clone() }.fraction(), 0.25);
        assert_eq!(Standing { predicting: true, ..standing.clone() }.percent(), 99);
        let beyond = Standing { layer_number: 9, ..standing.clone() };
        assert_eq!((beyond.fraction(), beyond.percent()), (1.0, 99));
        assert_eq!(Standing { layers: 0, ..standing.clone() }.percent(), 0);
        assert_eq!(standing.steps_left(), Some(5 + 10 + 2 * 40));
        let odd = [
            Standing { layer_number: 0, ..standing.clone() },
            Standing { layers: 1, ..standing.clone() },
            Standing { epochs: 2, ..standing.clone() },
            Standing { step: 11, ..standing },
        ];
        assert!(odd.iter().all(|odd| odd.steps_left().is_none()));
    }

    #[test]
    fn percent_only_grow_while_a_training_goes_on() {
        let layer = |number| TrainingEvent::Layer {
            model: format!("Model {number}"),
            number,
            layers: 4,
            train: 8,
            validation: 2,
            epochs: 10,
        };
        let step = |epoch, step| TrainingEvent::Step { epoch, step, steps: 8, loss: Some(0.5) };
        let mut standing = Standing::default();
        let mut seen = vec![standing.percent()];
        for event in [
            TrainingEvent::Prepared { device: "CPU".into(), seed: 1, layers: 4 },
            layer(1),
            step(1, 4),
            step(1, 8),
            step(6, 0),
            TrainingEvent::Finished { model: "Model 1".into() },
            layer(2),
            step(10, 8),
            layer(4),
            TrainingEvent::Finished { model: "Model 4".into() },
            TrainingEvent::Predicting,
        ] {
            standing.note(&event);
            seen.push(standing.percent());
        }
        assert_eq!(seen, [0, 0, 0, 1, 2, 12, 25, 25, 50, 75, 99, 99]);
        assert_eq!(standing.device.as_deref(), Some("CPU"));
    }

    #[test]
    fn the_best_is_that_of_the_layer_and_memory_and_end_are_those_of_the_training() {
        let epoch = |epoch, accuracy| {
            let metrics = Metrics { loss: 0.5, accuracy, precision: 0.1, recall: 0.2, f1: 0.3 };
            let report = EpochReport {
                epoch,
                training_loss: 0.1,
                validation: Some(metrics),
                best: true,
                seconds: 1.0,
            };
            TrainingEvent::Epoch { model: "Model 0".into(), report }
        };
        let mut now =
            Standing { peak_memory_mb: Some(7), expected_end: Some(Timestamp::MIN), ..standing() };
        now.note(&epoch(3, 0.75));
        now.note(&epoch(4, 0.5));
        assert_eq!((now.accuracy, now.best, now.f1), (Some(0.5), Some(0.75), Some(0.3)));
        assert_eq!((now.epoch, now.step), (4, 10));
        let model = "Model 1".to_owned();
        let (train, validation) = (8, 2);
        now.note(&TrainingEvent::Layer {
            model,
            number: 3,
            layers: 4,
            train,
            validation,
            epochs: 9,
        });
        assert_eq!((now.accuracy, now.best, now.f1, now.epochs), (None, None, None, 9));
        assert_eq!((now.peak_memory_mb, now.expected_end), (Some(7), Some(Timestamp::MIN)));
    }
}
