//! Every way in which Slurm ends a job without a result, on real clusters with and without
//! accounting, and a controller that is away: each job is answered once, with a sentence of its
//! own. The tests print tables with Slurm's state beside the reply
//! (`cargo nextest run --test stories endings:: --no-capture`).

use crate::support;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use contract::wire::conversation::Kind;
use serde_json::{Value, json};

use support::SECONDS;
use support::asker::{Asker, Jobs};
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, with_setting};
use support::program::expect;
use support::rodan::Rodan;
use support::services::Services;

/// Takes more memory than a job of 500 MB may have, for as long as Slurm needs to notice.
const TOO_MUCH_MEMORY: &str = "exec perl -e '$n = 700e6; $x = \"a\" x $n; sleep 60'";

/// Leaves the models for `check` to deliver.
const LEAVE_A_REPLY: &str = r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json""#;

/// A desk with the shared broker and a cluster of its own.
fn desk_on_cluster(settings: &[(&str, &str)]) -> Desk {
    let settings: Vec<_> =
        [("PARTS", "slurm")].into_iter().chain(settings.iter().copied()).collect();
    let services = Services::shared().with_cluster_of(Services::private(&settings));
    let mut desk = Desk::on(services, None, Rodan::start());
    desk.site.set("SITE_GRES", "none");
    desk
}

/// A job that Slurm has accepted.
struct Submitted {
    ending: &'static str,
    id: String,
    slurm_id: String,
    /// What its error reply must say.
    words: Vec<&'static str>,
}

/// Submits a job with this batch script, which is given whole, with its first line.
#[track_caller]
fn submit(
    desk: &mut Desk,
    ending: &'static str,
    asked: &Value,
    script: &str,
    words: &[&'static str],
) -> Submitted {
    desk.use_script(script);
    let id = desk.vhost.publish_job(asked);
    let finished = desk.check().run();
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    Submitted { ending, slurm_id: desk.slurm_job(&id), id, words: words.to_vec() }
}

fn bash(text: &str) -> String {
    format!("#!/bin/bash\n{text}\n")
}

/// Runs `check` until none of these jobs is open any more.
fn check_until_answered<'a>(desk: &Desk, jobs: impl IntoIterator<Item = &'a Submitted>) {
    for job in jobs {
        support::wait_for(&format!("the answer to {}", job.ending), SECONDS(60), || {
            desk.record(&job.id).is_none().then_some(()).or_else(|| {
                let finished = desk.check().run();
                assert!(matches!(finished.code(), Some(0 | 9)), "{finished}");
                None
            })
        });
    }
}

/// Prints a line of the table of endings, and asserts the words of the one reply.
fn show(desk: &Desk, job: &Submitted, ended: &HashMap<String, String>) -> Option<String> {
    let reply = desk.error_reply(&job.id);
    eprintln!("{:<28} | {:<13} {:<5} | {reply}", job.ending, ended["JobState"], ended["ExitCode"]);
    let missing: Vec<_> = job.words.iter().filter(|word| !reply.contains(**word)).collect();
    (!missing.is_empty()).then(|| format!("{}: {missing:?} not in {reply:?}", job.ending))
}

/// Everything that ends a job on a cluster without cgroups.
fn endings(desk: &mut Desk, with_accounting: bool) {
    // One partition for each thing that happens to a node or a partition.
    desk.cluster.update(&["PartitionName=main", "Nodes=node1"]);
    desk.cluster.create(&["PartitionName=fragile", "Nodes=node2"]);
    desk.cluster.create(&["PartitionName=low", "Nodes=node3", "PriorityTier=1"]);
    desk.cluster.create(&["PartitionName=urgent", "Nodes=node3", "PriorityTier=10"]);
    desk.cluster.create(&["PartitionName=closed", "Nodes=node1", "State=DOWN"]);
    let go = desk.site.path().join("go");
    let when_told =
        |text: &str| bash(&format!("until [ -e '{}' ]; do sleep 0.1; done; {text}", go.display()));
    let mut jobs = Vec::new();

    // First what takes longest: Slurm looks for jobs whose time is over twice a minute.
    if with_accounting {
        let script = bash("trap '' USR1; while :; do sleep 1; done");
        let asked = with_setting("Maximum time (D-HH:MM)", json!("0-00:01"));
        let words = ["ran out of time (asked for 0-00:01:00)", "\"Maximum time (D-HH:MM)\" higher"];
        jobs.push(submit(desk, "time limit", &asked, &script, &words));
        desk.cluster.end_by_time_limit(&jobs[0].slurm_id, 1);
    }
    desk.site.set("SITE_PARTITION", "closed");
    let words = ["was cancelled on the cluster. Run"];
    jobs.push(submit(desk, "scancel while it waits", &job(), &bash("exit 0"), &words));
    let waits = jobs.last().unwrap().slurm_id.clone();
    // Without --requeue these two end for good.
    desk.site.set("REQUEUE", "0").set("SITE_PARTITION", "fragile");
    let sleeps = bash("sleep 300");
    jobs.push(submit(
        desk,
        "node failure",
        &job(),
        &sleeps,
        &["node that ran the training", "failed"],
    ));
    let on_node2 = jobs.last().unwrap().slurm_id.clone();
    desk.site.set("SITE_PARTITION", "low");
    jobs.push(submit(
        desk,
        "preemption",
        &job(),
        &sleeps,
        &["took back the node from the training"],
    ));
    let on_node3 = jobs.last().unwrap().slurm_id.clone();
    desk.site.unset("REQUEUE").unset("SITE_PARTITION");
    jobs.push(submit(
        desk,
        "scancel while it runs",
        &job(),
        &sleeps,
        &["was cancelled on the cluster"],
    ));
    let runs = jobs.last().unwrap().slurm_id.clone();
    let memory: &[&str] = if with_accounting {
        &["ran out of memory: asked for 500 MB, used ", "\"Maximum memory (MB)\" to 1000 or more"]
    } else {
        // Nobody knows how much it used.
        &["was killed", "too little memory: it asked for 500 MB", "\"Maximum memory (MB)\" to 1000"]
    };
    jobs.push(submit(desk, "memory, no cgroups", &job(), &when_told(TOO_MUCH_MEMORY), memory));
    let words = ["without a result (FAILED"];
    jobs.push(submit(desk, "no interpreter", &job(), "#!/no/such/interpreter\n", &words));
    let words = ["without a result (FAILED, exit code 3:0)", "look into the job's log"];
    jobs.push(submit(desk, "exit code 3", &job(), &when_told("exit 3"), &words));
    let words = ["was killed", "too little memory"];
    jobs.push(submit(desk, "killed by SIGKILL", &job(), &when_told("kill -KILL $$"), &words));
    let words = ["without a result (COMPLETED"];
    jobs.push(submit(desk, "completed without a reply", &job(), &when_told("exit 0"), &words));

    fs::write(&go, "").unwrap();

    let cluster = &desk.cluster;
    for slurm_id in [&on_node2, &on_node3, &runs] {
        cluster.wait_for_state(slurm_id, &["RUNNING"], SECONDS(60));
    }
    cluster.wait_for_state(&waits, &["PENDING"], SECONDS(60));
    cluster.cancel(&waits);
    cluster.cancel(&runs);
    cluster.update(&["NodeName=node2", "State=DOWN", "Reason=test"]);
    let urgent = cluster.submit(
        desk.site.path(),
        [
            "--partition=urgent",
            "--exclusive",
            "--mem=100",
            "--output=/dev/null",
            "--wrap",
            "sleep 2",
        ],
    );

    let ended: Vec<_> =
        jobs.iter().map(|job| cluster.wait_for_end(&job.slurm_id, SECONDS(120))).collect();
    assert_eq!(cluster.wait_for_end(&urgent, SECONDS(60))["JobState"], "COMPLETED");
    if with_accounting {
        let with_code = jobs.iter().find(|job| job.ending == "exit code 3").unwrap();
        let state = support::wait_for("sacct to know the job", SECONDS(60), || {
            let asked = ["-n", "-X", "-P", "-o", "State,ExitCode", "-j", &with_code.slurm_id];
            let sacct = cluster.command("sacct").args(asked).run().success();
            let line = sacct.stdout.trim().to_owned();
            line.starts_with("FAILED").then_some(line)
        });
        assert_eq!(state, "FAILED|3:0");
    }
    check_until_answered(desk, &jobs);
    eprintln!(
        "ending, {} accounting | Slurm's state | reply",
        if with_accounting { "with" } else { "without" }
    );
    let wrong: Vec<_> =
        jobs.iter().zip(&ended).filter_map(|(job, ended)| show(desk, job, ended)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let finished = desk.check().run().success();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""));
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer each");
}

const PREEMPTION: &str = "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE";

#[test]
fn endings_with_accounting() {
    let mut desk = desk_on_cluster(&[("DBD", "1"), ("NODES", "3"), ("SLURM_EXTRA", PREEMPTION)]);
    endings(&mut desk, true);
}

#[test]
fn endings_without_accounting() {
    let mut desk = desk_on_cluster(&[("NODES", "3"), ("SLURM_EXTRA", PREEMPTION)]);
    endings(&mut desk, false);
}

#[test]
fn a_failed_node_puts_the_job_back_and_its_second_run_is_the_answer() {
    let mut desk = desk_on_cluster(&[("NODES", "1")]);
    let script = bash(&format!(
        "if [ -n \"${{SLURM_RESTART_COUNT:-}}\" ]; then {LEAVE_A_REPLY}; else sleep 300; fi"
    ));
    let job = submit(&mut desk, "node failure, requeued", &job(), &script, &[]);
    desk.cluster.wait_for_state(&job.slurm_id, &["RUNNING"], SECONDS(60));
    desk.check().run().success();
    assert_eq!(desk.record(&job.id).unwrap()["state"]["name"], "running");
    // Nothing starts until the passes have looked at the job that is back in the queue.
    desk.cluster.update(&["PartitionName=main", "State=DOWN"]);
    desk.cluster.update(&["NodeName=node1", "State=DOWN", "Reason=test"]);
    desk.cluster.wait_for_state(&job.slurm_id, &["PENDING"], SECONDS(60));
    for _ in 0..2 {
        let finished = desk.check().run().success();
        assert_eq!(finished.stdout, "", "a job that is back in the queue is alive\n{finished}");
    }
    assert_eq!(desk.record(&job.id).unwrap()["state"]["name"], "submitted");
    desk.cluster.update(&["PartitionName=main", "State=UP"]);
    // The node reports for duty by itself, and Slurm starts the job again.
    desk.cluster.wait_for_end(&job.slurm_id, SECONDS(60));
    check_until_answered(&desk, [&job]);
    assert_eq!(
        desk.vhost.receive_reply(&job.id, SECONDS(60)).json(),
        json!({"Background Model": "AAAA"})
    );
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn too_much_memory_in_a_cgroup() {
    if !Services::can_have_cgroups() {
        eprintln!("no cgroups of version 1 to write to: out of memory in a cgroup was not tested");
        return;
    }
    let mut desk = desk_on_cluster(&[("NODES", "1"), ("DBD", "1"), ("CGROUP", "1")]);
    let words = ["ran out of memory: asked for 500 MB", "\"Maximum memory (MB)\" to 1000 or more"];
    let job = submit(&mut desk, "memory, cgroups", &job(), &bash(TOO_MUCH_MEMORY), &words);
    let ended = desk.cluster.wait_for_end(&job.slurm_id, SECONDS(60));
    check_until_answered(&desk, [&job]);
    assert_eq!(show(&desk, &job, &ended), None);
    assert_eq!(ended["JobState"], "OUT_OF_MEMORY");
    goes_on_with_more_memory(&mut desk);
}

/// What one needs that was given too little, where nobody has said how much it shall have.
fn goes_on_with_more_memory(desk: &mut Desk) {
    let takes_too_much = "perl -e '$n = 1e6 * ($ENV{SLURM_MEM_PER_NODE} + 300); $x = \"a\" x $n'";
    desk.use_script(&bash(&format!(
        "if [ \"$SLURM_MEM_PER_NODE\" -lt 2000 ]; then exec {takes_too_much}; fi\n\
         exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""
    )));
    let mut asked = desk.short_job();
    asked["settings"].as_object_mut().unwrap().remove("Maximum memory (MB)");
    let asker = Asker::ask_in(&desk.vhost, &asked, Jobs::Transient);
    desk.check().run().success();
    let first = desk.slurm_job(&asker.id);
    assert_eq!(desk.cluster.wait_for_end(&first, SECONDS(60))["JobState"], "OUT_OF_MEMORY");
    // The accounting may need a moment.
    let told = support::wait_for("more memory", SECONDS(60), || {
        let finished = desk.check().run().success();
        finished.stdout.contains(&format!("{}  raised", asker.id)).then_some(finished)
    });
    assert!(told.stdout.contains(&format!("{}  submitted", asker.id)), "{told}");
    let before = desk.record(&asker.id).unwrap()["too_small"][0]["memory_mb"].as_u64().unwrap();
    assert!((1000..2000).contains(&before), "{before}");
    asker.wait_for_end(SECONDS(120));
    support::wait_for("the job to be filed away", SECONDS(60), || {
        desk.check().run().success();
        desk.record(&asker.id).is_none().then_some(())
    });
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    heard.assert_states_in_order(&["taken", "submitted", "requeued", "running"]);
    let states = heard.of_kind(Kind::State);
    let requeued = states.iter().map(|state| state.json()).find(|s| s["state"] == "requeued");
    let requeued = requeued.unwrap();
    let words = format!("with {} MB of memory because {before} MB were not enough", 2 * before);
    assert!(requeued["detail"].as_str().unwrap().contains(&words), "{requeued}");
    for asked in [&requeued["asked"], &heard.end()["asked"]] {
        assert_eq!(
            (&asked["memory_mb"], &asked["memory_from"]),
            (&json!(2 * before), &json!("raised"))
        );
    }
    let both = desk.cluster.jobs_named(&format!("hpct-{}", asker.id));
    assert_eq!(both.len(), 2, "{both:?}");
    let status = desk.check().args(["status", &asker.id]).run().success();
    let shown: Vec<&str> = status.stdout.split_whitespace().collect();
    let shown = shown.join(" ");
    let line = format!("out of memory with {before} MB, as Slurm job {first}");
    assert!(shown.contains(&line), "{status}");
    assert!(shown.contains("(more than at first, which was not enough)"), "{status}");
}

#[test]
fn a_preempted_job_is_put_back_and_goes_on_from_its_checkpoint() {
    let mut desk = desk_on_cluster(&[("NODES", "1"), ("SLURM_EXTRA", PREEMPTION)]);
    desk.cluster.create(&["PartitionName=urgent", "Nodes=node1", "PriorityTier=10"]);
    desk.site.set("CHECKPOINT_SECONDS", "0");
    let mut asked = desk.short_job();
    asked["settings"]["Maximum number of training epochs"] = json!(20);
    asked["settings"]["Patience"] = json!(20);
    asked["settings"]["Seed"] = json!(7);
    let id = desk.vhost.publish_job(&asked);
    // Beside it a job of a conversation.
    let asker = Asker::ask_in(&desk.vhost, &asked, Jobs::Transient);
    desk.check().args(["--max-jobs", "2"]).run().success();
    let (slurm_id, talks) = (desk.slurm_job(&id), desk.slurm_job(&asker.id));
    for id in [&id, &asker.id] {
        support::wait_for("a checkpoint", SECONDS(60), || {
            desk.directory(id).join("checkpoint/training.safetensors").exists().then_some(())
        });
    }
    // From a pass on that has seen it run, a job that waits is one that waits again.
    desk.check().run().success();
    let urgent = [
        "--partition=urgent",
        "--exclusive",
        "--mem=100",
        "--output=/dev/null",
        "--wrap",
        "sleep 2",
    ];
    let urgent = desk.cluster.submit(desk.site.path(), urgent);
    for job in [&slurm_id, &talks] {
        desk.cluster.wait_for_state(job, &["PENDING"], SECONDS(60));
    }
    let finished = desk.check().run().success();
    assert_eq!(finished.stdout, "", "a job that is back in the queue is alive\n{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "the trainer has not answered for it");
    assert_eq!(asker.heard().ends().len(), 0, "nor has the other");
    desk.cluster.wait_for_end(&urgent, SECONDS(60));
    let reply = desk.vhost.receive_reply(&id, SECONDS(240)).json();
    assert_eq!(
        reply.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["Background Model", "Model 0"]
    );
    assert_eq!(desk.cluster.wait_for_end(&slurm_id, SECONDS(60))["JobState"], "COMPLETED");
    assert!(desk.log(&id).contains("going on from"), "{}", desk.log(&id));
    asker.wait_for_end(SECONDS(240));
    assert_eq!(desk.cluster.wait_for_end(&talks, SECONDS(60))["JobState"], "COMPLETED");
    assert!(desk.log(&asker.id).contains("going on from"), "{}", desk.log(&asker.id));
    desk.check().run().success();
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    heard.assert_states_in_order(&["taken", "submitted", "running", "requeued", "running"]);
}

#[test]
fn a_number_that_another_job_has_now_is_not_ours() {
    let desk = Desk::with_script("exit 0");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let other = desk.cluster.submit(
        desk.site.path(),
        ["--job-name=another", "--mem=100", "--output=/dev/null", "--wrap", "sleep 300"],
    );
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    // The state after a controller has lost its state: its job numbers begin at one again.
    let path = desk.directory(&id).join("record.json");
    let mut record = desk.record(&id).unwrap();
    let number: u64 = other.parse().unwrap();
    record["slurm_id"] = json!(number);
    record["state"]["slurm_id"] = json!(number);
    fs::write(&path, record.to_string()).unwrap();
    let finished = desk.check().run().success();
    assert_eq!(finished.stdout, "", "perhaps Slurm is starting\n{finished}");
    support::wait_for("GRACE_SECONDS to pass", SECONDS(60), || {
        let finished = desk.check().run();
        finished.stdout.contains(&format!("{id}  answered")).then_some(())
    });
    let sentence = desk.error_reply(&id);
    assert!(
        sentence.contains(&format!("no longer knows the training (Slurm job {other})")),
        "{sentence}"
    );
    assert_eq!(
        desk.cluster.job(&other).unwrap()["JobName"],
        "another",
        "the other job is left alone"
    );
    desk.cluster.cancel(&other);
}

#[test]
fn many_open_jobs_cost_one_question() {
    let mut desk = Desk::with_script("#SBATCH --hold\nexit 0");
    let tools = desk.site.path().join("slurm-bin");
    let calls = desk.site.path().join("calls");
    fs::create_dir(&tools).unwrap();
    for name in ["sbatch", "squeue", "sacct", "scancel", "scontrol"] {
        let path = tools.join(name);
        let text = format!("#!/bin/sh\necho {name} >>'{}'\nexec {name} \"$@\"\n", calls.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    desk.site.set("SITE_SLURM_BIN", tools.to_str().unwrap());
    let ids = desk.vhost.publish_jobs(&job(), 60);
    desk.check().args(["--max-jobs", "60"]).limit(SECONDS(200)).run().success();
    let count = || {
        let text = fs::read_to_string(&calls).unwrap_or_default();
        drop(fs::remove_file(&calls));
        ["sbatch", "squeue", "sacct"].map(|name| text.lines().filter(|line| *line == name).count())
    };
    assert_eq!(count()[0], 60);
    for id in &ids[..5] {
        desk.cluster.command("scancel").arg("--name").arg(format!("hpct-{id}")).run().success();
    }
    support::wait_for("the end of five jobs", SECONDS(60), || {
        let state =
            |id: &String| desk.cluster.job(&desk.slurm_job(id)).unwrap()["JobState"].clone();
        ids[..5].iter().all(|id| state(id) == "CANCELLED").then_some(())
    });
    expect(&desk.check().run(), 9, &[]);
    let [sbatch, squeue, sacct] = count();
    assert_eq!((sbatch, squeue), (0, 1), "one question for sixty jobs");
    assert!(sacct <= 1, "{sacct} calls of sacct");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(5));
    for id in &ids {
        desk.cluster.command("scancel").arg("--name").arg(format!("hpct-{id}")).run().success();
    }
}

#[test]
fn a_controller_that_stands_still_or_is_killed_decides_and_loses_nothing() {
    let mut desk = desk_on_cluster(&[("NODES", "1")]);
    stands_still(&mut desk);
    is_killed_and_comes_back(&mut desk);
}

fn stands_still(desk: &mut Desk) {
    let job = submit(desk, "running", &job(), &bash("sleep 300"), &["was cancelled"]);
    desk.cluster.wait_for_state(&job.slurm_id, &["RUNNING"], SECONDS(60));
    desk.check().run().success();
    desk.site.set("SLURM_TIMEOUT_SECONDS", "3");
    let next = {
        let _paused = desk.services.pause_slurmctld();
        let before = desk.record(&job.id);
        let within = |limit: Duration| {
            let start = Instant::now();
            let finished = desk.check().run();
            expect(&finished, 6, &["squeue did not answer within 3 s", "stay as they are"]);
            assert!(start.elapsed() < limit, "{:?}", start.elapsed());
            finished
        };
        within(SECONDS(20));
        assert_eq!(desk.record(&job.id), before);
        // sbatch gets no answer either; its request may wait in the controller's socket.
        let next = desk.vhost.publish_job(&support::desk::job());
        let finished = within(SECONDS(20));
        assert!(finished.stdout.contains(&format!("{next}  waiting")), "{finished}");
        next
    };
    desk.site.unset("SLURM_TIMEOUT_SECONDS");
    let waited = Instant::now();
    while desk.cluster.jobs_named(&format!("hpct-{next}")).is_empty()
        && waited.elapsed() < SECONDS(10)
    {
        std::thread::sleep(Duration::from_millis(200));
    }
    support::wait_for("the second job", SECONDS(60), || {
        desk.check().run();
        (desk.record(&next).unwrap()["slurm_id"] != Value::Null).then_some(())
    });
    assert_eq!(desk.record(&job.id).unwrap()["state"]["name"], "running");
    assert_eq!((desk.vhost.waiting(JOBS), desk.vhost.waiting(RESULTS)), (Some(0), Some(0)));
    let jobs = desk.cluster.jobs_named(&format!("hpct-{next}"));
    assert_eq!(jobs.len(), 1, "submitted once: {jobs:?}");
    desk.cluster.cancel(&job.slurm_id);
    desk.cluster.wait_for_end(&job.slurm_id, SECONDS(60));
    desk.cluster.cancel(&jobs[0]);
    desk.cluster.wait_for_end(&jobs[0], SECONDS(60));
    let next =
        Submitted { ending: "the second job", id: next, slurm_id: jobs[0].clone(), words: vec![] };
    check_until_answered(desk, [&job, &next]);
    for job in [&job, &next] {
        assert!(desk.error_reply(&job.id).contains("was cancelled"));
    }
}

fn is_killed_and_comes_back(desk: &mut Desk) {
    let go = desk.site.path().join("go");
    let waits = format!("until [ -e '{}' ]; do sleep 0.1; done", go.display());
    let good = bash(&format!("{waits}; {LEAVE_A_REPLY}"));
    let good = submit(desk, "good", &job(), &good, &[]);
    let bad = submit(desk, "bad", &job(), &bash(&format!("{waits}; exit 3")), &["(FAILED"]);
    let on = submit(desk, "goes on", &job(), &bash("sleep 300"), &[]);
    for job in [&good, &bad, &on] {
        desk.cluster.wait_for_state(&job.slurm_id, &["RUNNING"], SECONDS(60));
    }
    desk.check().run().success();
    // The controller saves its state every few seconds. Once it has saved this comment, it has
    // saved everything before.
    let comment = format!("Comment=last-{}", on.id);
    desk.cluster.update(&[&format!("JobId={}", on.slurm_id), &comment]);
    let saved = desk.cluster.conf().with_file_name("state").join("job_state");
    support::wait_for("the state to be saved", SECONDS(60), || {
        let text = fs::read(&saved).ok()?;
        String::from_utf8_lossy(&text).contains(&comment["Comment=".len()..]).then_some(())
    });
    desk.site.set("SLURM_TIMEOUT_SECONDS", "3");
    desk.services.service("kill", "slurmctld");
    fs::write(&go, "").unwrap();
    support::wait_for("the reply on disk", SECONDS(60), || {
        desk.directory(&good.id).join("reply.json").exists().then_some(())
    });
    let before = [&good, &bad, &on].map(|job| desk.record(&job.id));
    for _ in 0..2 {
        expect(&desk.check().run(), 6, &["squeue", "stay as they are"]);
    }
    assert_eq!([&good, &bad, &on].map(|job| desk.record(&job.id)), before);
    desk.services.service("start", "slurmctld");
    desk.site.unset("SLURM_TIMEOUT_SECONDS");
    for job in [&good, &bad] {
        desk.cluster.wait_for_end(&job.slurm_id, SECONDS(60));
    }
    check_until_answered(desk, [&good, &bad]);
    assert_eq!(
        desk.vhost.receive_reply(&good.id, SECONDS(60)).json(),
        json!({"Background Model": "AAAA"})
    );
    assert!(desk.error_reply(&bad.id).contains("(FAILED"));
    assert_eq!(desk.record(&on.id).unwrap()["state"]["name"], "running");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer each");
    desk.cluster.cancel(&on.slurm_id);
}
