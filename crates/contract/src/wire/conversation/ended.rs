//! The epochs that have ended, as a `job.progress` and the trainer's note hold them.

use std::collections::VecDeque;

use domain::EpochReport;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::clip::clip;
use super::model::MAX_NAME;

/// The largest number of an epoch that is taken.
const MAX_EPOCH: usize = 1_000_000;

/// An epoch that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedEpoch {
    /// The model of its layer, such as `Background Model`.
    pub layer: String,
    /// What it came to.
    #[serde(flatten)]
    pub report: EpochReport,
}

impl EndedEpoch {
    /// Whether all its numbers are finite and its epoch is from 1 to [`MAX_EPOCH`].
    fn can_be_told(&self) -> bool {
        let EpochReport { epoch, training_loss, validation, seconds, .. } = &self.report;
        let metrics = validation.map(|m| [m.loss, m.accuracy, m.precision, m.recall, m.f1]);
        let mut numbers = metrics.into_iter().flatten().chain([*training_loss, *seconds]);
        (1..=MAX_EPOCH).contains(epoch) && numbers.all(f64::is_finite)
    }
}

/// The latest epochs that have ended, in the order of their ends: at most [`Self::MOST`]. Of more,
/// the first are left out; `training.json` has all of them at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndedEpochs(#[serde(deserialize_with = "those_that_can_be_read")] VecDeque<EndedEpoch>);

impl EndedEpochs {
    /// The most epochs of one message: with the names of their layers about 32 KiB.
    pub const MOST: usize = 64;

    /// Adds an epoch that has just ended. One whose loss is no number is left out.
    pub fn add(&mut self, layer: &str, report: &EpochReport) {
        self.push(EndedEpoch { layer: layer.to_owned(), report: report.clone() });
    }

    fn push(&mut self, epoch: EndedEpoch) {
        if !epoch.can_be_told() {
            return;
        }
        if self.0.len() >= Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(epoch);
    }

    /// Adds epochs that have ended after these.
    pub fn extend(&mut self, later: impl IntoIterator<Item = EndedEpoch>) {
        later.into_iter().for_each(|epoch| self.push(epoch));
    }

    /// The epochs, in the order of their ends.
    pub fn iter(&self) -> impl Iterator<Item = &EndedEpoch> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same within the limits of a body.
    pub(super) fn clipped(self) -> Self {
        let mut clipped = Self::default();
        clipped.extend(
            self.0.into_iter().map(|epoch| EndedEpoch {
                layer: clip(&epoch.layer, MAX_NAME),
                report: epoch.report,
            }),
        );
        clipped
    }
}

impl IntoIterator for EndedEpochs {
    type Item = EndedEpoch;
    type IntoIter = std::collections::vec_deque::IntoIter<EndedEpoch>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Curves are told in passing: an epoch that can't be read is no reason to lose the rest of what a
/// message says.
fn those_that_can_be_read<'de, D: Deserializer<'de>>(
    list: D,
) -> Result<VecDeque<EndedEpoch>, D::Error> {
    let read = |value| serde_json::from_value(value).ok();
    Ok(Vec::<Value>::deserialize(list)?.into_iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use domain::Metrics;
    use serde_json::json;

    use super::*;

    fn report(epoch: usize) -> EpochReport {
        let metrics =
            Metrics { loss: 0.5, accuracy: 0.75, precision: 0.5, recall: 0.25, f1: 1.0 / 3.0 };
        EpochReport {
            epoch,
            training_loss: 0.1,
            validation: epoch.is_multiple_of(2).then_some(metrics),
            best: epoch == 2,
            seconds: 1.5,
        }
    }

    fn numbers(epochs: &EndedEpochs) -> Vec<usize> {
        epochs.iter().map(|epoch| epoch.report.epoch).collect()
    }

    #[test]
    fn of_many_the_latest_are_kept_and_none_that_json_has_no_numbers_for() {
        let mut epochs = EndedEpochs::default();
        assert!(epochs.is_empty());
        for number in 1..=EndedEpochs::MOST + 3 {
            epochs.add("Model 0", &report(number));
        }
        epochs.add("Model 0", &EpochReport { training_loss: f64::NAN, ..report(99) });
        epochs.add("Model 0", &EpochReport { seconds: f64::INFINITY, ..report(99) });
        let infinite = Metrics { loss: f64::INFINITY, ..report(2).validation.unwrap() };
        epochs.add("Model 0", &EpochReport { validation: Some(infinite), ..report(99) });
        assert_eq!(numbers(&epochs), (4..=EndedEpochs::MOST + 3).collect::<Vec<_>>());
        let mut others = EndedEpochs::default();
        others.add("Model 1", &report(1));
        epochs.extend(others);
        assert_eq!(epochs.iter().count(), EndedEpochs::MOST);
        assert_eq!(epochs.iter().last().map(|epoch| epoch.layer.as_str()), Some("Model 1"));
    }

    #[test]
    fn an_epoch_has_the_keys_of_the_protocol_and_is_read_back() {
        let mut epochs = EndedEpochs::default();
        epochs.add("Model 0", &report(1));
        epochs.add("Model 0", &report(2));
        let text = serde_json::to_value(&epochs).unwrap();
        assert_eq!(
            text[1],
            json!({
                "layer": "Model 0", "epoch": 2, "training_loss": 0.1, "best": true, "seconds": 1.5,
                "validation": {
                    "loss": 0.5, "accuracy": 0.75, "precision": 0.5, "recall": 0.25, "f1": 1.0 / 3.0
                },
            })
        );
        assert_eq!(text[0]["validation"], json!(null));
        assert_eq!(serde_json::from_value::<EndedEpochs>(text).unwrap(), epochs);
    }

    #[test]
    fn what_can_not_be_read_is_left_out_and_the_rest_is_kept() {
        let good = serde_json::to_value(EndedEpoch { layer: "a".into(), report: report(7) });
        let good = good.unwrap();
        let with = |key: &str, value: Value| {
            let mut changed = good.clone();
            changed[key] = value;
            changed
        };
        let list = json!([
            5,
            null,
            {},
            with("training_loss", json!(null)),
            with("epoch", json!(-1)),
            with("validation", json!({"loss": 1})),
            with("epoch", json!(0)),
            with("epoch", json!(MAX_EPOCH + 1)),
            with("later", json!("word")),
            good,
        ]);
        let read: EndedEpochs = serde_json::from_value(list).unwrap();
        assert_eq!(numbers(&read.clipped()), [7, 7]);
        let named = json!([with("layer", json!(format!("a\n\u{1b}[2J{}", "x".repeat(999))))]);
        let read: EndedEpochs = serde_json::from_value(named).unwrap();
        let layer = read.clipped().iter().next().unwrap().layer.clone();
        assert!(layer.starts_with("a  [2Jx") && layer.len() == MAX_NAME, "{layer}");
        assert!(serde_json::from_value::<EndedEpochs>(json!("list")).is_err());
    }
}
