//! Standard output and standard error that can't be written: a log on a full disk, a reader that
//! has gone. No job is lost by it, no program panics, and each command ends with its own exit code.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::json;

use support::SECONDS;
use support::broker::JOBS;
use support::desk::{Desk, job};
use support::program::{Finished, Output, Program, check, run_trainer};

const LOST: [Output; 3] = [Output::FullDisk, Output::NoReader, Output::NobodyAtAll];

/// Runs `check` with these arguments.
fn run(desk: &Desk, output: Output, arguments: &[&str]) -> Finished {
    desk.check().args(arguments).output(output).limit(SECONDS(120)).run()
}

#[track_caller]
fn ends_with(finished: &Finished, code: i32) {
    assert_eq!(finished.code(), Some(code), "{finished}");
    assert!(!finished.to_string().contains("a fault of the program"), "{finished}");
}

#[test]
fn a_pass_does_its_work_where_nobody_can_read_of_it() {
    for output in LOST {
        // They end when the test says so: a watcher would file them away before they are looked at.
        let mut desk = Desk::with_script(
            "while [ ! -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.2; done; exit 3",
        );
        desk.site.set("WATCHER", "1").set("SITE_GRES", "none");
        let first = desk.vhost.publish_job(&job());
        let second = desk.vhost.publish_job(&job());
        let text = ["-vv", "--max-jobs", "2"];
        let as_json = ["-vv", "--max-jobs", "2", "--log-format", "json"];
        let finished =
            run(&desk, output, if output == Output::FullDisk { &text } else { &as_json });
        ends_with(&finished, 0);
        assert_eq!(
            desk.vhost.waiting(JOBS),
            Some(0),
            "{output:?}: both jobs are taken in one pass"
        );
        for id in [&first, &second] {
            let record = desk.record(id).unwrap();
            assert!(record["state"]["slurm_id"].is_u64(), "{output:?}: {record}");
            assert!(record["watcher"].is_u64(), "{output:?}: its watcher is submitted: {record}");
        }
        fs::write(desk.site.path().join("go"), "").unwrap();
        for id in [&first, &second] {
            desk.cluster.wait_for_end(&desk.slurm_job(id), SECONDS(60));
        }
        // What went wrong with the jobs is the exit code, not what went wrong with the words.
        let finished = run(&desk, output, &["-v"]);
        let code = finished.code();
        assert!(code == Some(9) || code == Some(0), "{output:?}: {finished}");
        for id in [&first, &second] {
            assert!(desk.error_reply(id).len() > 20, "{output:?}: each job is answered");
        }
        // Another pass finds nothing to do, and one that is refused says so in vain.
        ends_with(&run(&desk, output, &[]), 0);
        desk.site.set("MAX_CPUS", "many");
        ends_with(&run(&desk, output, &[]), 3);
    }
}

#[test]
fn a_broken_message_and_a_lock_are_told_in_vain_with_their_own_codes() {
    for output in LOST {
        let desk = Desk::with_script("exit 0");
        desk.vhost.publish_job(&json!({"inputs": "none"}));
        ends_with(&run(&desk, output, &["--dry-run"]), 8);
        ends_with(&run(&desk, output, &[]), 8);
    }
}

#[test]
fn a_command_whose_text_is_all_that_was_asked_for_says_that_it_is_lost() {
    let desk = Desk::with_script("echo a line; sleep 300");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_state(&desk.slurm_job(&id), &["RUNNING"], SECONDS(60));
    let shows: [&[&str]; 6] = [
        &["status"],
        &["status", &id, "--json"],
        &["logs", &id],
        &["completions", "bash"],
        &["--dry-run"],
        &["purge", "--older", "30d", "--dry-run"],
    ];
    for arguments in shows {
        ends_with(&run(&desk, Output::FullDisk, arguments), 1);
        // A reader that has gone has what it wanted.
        ends_with(&run(&desk, Output::NoReader, arguments), 0);
        ends_with(&run(&desk, Output::NobodyAtAll, arguments), 0);
    }
    // What it found is worth more than that it can't be read.
    let doctor = ["doctor", "--no-download"];
    let code = run(&desk, Output::Kept, &doctor).code().unwrap();
    assert!(matches!(code, 13 | 14), "{code}");
    for output in LOST {
        ends_with(&run(&desk, output, &doctor), code);
        ends_with(&run(&desk, output, &["doctor", "--no-download", "--json"]), code);
    }
    // What is done is done.
    ends_with(&run(&desk, Output::FullDisk, &["cancel", &id]), 0);
    assert!(desk.error_reply(&id).contains("cancel"));
    ends_with(&run(&desk, Output::FullDisk, &["retry", &id]), 2);
    ends_with(&run(&desk, Output::FullDisk, &["purge", "--older", "30d"]), 0);
}

#[test]
fn the_loss_is_said_once_where_standard_error_still_works() {
    let finished = Program::new("/bin/sh")
        .args(["-c", "exec \"$0\" completions bash > /dev/full"])
        .arg(check())
        .run();
    ends_with(&finished, 1);
    assert_eq!(
        finished.stderr,
        "standard output can't be written: No space left on device (os error 28)\n"
    );
}

#[test]
fn help_and_faults_of_the_command_line_need_no_reader() {
    let programs: Vec<&Path> = [Some(check()), run_trainer()].into_iter().flatten().collect();
    for program in programs {
        for output in LOST {
            for (arguments, code) in
                [(["--help"], 0), (["--version"], 0), (["--no-such-option"], 2)]
            {
                ends_with(&Program::new(program).args(arguments).output(output).run(), code);
            }
        }
    }
}

#[test]
fn init_writes_its_file_where_nobody_can_read_of_it() {
    for output in LOST {
        let home = tempfile::tempdir().unwrap();
        let finished = Program::new(check())
            .args([
                "init",
                "--rabbitmq-host",
                "localhost",
                "--rabbitmq-user",
                "u",
                "--rodan-host",
                "localhost",
            ])
            .args(["--rodan-user", "u", "--no-doctor"])
            .env("RABBITMQ_PASSWORD", "p")
            .env("RODAN_PASSWORD", "p")
            .env("HPC_TRAINER_HOME", home.path())
            .output(output)
            .run();
        // The crontab's line, which was asked for, is lost on a full disk.
        ends_with(&finished, if output == Output::FullDisk { 1 } else { 0 });
        let text = fs::read_to_string(home.path().join("credentials.env")).unwrap();
        assert!(text.contains("RABBITMQ_HOST='localhost'"), "{output:?}: {text}");
    }
}

#[cfg(feature = "trainer")]
#[test]
fn models_are_trained_and_applied_where_nobody_can_read_of_it() {
    use std::process::Command;

    let page = crate::local::Page::cut(150, 150);
    for output in LOST {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("models");
        let trained = Program::new(run_trainer().unwrap())
            .arg("--local")
            .arg(page.path(""))
            .arg("--out")
            .arg(&out)
            .args(["--set", "Patch height=32", "--set", "Patch width=32"])
            .args(["--set", "Maximum number of training epochs=1", "--set", "Calibrate=no"])
            .args(["--set", "Maximum number of samples per label=20", "-v"])
            .output(output)
            .limit(SECONDS(240))
            .run();
        ends_with(&trained, 0);
        assert!(out.join("report.html").is_file(), "{output:?}");
        let layers = place.path().join("layers");
        let applied = Program::new(run_trainer().unwrap())
            .arg("--predict")
            .arg(page.path("image.png"))
            .arg("--models")
            .arg(&out)
            .arg("--out")
            .arg(&layers)
            .output(output)
            .limit(SECONDS(240))
            .run();
        ends_with(&applied, 0);
        assert!(fs::read_dir(&layers).unwrap().count() > 1, "{output:?}");
        // Without a GPU there is no table; the code is its own.
        let gpu = Program::new(run_trainer().unwrap())
            .arg("--check-gpu")
            .output(output)
            .limit(SECONDS(240))
            .run();
        let here = Command::new(run_trainer().unwrap()).arg("--check-gpu").output().unwrap();
        let expected = match (here.status.code(), output) {
            (Some(0), Output::FullDisk) => Some(1),
            (code, _) => code,
        };
        assert_eq!(gpu.code(), expected, "{output:?}: {gpu}");
    }
}
