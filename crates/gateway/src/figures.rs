//! What came of a run: its figures, as the store has them.

use serde_json::{Map, Value, json};

use contract::wire::conversation::JobDone;
use domain::{EpochReport, Metrics};

/// What `training.json` says of the run and of each layer, without the history, which the events
/// have.
///
/// That of a run on this machine has a layer's figures on the whole of its pages. That of a
/// cluster's run has them in `figures`, on the validation samples; `measured_on` says so.
pub(crate) fn of_record(record: &[u8]) -> Option<Value> {
    let record: Value = serde_json::from_slice(record).ok()?;
    let layers = record["layers"].as_array()?;
    let of_layer = |layer: &Value| {
        let facts = facts(layer);
        let taken = ["model", "precision", "recall", "f1", "best_epoch", "learned", "seconds"];
        let taken = taken.into_iter().map(|name| (name.to_owned(), facts[name].clone()));
        let mut taken: Map<String, Value> = taken.collect();
        taken.insert("epochs".into(), layer["history"].as_array().map_or(0, Vec::len).into());
        Value::from(taken)
    };
    let mut figures = json!({
        "seed": record["seed"], "device": record["device"], "seconds": record["seconds"],
        "peak_memory_bytes": record["peak_memory_bytes"], "effective": record["effective"],
        "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
    });
    if layers.iter().any(|layer| layer.get("figures").is_some()) {
        figures["measured_on"] = VALIDATION.into();
    }
    Some(figures)
}

/// What `measured_on` says of figures that are not those of whole pages.
pub(crate) const VALIDATION: &str = "validation samples";

fn facts(layer: &Value) -> &Value {
    layer.get("figures").unwrap_or(layer)
}

/// The same from the end of a conversation, for a run whose `training.json` did not come.
pub(crate) fn of_end(done: &JobDone) -> Value {
    let layers = done.figures.iter().map(|layer| {
        json!({
            "model": layer.model, "f1": layer.f1, "best_epoch": layer.best_epoch,
            "learned": layer.learned, "seconds": layer.seconds, "epochs": layer.epochs,
        })
    });
    let memory = done.used.memory_mb.map(|mb| mb.saturating_mul(1 << 20));
    json!({
        "seed": done.seed, "seconds": done.times.seconds, "peak_memory_bytes": memory,
        "measured_on": VALIDATION, "layers": layers.collect::<Vec<_>>(),
    })
}

/// What a `training.json` says of each epoch: the name of the layer's model, and what the epoch
/// came to. One without a training loss is left out.
pub(crate) fn epochs_of_record(record: &[u8]) -> Vec<(String, EpochReport)> {
    let record: Value = serde_json::from_slice(record).unwrap_or_default();
    let layers = record["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_layer = |layer: &Value| {
        let facts = facts(layer);
        let model = facts["model"].as_str().unwrap_or_default().to_owned();
        let kept = facts["best_epoch"].as_u64();
        let history = layer["history"].as_array().cloned().unwrap_or_default();
        let epoch = move |(number, epoch): (usize, Value)| {
            let report = EpochReport {
                epoch: number,
                training_loss: epoch["training_loss"].as_f64()?,
                validation: validation(&epoch),
                best: epoch["best"].as_bool().unwrap_or(kept == Some(number as u64)),
                seconds: epoch["seconds"].as_f64().unwrap_or_default(),
            };
            Some((model.clone(), report))
        };
        (1..).zip(history).filter_map(epoch).collect::<Vec<_>>()
    };
    layers.iter().flat_map(of_layer).collect()
}

/// The figures of the validation samples, where all of them are there.
fn validation(epoch: &Value) -> Option<Metrics> {
    let value = |name: &str| epoch[format!("validation_{name}")].as_f64();
    Some(Metrics {
        loss: value("loss")?,
        accuracy: value("accuracy")?,
        precision: value("precision")?,
        recall: value("recall")?,
        f1: value("f1")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_taken_out_of_a_record() {
        let record = json!({
            "seed": 7, "device": "CPU", "seconds": 1.5, "other": true,
            "layers": [{"model": "Model 0", "f1": 0.5, "best_epoch": 1, "history": [{}]}],
        });
        let figures = of_record(record.to_string().as_bytes()).unwrap();
        assert_eq!((&figures["seed"], &figures["layers"][0]["f1"]), (&json!(7), &json!(0.5)));
        assert_eq!(figures["layers"][0]["epochs"], 1);
        for absent in ["other", "measured_on"] {
            assert!(figures.get(absent).is_none(), "{figures}");
        }
        assert!(figures["layers"][0].get("history").is_none());
        for no_record in ["", "[]", "{}", "{\"layers\": 5}"] {
            assert_eq!(of_record(no_record.as_bytes()), None, "{no_record}");
            assert!(epochs_of_record(no_record.as_bytes()).is_empty(), "{no_record}");
        }
    }

    #[test]
    fn a_clusters_record_has_the_figures_of_its_samples_and_every_epoch() {
        let whole = json!({
            "epoch": 1, "training_loss": 0.5, "validation_loss": 0.4, "validation_accuracy": 0.9,
            "validation_precision": 0.8, "validation_recall": 0.7, "validation_f1": 0.75,
            "best": true, "seconds": 2.5,
        });
        let older = json!({"epoch": 2, "training_loss": 0.3, "validation_loss": null});
        let none = json!({"epoch": 3, "training_loss": null});
        let record = json!({"seed": 7, "layers": [{
            "figures": {"model": "Model 0", "f1": 0.75, "best_epoch": 1, "learned": true},
            "history": [whole, older, none],
        }]})
        .to_string();
        let figures = of_record(record.as_bytes()).unwrap();
        assert_eq!(figures["measured_on"], VALIDATION);
        let layer = &figures["layers"][0];
        assert_eq!((&layer["model"], &layer["f1"]), (&json!("Model 0"), &json!(0.75)));
        assert_eq!((&layer["epochs"], &layer["precision"]), (&json!(3), &json!(null)));
        let epochs = epochs_of_record(record.as_bytes());
        let told = epochs.into_iter().map(|(model, report)| {
            (model, report.epoch, report.validation.map(|metrics| metrics.f1), report.best)
        });
        let told: Vec<_> = told.collect();
        let of = |epoch, f1, best| ("Model 0".to_owned(), epoch, f1, best);
        assert_eq!(told, [of(1, Some(0.75), true), of(2, None, false)]);
    }
}
