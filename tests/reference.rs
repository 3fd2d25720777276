//! What is made from the programs: pages of `docs/`, `credentials.env.example`, the completions and
//! the man pages.
#![cfg(feature = "trainer")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use domain::{RESOURCE_SETTINGS, TRAINING_SETTINGS};
use hpc_trainer::cli::reference::{UPDATE, pages};
use hpc_trainer::config;

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_check")).env_clear().args(arguments).output().unwrap()
}

/// With `INSTA_UPDATE=always`, which also accepts the snapshots of the help texts, the pages are
/// written anew.
#[test]
fn the_pages_that_are_made_say_what_the_programs_say() {
    for (name, made) in pages() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
            fs::write(&path, &made).unwrap();
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        let difference = kept.lines().zip(made.lines()).find(|(kept, made)| kept != made);
        assert!(
            kept == made,
            "{name} is not what the programs say; run: {UPDATE}\nfirst: {difference:?}"
        );
    }
}

#[test]
fn the_pages_that_are_made_have_what_a_reader_looks_for() {
    let pages = pages();
    let text = |name: &str| &pages.iter().find(|(page, _)| *page == name).unwrap().1;
    let commands = text("docs/cli.md");
    for part in [
        "## check\n",
        "### check status\n",
        "## run_trainer\n",
        "--tensorboard <DIR>",
        "--log-format",
    ] {
        assert!(commands.contains(part), "{part:?} is not in docs/cli.md");
    }
    assert!(commands.lines().all(|line| line.chars().count() <= 160), "a line is too long");
    let codes = text("docs/exit-codes.md");
    assert_eq!(codes.lines().filter(|line| line.starts_with("| ")).count(), 1 + 15, "{codes}");
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

#[test]
fn bash_completes_what_check_takes() {
    // No configuration is needed: a shell asks wherever it starts.
    let output = check(&["completions", "bash"]);
    assert!(output.status.success(), "{output:?}");
    let script = String::from_utf8(output.stdout).unwrap();
    // Bash itself fills in the candidates, as it does at a Tab.
    let ask = |words: &[&str]| {
        let last = words.len() - 1;
        let program = format!(
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={last}; _run_check run_check '{}' '{}'; printf \
            '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.join(" "),
            words[last],
            words[last - 1]
        );
        let mut bash = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        bash.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
        let output = bash.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ask(&["run_check", "stat"]), ["status"]);
    assert_eq!(ask(&["run_check", "--dry"]), ["--dry-run"]);
    assert_eq!(ask(&["run_check", "status", "--js"]), ["--json"]);
    assert_eq!(ask(&["run_check", "purge", "--ol"]), ["--older"]);
}

#[test]
fn every_shell_gets_a_script_for_the_name_that_it_calls() {
    for (shell, part) in
        [("zsh", "#compdef check"), ("fish", "complete -c check"), ("bash", "complete -F _check")]
    {
        let output = check(&["completions", shell, "--name", "check"]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && script.contains(part), "{shell}: {script}");
    }
    assert_eq!(check(&["completions", "tcsh"]).status.code(), Some(2));
    assert_eq!(check(&["completions", "bash", "--name", "a; b"]).status.code(), Some(2));
}
