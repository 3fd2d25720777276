//! The documents say what the programs say: messages that are quoted and commands that are to be typed.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use hpc_trainer::cli::check;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap()
}

/// All files below a directory that end so.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| match path.is_dir() {
        true => files(&path, ending),
        false => Some(path).filter(|path| path.to_string_lossy().ends_with(ending)).into_iter().collect(),
    };
    entries.flat_map(below).collect()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_messages_in_troubleshooting_are_those_of_the_programs() {
    let sources = files(&repository().join("src"), ".rs").into_iter();
    let scripts = ["run_check", "hpc_training.sh"].map(|name| repository().join(name));
    let said: String = sources.chain(scripts).map(|path| fs::read_to_string(path).unwrap()).collect();
    // A long message is broken into lines in the source.
    let said = said.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let text = read("docs/troubleshooting.md");
    let is_command = |part: &&str| part.starts_with("./run_check") || part.starts_with("METRICS_FILE");
    let is_word = |part: &&str| part.split(' ').count() < 2; // a state or a variable
    let mut rows = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what ")) {
        let symptom = row.split(" | ").next().unwrap();
        let messages: Vec<_> = quoted(symptom).filter(|part| !is_command(part) && !is_word(part)).collect();
        for message in &messages {
            assert!(said.contains(message), "no program says {message:?}, which this row quotes:\n{row}");
        }
        rows += usize::from(!messages.is_empty());
        assert_eq!(row.replace("\\|", "").matches(" | ").count(), 2, "three columns: {row}");
    }
    assert!(rows >= 20, "{rows} rows with a message");
}

#[test]
fn every_command_in_the_documents_can_be_typed() {
    let mut documents = files(&repository().join("docs"), ".md");
    documents.push(repository().join("README.md"));
    let mut typed = 0;
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("./run_check ") {
            let line = text[at..].split(['`', '#', '\n', ',', ';', ')', '|', ':']).next().unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut command = check::Arguments::command();
            if words.contains(&"…") || words.contains(&"SUBCOMMAND") {
                continue;
            }
            let parsed = command.try_get_matches_from_mut(&words);
            let shown = |error: &clap::Error| {
                matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
                )
            };
            if let Err(error) = parsed.as_ref()
                && !shown(error)
            {
                panic!("{}: {line:?}: {error}", path.display());
            }
            typed += 1;
        }
    }
    assert!(typed > 30, "{typed} commands");
}
