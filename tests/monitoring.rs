//! What Prometheus is told: the metrics file of real passes with a real RabbitMQ and a real Slurm,
//! read with Prometheus's own parser; and the documents that name the metrics.
//!
//! `HPC_TRAINER_TEST_PYTHON` names a Python with `prometheus-client`; `run_tests` makes one and
//! sets it.

use crate::support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use support::SECONDS;
use support::desk::{Desk, job};
use support::program::{Finished, expect};
use support::services::repository;

/// The metrics of one pass.
struct Metrics(Value);

impl Metrics {
    fn read(path: &Path) -> Self {
        let python = std::env::var_os("HPC_TRAINER_TEST_PYTHON");
        let python =
            python.expect("no test Python: use ./run_tests, or set HPC_TRAINER_TEST_PYTHON");
        let script = repository().join("tests/monitoring/read_metrics.py");
        let output = Command::new(python).arg(script).arg(path).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        let text = fs::read_to_string(path).unwrap();
        assert!(output.status.success(), "{err}\n{text}");
        Self(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The value of a sample, named by the metric and its only label, such as `jobs` or
    /// `jobs{state=running}`.
    fn find(&self, sample: &str) -> Option<f64> {
        let (name, label) = sample.trim_end_matches('}').split_once('{').unwrap_or((sample, ""));
        let labels = label.split_once('=').map_or(json!({}), |(label, of)| json!({label: of}));
        let name = json!(format!("hpc_trainer_{name}"));
        let families = self.0.as_object().unwrap().values();
        let mut samples = families.flat_map(|family| family["samples"].as_array().unwrap());
        samples.find(|sample| sample[0] == name && sample[1] == labels)?[2].as_f64()
    }

    #[track_caller]
    fn get(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("no {sample} in {:#}", self.0))
    }

    #[track_caller]
    fn expect(&self, samples: &[(&str, u32)]) {
        for (sample, value) in samples {
            assert_eq!(self.get(sample), f64::from(*value), "{sample}");
        }
    }
}

/// A desk whose passes write metrics, and the path of the file.
fn desk(mut desk: Desk) -> (Desk, PathBuf) {
    let directory = desk.site.path().join("textfile");
    fs::create_dir(&directory).unwrap();
    let path = directory.join("hpc_trainer.prom");
    desk.site.set("METRICS_FILE", path.to_str().unwrap());
    (desk, path)
}

/// A pass, and the metrics that it has written.
fn pass(desk: &Desk, path: &Path) -> (Finished, Metrics) {
    let finished = desk.check().run();
    (finished, Metrics::read(path))
}

/// A job that is answered with an error, in two passes.
fn fail_a_job(desk: &Desk, path: &Path) -> (String, Metrics) {
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    let (finished, metrics) = pass(desk, path);
    expect(&finished, 9, &[]);
    desk.error_reply(&id);
    (id, metrics)
}

#[test]
fn passes_tell_what_is_open_waits_failed_and_was_answered() {
    let (desk, path) = desk(Desk::with_script("exit 3"));
    let (finished, idle) = pass(&desk, &path);
    finished.success();
    idle.expect(&[
        ("jobs{state=submitted}", 0),
        ("queue_messages{queue=hpc-jobs}", 0),
        ("jobs_answered_total{outcome=models}", 0),
        ("jobs_answered_total{outcome=error}", 0),
        ("job_failures_total{cause=out_of_memory}", 0),
        ("job_run_seconds_count", 0),
        ("oldest_waiting_job_seconds", 0),
        ("replies_waiting", 0),
        ("intake_paused", 0),
        ("last_pass_exit_code", 0),
    ]);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644,
        "for the exporter's account"
    );
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing unfinished is left"
    );

    let ids: Vec<String> = (0..3).map(|_| desk.vhost.publish_job(&job())).collect();
    let (finished, taken) = pass(&desk, &path);
    finished.success();
    taken.expect(&[("jobs{state=submitted}", 1), ("queue_messages{queue=hpc-jobs}", 2)]);
    desk.cluster.wait_for_end(&desk.slurm_job(&ids[0]), SECONDS(60));
    let (finished, failed) = pass(&desk, &path);
    expect(&finished, 9, &[]);
    failed.expect(&[
        ("jobs_answered_total{outcome=error}", 1),
        ("job_failures_total{cause=training}", 1),
        ("last_pass_exit_code", 9),
    ]);
    let text = fs::read_to_string(&path).unwrap();
    let home = desk.site.path().to_str().unwrap();
    let setup = desk.rodan.setup();
    for kept in [
        &*ids[0],
        &ids[0][..8],
        home,
        &desk.rodan.url(),
        &setup.user,
        &setup.password,
        desk.vhost.password(),
    ] {
        assert!(
            !text.contains(kept),
            "everybody may read the file, and {kept:?} is in it:\n{text}"
        );
    }
    // The failed job was answered as it should be, so the bridge is well.
    let [before, after] =
        [&taken, &failed].map(|m| m.get("last_successful_pass_timestamp_seconds"));
    assert!(
        after > before && after <= failed.get("last_pass_timestamp_seconds"),
        "{before} {after}"
    );

    desk.vhost.publish(
        support::broker::JOBS,
        b"no job",
        lapin::BasicProperties::default().with_reply_to("hpc-results".into()),
    );
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    // The first trouble decides the code, and the job before may have failed by now.
    assert!(matches!(finished.code(), Some(8 | 9)), "{finished}");
    Metrics::read(&path).expect(&[
        ("job_failures_total{cause=message}", 1),
        ("rejected_messages", 1),
        ("queue_messages{queue=hpc-jobs}", 0),
    ]);
}

#[test]
fn counters_only_grow_whatever_is_removed_or_killed() {
    let (desk, path) = desk(Desk::with_script("exit 3"));
    let log = desk.site.path().join("points.txt");
    let errors = || Metrics::read(&path).get("jobs_answered_total{outcome=error}");
    // A pass that is not killed tells the numbers of the points.
    let mut numbers = Vec::new();
    for (round, at) in
        [None, Some("before renaming metrics.json"), Some("after writing metrics.json")]
            .into_iter()
            .enumerate()
    {
        let id = desk.vhost.publish_job(&job());
        desk.check().run().success();
        desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
        let number = at.map_or(0, |name| numbers.iter().position(|n| n == name).unwrap() + 1);
        let _ = fs::remove_file(&log);
        let dies = desk
            .check()
            .env("HPC_TRAINER_DIE_AT", number.to_string())
            .env("HPC_TRAINER_DIE_LOG", &log);
        let finished = dies.run();
        match at {
            None => {
                expect(&finished, 9, &[]);
                let text = fs::read_to_string(&log).unwrap();
                numbers =
                    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect();
            }
            Some(name) => {
                assert_eq!(finished.code(), None, "{finished}");
                assert!(finished.stderr.contains(name), "{finished}");
                desk.check().run().success();
            }
        }
        assert_eq!(errors(), (round + 1) as f64, "after {at:?}");
    }
    desk.check().run().success();
    assert_eq!(errors(), 3.0, "none is counted twice");

    // Answered two days ago by a watcher, and removed before any pass has seen it.
    let done = desk.site.spool().join("done");
    let template = fs::read_dir(&done).unwrap().next().unwrap().unwrap().path();
    let mut record: Value =
        serde_json::from_slice(&fs::read(template.join("record.json")).unwrap()).unwrap();
    (record["job_id"], record["changed_at"]) = (json!("unseen"), json!("2026-01-01T00:00:00Z"));
    fs::create_dir(done.join("unseen")).unwrap();
    fs::write(done.join("unseen/record.json"), record.to_string()).unwrap();
    let finished = desk.check().args(["purge", "--older", "2d"]).run().success();
    assert!(finished.stdout.contains("done/unseen") && !done.join("unseen").exists(), "{finished}");
    fs::remove_dir_all(&done).unwrap();
    fs::remove_file(&path).unwrap();
    desk.check().run().success();
    assert_eq!(errors(), 4.0, "what is removed was answered all the same");
}

#[test]
fn a_pass_that_fails_says_so_and_leaves_the_rest() {
    let (mut desk, path) = desk(Desk::with_script("exit 3"));
    let (_, before) = fail_a_job(&desk, &path);
    let success = "last_successful_pass_timestamp_seconds";
    desk.site.set("RABBITMQ_HOST", format!("127.0.0.1:{}", support::DEAD_PORT));
    let (finished, away) = pass(&desk, &path);
    expect(&finished, 4, &["can't reach RabbitMQ"]);
    away.expect(&[("last_pass_exit_code", 4), ("jobs_answered_total{outcome=error}", 1)]);
    assert_eq!(away.find("queue_messages{queue=hpc-jobs}"), None, "nobody knows");
    assert_eq!(away.get(success), before.get(success));

    // Without the spool only this is known; the rest stays as it was.
    let spool = desk.site.spool();
    fs::rename(&spool, desk.site.path().join("elsewhere")).unwrap();
    fs::write(&spool, "").unwrap();
    let (finished, lost) = pass(&desk, &path);
    expect(&finished, 7, &["SPOOL_DIR"]);
    lost.expect(&[("last_pass_exit_code", 7), ("jobs_answered_total{outcome=error}", 1)]);
    assert!(lost.get("last_pass_timestamp_seconds") > away.get("last_pass_timestamp_seconds"));
    assert_eq!(lost.get(success), before.get(success));
    fs::remove_file(&spool).unwrap();
    fs::rename(desk.site.path().join("elsewhere"), &spool).unwrap();

    // Metrics that can't be written don't stop the pass.
    let vhost = desk.vhost.url();
    desk.site.set("RABBITMQ_HOST", vhost).set("METRICS_FILE", "nowhere/a.prom");
    let finished = desk.check().run();
    expect(
        &finished,
        0,
        &["METRICS_FILE", "nowhere/a.prom can't be written", "its directory must exist"],
    );
    desk.site.set("METRICS_FILE", "metrics.txt");
    expect(&desk.check().run(), 3, &["METRICS_FILE must end in .prom"]);
}

/// The trainer's part: why a job failed, how long it waited and ran.
#[cfg(feature = "trainer")]
#[test]
fn trainings_are_timed_and_their_own_failures_told() {
    let (desk, path) = desk(Desk::new());
    let answer = |asked: &Value| {
        let id = desk.vhost.publish_job(asked);
        desk.check().run().success();
        let done = desk.site.spool().join("done").join(&id);
        support::wait_for("the answer to be filed away", SECONDS(120), || {
            desk.check().run();
            done.exists().then_some(())
        });
        Metrics::read(&path)
    };
    let trained = answer(&desk.short_job());
    trained.expect(&[
        ("jobs_answered_total{outcome=models}", 1),
        ("jobs_answered_total{outcome=error}", 0),
        ("job_wait_seconds_count", 1),
        ("job_run_seconds_count", 1),
        ("job_run_seconds_bucket{le=86400}", 1),
    ]);
    let mut absent = desk.short_job();
    absent["inputs"]["Image"] = json!("/uploads/nowhere.png");
    let mut other_size = desk.short_job();
    other_size["inputs"]["rgba PNG - Layer 0"] = json!("/uploads/layer_0.png");
    for (asked, cause) in [(absent, "rodan"), (other_size, "input")] {
        answer(&asked).expect(&[(&format!("job_failures_total{{cause={cause}}}"), 1)]);
    }
    let all = Metrics::read(&path);
    all.expect(&[
        ("jobs_answered_total{outcome=models}", 1),
        ("jobs_answered_total{outcome=error}", 2),
        ("job_run_seconds_count", 3),
    ]);
}

/// Every metric that a text names; the parts of a histogram count as one.
fn named(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = text.match_indices("hpc_trainer_").map(|(at, _)| {
        let name = text[at..].split(|c| !is_part(c)).next().unwrap();
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name)
    });
    names.map(str::to_owned).collect()
}

#[test]
fn the_documents_name_the_metrics_that_there_are() {
    let (desk, path) = desk(Desk::with_script("exit 0"));
    let (finished, metrics) = pass(&desk, &path);
    finished.success();
    let written: BTreeSet<String> = metrics.0.as_object().unwrap().keys().cloned().collect();
    let read = |name: &str| fs::read_to_string(repository().join("docs").join(name)).unwrap();
    // The table has one row for each, and no other.
    let table: BTreeSet<String> = read("monitoring.md")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `hpc_trainer_")?.split(['`', '{']).next().map(str::to_owned)
        })
        .map(|name| format!("hpc_trainer_{name}"))
        .collect();
    assert_eq!(table, written);
    let dashboard = read("monitoring/dashboard.json");
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().is_some_and(|panels| panels.len() > 5));
    for (file, text) in [
        ("monitoring.md", read("monitoring.md")),
        ("dashboard.json", dashboard),
        ("alerts.yml", read("monitoring/alerts.yml")),
    ] {
        let unknown: Vec<_> = named(&text).difference(&written).cloned().collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which no pass writes");
    }
    let causes = metrics.0["hpc_trainer_job_failures_total"]["samples"].as_array().unwrap();
    for cause in causes {
        let cause = cause[1]["cause"].as_str().unwrap();
        assert!(
            read("monitoring.md").contains(&format!("| `{cause}` |")),
            "{cause} is not explained"
        );
    }
}
