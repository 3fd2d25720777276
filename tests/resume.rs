//! No training is lost: a real Slurm requeues, kills, warns and cancels jobs in the middle.

use crate::support;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::broker::RESULTS;
use support::desk::{Desk, job};
use support::program::Program;
use support::{SECONDS, wait_for};

const TRAINING: Duration = Duration::from_secs(240);

/// A job of two layers that takes long enough to interfere.
fn long_job(epochs: u32) -> Value {
    let mut job = job();
    for (name, value) in
        [("Maximum number of training epochs", epochs), ("Patience", 10_000), ("Seed", 7)]
    {
        job["settings"][name] = json!(value);
    }
    job["settings"]["Calibrate"] = json!("yes");
    job
}

/// So few epochs that no layer counts as having learned nothing; it would be started anew.
const EPOCHS: u32 = 2;

/// What a trainer says before it asks Slurm to be put back into the queue: afterwards it may be
/// too late to say anything.
const REQUEUES: &str = "asking Slurm to put job";

/// A job that is being trained.
struct Job {
    desk: Desk,
    id: String,
    slurm: String,
}

impl Job {
    fn submit(mut desk: Desk, asked: &Value, settings: &[(&str, &str)]) -> Self {
        for (name, value) in settings {
            desk.site.set(name, *value);
        }
        let id = desk.vhost.publish_job(asked);
        desk.check().run().success();
        let slurm = desk.slurm_job(&id);
        Self { desk, id, slurm }
    }

    fn log(&self) -> String {
        self.desk.log_of(&self.id, &self.slurm)
    }

    fn progress(&self) -> Option<Value> {
        let text = fs::read(self.desk.directory(&self.id).join("progress.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// Waits until the training is in this layer (from 1), with at least this many epochs done.
    fn wait_until_in(&self, layer: u64, epochs: usize) {
        let name = if layer == 1 { "Background Model: epoch" } else { "Model 0: epoch" };
        wait_for("the training to get so far", TRAINING, || {
            let log = self.log();
            // The background's lines also contain the other's name: «… Model: epoch», not «Model 0:
            // epoch».
            let done = log.lines().filter(|line| line.contains(name)).count();
            let progress = self.progress()?;
            let inside = progress["layer_number"] == layer;
            assert!(
                progress["layer_number"].as_u64() <= Some(layer),
                "too late to interfere:\n{log}"
            );
            (inside && done >= epochs).then_some(())
        });
    }

    fn scontrol_requeue(&self) {
        self.desk.cluster.command("scontrol").args(["requeue", &self.slurm]).run().success();
    }

    fn warn(&self) {
        self.desk
            .cluster
            .command("scancel")
            .args(["--signal=USR1", "--batch", &self.slurm])
            .run()
            .success();
    }

    /// Waits until Slurm has put the job back into its queue, once, and has started it again. Slurm
    /// needs 6 to 11 s for that, also on a busy machine, and can't be hurried: a node refuses a
    /// credential as old as the revoked one («Job credential revoked»).
    fn wait_for_restart(&self) {
        let end = Instant::now() + SECONDS(60);
        loop {
            let shown = self.desk.cluster.job(&self.slurm).unwrap_or_default();
            let value = |name: &str| shown.get(name).map_or("", String::as_str);
            match (value("JobState"), value("Restarts")) {
                ("RUNNING" | "COMPLETED", "1") => return,
                (
                    "" | "PENDING" | "RUNNING" | "COMPLETING" | "REQUEUED" | "CONFIGURING",
                    "" | "0" | "1",
                ) => {}
                _ => self.not_restarted("has ended, or was put back more than once", &shown),
            }
            if Instant::now() > end {
                self.not_restarted("waits still", &shown);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Fails with all that is known of a job that did not start again.
    fn not_restarted(&self, what: &str, shown: &HashMap<String, String>) -> ! {
        let said = self.desk.cluster.said_of(&self.slurm);
        panic!("the restart: the job {what}: {shown:?}\n{said}\n{}", self.log());
    }

    /// Asserts that the one reply of a training that was resumed has the models of one that was not
    /// interrupted.
    fn assert_answered_as_uninterrupted(&self) {
        let reply = self.desk.vhost.try_receive_reply(&self.id, TRAINING);
        let log = self.log();
        let reply = reply.unwrap_or_else(|| panic!("no reply:\n{log}")).json();
        assert!(log.contains("going on from a checkpoint"), "{log}");
        let uninterrupted = self.desk.of_one_trainer(&long_job(EPOCHS));
        assert!(reply == uninterrupted, "the models differ; {:?}\n{log}", reply.get("error"));
        self.desk.cluster.wait_for_end(&self.slurm, SECONDS(60));
        assert!(!self.desk.directory(&self.id).join("checkpoint").exists(), "it is of no more use");
        self.desk.check().run().success();
        assert_eq!(self.desk.vhost.waiting(RESULTS), Some(0), "one reply only");
    }

    /// The process of the trainer, found by the job file on its command line.
    fn trainer(&self) -> String {
        let wanted = self.desk.directory(&self.id).join("job.json").to_string_lossy().into_owned();
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let is_trainer = |path: &PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.split('\0').next().is_some_and(|p| p.ends_with("run_trainer"))
                && line.contains(&wanted)
        };
        let found: Vec<PathBuf> = processes.filter(is_trainer).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].file_name().unwrap().to_string_lossy().into_owned()
    }
}

#[test]
fn a_requeued_job_goes_on_and_gives_the_same_models() {
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[]);
    job.wait_until_in(2, 1);
    job.scontrol_requeue();
    job.wait_for_restart();
    job.assert_answered_as_uninterrupted();
    assert!(job.log().contains("SIGTERM or SIGINT: the job is to end"));
}

#[test]
fn a_killed_trainer_loses_no_more_than_since_its_last_checkpoint() {
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[("CHECKPOINT_SECONDS", "0")]);
    job.wait_until_in(1, 1);
    Program::new("kill").args(["-KILL", &job.trainer()]).run().success();
    job.desk.cluster.wait_for_end(&job.slurm, SECONDS(60));
    job.scontrol_requeue();
    job.wait_for_restart();
    job.assert_answered_as_uninterrupted();
    let log = job.log();
    let count = log.matches("Background Model: epoch 2/").count();
    assert_eq!(count, 1, "epochs done are not done again:\n{log}");
}

#[test]
fn a_job_warned_before_every_layer_has_an_epoch_requeues_itself() {
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[]);
    job.wait_until_in(1, 1);
    job.warn();
    job.wait_for_restart();
    job.assert_answered_as_uninterrupted();
    assert!(job.log().contains(REQUEUES));
}

/// Slurm ends the job while its trainer still waits for the answer: here the moment is chosen by an
/// `scontrol` of the test, which ends the trainer itself.
#[test]
fn a_trainer_that_is_ended_while_it_asks_to_be_requeued_has_said_so() {
    for (signal, exit_code) in [("TERM", "12:0"), ("KILL", "0:9")] {
        let desk = Desk::new();
        let tools = desk.site.path().join("slurm-bin");
        fs::create_dir(&tools).unwrap();
        for name in ["sbatch", "squeue", "sacct", "scancel"] {
            support::write_script(&tools.join(name), &format!("exec {name} \"$@\""));
        }
        let ends = format!("kill -{signal} $PPID\nsleep 1\nexit 1");
        let ends = format!("[ \"$1\" = requeue ] || exec scontrol \"$@\"\n{ends}");
        support::write_script(&tools.join("scontrol"), &ends);
        let job =
            Job::submit(desk, &long_job(EPOCHS), &[("SITE_SLURM_BIN", tools.to_str().unwrap())]);
        job.wait_until_in(1, 1);
        job.warn();
        let shown = job.desk.cluster.wait_for_end(&job.slurm, SECONDS(60));
        let log = job.log();
        assert_eq!(shown["ExitCode"], exit_code, "{log}");
        assert!(log.contains(REQUEUES), "{log}");
        assert!(!log.contains("can't be put back"), "Slurm has refused nothing:\n{log}");
        assert_eq!(job.desk.vhost.waiting(RESULTS).unwrap_or_default(), 0, "it has not answered");
    }
}

#[test]
fn a_job_warned_in_its_last_layer_replies_with_the_best_so_far_or_goes_on() {
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[]);
    job.wait_until_in(2, 1);
    job.warn();
    let reply = job.desk.vhost.receive_reply(&job.id, SECONDS(60)).json();
    assert_eq!(
        reply.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["Background Model", "Model 0"]
    );
    assert!(job.log().contains("stopped early, its best epoch so far"));

    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[("ON_TIME_LIMIT", "requeue")]);
    job.wait_until_in(2, 1);
    job.warn();
    job.wait_for_restart();
    job.assert_answered_as_uninterrupted();
}

#[test]
fn a_job_that_may_not_requeue_itself_has_the_best_or_an_error_to_show() {
    let not_again = [("ON_TIME_LIMIT", "requeue"), ("MAX_REQUEUES", "0")];
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &not_again);
    job.wait_until_in(2, 1);
    job.warn();
    let reply = job.desk.vhost.receive_reply(&job.id, SECONDS(60)).json();
    assert!(reply.get("Model 0").is_some(), "{reply}");

    // Slurm refuses, because the job was submitted with --no-requeue.
    let job = Job::submit(Desk::new(), &long_job(EPOCHS), &[("ON_TIME_LIMIT", "requeue")]);
    job.desk.cluster.update(&[&format!("JobId={}", job.slurm), "Requeue=0"]);
    job.wait_until_in(2, 1);
    job.warn();
    let reply = job.desk.vhost.receive_reply(&job.id, SECONDS(60)).json();
    assert!(reply.get("Model 0").is_some(), "{reply}");
    assert!(job.log().contains("can't be put back into the queue"));
}

#[test]
fn the_time_limit_of_slurm_suspends_a_job_that_goes_on_until_it_is_cancelled() {
    let mut asked = long_job(10_000);
    asked["settings"]["Maximum time (D-HH:MM)"] = json!("0-00:01");
    let job = Job::submit(Desk::new(), &asked, &[("SITE_SIGNAL_SECONDS", "5")]);
    // Slurm looks for jobs to warn twice a minute, and warns those that would have less than their
    // five seconds when it looks next.
    job.desk.cluster.end_by_time_limit(&job.slurm, 40);
    wait_for("Slurm's own warning", SECONDS(100), || job.log().contains(REQUEUES).then_some(()));
    job.wait_for_restart();
    wait_for("the training to go on", SECONDS(60), || {
        job.log().contains("going on from a checkpoint").then_some(())
    });
    wait_for("progress of the second run", SECONDS(60), || {
        job.progress().filter(|p| p["restart_count"] == 1 && p["step"] != 0).map(drop)
    });
    job.desk.cluster.cancel(&job.slurm);
    let shown = job.desk.cluster.wait_for_end(&job.slurm, SECONDS(60));
    assert_eq!(shown["JobState"], "CANCELLED");
    assert_eq!(
        job.desk.vhost.waiting(RESULTS).unwrap_or_default(),
        0,
        "the trainer can't know, and says nothing"
    );
    job.desk.check().run();
    let sentence = job.desk.error_reply(&job.id);
    assert!(sentence.contains("cancelled on the cluster"), "{sentence}");
}
