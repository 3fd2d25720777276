//! `packaging/containers`: what its files name exists. `packaging/containers/check` builds and runs
//! them, which takes minutes.

use crate::support;

use std::fs;

use support::program::{Program, expect};
use support::services::repository;
use support::write_script;

fn read(name: &str) -> String {
    fs::read_to_string(repository().join("packaging/containers").join(name)).unwrap()
}

/// The instructions of a Containerfile, a line each, without comments.
fn instructions(name: &str) -> Vec<String> {
    let text: String = read(name).lines().filter(|line| !line.starts_with('#')).fold(
        String::new(),
        |text, line| match line.strip_suffix('\\') {
            Some(begun) => text + begun,
            None => text + line + "\n",
        },
    );
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_containerfile_copies_what_is_there_and_builds_with_the_rust_that_is_needed() {
    let mut copied = 0;
    for line in instructions("Containerfile").iter().filter(|line| line.starts_with("COPY ")) {
        let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
        words.pop();
        if words.first().is_some_and(|word| word.starts_with("--from=programs")) {
            for program in &words[1..] {
                let name = program.rsplit('/').next().unwrap();
                let source = repository().join("src/bin").join(format!("{name}.rs"));
                assert!(source.exists(), "{line}: there is no program {name}");
                copied += 1;
            }
            continue;
        }
        for name in words {
            assert!(repository().join(name).exists(), "{line}: there is no {name}");
            copied += 1;
        }
    }
    assert!(copied >= 7, "{copied} files are copied");
    let cargo = fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let version = cargo.lines().find_map(|line| line.strip_prefix("rust-version = \"")).unwrap();
    let version = version.trim_end_matches('"');
    assert!(read("Containerfile").contains(&format!("ARG RUST=rust:{version}-")), "{version}");
}

#[test]
fn both_images_run_without_the_rights_of_root_and_end_at_sigterm() {
    for name in ["Containerfile", "Containerfile.gpu"] {
        let lines = instructions(name);
        for wanted in ["USER hpc-trainer", "STOPSIGNAL SIGTERM", "VOLUME /data"] {
            assert!(lines.iter().any(|line| line == wanted), "{name}: {wanted}");
        }
        let last = lines.iter().rfind(|line| line.starts_with("USER "));
        assert_eq!(last.map(String::as_str), Some("USER hpc-trainer"), "{name}");
    }
    let compose = read("compose.yaml");
    for wanted in ["read_only: true", "cap_drop: [ALL]", "no-new-privileges:true"] {
        assert!(compose.contains(wanted), "{wanted}");
    }
    // The worker for a GPU is that one's worker with another image.
    assert!(
        compose.contains("\n  worker:\n") && read("compose.gpu.yaml").contains("\n  worker:\n")
    );
}

#[test]
fn the_scripts_for_containers_say_what_they_want() {
    let script = |name: &str| Program::new(repository().join("packaging/containers").join(name));
    for (name, word) in [("prepare", "--gpu"), ("check", "PROGRAMS")] {
        let help = script(name).arg("--help").run().success();
        assert!(help.stdout.contains(word), "{help}");
        assert_eq!(script(name).arg("--frobnicate").run().code(), Some(2));
    }
    let empty = tempfile::tempdir().unwrap();
    let finished = script("check").arg(empty.path()).run();
    // Whatever is missing first, on whichever machine.
    expect(&finished, 3, &["check: "]);
}

#[test]
fn an_image_is_built_from_what_git_has() {
    let lines = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(repository().join(name)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let left_out = lines(".dockerignore");
    for line in lines(".gitignore") {
        let line = line.trim_end_matches('/');
        let pattern = if line.starts_with('/') { line.to_owned() } else { format!("**/{line}") };
        let fits = |found: &String| {
            *found == pattern
                || found.strip_suffix('*').is_some_and(|start| pattern.starts_with(start))
        };
        assert!(left_out.iter().any(fits), "{pattern} is not in .dockerignore");
    }
}

#[test]
fn what_was_broken_off_is_prepared_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::copy(repository().join("packaging/containers/prepare"), path("prepare")).unwrap();
    // An engine whose gateway keeps its accounts as files, and whose disk may be full.
    let text = format!(
        "cd '{}' && while [ \"$1\" != account ]; do shift; done\n\
        case $2 in\n\
        remove) rm \"account-$3\" ;;\n\
        add)\n\
        [ ! -e \"account-$3\" ] && {{ [ \"$3\" = worker ] || [ ! -e full ]; }} || exit 1\n\
        echo \"token of $3\" | tee \"account-$3\" ;;\n\
        esac",
        folder.path().display()
    );
    write_script(&path("engine"), &text);
    let run = || {
        let prepare = Program::new(path("prepare")).arg("--image-is-there");
        prepare.env("ENGINE", path("engine")).run()
    };
    fs::write(path("full"), "").unwrap();
    assert_eq!(run().code(), Some(1));
    assert!(path("account-worker").exists() && !path("private/broker.env").exists());
    fs::remove_file(path("full")).unwrap();
    let finished = run().success();
    assert!(finished.stdout.contains("ready: "), "{finished}");
    let worker = fs::read_to_string(path("private/worker.env")).unwrap();
    assert!(worker.contains("RODAN_PASSWORD=token of worker\n"), "{worker}");
    assert!(path("private/broker.env").exists());
}
