//! `SCHEDULER=local`: jobs of a host without Slurm. Every way in which a job can end, crashes of
//! whatever can crash, and an order that is kept. Real processes, real RabbitMQ, no Slurm command.

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::crash::{dying, log_of, points};
use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, with_setting};
use support::program::Program;

/// Leaves the models for `check` to deliver.
const LEAVE_A_REPLY: &str = r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json""#;
/// Takes more memory than a job of 500 MB may have.
const TOO_MUCH_MEMORY: &str = "exec perl -e '$n = 700e6; $x = \"a\" x $n; sleep 60'";

/// A host that runs its jobs itself.
struct Lab {
    desk: Desk,
    scripts: u32,
}

impl Lab {
    fn new() -> Self {
        let mut desk = Desk::new();
        desk.site
            .set("SCHEDULER", "local")
            .set("WATCHER", "1")
            // Whoever calls Slurm here finds none.
            .set("SITE_SLURM_BIN", "no-slurm");
        Self { desk, scripts: 0 }
    }

    fn check(&self) -> Program {
        self.desk.check()
    }

    /// Another batch script, whole, for the jobs that are submitted from here on.
    fn use_script(&mut self, text: &str) {
        self.scripts += 1;
        let name = format!("batch-{}.sh", self.scripts);
        let path = self.desk.site.path().join(&name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        self.desk.site.set("BATCH_SCRIPT", name);
    }

    /// Submits a job with this bash script; its id and its number.
    #[track_caller]
    fn submit(&mut self, script: &str, asked: &Value) -> (String, u64) {
        self.use_script(&format!("#!/bin/bash\n{script}\n"));
        self.submit_as_is(asked)
    }

    #[track_caller]
    fn submit_as_is(&self, asked: &Value) -> (String, u64) {
        let id = self.desk.vhost.publish_job(asked);
        // What looks after a job that has failed may be at work: it answers by a pass of its own.
        let finished = support::wait_for("the pass of another job to end", SECONDS(60), || {
            let finished = self.check().run();
            (!finished.stdout.contains("another check is at work")).then_some(finished)
        });
        assert!(finished.stdout.contains(&format!("{id}  submitted  job ")), "{finished}");
        let number = self.number(&id);
        (id, number)
    }

    /// The number of the one job for a correlation id.
    #[track_caller]
    fn number(&self, id: &str) -> u64 {
        let numbers = self.numbers(id);
        assert_eq!(numbers.len(), 1, "one job for {id}: {numbers:?}");
        numbers[0]
    }

    fn numbers(&self, id: &str) -> Vec<u64> {
        let root = self.desk.site.spool().join("local");
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let jobs = entries.filter_map(|entry| read(entry.path().join("job.json")));
        let of_id = jobs.filter(|job| job["name"] == format!("hpct-{id}"));
        of_id.map(|job| job["number"].as_u64().unwrap()).collect()
    }

    fn file(&self, number: u64, name: &str) -> PathBuf {
        self.desk.site.spool().join("local").join(number.to_string()).join(name)
    }

    fn wait_for_file(&self, number: u64, name: &str) -> Value {
        let what = format!("{name} of job {number}");
        support::wait_for(&what, SECONDS(60), || read(self.file(number, name)))
    }

    fn wait_for_end(&self, number: u64) -> Value {
        self.wait_for_file(number, "end.json")
    }

    fn wait_until_answered(&self, id: &str) {
        support::wait_for(&format!("the answer to {id}"), SECONDS(60), || {
            self.desk.record(id).is_none().then_some(()).or_else(|| {
                let finished = self.check().run();
                assert!(matches!(finished.code(), Some(0 | 9)), "{finished}");
                None
            })
        });
    }

    /// What the job or its supervisor has said, for the message of an assertion.
    fn said(&self, id: &str, number: u64) -> String {
        let own = fs::read_to_string(self.file(number, "supervisor.log")).unwrap_or_default();
        format!("{}\n{own}", self.desk.log_of(id, &number.to_string()))
    }
}

impl Drop for Lab {
    /// Ends what a test that failed has left running.
    fn drop(&mut self) {
        let root = self.desk.site.spool().join("local");
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            for (file, key) in [("supervisor.json", "supervisor"), ("run.json", "child")] {
                let Some(text) = read(entry.path().join(file)) else { continue };
                if is_alive(&text[key]) {
                    let pid = text[key]["pid"].as_i64().unwrap();
                    kill("KILL", pid);
                    kill("KILL", -pid);
                }
            }
        }
    }
}

fn read(path: PathBuf) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Sends a signal; to a group where the number is negative. One that is gone is none.
fn kill(signal: &str, pid: i64) {
    drop(Command::new("kill").args([&format!("-{signal}"), "--", &pid.to_string()]).output());
}

/// True while just this process runs.
fn is_alive(identity: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", identity["pid"])).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields.first().is_some_and(|state| *state != "Z")
        && fields
            .get(19)
            .is_some_and(|started| started.parse().ok() == identity["started"].as_u64())
}

#[test]
#[cfg(feature = "trainer")]
fn a_page_is_trained_on_a_host_without_slurm() {
    let lab = Lab::new();
    let (id, number) = lab.submit_as_is(&lab.desk.short_job());
    let reply = lab.desk.vhost.receive_reply(&id, SECONDS(120)).json();
    let models: Vec<_> = reply.as_object().unwrap().keys().collect();
    assert_eq!(models, ["Background Model", "Model 0"], "{}", lab.said(&id, number));
    let end = lab.wait_for_end(number);
    assert_eq!((&end["state"], &end["exit_code"]), (&json!("COMPLETED"), &json!("0:0")));
    lab.wait_until_answered(&id);
    assert_eq!(lab.desk.vhost.waiting(RESULTS), Some(0), "one answer only");
    let shown = lab.check().args(["status", &id]).run().success();
    assert!(shown.stdout.contains("answered"), "{shown}");
}

/// Each ending beside Slurm's word for it and the sentence of the reply. No pass of `check` comes
/// after the submission: what looks after a job has it answered.
#[test]
fn every_ending_has_slurms_word_and_its_own_answer() {
    let mut lab = Lab::new();
    lab.desk.site.set("LOCAL_JOBS", "16");
    let mut jobs = Vec::new();
    for (script, state, exit_code, words) in [
        (TOO_MUCH_MEMORY, "OUT_OF_MEMORY", "0:9", "ran out of memory: asked for 500 MB, used "),
        ("exit 3", "FAILED", "3:0", "without a result (FAILED, exit code 3:0)"),
        ("kill -KILL $$", "FAILED", "0:9", "was killed and nothing says why"),
        (
            "echo 'memory allocation of 7 bytes failed' >&2; kill -ABRT $$",
            "OUT_OF_MEMORY",
            "0:6",
            "ran out of memory: asked for 500 MB.",
        ),
        (
            "until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done",
            "COMPLETED",
            "0:0",
            "without a result (COMPLETED",
        ),
    ] {
        let (id, number) = lab.submit(script, &job());
        jobs.push((id, number, state, exit_code, words));
    }
    lab.use_script("#!/no/such/interpreter\n");
    let (id, number) = lab.submit_as_is(&job());
    jobs.push((id, number, "FAILED", "1:0", "without a result (FAILED"));
    fs::write(lab.desk.site.path().join("go"), "").unwrap();
    for (id, number, state, exit_code, words) in jobs {
        let end = lab.wait_for_end(number);
        let said = lab.said(&id, number);
        assert_eq!(end["state"], state, "{said}");
        assert_eq!(end["exit_code"], exit_code, "{state}: {said}");
        if state == "COMPLETED" {
            // Nobody watches a job that has succeeded: its reply may still be on its way.
            lab.wait_until_answered(&id);
        }
        let reply = lab.desk.error_reply(&id);
        eprintln!("{state:<14} {exit_code:<6} {reply}");
        assert!(reply.contains(words), "{words:?} is not in {reply:?}");
        assert!(!reply.contains("Slurm"), "{reply}");
    }
    assert_eq!(lab.desk.vhost.waiting(RESULTS), Some(0), "one answer each");
}

/// The limits are those of the job, and its log, its variables and its priority are as promised.
#[test]
fn a_job_is_warned_ahead_of_its_limit_and_then_ended() {
    let mut lab = Lab::new();
    // The least limit is a minute: while another job runs, this one is given less.
    let (_, first) =
        lab.submit("until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done", &job());
    lab.wait_for_file(first, "run.json");
    let warned = with_setting("Maximum time (D-HH:MM)", json!("0-00:01"));
    let (id, number) = lab.submit(
        "echo job $SLURM_JOB_ID of $SLURM_CPUS_PER_TASK cores, nice $(nice), gpu \
         [$CUDA_VISIBLE_DEVICES]\n\
         trap 'echo warned after $SECONDS s' USR1\n\
         trap 'echo ended after $SECONDS s; exit 12' TERM\n\
         while :; do sleep 0.1; done",
        &warned,
    );
    let mut entry = read(lab.file(number, "job.json")).unwrap();
    assert_eq!((&entry["seconds"], &entry["warning_seconds"]), (&json!(60), &json!(10)));
    entry["seconds"] = json!(6);
    entry["warning_seconds"] = json!(3);
    fs::write(lab.file(number, "job.json"), entry.to_string()).unwrap();
    assert!(!lab.file(number, "run.json").exists(), "one job at a time");
    fs::write(lab.desk.site.path().join("go"), "").unwrap();
    let end = lab.wait_for_end(number);
    let log = lab.desk.log_of(&id, &number.to_string());
    assert_eq!((&end["state"], &end["exit_code"]), (&json!("TIMEOUT"), &json!("12:0")), "{log}");
    let own = Command::new("nice").output().unwrap().stdout;
    let nice: i32 = String::from_utf8(own).unwrap().trim().parse().unwrap();
    let nice = (nice + 5).min(19);
    assert!(log.contains(&format!("job {number} of 1 cores, nice {nice}, gpu []")), "{log}");
    let (warned, ended) = (log.find("warned after"), log.find("ended after"));
    assert!(warned.is_some() && warned < ended, "{log}");
    let sentence = lab.desk.error_reply(&id);
    assert!(sentence.contains("ran out of time (asked for 0-00:01:00)"), "{sentence}");
}

#[test]
fn jobs_run_one_after_the_other_in_their_order() {
    let mut lab = Lab::new();
    let script = "echo begin $SLURM_JOB_ID >> \"$HPC_TRAINER_HOME/order\"; sleep 1\n\
                  echo end $SLURM_JOB_ID >> \"$HPC_TRAINER_HOME/order\"";
    let jobs: Vec<_> =
        (0..3).map(|_| lab.submit(&format!("{script}\n{LEAVE_A_REPLY}"), &job())).collect();
    let shown = lab.check().args(["status"]).run().success();
    assert!(shown.stdout.contains("pending in this host"), "{shown}");
    for (id, number) in &jobs {
        lab.wait_for_end(*number);
        lab.wait_until_answered(id);
    }
    let order = fs::read_to_string(lab.desk.site.path().join("order")).unwrap();
    assert_eq!(order, "begin 1\nend 1\nbegin 2\nend 2\nbegin 3\nend 3\n");
}

#[test]
fn each_job_that_runs_has_a_gpu_of_its_own() {
    let mut lab = Lab::new();
    lab.desk.site.set("LOCAL_JOBS", "3");
    let script = "echo $CUDA_VISIBLE_DEVICES >> \"$HPC_TRAINER_HOME/gpus\"\n\
                  until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done; exit 3";
    lab.use_script(&format!("#!/bin/bash\n{script}\n"));
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let id = lab.desk.vhost.publish_job(&job());
        // The host's GPUs are named for this test; nothing computes on them.
        lab.check().env("CUDA_VISIBLE_DEVICES", "3,5").run();
        jobs.push((id.clone(), lab.number(&id)));
    }
    let gpus = lab.desk.site.path().join("gpus");
    support::wait_for("two jobs that run", SECONDS(60), || {
        let text = fs::read_to_string(&gpus).unwrap_or_default();
        (text.lines().count() == 2).then_some(())
    });
    assert!(!lab.file(jobs[2].1, "run.json").exists(), "there is no third GPU");
    fs::write(lab.desk.site.path().join("go"), "").unwrap();
    for (id, number) in &jobs {
        lab.wait_for_end(*number);
        lab.desk.error_reply(id);
    }
    let text = fs::read_to_string(&gpus).unwrap();
    let mut two: Vec<&str> = text.lines().take(2).collect();
    two.sort_unstable();
    assert_eq!(two, ["3", "5"]);
}

#[test]
fn a_job_is_cancelled_while_it_waits_and_while_it_runs() {
    let mut lab = Lab::new();
    let script = "sleep 300 & echo $! > \"$HPC_TRAINER_HOME/child\"; wait";
    let (runs, first) = lab.submit(script, &job());
    let run = lab.wait_for_file(first, "run.json");
    let (waits, second) = lab.submit("sleep 300", &job());
    for (id, number) in [(&waits, second), (&runs, first)] {
        let finished = lab.check().args(["cancel", id]).limit(SECONDS(90)).run();
        assert_eq!(finished.code(), Some(0), "{finished}\n{}", lab.said(id, number));
        assert_eq!(lab.wait_for_end(number)["state"], "CANCELLED");
        let sentence = lab.desk.error_reply(id);
        assert!(sentence.contains("was cancelled by the operator"), "{sentence}");
    }
    support::wait_for("all of the job to be gone", SECONDS(20), || {
        let child = fs::read_to_string(lab.desk.site.path().join("child")).unwrap();
        let gone = !PathBuf::from(format!("/proc/{}/cwd", child.trim())).exists();
        (gone && !is_alive(&run["child"])).then_some(())
    });
}

/// The supervisor is killed: its job dies with it, and the next `check` does what the site wants.
#[test]
fn a_killed_supervisor_is_a_failed_node() {
    let mut lab = Lab::new();
    lab.desk.site.set("REQUEUE", "0");
    let (id, number) = lab.submit("sleep 300", &job());
    let run = lab.wait_for_file(number, "run.json");
    let supervisor = lab.wait_for_file(number, "supervisor.json");
    kill("KILL", supervisor["supervisor"]["pid"].as_i64().unwrap());
    support::wait_for("the job to die with it", SECONDS(20), || {
        (!is_alive(&run["child"])).then_some(())
    });
    lab.wait_until_answered(&id);
    assert_eq!(lab.wait_for_end(number)["state"], "NODE_FAIL");
    let sentence = lab.desk.error_reply(&id);
    assert!(
        sentence.contains(&format!("node that ran the training (job {number}) failed")),
        "{sentence}"
    );
}

#[test]
fn a_job_that_may_run_again_does_so_after_its_supervisor_was_killed() {
    let mut lab = Lab::new();
    let script = format!(
        "if [ -n \"${{SLURM_RESTART_COUNT:-}}\" ]; then {LEAVE_A_REPLY}; else sleep 300; fi"
    );
    let (id, number) = lab.submit(&script, &job());
    lab.wait_for_file(number, "run.json");
    let supervisor = lab.wait_for_file(number, "supervisor.json");
    kill("KILL", supervisor["supervisor"]["pid"].as_i64().unwrap());
    support::wait_for("it to be dead", SECONDS(20), || {
        (!is_alive(&supervisor["supervisor"])).then_some(())
    });
    lab.check().run().success();
    assert_eq!(lab.wait_for_end(number)["state"], "COMPLETED", "{}", lab.said(&id, number));
    lab.wait_until_answered(&id);
    let reply = lab.desk.vhost.receive_reply(&id, SECONDS(60)).json();
    assert_eq!(reply, json!({"Background Model": "AAAA"}));
    assert_eq!(lab.desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

/// Shortly before its time limit a training goes back into the queue, and on from its checkpoint.
#[test]
#[cfg(feature = "trainer")]
fn a_training_that_is_out_of_time_goes_back_into_the_queue_and_on() {
    let mut lab = Lab::new();
    lab.desk.site.set("ON_TIME_LIMIT", "requeue").set("CHECKPOINT_SECONDS", "0");
    let mut asked = job();
    for (name, value) in [
        ("Maximum number of training epochs", 2),
        ("Maximum number of samples per label", 50),
        ("Patience", 10_000),
    ] {
        asked["settings"][name] = json!(value);
    }
    let (id, number) = lab.submit_as_is(&asked);
    support::wait_for("the training to have an epoch", SECONDS(240), || {
        let log = lab.desk.log_of(&id, &number.to_string());
        log.contains("Background Model: epoch").then_some(())
    });
    // What the supervisor sends; when it does so is a story of its own.
    kill("USR1", lab.wait_for_file(number, "run.json")["child"]["pid"].as_i64().unwrap());
    let models = lab.desk.vhost.receive_reply(&id, SECONDS(240)).json();
    let said = lab.said(&id, number);
    let models: Vec<_> = models.as_object().unwrap().keys().collect();
    assert_eq!(models, ["Background Model", "Model 0"], "{said}");
    assert!(
        said.contains(&format!("job {number} goes back into the queue of this host")),
        "{said}"
    );
    assert!(said.contains("going on from a checkpoint"), "{said}");
    assert_eq!(lab.wait_for_end(number)["state"], "COMPLETED", "{said}");
    assert_eq!(read(lab.file(number, "restarts.json")), Some(json!(1)));
    lab.wait_until_answered(&id);
    assert_eq!(lab.desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

/// After a reboot the numbers of the job's processes belong to others, which are left alone.
#[test]
fn a_reboot_is_recognised_although_the_numbers_are_in_use_again() {
    let mut lab = Lab::new();
    lab.desk.site.set("REQUEUE", "0");
    let (id, number) = lab.submit("sleep 300", &job());
    let mut run = lab.wait_for_file(number, "run.json");
    let mut supervisor = lab.wait_for_file(number, "supervisor.json");
    kill("KILL", supervisor["supervisor"]["pid"].as_i64().unwrap());
    support::wait_for("the job to die with it", SECONDS(20), || {
        (!is_alive(&run["child"])).then_some(())
    });
    // A process of this test has both numbers now, and even the start times, since those count from
    // the boot.
    let other = Program::new("sleep").arg("300").limit(SECONDS(400)).start();
    let stat = fs::read_to_string(format!("/proc/{}/stat", other.id())).unwrap();
    let started: u64 =
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    for identity in [&mut run["child"], &mut supervisor["supervisor"]] {
        identity["pid"] = json!(other.id());
        identity["started"] = json!(started);
        identity["boot"] = json!("00000000-0000-0000-0000-000000000000");
    }
    fs::write(lab.file(number, "run.json"), run.to_string()).unwrap();
    fs::write(lab.file(number, "supervisor.json"), supervisor.to_string()).unwrap();
    lab.wait_until_answered(&id);
    assert_eq!(lab.wait_for_end(number)["state"], "NODE_FAIL");
    assert!(lab.desk.error_reply(&id).contains("failed"));
    let mut other = other;
    assert!(other.is_running(), "it is not ours, and nobody may end it");
}

/// What looks after a job is told to end, as when the host shuts down: the job ends too, and goes
/// on after the next start.
#[test]
fn a_shutdown_ends_the_job_and_leaves_it_to_the_next_check() {
    let mut lab = Lab::new();
    let script = format!(
        "if [ -n \"${{SLURM_RESTART_COUNT:-}}\" ]; then {LEAVE_A_REPLY}; exit; fi\n\
         trap 'exit 12' TERM; while :; do sleep 0.1; done"
    );
    let (id, number) = lab.submit(&script, &job());
    let run = lab.wait_for_file(number, "run.json");
    let supervisor = lab.wait_for_file(number, "supervisor.json");
    kill("TERM", supervisor["supervisor"]["pid"].as_i64().unwrap());
    support::wait_for("both to end", SECONDS(40), || {
        let alive = is_alive(&run["child"]) || is_alive(&supervisor["supervisor"]);
        (!alive).then_some(())
    });
    assert!(!lab.file(number, "end.json").exists());
    lab.wait_until_answered(&id);
    let reply = lab.desk.vhost.receive_reply(&id, SECONDS(60)).json();
    assert_eq!(reply, json!({"Background Model": "AAAA"}));
}

/// `check` is killed at each crash point of a submission to this host; the passes after it lead to
/// one training and one answer. The points before and after that are those of a pass with Slurm,
/// which `crash.rs` goes through.
#[test]
fn check_dies_while_it_submits_a_job_to_this_host() {
    let mut lab = Lab::new();
    lab.use_script("#!/bin/bash\necho run >> \"$HPC_TRAINER_HOME/runs\"; sleep 0.1; exit 3\n");
    let run = |at: usize| {
        let id = lab.desk.vhost.publish_job(&job());
        let killed = dying(lab.check(), at, &log_of(&lab.desk));
        let names = points(&log_of(&lab.desk));
        assert_eq!(killed.code().is_none(), at > 0, "{killed}");
        lab.wait_until_answered_after_crash(&id);
        let runs = lab.desk.site.path().join("runs");
        let runs = (fs::read_to_string(&runs).unwrap_or_default(), fs::remove_file(runs)).0;
        let what = names.last().cloned().unwrap_or_default();
        assert_eq!(runs, "run\n", "one training after a crash at point {at}, {what}");
        assert_eq!(lab.numbers(&id).len(), 1, "one job after a crash at point {at}, {what}");
        let sentence = lab.desk.error_reply(&id);
        assert!(sentence.contains("exit code 3:0"), "point {at}, {what}: {sentence}");
        assert_eq!(lab.desk.vhost.waiting(JOBS), Some(0), "{what}");
        names
    };
    let names = run(0);
    let number = |point: &str| {
        let found = names.iter().position(|name| name == point);
        found.unwrap_or_else(|| panic!("{point} is not in {names:?}")) + 1
    };
    let first = number("before the local submission");
    let last = number("after the local submission");
    assert!(first < number("before the local supervisor") && first + 3 < last, "{names:?}");
    // One more on either side: the record's own.
    for at in first - 1..=last + 1 {
        run(at);
    }
    let points = &names[first - 2..=last];
    eprintln!("check on a host: {} points, 0 lost, 0 doubled: {points:?}", points.len());
}

impl Lab {
    /// Passes, as cron starts them, until the job is filed away.
    fn wait_until_answered_after_crash(&self, id: &str) {
        let done = self.desk.site.spool().join("done").join(id);
        support::wait_for("the job to be answered", SECONDS(60), || {
            let pass = self.check().run();
            assert!(matches!(pass.code(), Some(0 | 6 | 9 | 10)), "{pass}");
            done.exists().then_some(())
        });
    }
}

/// A look into a job that runs, and how far it is.
#[test]
fn a_job_that_runs_is_looked_into() {
    let mut lab = Lab::new();
    let (id, number) = lab.submit(
        "echo '{\"restart_count\":0,\"layer\":\"Model 0\",\"layer_number\":1,\"layers\":1,\
         \"epoch\":2,\"epochs\":3,\"step\":0,\"steps\":9,\
         \"updated_at\":\"2026-01-01T00:00:00Z\"}' > \"${1%/*}/progress.json\"\n\
         until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done; exit 3",
        &job(),
    );
    lab.wait_for_file(number, "run.json");
    let inside = ["sh", "-c", "echo job $SLURM_JOB_ID, $SLURM_CPUS_PER_TASK cores"];
    let shown = lab.check().args(["shell", &id]).args(inside).run().success();
    assert_eq!(shown.stdout, format!("job {number}, 1 cores\n"), "{shown}");
    let attached = lab.check().args(["attach", &id]).start();
    let line = "Model 0 (1/1), epoch 2/3\n";
    support::wait_for("the progress", SECONDS(60), || attached.has_said(line).then_some(()));
    fs::write(lab.desk.site.path().join("go"), "").unwrap();
    lab.wait_for_end(number);
    lab.desk.error_reply(&id);
    lab.wait_until_answered(&id);
    let shown = attached.wait().success();
    assert!(shown.stderr.contains("is answered"), "{shown}");
    let refused = lab.check().args(["shell", &id]).args(inside).run();
    support::program::expect(&refused, 2, &["does not run", "check status"]);
}

#[test]
fn a_host_refuses_what_it_does_not_have() {
    let lab = Lab::new();
    let id = lab.desk.vhost.publish_job(&with_setting("Maximum memory (MB)", json!(100_000_000)));
    lab.check().run();
    let sentence = lab.desk.error_reply(&id);
    assert!(sentence.contains("it asks for 100000000 MB, and this host has "), "{sentence}");
}

#[test]
fn doctor_and_dry_run_speak_of_this_host() {
    let mut lab = Lab::new();
    lab.desk.site.set("SITE_PARTITION", "gpu").set("LOCAL_JOBS", "2");
    let shown = lab.check().args(["doctor", "--no-download"]).limit(SECONDS(120)).run();
    for part in [
        "0 run and 0 wait; LOCAL_JOBS=2 at a time",
        "this host has as much",
        "without meaning with SCHEDULER=local: SITE_PARTITION, SITE_SLURM_BIN",
    ] {
        let flat = shown.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.stdout.contains("sbatch") && !shown.stdout.contains("sacct"), "{shown}");
    lab.desk.vhost.publish_job(&job());
    let shown = lab.check().arg("--dry-run").run().success();
    assert!(
        shown.stdout.contains("hpc_training.sh") && !shown.stdout.contains("sbatch"),
        "{shown}"
    );
}
