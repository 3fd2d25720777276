//! What was made of the settings, for the reports.

use domain::TrainingSettings;
use serde::Serialize;
use serde_json::{Map, Value};

#[derive(Serialize)]
pub(crate) struct Effective {
    epochs: u32,
    max_samples: u32,
    batch_size: u32,
    patience: u32,
    early_stopping_metric: &'static str,
    patch_selection: &'static str,
    brightness_percent: u32,
    shift_pixels: u32,
    flip: &'static str,
}

impl From<&TrainingSettings> for Effective {
    fn from(settings: &TrainingSettings) -> Self {
        Self {
            epochs: settings.epochs,
            max_samples: settings.max_samples,
            batch_size: settings.batch_size,
            patience: settings.patience,
            early_stopping_metric: settings.metric.name(),
            patch_selection: settings.selection.name(),
            brightness_percent: settings.augmentation.brightness,
            shift_pixels: settings.augmentation.shift,
            flip: settings.augmentation.flip.name(),
        }
    }
}

/// What was made of the settings, by name.
pub(crate) fn effective_settings(settings: &TrainingSettings) -> Map<String, Value> {
    match serde_json::to_value(Effective::from(settings)) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}
