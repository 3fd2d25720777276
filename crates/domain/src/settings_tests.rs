use serde_json::json;

use super::*;

fn rodan() -> SettingsMap {
    let settings = json!({
        EPOCHS.name: 15, SAMPLES.name: 10000, PATCH_HEIGHT.name: 256, PATCH_WIDTH.name: "128",
        CPUS.name: 6, MEMORY.name: 257_000, WALLTIME.name: "0-06:00", EMAIL.name: "",
        "Some later setting": [1, 2],
    });
    settings.as_object().unwrap().clone()
}

fn with(setting: &Setting, value: Value) -> SettingsMap {
    let mut map = rodan();
    map.insert(setting.name.into(), value);
    map
}

#[test]
fn rodan_settings_are_read_with_the_defaults_of_the_optional_ones() {
    let training = TrainingSettings::from_job(&rodan()).unwrap();
    let expected = TrainingSettings {
        epochs: 15,
        max_samples: 10_000,
        patch_height: 256,
        patch_width: 128,
        batch_size: 16,
        patience: 3,
        metric: StoppingMetric::Accuracy,
        ..TrainingSettings::default()
    };
    assert_eq!(training, expected);
    assert!(training.augmentation().is_none());
    let named = NamedResources::from_job(&rodan()).unwrap();
    assert_eq!((named.cpus, named.memory_mb, named.email), (Some(6), Some(257_000), None));
    assert_eq!(named.walltime.map(Walltime::seconds), Some(6 * 3600));
    let local = TrainingSettings::from_local(&SettingsMap::new()).unwrap();
    assert_eq!(local, TrainingSettings::default());
    assert_eq!(
        (local.epochs, local.max_samples, local.patch_height, local.patch_width),
        (15, 10_000, 256, 256)
    );
}

#[test]
fn every_problem_is_named_at_once() {
    let map = json!({
        EPOCHS.name: 0, PATCH_HEIGHT.name: 66, PATCH_WIDTH.name: 1.5, BATCH_SIZE.name: "many",
    });
    let error = TrainingSettings::from_job(map.as_object().unwrap()).unwrap_err().to_string();
    for part in [
        "\"Maximum number of training epochs\" must be a whole number from 1 to 10000, not 0",
        "\"Maximum number of samples per label\" is missing",
        "\"Patch height\" must be a multiple of 4 (the network halves the image twice), not \
        66: use 64 or 68",
        "\"Patch width\" must be a whole number from 16 to 4096, not 1.5",
        "\"Batch Size\" must be a whole number",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
    let map = json!({ CPUS.name: 0, MEMORY.name: "much", WALLTIME.name: "soon" });
    let error = NamedResources::from_job(map.as_object().unwrap()).unwrap_err().to_string();
    assert!(
        ["CPUs", "Maximum memory (MB)", "Maximum time"].iter().all(|p| error.contains(p)),
        "{error}"
    );
}

/// The table against itself: what a row says is what is read.
#[test]
fn every_row_is_read_at_its_ends_and_refused_beyond() {
    let of_job = |setting: &Setting, value: Value| {
        let map = with(setting, value);
        let training = TrainingSettings::from_job(&map).map(|_| ());
        training.and_then(|()| NamedResources::from_job(&map).map(|_| ()))
    };
    for setting in TRAINING_SETTINGS.iter().chain(RESOURCE_SETTINGS) {
        let name = setting.name;
        match setting.allowed {
            Allowed::Number { low, high, .. } => {
                // A shift may be no more than half the patch.
                let high = if name == SHIFT.name { 64 } else { high };
                for value in [low, high] {
                    assert_eq!(of_job(setting, json!(value)), Ok(()), "{name} {value}");
                    assert_eq!(of_job(setting, json!(value.to_string())), Ok(()), "{name} {value}");
                }
                let beyond = [low.checked_sub(1), high.checked_add(1)].into_iter().flatten();
                for value in
                    beyond.map(Value::from).chain([json!(-1), json!(1.5), json!("x"), json!([1])])
                {
                    let error = of_job(setting, value.clone()).unwrap_err().to_string();
                    assert!(
                        error.contains(name) && error.contains("must be"),
                        "{name} {value}: {error}"
                    );
                }
            }
            Allowed::Words(words) => {
                for word in words() {
                    assert_eq!(
                        of_job(setting, json!(format!(" {} ", word.to_uppercase()))),
                        Ok(()),
                        "{name}"
                    );
                }
                assert_eq!(
                    setting.default,
                    words().first().copied(),
                    "{name}: the first is the default"
                );
                assert!(of_job(setting, json!("other")).is_err(), "{name}");
            }
            Allowed::Walltime | Allowed::Email => {
                assert!(of_job(setting, json!(["x"])).is_err(), "{name}");
            }
            Allowed::Instances => {
                for value in [json!(1), json!(64), json!("2"), json!("auto"), json!(" AUTO ")] {
                    assert_eq!(of_job(setting, value.clone()), Ok(()), "{name} {value}");
                }
                for value in [json!(0), json!(65), json!(-1), json!("all"), json!(["auto"])] {
                    let error = of_job(setting, value.clone()).unwrap_err().to_string();
                    assert!(error.contains(name) && error.contains("or auto"), "{error}");
                }
            }
        }
        assert!(setting.meaning.ends_with('.'), "{name}");
    }
    let values = TrainingSettings::from_job(&rodan()).unwrap().values();
    assert_eq!(values.len(), TRAINING_SETTINGS.len());
    let table = markdown("make it");
    let help = help();
    for setting in TRAINING_SETTINGS {
        assert!(table.contains(setting.name) && help.contains(setting.name));
    }
}

#[test]
fn reports_and_fingerprints_hold_what_the_table_says() {
    let settings = TrainingSettings::from_job(&with(&METRIC, json!("f1"))).unwrap();
    let shown = settings.shown();
    assert_eq!(
        (shown["epochs"].clone(), shown["early_stopping_metric"].clone()),
        (json!(15), json!("F1"))
    );
    assert!(!shown.contains_key("seed"), "it is shown beside");
    let mut other = settings;
    assert_eq!(other.fingerprint(), settings.fingerprint());
    other.flip = Flip::Both;
    assert_ne!(other.fingerprint(), settings.fingerprint());
}

#[test]
fn addresses_that_could_be_something_else_are_refused() {
    let email = |text: &str| NamedResources::from_job(&with(&EMAIL, json!(text))).map(|r| r.email);
    assert_eq!(email(" me+hpc@music.example.org "), Ok(Some("me+hpc@music.example.org".into())));
    for text in
        ["--wrap=x@y.z", "a@b", "a@b.c\nBcc: d@e.f", "a b@c.d", "a@b.c,d@e.f", "@b.c", "$(id)@b.c"]
    {
        assert!(email(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_slurm_is_asked_for_may_be_left_out() {
    let nothing = json!({});
    let empty = json!({
        CPUS.name: "", MEMORY.name: null, WALLTIME.name: " ", EMAIL.name: "", INSTANCES.name: " ",
    });
    for map in [nothing, empty] {
        let named = NamedResources::from_job(map.as_object().unwrap());
        assert_eq!(named, Ok(NamedResources::default()));
    }
    let some = json!({ CPUS.name: "4", WALLTIME.name: 90 });
    let named = NamedResources::from_job(some.as_object().unwrap()).unwrap();
    assert_eq!((named.cpus, named.memory_mb), (Some(4), None));
    assert_eq!(named.walltime.map(Walltime::seconds), Some(5400));
}

#[test]
fn a_seed_may_be_any_64_bit_number() {
    assert_eq!(
        TrainingSettings::from_job(&with(&SEED, json!(u64::MAX))).unwrap().seed,
        Some(u64::MAX)
    );
    assert!(TrainingSettings::from_job(&with(&SEED, json!(-1))).is_err());
}

#[test]
fn choices_are_words_and_the_shift_stays_within_the_patch() {
    let read = |setting: &Setting, value| TrainingSettings::from_job(&with(setting, value));
    assert_eq!(read(&METRIC, json!("f1")).unwrap().metric, StoppingMetric::F1);
    assert_eq!(read(&SELECTION, json!(" covering ")).unwrap().selection, PatchSelection::Covering);
    assert!(read(&FLIP, json!("horizontal")).unwrap().flip.horizontal());
    assert_eq!(read(&SHIFT, json!(64)).unwrap().shift, 64);
    for (setting, value, part) in [
        (METRIC, json!("speed"), "must be \"accuracy\" or \"F1\" or \"loss\", not speed"),
        (
            FLIP,
            json!(true),
            "must be \"none\" or \"horizontal\" or \"vertical\" or \"both\", not true",
        ),
        (SHIFT, json!(65), "must be a whole number from 0 to 64, not 65"),
        (BRIGHTNESS, json!(51), "from 0 to 50"),
    ] {
        let error = read(&setting, value).unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
    }
}
