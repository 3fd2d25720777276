//! What a person sees, word for word: help texts, the table of jobs, JSON, the report of a bad
//! configuration. Values that change from run to run are masked.
//!
//! After an intended change:
//! `INSTA_UPDATE=always cargo nextest run --test stories snapshots:: reference::`, and look at
//! the difference.

use crate::support;

use std::fs;

use serde_json::{Value, json};

use support::SECONDS;
use support::desk::{Desk, job};
use support::program::{self, Finished, Program};

/// Notes its progress as the trainer does.
const RUNS: &str = r#"cat > "${1%/*}/.note" <<END
{"slurm_job_id":$SLURM_JOB_ID,"restart_count":0,"layer":"Model 0","layer_number":2,"layers":2,
"epoch":3,"epochs":15,"step":5,"steps":600,"loss":0.25,"accuracy":0.9,"f1":0.75,
"updated_at":"$(date -u +%FT%TZ)","peak_memory_mb":321,
"expected_end":"$(date -u -d "+5 hours 30 minutes" +%FT%TZ)"}
END
mv "${1%/*}/.note" "${1%/*}/progress.json"
sleep 300"#;

/// In a terminal of 80 columns, or what clap takes for one.
fn help(program: &std::path::Path, arguments: &[&str]) -> String {
    let finished =
        Program::new(program).env("COLUMNS", "80").args(arguments).arg("--help").run().success();
    for line in finished.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line:?} is wider than a terminal");
    }
    finished.stdout.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// One snapshot for each command that the help of `check` lists.
#[test]
fn help_of_check() {
    let whole = help(program::check(), &[]);
    let commands = whole.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names: Vec<_> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let name = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
            name.split_whitespace().next().map(str::to_owned)
        })
        .collect();
    assert!(names.len() >= 5, "{names:?}");
    insta::assert_snapshot!("check", whole);
    for name in names {
        insta::assert_snapshot!(format!("check_{name}"), help(program::check(), &[&name]));
    }
}

#[test]
fn help_of_run_trainer() {
    // A build of check alone has no trainer.
    let Some(trainer) = program::run_trainer() else { return };
    insta::assert_snapshot!("run_trainer", help(trainer, &[]));
}

#[test]
fn a_configuration_with_problems() {
    let folder = tempfile::tempdir().unwrap();
    let finished = Program::new(program::check())
        .env("HPC_TRAINER_HOME", folder.path())
        .env("RABBITMQ_HOST", "http://rabbit")
        .env("GIVE_UP_HOURS", "soon")
        .env("METRICS_FILE", "metrics.txt")
        .run();
    assert_eq!(finished.code(), Some(3), "{finished}");
    insta::assert_snapshot!("configuration", finished.stderr);
}

/// Masks times and texts that differ from run to run. A mask is as long as the text that it hides,
/// so that columns stay aligned.
fn masked(text: &str, hidden: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (secret, mask) in hidden {
        text = text.replace(secret, mask);
    }
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("20").filter(|at| rest.is_char_boundary(*at)) {
        let (before, from) = rest.split_at(at);
        let time: String =
            from.chars().take_while(|c| c.is_ascii_digit() || "-:.TZ".contains(*c)).collect();
        let is_time = time.len() >= 20 && time.ends_with('Z');
        shown.push_str(before);
        shown.push_str(if is_time { "[time]" } else { "20" });
        rest = &from[if is_time { time.len() } else { 2 }..];
    }
    shown.push_str(rest);
    // "(3 s ago)" depends on how long a test takes.
    let lines = shown.lines().map(|line| match line.rsplit_once('(') {
        Some((before, ago)) if ago.ends_with(" s ago)") => format!("{before}([n] s ago)"),
        _ => line.to_owned(),
    });
    lines.flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// A desk with a job that is running, one that waits for the next pass, and one whose reply can't
/// be delivered.
fn busy_desk() -> (Desk, String, String) {
    let desk = Desk::with_script(RUNS);
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    desk.check().run().success();
    let note = desk.directory(&id).join("progress.json");
    support::wait_for("the note", SECONDS(60), || note.exists().then_some(()));
    let now = jiff::Timestamp::now();
    let ago = |hours: u64| (now - SECONDS(hours * 3600)).to_string();
    let record = desk.directory(&id).join("record.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    text["received_at"] = json!(ago(3));
    fs::write(&record, text.to_string()).unwrap();
    let others = [
        (
            "waits-for-rodan",
            json!({"name": "received"}),
            Some("can't log in to Rodan at https://rodan.example.org: timed out"),
        ),
        ("to-deliver", json!({"name": "result_spooled", "outcome": "models"}), None),
        (
            "failed-before",
            json!({"name": "failed", "sentence": "The training ran out of memory: asked for 2000 \
                MB, used 1990 MB. Set \"Maximum memory (MB)\" to 4000 or more."}),
            None,
        ),
    ];
    for (hours, (name, state, error)) in (5..).step_by(3).zip(others) {
        let record = json!({
            "version": 1, "job_id": name, "correlation_id": name, "reply_to": "hpc-results",
            "message_id": "m", "body_sha256": "0", "received_at": ago(hours),
            "changed_at": ago(hours), "correlation_id_generated": false, "limited": false,
            "state": state, "last_error": error
        });
        fs::create_dir(desk.directory(name)).unwrap();
        fs::write(desk.directory(name).join("record.json"), record.to_string()).unwrap();
        fs::write(desk.directory(name).join("message.json"), job().to_string()).unwrap();
    }
    (desk, id, slurm_id)
}

#[test]
fn the_jobs_in_a_terminal_redirected_and_as_json() {
    let (desk, id, slurm_id) = busy_desk();
    let run = |arguments: &[&str]| -> Finished { desk.check().args(arguments).run().success() };
    let home = desk.site.path().to_string_lossy().into_owned();
    // With the text that follows it, so that the number is not found in an age.
    let (short, number) = (&id[..8], format!("{slurm_id:>5}  "));
    let hidden = [(id.as_str(), "[id]"), (short, "1d1d1d1d"), (home.as_str(), "/home")];
    let in_table = [&hidden[..], &[(number.as_str(), "   17  ")]].concat();
    let table = run(&["status"]).stdout;
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line:?} is wider than a terminal");
    }
    insta::assert_snapshot!("status", masked(&table, &in_table));

    // In a terminal the output is the same: no colours, nothing that depends on it.
    let script = desk.site.path().join("in_a_terminal");
    support::write_script(&script, &format!("stty cols 80 rows 24\nexec {home}/run_check status"));
    let terminal = Program::new("script")
        .args(["-qec", script.to_str().unwrap(), "/dev/null"])
        .env("SLURM_CONF", desk.cluster.conf())
        .run()
        .success();
    assert_eq!(masked(&terminal.stdout.replace('\r', ""), &in_table), masked(&table, &in_table));

    let details = masked(&run(&["status", &id]).stdout, &hidden);
    let slurm_line = details.lines().find(|line| line.starts_with("Slurm job")).unwrap().to_owned();
    assert!(slurm_line.contains(&slurm_id) && slurm_line.contains("RUNNING"), "{slurm_line}");
    let details = details.replace(&slurm_line, "Slurm job       17, RUNNING");
    let details = details.replace(&format!("-{slurm_id}.log"), "-17.log");
    let record: Value = desk.record(&id).unwrap();
    let details = details.replace(record["message_id"].as_str().unwrap(), "[uuid]");
    insta::assert_snapshot!("status_of_one", details);

    let mut shown: Value = serde_json::from_str(&run(&["status", "--json"]).stdout).unwrap();
    let jobs = shown["jobs"].as_array_mut().unwrap();
    let running = jobs.iter_mut().find(|job| job["job_id"] == id.as_str()).unwrap();
    for (pointer, value) in [
        ("/message_id", json!("[uuid]")),
        ("/body_sha256", json!("[hash]")),
        ("/slurm_id", json!(17)),
        ("/slurm/id", json!(17)),
        ("/slurm/elapsed", json!("[elapsed]")),
        ("/progress/slurm_job_id", json!(17)),
        ("/state/slurm_id", json!(17)),
    ] {
        *running.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    }
    let text = serde_json::to_string_pretty(&shown).unwrap();
    insta::assert_snapshot!("status_json", masked(&text, &hidden));
    desk.cluster.cancel(&slurm_id);
}
