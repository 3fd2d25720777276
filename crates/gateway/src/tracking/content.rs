//! What is logged of a run: pure functions.

use std::collections::BTreeMap;

use domain::TrainingEvent;
use serde::Serialize;
use serde_json::Value;

use crate::address::percent;
use crate::state::State;
use crate::store::{Event, FileKind, Run, RunFile, Tracked};

/// Longest value of a parameter, in characters: what older servers take.
const LONGEST_PARAMETER: usize = 500;

/// Longest value of a tag, in characters.
const LONGEST_TAG: usize = 5000;

/// Longest name, in characters.
const LONGEST_NAME: usize = 250;

/// The tag with the run's own word, by which it is found again.
pub(super) const WORD: &str = "hpc_trainer_id";

/// A metric at a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Metric {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: f64,
    /// When it was measured, in milliseconds since 1970.
    pub timestamp: i64,
    /// The epoch; 0 for what is measured once.
    pub step: u64,
}

/// A parameter or a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pair {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Metrics, parameters and tags that are logged together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Batch {
    /// Metrics.
    pub metrics: Vec<Metric>,
    /// Parameters. One that is logged can't be changed.
    pub params: Vec<Pair>,
    /// Tags.
    pub tags: Vec<Pair>,
}

/// A text as a part of a name: MLflow takes letters, digits and a few signs, and reads a slash as
/// the end of a folder.
fn name(text: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    let kept: String = text.chars().filter(fits).take(LONGEST_NAME).collect();
    kept.trim_matches(['.', ' ']).to_owned()
}

fn pair(key: &str, value: impl Into<String>, longest: usize) -> Pair {
    let value: String = value.into();
    Pair { key: key.to_owned(), value: value.chars().take(longest).collect() }
}

fn tag(key: &str, value: impl Into<String>) -> Pair {
    pair(key, value, LONGEST_TAG)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A time as the store writes it, in milliseconds since 1970.
pub(super) fn milliseconds(at: &str) -> i64 {
    at.parse::<jiff::Timestamp>().map_or(0, |at| at.as_millisecond())
}

/// What MLflow calls the run.
pub(super) fn title(run: &Run) -> String {
    if run.name.is_empty() { format!("run {}", run.id) } else { run.name.clone() }
}

/// The tags that the run has from its beginning.
pub(super) fn first_tags(run: &Run, tracked: &Tracked) -> Vec<Pair> {
    let mut tags = vec![
        tag(WORD, &tracked.word),
        tag("hpc_trainer_run", run.id.to_string()),
        tag("hpc_trainer_pages", run.pages.join(", ")),
        tag("mlflow.user", &run.account_name),
        tag("mlflow.source.name", "hpc-trainer"),
        tag("mlflow.source.type", "JOB"),
    ];
    tags.extend(run.group.map(|group| tag("hpc_trainer_group", group.to_string())));
    tags.extend(run.models_from.map(|from| tag("hpc_trainer_models_from", from.to_string())));
    let labels = run.labels.iter().map(|(label, value)| (name(label), value));
    let labels = labels.filter(|(label, _)| !label.is_empty());
    tags.extend(labels.map(|(label, value)| tag(&format!("label.{label}"), value)));
    tags
}

/// The settings that were asked for.
pub(super) fn asked(run: &Run) -> Vec<Pair> {
    let asked: BTreeMap<String, String> =
        run.settings.iter().map(|(setting, value)| (name(setting), text(value))).collect();
    let asked = asked.into_iter().filter(|(name, _)| !name.is_empty());
    asked.map(|(name, value)| pair(&name, value, LONGEST_PARAMETER)).collect()
}

/// The metrics of the epochs among these events.
pub(super) fn of_events(events: &[Event]) -> Vec<Metric> {
    let of_event = |event: &Event| {
        let told = serde_json::from_value(event.data.clone());
        let Ok(TrainingEvent::Epoch { model, report }) = told else { return Vec::new() };
        let mut values = vec![("training_loss", report.training_loss), ("seconds", report.seconds)];
        if let Some(found) = report.validation {
            values.extend([
                ("validation_loss", found.loss),
                ("validation_accuracy", found.accuracy),
                ("validation_precision", found.precision),
                ("validation_recall", found.recall),
                ("validation_f1", found.f1),
            ]);
        }
        let (model, timestamp) = (name(&model), milliseconds(&event.at));
        let metric = |(what, value): (&str, f64)| Metric {
            key: format!("{model}/{what}"),
            value,
            timestamp,
            step: report.epoch as u64,
        };
        values.into_iter().map(metric).collect()
    };
    events.iter().flat_map(of_event).collect()
}

/// What is known at the end: the figures of the layers, what was used without having been asked
/// for, and why it failed.
pub(super) fn at_the_end(run: &Run) -> Batch {
    let mut batch = Batch::default();
    if let Some(error) = &run.error {
        batch.tags.push(tag("mlflow.note.content", error));
    }
    let Some(figures) = &run.figures else { return batch };
    let timestamp = milliseconds(run.finished_at.as_deref().unwrap_or_default());
    let mut note = |key: String, value: &Value| {
        let value = value.as_f64();
        batch.metrics.extend(value.map(|value| Metric { key, value, timestamp, step: 0 }));
    };
    for what in ["seconds", "peak_memory_bytes"] {
        note(what.to_owned(), &figures[what]);
    }
    for layer in figures["layers"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let model = name(layer["model"].as_str().unwrap_or_default());
        for what in ["precision", "recall", "f1", "best_epoch", "epochs", "seconds"] {
            note(format!("{model}/{}", final_name(what)), &layer[what]);
        }
    }
    let mut used = BTreeMap::new();
    for (setting, value) in figures["effective"].as_object().into_iter().flatten() {
        used.insert(name(setting), text(value));
    }
    for (setting, value) in [("Seed", &figures["seed"]), ("Device", &figures["device"])] {
        if !value.is_null() {
            used.insert(setting.to_owned(), text(value));
        }
    }
    for asked in asked(run) {
        used.remove(&asked.key);
    }
    used.retain(|name, _| !name.is_empty());
    batch.params =
        used.into_iter().map(|(name, value)| pair(&name, value, LONGEST_PARAMETER)).collect();
    batch
}

/// The time of a layer is not to be mixed up with that of an epoch.
fn final_name(what: &str) -> &str {
    if what == "seconds" { "all_seconds" } else { what }
}

/// What MLflow calls the end of a run.
pub(super) fn status(state: State) -> &'static str {
    match state {
        State::Succeeded => "FINISHED",
        State::Failed => "FAILED",
        State::Cancelled => "KILLED",
        State::Queued | State::Launch | State::Running => "RUNNING",
    }
}

/// Where a file of a run goes among the artefacts, escaped as a path.
pub(super) fn artifact(result: &RunFile) -> String {
    let folder = match result.kind {
        FileKind::Model => "models/",
        FileKind::Preview => "pictures/",
        FileKind::Layer => "layers/",
        FileKind::Report | FileKind::Record | FileKind::Log => "",
    };
    format!("{folder}{}", percent(&result.name))
}

/// The path of a run's artefacts where the tracking server takes them itself (`mlflow server
/// --serve-artifacts`); `None` where they lie elsewhere.
pub(super) fn proxied(place: &str) -> Option<&str> {
    let rest = place.strip_prefix("mlflow-artifacts:")?;
    let path = match rest.strip_prefix("//") {
        // A host of its own, and then the path.
        Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
        None => rest,
    };
    Some(path.trim_matches('/')).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_such_as_mlflow_takes() {
        for (text, taken) in [
            ("Patch height", "Patch height"),
            ("Maximum time (D-HH:MM)", "Maximum time D-HHMM"),
            ("Background Model", "Background Model"),
            ("../../etc", "etc"),
            ("a/b\u{0}c", "abc"),
            (" . ", ""),
            ("\u{e9}", ""),
        ] {
            assert_eq!(name(text), taken, "{text}");
        }
        assert_eq!(name(&"x".repeat(999)).len(), LONGEST_NAME);
    }

    #[test]
    fn an_epoch_is_a_step_of_each_metric_at_the_time_of_its_event() {
        let event = |id, data| Event {
            id,
            kind: "epoch".into(),
            at: "1970-01-01T00:00:01.500Z".into(),
            data,
        };
        let validation = json!({
            "loss": 0.4, "accuracy": 0.9, "precision": 0.8, "recall": 0.7, "f1": 0.75,
        });
        let epoch = |validation| {
            json!({"event": "epoch", "model": "Model 0", "report": {
                "epoch": 3, "training_loss": 0.5, "validation": validation, "best": true,
                "seconds": 2.0,
            }})
        };
        let events =
            [event(1, epoch(validation)), event(2, epoch(Value::Null)), event(3, json!(1))];
        let metrics = of_events(&events);
        assert_eq!(metrics.len(), 7 + 2);
        let last = &metrics[6];
        assert_eq!(
            (&*last.key, last.value, last.timestamp, last.step),
            ("Model 0/validation_f1", 0.75, 1500, 3)
        );
    }

    #[test]
    fn artefacts_go_where_the_server_takes_them() {
        for (place, path) in [
            ("mlflow-artifacts:/1/ab/artifacts", Some("1/ab/artifacts")),
            ("mlflow-artifacts://host:5000/1/ab/artifacts", Some("1/ab/artifacts")),
            ("mlflow-artifacts:/", None),
            ("mlflow-artifacts://host", None),
            ("file:///srv/1/ab", None),
            ("s3://bucket/1/ab", None),
            ("", None),
        ] {
            assert_eq!(proxied(place), path, "{place}");
        }
    }
}
