//! What a job of gRPC asks for, as a request of `/v1` has it, and back: pure functions.

use std::collections::BTreeMap;

use domain::settings::{BATCH_SIZE, EPOCHS, INSTANCES, PATIENCE, SEED};
use domain::{RESOURCE_SETTINGS, training_setting};
use serde_json::{Map, Value, json};

use super::messages::{Metadata, Status};
use crate::state::State;
use crate::store::Run;

/// Settings by the names that other services give them.
const OTHER_NAMES: [(&str, &str); 5] = [
    ("EPOCHS", EPOCHS.name),
    ("BATCH_SIZE", BATCH_SIZE.name),
    ("PATIENCE", PATIENCE.name),
    ("SEED", SEED.name),
    // 1 to 64, or auto: on a cluster the tasks of a job. A gateway that trains by itself keeps it
    // like CPUs and memory, and uses all cores for one layer after the other.
    ("PARALLEL_INSTANCES", INSTANCES.name),
];

/// What is before the name of a parameter among a run's labels.
const PARAMETER: &str = "parameter ";

/// The name of the first field that may not be empty and is.
pub(super) fn missing(metadata: &Metadata) -> Option<&'static str> {
    [
        ("outputModelName", &metadata.output_model_name),
        ("datasetId", &metadata.dataset_id),
        ("trainDataVersionHash", &metadata.train_data_version_hash),
        ("algorithm", &metadata.algorithm),
    ]
    .into_iter()
    .find(|(_, value)| value.is_empty())
    .map(|(name, _)| name)
}

/// The request of `/v1` for a training of these pages. Whether its values are right is found out
/// where all requests are read.
///
/// # Errors
/// When a setting is there under two names.
pub(super) fn request(metadata: &Metadata, pages: &[String]) -> Result<Value, String> {
    let mut settings = Map::new();
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    let mut labels = BTreeMap::from([
        ("algorithm".to_owned(), metadata.algorithm.clone()),
        ("dataset_id".to_owned(), metadata.dataset_id.clone()),
        ("train_data_version_hash".to_owned(), metadata.train_data_version_hash.clone()),
        ("output_model_name".to_owned(), metadata.output_model_name.clone()),
    ]);
    for (name, value) in &metadata.parameters {
        let other = OTHER_NAMES.iter().find(|(other, _)| other == name).map(|(_, name)| *name);
        let own = || {
            let resource = RESOURCE_SETTINGS.iter().any(|setting| setting.name == name);
            (resource || training_setting(name).is_some()).then_some(name.as_str())
        };
        if let Some(setting) = other.or_else(own) {
            if let Some(first) = given.insert(setting, name) {
                return Err(format!(
                    "\"parameters\": \"{first}\" and \"{name}\" are the same setting; leave one"
                ));
            }
            settings.insert(setting.to_owned(), value.as_str().into());
        }
        // What has no meaning here (such as LR) is kept beside the run, and changes nothing.
        labels.insert(format!("{PARAMETER}{name}"), value.clone());
    }
    Ok(json!({"name": metadata.name, "pages": pages, "settings": settings, "labels": labels}))
}

/// What a run was asked for.
pub(super) fn metadata(run: &Run) -> Metadata {
    let label = |name: &str| run.labels.get(name).cloned();
    let asked = run.labels.iter().filter_map(|(name, value)| {
        Some((name.strip_prefix(PARAMETER)?.to_owned(), value.clone()))
    });
    let set = run.settings.iter().map(|(name, value)| {
        (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    // One that was not asked for by gRPC has its settings.
    let from_here = label("algorithm").is_some();
    Metadata {
        algorithm: label("algorithm").unwrap_or_else(|| "page-layers".to_owned()),
        dataset_id: label("dataset_id").unwrap_or_else(|| run.pages.join(",")),
        name: run.name.clone(),
        train_data_version_hash: label("train_data_version_hash").unwrap_or_default(),
        parameters: if from_here { asked.collect() } else { set.collect() },
        output_model_name: label("output_model_name").unwrap_or_default(),
    }
}

/// Where a run is.
pub(super) fn status(state: State) -> Status {
    match state {
        State::Queued => Status::Queuing,
        State::Launch => Status::Launch,
        State::Running => Status::Running,
        State::Succeeded => Status::Succeed,
        State::Failed | State::Cancelled => Status::Failure,
    }
}

/// The same in a sentence.
pub(super) fn message(run: &Run) -> String {
    let waits = match (run.status.state, &run.detail) {
        (State::Queued, Some(detail)) => format!(" {detail}"),
        _ => String::new(),
    };
    match (run.status.state, run.place()) {
        (State::Queued, None) => format!("Queueing.{waits}"),
        (State::Queued, Some(1)) => {
            format!("Queueing, there is 1 training before this one.{waits}")
        }
        (State::Queued, Some(before)) => {
            format!("Queueing, there are {before} trainings before this one.{waits}")
        }
        (State::Failed, _) => run.error.clone().unwrap_or_else(|| "It failed.".to_owned()),
        (State::Running, _) => {
            let percent = run.percent();
            match run.progress.layer_number {
                0 => format!("{percent} % are done."),
                _ => format!("{percent} % are done; {} is being trained.", run.progress.layer),
            }
        }
        (state, _) => base::text::sentence(state.name()),
    }
}

#[cfg(test)]
mod tests {
    use base::secret::Secret;

    use super::*;
    use crate::app::{App, Limits};
    use crate::order::Order;
    use crate::store::{NewRun, Role};

    fn asked(parameters: &[(&str, &str)]) -> Metadata {
        Metadata {
            algorithm: "page-layers".into(),
            dataset_id: "1".into(),
            name: "a run".into(),
            train_data_version_hash: "hash".into(),
            parameters: parameters.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            output_model_name: "models".into(),
        }
    }

    #[test]
    fn parameters_become_settings_or_stay_beside_the_run() {
        let asked = asked(&[
            ("EPOCHS", "15"),
            ("LR", "4"),
            ("Patch height", "64"),
            ("PARALLEL_INSTANCES", "auto"),
        ]);
        assert_eq!(missing(&asked), None);
        let request = request(&asked, &["id".to_owned()]).unwrap();
        let settings = json!({"Maximum number of training epochs": "15", "Patch height": "64",
            "Parallel instances": "auto"});
        assert_eq!((&request["settings"], &request["pages"]), (&settings, &json!(["id"])));
        assert_eq!(request["labels"]["parameter LR"], "4");
        assert!(crate::order::read(&request).is_ok());
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let taken = |value: &str| {
            let asked = asked(&[("PARALLEL_INSTANCES", value)]);
            crate::order::read(&request(&asked, &["id".to_owned()]).unwrap()).is_ok()
        };
        for right in ["1", "2", "64", "auto", "AUTO"] {
            assert!(taken(right), "{right}");
        }
        for wrong in ["0", "65", "-1", "1.5", "all"] {
            assert!(!taken(wrong), "{wrong}");
        }
        let field = |change: fn(&mut Metadata)| {
            let mut metadata = asked(&[]);
            change(&mut metadata);
            missing(&metadata)
        };
        assert_eq!(field(|m| m.output_model_name.clear()), Some("outputModelName"));
        assert_eq!(field(|m| m.dataset_id.clear()), Some("datasetId"));
        assert_eq!(field(|m| m.train_data_version_hash.clear()), Some("trainDataVersionHash"));
        assert_eq!(field(|m| m.algorithm.clear()), Some("algorithm"));
        assert_eq!(missing(&Metadata::default()), Some("outputModelName"));
    }

    #[test]
    fn a_setting_under_two_names_is_refused() {
        let given = |names: &[(&str, &str)]| request(&asked(names), &["id".to_owned()]);
        let twice = given(&[("EPOCHS", "15"), (EPOCHS.name, "15")]).unwrap_err();
        let words = format!(
            "\"parameters\": \"EPOCHS\" and \"{}\" are the same setting; leave one",
            EPOCHS.name
        );
        assert_eq!(twice, words);
        assert!(given(&[("EPOCHS", "15"), ("SEED", "15"), ("LR", "1"), ("lr", "2")]).is_ok());
    }

    #[test]
    fn a_message_says_only_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits::default());
        let token = Secret::new("token of mine");
        app.store.add_account("me", Role::Submitter, &token).unwrap();
        let account = app.store.account_of(&token).unwrap().unwrap();
        let order = Order::default();
        let wanted =
            NewRun { account: &account, order: &order, image: None, key: None, most_waiting: 9 };
        let id = app.store.place_run(wanted).unwrap();
        let mut run = Run { detail: None, ..app.store.any_run(id).unwrap().unwrap() };
        for (position, words) in [
            (0, "Queueing, there are 0 trainings before this one."),
            (1, "Queueing, there is 1 training before this one."),
            (7, "Queueing, there are 7 trainings before this one."),
        ] {
            run.queue_position = Some(position);
            assert_eq!(message(&run), words);
        }
        // The cluster has jobs of others, too, and has not told the place.
        run.away = Some(Default::default());
        assert_eq!(message(&run), "Queueing.");
        run.detail = Some("The cluster has it.".into());
        assert_eq!(message(&run), "Queueing. The cluster has it.");
        run.status.state = State::Running;
        run.progress.layer_number = 1;
        run.progress.layer = "Model 0".into();
        assert!(message(&run).ends_with(" % are done; Model 0 is being trained."));
    }
}
