//! The epochs of a run's layers, from what its training has told.

use std::collections::BTreeMap;

use domain::{EpochReport, Metrics, TrainingEvent};
use serde_json::Value;

use crate::store::Event;

/// The course of each layer so far, in the order in which the layers began.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Courses(Vec<(String, BTreeMap<usize, EpochReport>)>);

impl Courses {
    /// From the events of a run's epochs.
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut courses = Self::default();
        for event in events {
            if let Ok(TrainingEvent::Epoch { model, report }) =
                serde_json::from_value(event.data.clone())
            {
                courses.take(&model, &report);
            }
        }
        courses
    }

    /// Takes an epoch of a layer; false when it is known.
    ///
    /// A training that was killed does some epochs again: on a CPU they come to the same, and are
    /// known. One that comes to something else belongs to another course, in which what has come
    /// after it did not happen. One that was not told when it ended fills its gap.
    pub(crate) fn take(&mut self, model: &str, report: &EpochReport) -> bool {
        let known = self.0.iter().position(|(name, _)| name == model);
        let index = known.unwrap_or_else(|| {
            self.0.push((model.to_owned(), BTreeMap::new()));
            self.0.len() - 1
        });
        let Some((_, course)) = self.0.get_mut(index) else { return false };
        if let Some(earlier) = course.get(&report.epoch) {
            if comes_to(earlier) == comes_to(report) {
                return false;
            }
            course.split_off(&report.epoch);
        }
        course.insert(report.epoch, report.clone());
        true
    }

    /// The events of those epochs that have none yet. What a training tells of its epochs may come
    /// again: in another message of a cluster, from a trainer that was started again, and with the
    /// record at the end.
    pub(crate) fn new_events<'a>(
        &self,
        told: impl Iterator<Item = (&'a str, &'a EpochReport)>,
    ) -> Vec<(&'static str, Value)> {
        let mut courses = self.clone();
        let event = |(model, report): (&str, &EpochReport)| {
            let event = TrainingEvent::Epoch { model: model.to_owned(), report: report.clone() };
            courses.take(model, report).then(|| ("epoch", as_json(&event)))
        };
        told.filter_map(event).collect()
    }

    /// The name of each layer's model with its epochs.
    pub(crate) fn into_histories(self) -> Vec<(String, Vec<EpochReport>)> {
        let listed = |(name, course): (String, BTreeMap<usize, EpochReport>)| {
            (name, course.into_values().collect())
        };
        self.0.into_iter().map(listed).collect()
    }
}

/// What an epoch has come to, without how long it took.
fn comes_to(report: &EpochReport) -> (f64, Option<Metrics>) {
    (report.training_loss, report.validation)
}

/// An event as the store keeps it.
pub(crate) fn as_json(event: &TrainingEvent) -> Value {
    serde_json::to_value(event).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: usize, training_loss: f64) -> EpochReport {
        EpochReport { epoch, training_loss, validation: None, best: true, seconds: 1.0 }
    }

    /// Takes epochs of one layer, each by its number and its loss; says which of them are new.
    fn take(courses: &mut Courses, told: &[(usize, f64)]) -> Vec<bool> {
        told.iter().map(|(epoch, loss)| courses.take("a", &report(*epoch, *loss))).collect()
    }

    fn losses(courses: &Courses) -> Vec<f64> {
        let histories = courses.clone().into_histories();
        histories[0].1.iter().map(|report| report.training_loss).collect()
    }

    #[test]
    fn an_epoch_that_is_told_again_is_known() {
        let mut courses = Courses::default();
        let told = [(1, 0.9), (2, 0.8), (3, 0.7)];
        assert_eq!(take(&mut courses, &told), [true; 3]);
        assert_eq!(take(&mut courses, &told[1..]), [false; 2]);
        // It was done again, and took longer.
        let slower = EpochReport { seconds: 9.0, best: false, ..report(2, 0.8) };
        assert!(!courses.take("a", &slower));
        assert_eq!(losses(&courses), [0.9, 0.8, 0.7]);
        // The same numbers of another layer are another epoch.
        assert!(courses.take("b", &report(2, 0.8)));
        assert_eq!(courses.into_histories().len(), 2);
    }

    #[test]
    fn an_epoch_that_comes_to_something_else_begins_another_course() {
        let mut courses = Courses::default();
        take(&mut courses, &[(1, 0.9), (2, 0.8), (3, 0.7)]);
        assert_eq!(take(&mut courses, &[(2, 0.6)]), [true]);
        assert_eq!(losses(&courses), [0.9, 0.6]);
        // What the end tells corrects whatever has come in between.
        assert_eq!(take(&mut courses, &[(1, 0.9), (2, 0.8), (3, 0.7)]), [false, true, true]);
        assert_eq!(losses(&courses), [0.9, 0.8, 0.7]);
        let metrics = Metrics { loss: 0.5, accuracy: 0.5, precision: 0.5, recall: 0.5, f1: 0.5 };
        assert!(courses.take("a", &EpochReport { validation: Some(metrics), ..report(3, 0.7) }));
    }

    #[test]
    fn what_was_left_out_fills_its_gap() {
        let mut courses = Courses::default();
        assert_eq!(take(&mut courses, &[(1, 0.9), (4, 0.6), (5, 0.5)]), [true; 3]);
        let all = [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6), (5, 0.5)];
        assert_eq!(take(&mut courses, &all), [false, true, true, false, false]);
        assert_eq!(losses(&courses), [0.9, 0.8, 0.7, 0.6, 0.5]);
    }
}
