//! What a training has told, until it is noted.

use std::collections::BTreeSet;

use domain::{Standing, TrainingEvent};
use serde_json::Value;

use super::lines::Lines;
use crate::courses::{Courses, as_json};
use crate::store::Event;

/// What a training has told, until it is noted.
pub(super) struct Told {
    pub(super) lines: Lines,
    pub(super) progress: Standing,
    /// A layer has begun.
    pub(super) began: bool,
    /// The progress differs from the one in the store.
    pub(super) changed: bool,
    /// Kind and data of the events that are not in the store yet.
    pub(super) happened: Vec<(&'static str, Value)>,
    /// The layers and the epochs that have an event. A training that goes on after its gateway was
    /// killed tells some of them again.
    layers: BTreeSet<String>,
    courses: Courses,
}

impl Told {
    /// What these lines will tell of a training that has told of these layers and epochs before.
    pub(super) fn by(lines: Lines, layers: &[Event], epochs: &[Event]) -> Self {
        let name = |event: &Event| event.data["model"].as_str().map(str::to_owned);
        Self {
            lines,
            progress: Standing::default(),
            began: false,
            changed: false,
            happened: Vec::new(),
            layers: layers.iter().filter_map(name).collect(),
            courses: Courses::of(epochs),
        }
    }

    /// Takes an event; what is new in it happens once.
    pub(super) fn take(&mut self, event: &TrainingEvent) {
        self.progress.note(event);
        let kind = match event {
            TrainingEvent::Layer { model, .. } => {
                self.began = true;
                self.layers.insert(model.clone()).then_some("layer")
            }
            TrainingEvent::Epoch { model, report } => {
                self.courses.take(model, report).then_some("epoch")
            }
            _ => None,
        };
        self.happened.extend(kind.map(|kind| (kind, as_json(event))));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use domain::EpochReport;

    use super::*;

    fn told_before(events: &[(&str, Value)]) -> Told {
        let of = |wanted: &str| -> Vec<Event> {
            let of_kind = events.iter().enumerate().filter(|(_, (kind, _))| *kind == wanted);
            let event = |(id, (kind, data)): (usize, &(&str, Value))| Event {
                id: id as i64,
                kind: (*kind).to_owned(),
                at: String::new(),
                data: data.clone(),
            };
            of_kind.map(event).collect()
        };
        Told::by(Lines::of(Path::new("/nowhere")), &of("layer"), &of("epoch"))
    }

    fn layer(number: usize) -> TrainingEvent {
        let model = format!("Model {number}");
        TrainingEvent::Layer { model, number, layers: 2, train: 8, validation: 2, epochs: 3 }
    }

    fn epoch(layer: usize, epoch: usize, training_loss: f64) -> TrainingEvent {
        let report =
            EpochReport { epoch, training_loss, validation: None, best: true, seconds: 1.0 };
        TrainingEvent::Epoch { model: format!("Model {layer}"), report }
    }

    #[test]
    fn a_training_that_goes_on_tells_nothing_twice() {
        let mut first = told_before(&[]);
        let before = [layer(1), epoch(1, 1, 0.9), epoch(1, 2, 0.8), layer(2), epoch(2, 1, 0.7)];
        before.iter().for_each(|event| first.take(event));
        let kinds: Vec<_> = first.happened.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["layer", "epoch", "epoch", "layer", "epoch"]);

        let mut again = told_before(&first.happened);
        let after = [layer(2), epoch(2, 1, 0.7), epoch(2, 2, 0.6)];
        after.iter().for_each(|event| again.take(event));
        assert_eq!(again.happened, [("epoch", as_json(&after[2]))]);
        // The run is in training again all the same, and its standing is that of the second layer.
        assert!(again.began);
        assert_eq!((again.progress.layer_number, again.progress.epoch), (2, 2));
    }

    #[test]
    fn a_network_that_was_started_anew_has_another_course() {
        let mut told = told_before(&[]);
        for event in [layer(1), epoch(1, 1, 0.9), epoch(1, 1, 0.5), epoch(1, 2, 0.4)] {
            told.take(&event);
        }
        assert_eq!(told.happened.len(), 4);
    }
}
