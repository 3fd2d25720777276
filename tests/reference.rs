//! The documents that are made from tables in the code say what the tables say.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::Path;

use domain::{RESOURCE_SETTINGS, TRAINING_SETTINGS, settings};
use hpc_trainer::config;

/// With `INSTA_UPDATE=always`, which also accepts snapshots, they are written anew.
#[test]
fn the_example_and_the_page_of_variables_say_what_the_table_says() {
    for (name, made) in [
        ("credentials.env.example", config::example()),
        ("docs/variables.md", config::markdown()),
        ("docs/settings.md", settings::markdown(config::UPDATE)),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let difference = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
        assert!(
            kept == made,
            "{name} is not what the table says; run: {}\nfirst: {difference:?}",
            config::UPDATE
        );
    }
}

/// The words that the fuzzing puts together.
#[test]
fn the_fuzzing_knows_every_setting_and_variable() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/dictionaries").join(name);
        fs::read_to_string(path).unwrap()
    };
    let (settings, variables) = (read("settings"), read("credentials"));
    for setting in TRAINING_SETTINGS.iter().chain(RESOURCE_SETTINGS) {
        assert!(settings.contains(&format!("\"\\\"{}\\\"\"\n", setting.name)), "{}", setting.name);
    }
    for variable in config::variables() {
        assert!(variables.contains(&format!("\"{}=\"\n", variable.name)), "{}", variable.name);
    }
}
