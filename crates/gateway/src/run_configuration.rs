//! The run configuration that other training services take at `/` and `/request`, in the words of
//! this gateway: a pure function of its JSON.

use domain::settings::{BATCH_SIZE, EPOCHS, METRIC, PATIENCE};
use serde_json::{Map, Value};

/// Puts what has another name there in its place. What is not known stays where it is, and is
/// pointed at when the request is read.
pub(crate) fn translated(mut body: Value) -> Value {
    let Some(fields) = body.as_object_mut() else { return body };
    // Every list makes a grid here, too.
    if fields.get("_run_group_type").is_some_and(|kind| kind == "grid") {
        fields.remove("_run_group_type");
    }
    let mut found = Map::new();
    for (foreign, name) in [("batch_size", BATCH_SIZE.name), ("max_epochs", EPOCHS.name)] {
        found.extend(fields.remove(foreign).map(|value| (name.to_owned(), value)));
    }
    let mut callbacks = fields.remove("callbacks");
    let stopping = callbacks.as_mut().and_then(|all| all.get_mut("early_stopping"));
    if let Some(stopping) = stopping.and_then(Value::as_object_mut) {
        let patience = stopping.remove("patience");
        found.extend(patience.map(|value| (PATIENCE.name.to_owned(), value)));
        if let Some(metric) = stopping.get("monitor").and_then(metric) {
            stopping.remove("monitor");
            found.insert(METRIC.name.to_owned(), metric);
        }
        // The best epoch is always the one that is kept.
        if stopping.get("restore_best_weights") == Some(&Value::Bool(true)) {
            stopping.remove("restore_best_weights");
        }
        if stopping.is_empty()
            && let Some(all) = callbacks.as_mut().and_then(Value::as_object_mut)
        {
            all.remove("early_stopping");
        }
    }
    if let Some(rest) = callbacks.filter(|rest| rest.as_object().is_none_or(|all| !all.is_empty()))
    {
        fields.insert("callbacks".to_owned(), rest);
    }
    if found.is_empty() {
        return body;
    }
    let settings = fields.entry("settings").or_insert_with(|| Value::Object(Map::new()));
    if let Some(settings) = settings.as_object_mut() {
        for (name, value) in found {
            settings.entry(name).or_insert(value);
        }
    }
    body
}

/// The setting for what Keras calls the monitor.
fn metric(monitor: &Value) -> Option<Value> {
    match monitor.as_str()? {
        "val_loss" => Some("loss".into()),
        "val_accuracy" | "val_categorical_accuracy" => Some("accuracy".into()),
        "val_f1" | "val_F1" => Some("F1".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_names_are_put_in_their_place_and_the_unknown_stays() {
        for (body, expected) in [
            (json!([1]), json!([1])),
            (json!({"pages": ["a"]}), json!({"pages": ["a"]})),
            (
                json!({"_run_group_type": "grid", "pages": ["a"], "batch_size": [8, 16],
                    "max_epochs": 20, "callbacks": {"early_stopping": {"patience": 2,
                    "monitor": "val_loss", "restore_best_weights": true}}}),
                json!({"pages": ["a"], "settings": {"Batch Size": [8, 16],
                    "Maximum number of training epochs": 20, "Patience": 2,
                    "Early stopping metric": "loss"}}),
            ),
            (
                json!({"_run_group_type": "random", "model": {"base": "Xception"},
                    "callbacks": {"early_stopping": {"start_from_epoch": 3}}}),
                json!({"_run_group_type": "random", "model": {"base": "Xception"},
                    "callbacks": {"early_stopping": {"start_from_epoch": 3}}}),
            ),
            (
                json!({"batch_size": 8, "settings": {"Batch Size": 4}}),
                json!({"settings": {"Batch Size": 4}}),
            ),
        ] {
            assert_eq!(translated(body.clone()), expected, "{body}");
        }
    }
}
