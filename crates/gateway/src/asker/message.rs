//! The message that asks a cluster for the training of a run: a pure function.

use std::collections::BTreeMap;

use domain::{RESOURCE_SETTINGS, SettingsError, SettingsMap, TrainingSettings};
use serde_json::{Value, json};

/// The message of a run: its inputs by Rodan's names, and all settings, those that were asked for
/// and the defaults of the others, so that a default of the cluster changes nothing. What Slurm is
/// asked for is left to the cluster where the run does not name it.
///
/// # Errors
/// When the settings are wrong. They were checked when the run was asked for.
pub(super) fn message(
    inputs: &BTreeMap<String, String>,
    settings: &SettingsMap,
) -> Result<String, SettingsError> {
    let training = TrainingSettings::from_local(settings)?;
    let mut sent = SettingsMap::new();
    for (setting, value) in training.values() {
        if !value.is_null() {
            sent.insert(setting.name.to_owned(), value);
        }
    }
    for setting in RESOURCE_SETTINGS {
        let given = settings.get(setting.name).filter(|value| !is_empty(value));
        if let Some(value) = given {
            sent.insert(setting.name.to_owned(), value.clone());
        }
    }
    Ok(json!({"protocol": 2, "inputs": inputs, "settings": sent}).to_string())
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use contract::wire::{JobMessage, Protocol};

    use super::*;

    fn inputs() -> BTreeMap<String, String> {
        ["Image", "Background", "rgba PNG - Layer 0"]
            .map(|name| (name.to_owned(), format!("/uploads/k/{name}.png")))
            .into()
    }

    #[test]
    fn a_message_is_a_job_of_the_second_protocol_with_all_settings() {
        let settings = json!({"Patch height": "64", "Seed": 7, "CPUs": 2, "Maximum memory (MB)": "",
                "Parallel instances": "auto"});
        let settings = settings.as_object().unwrap();
        let text = message(&inputs(), settings).unwrap();
        let job = JobMessage::parse(text.as_bytes()).unwrap();
        assert_eq!(job.protocol, Protocol::Conversation);
        assert_eq!(job.inputs.iter().count(), 3);
        assert_eq!(job.training, TrainingSettings::from_local(settings).unwrap());
        assert_eq!((job.named.cpus, job.named.memory_mb), (Some(2), None));
        assert_eq!(job.named.instances, domain::Instances::Auto);
        // The same run has the same bytes: a message that is sent again is known again.
        assert_eq!(message(&inputs(), settings).unwrap(), text);
    }

    #[test]
    fn without_settings_it_has_the_defaults_and_leaves_slurm_to_the_cluster() {
        let text = message(&inputs(), &SettingsMap::new()).unwrap();
        let job = JobMessage::parse(text.as_bytes()).unwrap();
        assert_eq!((job.training.epochs, job.training.seed), (15, None));
        assert_eq!((job.named.cpus, job.named.walltime), (None, None));
        let wrong = json!({"Patch height": 65});
        assert!(message(&inputs(), wrong.as_object().unwrap()).is_err());
    }
}
