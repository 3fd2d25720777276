//! What is made from the command lines: `docs/cli.md`, the completions and the man pages.
#![cfg(feature = "trainer")]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hpc_trainer::cli::reference::{UPDATE, markdown};

fn check(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_check")).env_clear().args(arguments).output().unwrap()
}

/// With `INSTA_UPDATE=always`, which also accepts the snapshots of the help texts, the document is written anew.
#[test]
fn the_reference_says_what_the_programs_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        fs::write(&path, markdown()).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let difference =
        kept.lines().zip(markdown().lines().map(str::to_owned)).find(|(kept, made)| kept != made);
    assert!(
        kept == markdown(),
        "docs/cli.md is not what the programs say; run: {UPDATE}\nfirst: {difference:?}"
    );
    for part in
        ["## check\n", "### check status\n", "## run_trainer\n", "--tensorboard <DIR>", "--log-format"]
    {
        assert!(kept.contains(part), "{part:?} is not in docs/cli.md");
    }
    assert!(kept.lines().all(|line| line.chars().count() <= 160), "a line is too long to be read");
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
            "{script}\nCOMP_WORDS=({}); COMP_CWORD={last}; _run_check run_check '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
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
