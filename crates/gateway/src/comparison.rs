//! Runs beside each other: the settings that differ, and what came of each.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::store::Run;

/// Runs beside each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Comparison {
    /// The settings that are not the same in all runs.
    pub settings: Vec<String>,
    /// The models of all runs.
    pub models: Vec<String>,
    /// A row for each run.
    pub rows: Vec<Row>,
}

/// A run in a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its number.
    pub run: i64,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: crate::state::State,
    /// Its values of [`Comparison::settings`]; `None` for the default.
    pub settings: Vec<Option<String>>,
    /// F1 of its [`Comparison::models`], where it has them; on what, the run's figures say.
    pub f1: Vec<Option<f64>>,
    /// The mean of them.
    pub mean_f1: Option<f64>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// Puts runs beside each other.
pub(crate) fn compare(runs: &[Run]) -> Comparison {
    let mut settings: BTreeSet<&str> = BTreeSet::new();
    let mut models: Vec<String> = Vec::new();
    for run in runs {
        settings.extend(run.settings.keys().map(String::as_str));
        for model in layers(run).filter_map(|layer| layer["model"].as_str()) {
            if !models.iter().any(|known| known == model) {
                models.push(model.to_owned());
            }
        }
    }
    // A number and its text are the same setting, as Rodan sends it.
    let value = |run: &Run, name: &str| match run.settings.get(name)? {
        Value::Null => None,
        value => Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
    };
    settings
        .retain(|name| runs.iter().map(|run| value(run, name)).collect::<BTreeSet<_>>().len() > 1);
    let row = |run: &Run| Row {
        run: run.id,
        name: run.name.clone(),
        state: run.status.state,
        settings: settings.iter().map(|name| value(run, name)).collect(),
        f1: models
            .iter()
            .map(|model| layers(run).find(|layer| layer["model"] == **model)?["f1"].as_f64())
            .collect(),
        mean_f1: mean_f1(run),
        seconds: run.figures.as_ref().and_then(|figures| figures["seconds"].as_f64()),
    };
    Comparison {
        rows: runs.iter().map(row).collect(),
        settings: settings.iter().map(|name| (*name).to_owned()).collect(),
        models,
    }
}

/// The mean of the layers' F1: on the whole of the pages or, for a run on a cluster, on the
/// validation samples.
pub(crate) fn mean_f1(run: &Run) -> Option<f64> {
    let values: Vec<f64> = layers(run).filter_map(|layer| layer["f1"].as_f64()).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn layers(run: &Run) -> impl Iterator<Item = &Value> {
    let layers = run.figures.as_ref().and_then(|figures| figures["layers"].as_array());
    layers.into_iter().flatten()
}
