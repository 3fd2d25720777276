//! `--debug-wait`: a trainer waits for a debugger before its first step, and ends as ever when its
//! job is to end. A real gdb where there is one; real Slurm, real RabbitMQ.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::local::Page;
use support::SECONDS;
use support::desk::Desk;
use support::program::{Finished, Program, run_trainer};
use support::{wait_for, write_script};

/// What the log says once a trainer waits.
const WAITS: &str = "waits for a debugger before its first step";

/// The number of the process that waits, from the log.
fn waiting_process(log: &str) -> Option<String> {
    let before = log.split(WAITS).next().filter(|before| before.len() < log.len())?;
    let words: Vec<&str> = before.split_whitespace().collect();
    let at = words.iter().rposition(|word| *word == "process")?;
    Some(words[at + 1].to_owned())
}

/// What the log says after these words, up to the end of the line.
fn told(log: &str, words: &str) -> Vec<String> {
    let line = log.lines().find_map(|line| line.split_once(words));
    let (_, line) = line.unwrap_or_else(|| panic!("no {words:?} in\n{log}"));
    line.split_whitespace().map(str::to_owned).collect()
}

fn gdb() -> bool {
    let found = Path::new("/usr/bin/gdb").exists();
    if !found {
        println!("SKIPPED in part: there is no gdb, so no debugger is attached");
    }
    found
}

/// Runs what the log has told, as a person does who pastes it, with more words behind it.
fn typed(words: &[String], more: &[&str]) -> Program {
    Program::new(&words[0]).args(&words[1..]).args(more).limit(SECONDS(120))
}

fn has(finished: &Finished, part: &str) -> bool {
    finished.stdout.contains(part) || finished.stderr.contains(part)
}

#[test]
fn a_job_goes_on_with_its_debugger_and_ends_as_ever_without_one() {
    let mut desk = Desk::new();
    let site = "export HPC_TRAINER_DEBUG_WAIT=1\n";
    fs::write(desk.site.path().join("site.sh"), site).unwrap();
    desk.site.set("SITE_GRES", "none");
    let asked = desk.short_job();
    let ids: Vec<String> = (0..3).map(|_| desk.vhost.publish_job(&asked)).collect();
    desk.check().args(["--max-jobs", "3"]).run().success();
    let jobs: Vec<_> = ids.iter().map(|id| (id.as_str(), desk.slurm_job(id))).collect();
    let waiting: Vec<String> = jobs
        .iter()
        .map(|(id, slurm)| {
            wait_for("the trainer to wait", SECONDS(120), || {
                let log = desk.log_of(id, slurm);
                log.contains("and without one by: ").then_some(log)
            })
        })
        .collect();
    for log in &waiting {
        assert!(!log.contains("samples to learn from"), "it has begun:\n{log}");
    }

    // The first gets its debugger.
    let (id, slurm) = &jobs[0];
    if gdb() {
        let attach = told(&waiting[0], "attach one by: ");
        assert_eq!(attach[1..3], ["shell".to_owned(), (*id).to_owned()], "{attach:?}");
        let mut more = vec!["-batch", "-nx"];
        let steps = ["rbreak train_from", "continue", "bt 3"];
        for command in steps.iter().chain(&["delete", "detach"]) {
            more.extend(["-ex", command]);
        }
        let said = typed(&attach, &more).env("SLURM_CONF", desk.cluster.conf()).run();
        // A development build has the names of functions without the modules.
        assert!(has(&said, "#0  train_from ()"), "{said}");
        assert!(has(&said, "train_alone"), "{said}");
    } else {
        let process = waiting_process(&waiting[0]).unwrap();
        Program::new("kill").args(["-USR2", &process]).run().success();
    }
    let reply = desk.vhost.receive_reply(id, SECONDS(120)).json();
    assert!(reply.get("Model 0").is_some(), "{:?}\n{}", reply.get("error"), desk.log_of(id, slurm));
    if gdb() {
        assert!(desk.log_of(id, slurm).contains("is attached; the training goes on"));
    }

    // The second one's time is nearly up: nobody is waited for any more.
    let (id, slurm) = &jobs[1];
    let warn = ["--signal=USR1", "--batch", slurm];
    desk.cluster.command("scancel").args(warn).run().success();
    let sentence = desk.error_reply(id);
    assert!(sentence.contains("ran out of time"), "{sentence}\n{}", desk.log_of(id, slurm));

    // The third is cancelled.
    let (id, slurm) = &jobs[2];
    desk.check().args(["cancel", id]).limit(SECONDS(120)).run().success();
    assert_eq!(desk.cluster.wait_for_end(slurm, SECONDS(60))["JobState"], "CANCELLED");
    let sentence = desk.error_reply(id);
    assert!(sentence.contains("cancelled by the operator"), "{sentence}");
    let log = desk.log_of(id, slurm);
    assert!(log.contains("nobody is waited for any more"), "it was killed:\n{log}");
}

/// An account without rights, where the tests have all of them: root may look into every process.
const NOBODY: u32 = 65_534;

#[test]
fn only_as_long_as_it_waits_may_others_look_into_it() {
    let page = Page::cut(150, 150);
    let folder = page.path("");
    let script = page.path("as-nobody");
    let as_nobody = "[ \"$(id -u)\" != 0 ] || \
         set -- setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"\nexec \"$@\"";
    write_script(&script, as_nobody);
    for path in [&folder, &script] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // The build's directory need not be open to others.
    let trainer = page.path("run_trainer");
    fs::copy(run_trainer().unwrap(), &trainer).unwrap();
    let log = page.path("log");
    let settings = [
        "Patch height=32",
        "Patch width=32",
        "Maximum number of training epochs=1",
        "Maximum number of samples per label=5",
    ];
    let mut program = Program::new("sh")
        .args(["-c", "exec \"$@\" 2>log", "sh"])
        .arg(&script)
        .arg(&trainer)
        .args(["--debug-wait", "--local", ".", "--out", "out"])
        .env("TMPDIR", &folder)
        .current_dir(&folder)
        .limit(SECONDS(120));
    for set in settings {
        program = program.args(["--set", set]);
    }
    let mut running = program.start();
    let said = wait_for("the trainer to wait", SECONDS(60), || {
        let said = fs::read_to_string(&log).ok()?;
        said.contains("and without one by: ").then_some(said)
    });
    let process = waiting_process(&said).unwrap();
    assert_eq!(process, running.id().to_string(), "{said}");
    // What is closed belongs to root.
    let owner = || fs::metadata(format!("/proc/{process}/environ")).map(|file| file.uid());
    let me = account();
    assert_eq!(owner().unwrap(), me, "it is closed:\n{said}");
    if gdb() {
        // Who looks and leaves changes nothing.
        let mut look = vec![script.to_string_lossy().into_owned()];
        look.extend(told(&said, "attach one by: "));
        let seen = typed(&look, &["-batch", "-nx", "-ex", "bt", "-ex", "detach"]).run();
        assert!(has(&seen, "local/src/debug_wait.rs"), "{seen}");
        assert!(running.is_running(), "{}", fs::read_to_string(&log).unwrap());
        assert!(!page.path("out/training.json").exists());
    }
    running.signal("USR2");
    wait_for("it to be closed again", SECONDS(60), || match owner() {
        Ok(owner) => (owner == 0).then_some(()),
        Err(_) => Some(()), // it is over
    });
    let finished = running.wait();
    let said = fs::read_to_string(&log).unwrap();
    assert!(finished.status.success(), "{finished}\n{said}");
    assert!(said.contains("goes on without a debugger"), "{said}");
    assert!(page.path("out/training.json").exists());
}

/// The account that the trainer of the test has.
fn account() -> u32 {
    let me = fs::metadata("/proc/self").unwrap().uid();
    if me == 0 { NOBODY } else { me }
}
