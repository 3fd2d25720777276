//! What a training tells whoever has started it: a JSON object a line, as it goes on.
//!
//! `run_trainer --local … --progress FILE` writes them; the gateway reads them.

use serde::{Deserialize, Serialize};

use crate::figures::EpochReport;

/// Something that has happened in a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TrainingEvent {
    /// The pages are read and checked, and the samples are drawn.
    Prepared {
        /// What computes, such as `CPU`.
        device: String,
        /// The seed of all random choices.
        seed: u64,
        /// How many layers are trained.
        layers: usize,
    },
    /// A layer begins, or continues from a checkpoint.
    Layer {
        /// The name of its model, such as `Background Model`.
        model: String,
        /// Its number among the layers, from 1.
        number: usize,
        /// How many layers there are.
        layers: usize,
        /// Samples that it learns from.
        train: usize,
        /// Samples that it is validated with.
        validation: usize,
        /// Most epochs that it may take.
        epochs: u32,
    },
    /// Some steps of an epoch are done; told every few seconds.
    Step {
        /// The epoch, from 1.
        epoch: usize,
        /// Steps that are done in it.
        step: usize,
        /// Steps that it has.
        steps: usize,
        /// Loss of the latest step; absent where it is no number.
        loss: Option<f64>,
    },
    /// An epoch is done.
    Epoch {
        /// The name of the layer's model.
        model: String,
        /// What it came to.
        report: EpochReport,
    },
    /// A layer is done.
    Finished {
        /// The name of its model.
        model: String,
    },
    /// All layers are done; the pages are cut with their models, for the pictures and the figures.
    Predicting,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Metrics;

    #[test]
    fn every_event_is_a_line_that_is_read_back() {
        let metrics = Metrics { loss: 0.5, accuracy: 0.75, precision: 0.5, recall: 0.25, f1: 0.3 };
        let report = EpochReport {
            epoch: 2,
            training_loss: 0.1,
            validation: Some(metrics),
            best: true,
            seconds: 1.5,
        };
        let model = "Model 0".to_owned();
        let events = [
            TrainingEvent::Prepared { device: "CPU".into(), seed: u64::MAX, layers: 4 },
            TrainingEvent::Layer {
                model: model.clone(),
                number: 2,
                layers: 4,
                train: 8,
                validation: 2,
                epochs: 15,
            },
            TrainingEvent::Step { epoch: 1, step: 2, steps: 3, loss: None },
            TrainingEvent::Epoch { model: model.clone(), report },
            TrainingEvent::Finished { model },
            TrainingEvent::Predicting,
        ];
        for event in events {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<TrainingEvent>(&line).unwrap(), event, "{line}");
        }
    }
}
