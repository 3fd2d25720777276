//! The commands of the operator: `check status`, `logs`, `cancel`, `retry` and `purge`. Real
//! RabbitMQ, real Slurm.

use crate::support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use support::SECONDS;
use support::broker::RESULTS;
use support::desk::{Desk, job};
use support::program::{Finished, expect};
use support::rodan::{Answer, LOGIN};
use support::services::Services;

/// Notes its progress as the trainer does, and writes a line into its log.
const RUNS: &str = r#"echo "a line of the log"
cat > "${1%/*}/progress.json" <<END
{"slurm_job_id":$SLURM_JOB_ID,"restart_count":0,"layer":"Model 0","layer_number":2,"layers":2,
"epoch":3,"epochs":15,"step":5,"steps":600,"loss":0.25,"accuracy":0.9,"f1":0.75,
"updated_at":"$(date -u +%FT%TZ)","peak_memory_mb":321,
"expected_end":"$(date -u -d "+40 minutes" +%FT%TZ)"}
END
sleep 300"#;

fn run(desk: &Desk, arguments: &[&str]) -> Finished {
    let finished = desk.check().args(arguments).limit(SECONDS(120)).run();
    assert!(
        !finished.to_string().contains("wr0ng") && !finished.stdout.contains("\"token\""),
        "{finished}"
    );
    finished
}

/// A job that Slurm is running.
fn running(desk: &Desk) -> String {
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_state(&desk.slurm_job(&id), &["RUNNING"], SECONDS(60));
    id
}

/// A job that was answered with an error, and its directory.
fn answered(desk: &mut Desk) -> (String, PathBuf) {
    desk.use_script("#!/bin/bash\necho a last word; exit 3\n");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    expect(&desk.check().run(), 9, &[]);
    desk.error_reply(&id);
    let done = desk.site.spool().join("done").join(&id);
    (id, done)
}

#[track_caller]
fn says(finished: &Finished, parts: &[&str]) {
    for part in parts {
        assert!(finished.stdout.contains(part), "{part:?} is not in\n{finished}");
    }
    for line in finished.stdout.lines() {
        assert!(line.chars().count() <= 80, "{line:?} is wider than a terminal");
    }
}

#[test]
fn before_the_first_pass_nothing_is_wrong() {
    let desk = Desk::with_script("exit 0");
    // The site of a test has one; that of an operator has none before the first pass.
    std::fs::remove_dir_all(desk.site.spool()).unwrap();
    let finished = run(&desk, &["status"]).success();
    says(&finished, &["There are no open jobs.", "yet; the first pass of check makes it."]);
    let finished = run(&desk, &["status", "--all", "--json"]).success();
    let status: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(status["absent_spool"], desk.site.spool().to_str().unwrap());
    for arguments in [&["status", "a-job"][..], &["logs", "a-job"], &["cancel", "a-job"]] {
        expect(&run(&desk, arguments), 2, &["there is no job 'a-job'"]);
    }
    assert!(!desk.site.spool().exists(), "a look makes nothing");
}

#[test]
fn status_shows_why_a_job_waits_and_how_far_another_has_got() {
    let desk = Desk::with_script(RUNS);
    says(
        &{
            desk.check().run().success();
            run(&desk, &["status"])
        }
        .success(),
        &["There are no open jobs."],
    );
    let id = running(&desk);
    desk.check().run().success();
    let note = desk.directory(&id).join("progress.json");
    support::wait_for("the note", SECONDS(60), || note.exists().then_some(()));
    // The other job's partition is closed. Its name is unique, because the shared cluster keeps it.
    let partition = format!("closed{}", std::process::id());
    desk.cluster.create(&[&format!("PartitionName={partition}"), "Nodes=ALL", "State=DOWN"]);
    let mut waits = Desk::with_script("exit 0");
    waits.site.set("SITE_PARTITION", partition);
    let other = waits.vhost.publish_job(&job());
    waits.check().run().success();

    let before = desk.site.files_below(&desk.site.spool());
    let finished = run(&desk, &["status"]).success();
    eprintln!("{finished}");
    says(
        &finished,
        &["ID", &id[..8], &desk.slurm_job(&id), "running", "Model 0 (2/2), epoch 3/15"],
    );
    let finished = support::wait_for("Slurm's reason", SECONDS(60), || {
        let finished = run(&waits, &["status"]).success();
        finished.stdout.contains("(PartitionDown)").then_some(finished)
    });
    eprintln!("{finished}");
    says(&finished, &[&other[..8], "waiting", "its partition is closed (PartitionDown)"]);

    let finished = run(&desk, &["status", &id[..5]]).success();
    eprintln!("{finished}");
    for part in [
        format!("job             {id}"),
        format!("correlation id  {id}"),
        format!("reply queue     {RESULTS}"),
        "progress        Model 0 (2/2), epoch 3/15, step 5/600".into(),
        "F1              0.7500".into(),
        "peak memory     321 MB".into(),
        format!("hpct-{id}-{}.log", desk.slurm_job(&id)),
        "Maximum memory (MB): 500".into(),
    ] {
        assert!(finished.stdout.contains(&part), "{part:?} is not in\n{finished}");
    }
    let shown: Value =
        serde_json::from_str(&run(&desk, &["status", "--json"]).success().stdout).unwrap();
    assert_eq!(shown["jobs"][0]["job_id"], id.as_str());
    assert_eq!(shown["jobs"][0]["slurm"]["state"], "RUNNING");
    let shown: Value =
        serde_json::from_str(&run(&desk, &["status", &id, "--json"]).success().stdout).unwrap();
    assert_eq!((&shown["job_id"], &shown["settings"]["CPUs"]), (&json!(id), &json!(1)));
    assert_eq!(desk.site.files_below(&desk.site.spool()), before, "nothing is written");
    desk.cluster.cancel(&desk.slurm_job(&id));
    waits.cluster.cancel(&waits.slurm_job(&other));
}

#[test]
fn status_without_slurm_shows_the_records_and_says_so() {
    let mut desk = Desk::with_script(RUNS);
    let id = running(&desk);
    let slurm_id = desk.slurm_job(&id);
    desk.site.set("SITE_SLURM_BIN", "/nowhere");
    let finished = run(&desk, &["status"]).success();
    eprintln!("{finished}");
    says(&finished, &[&id[..8], &slurm_id, "waiting", "Slurm does not answer"]);
    // What can't be done now is written down and done by a later pass.
    let finished = run(&desk, &["cancel", &id]);
    expect(&finished, 6, &["marked as cancelled"]);
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0));
    desk.site.unset("SITE_SLURM_BIN");
    let error = support::wait_for("the answer", SECONDS(60), || {
        desk.check().run();
        desk.record(&id).is_none().then(|| desk.error_reply(&id))
    });
    assert!(error.contains("cancelled by the operator"), "{error}");
}

#[test]
fn a_beginning_that_several_jobs_share_is_refused() {
    let mut desk = Desk::with_script("exit 0");
    // Jobs that Slurm does not have need no scancel.
    desk.site.set("SITE_PARTITION", "nowhere");
    desk.check().run().success();
    for id in ["same-beginning-1", "same-beginning-2"] {
        let record = json!({"version": 1, "job_id": id, "correlation_id": id, "reply_to": RESULTS,
            "message_id": "m", "body_sha256": "0", "received_at": "2026-01-01T00:00:00Z",
            "changed_at": "2026-01-01T00:00:00Z", "state": {"name": "received"},
            "correlation_id_generated": false, "limited": false});
        fs::create_dir(desk.directory(id)).unwrap();
        fs::write(desk.directory(id).join("record.json"), record.to_string()).unwrap();
        fs::write(desk.directory(id).join("message.json"), job().to_string()).unwrap();
    }
    for command in ["status", "logs", "cancel"] {
        let finished = run(&desk, &[command, "same"]);
        expect(&finished, 2, &["'same' may be any of 2: same-beginning-1, same-beginning-2"]);
        expect(&run(&desk, &[command, "nobody"]), 2, &["there is no job 'nobody'"]);
    }
    says(&run(&desk, &["status"]).success(), &["same-beginning-1      -  received"]);
    let finished = run(&desk, &["cancel", "same-beginning-1"]).success();
    assert!(
        finished.stdout.contains("same-beginning-1 is over and answered with an error."),
        "{finished}"
    );
    assert!(desk.error_reply("same-beginning-1").contains("cancelled by the operator"));
    assert!(desk.record("same-beginning-2").is_some());
    says(&run(&desk, &["cancel", "same-beginning-1"]).success(), &["was answered before"]);
    expect(&run(&desk, &["--max-jobs", "3", "status"]), 2, &["cannot be used with"]);
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn a_cancelled_job_gets_one_error_reply() {
    let mut desk = Desk::with_script(RUNS);
    desk.site.set("WATCHER", "1");
    let id = running(&desk);
    let slurm_id = desk.slurm_job(&id);
    let finished = run(&desk, &["cancel", &id[..9]]).success();
    eprintln!("{finished}");
    assert!(
        finished.stdout.contains(&format!("{id}  cancelled  Slurm job {slurm_id}")),
        "{finished}"
    );
    assert_eq!(desk.cluster.wait_for_end(&slurm_id, SECONDS(60))["JobState"], "CANCELLED");
    let sentence = desk.error_reply(&id);
    assert!(sentence.starts_with("The training was cancelled by the operator"), "{sentence}");
    let done = desk.site.spool().join("done").join(&id);
    support::wait_for("the job to be filed away", SECONDS(60), || done.exists().then_some(()));
    desk.check().run().success();
    for watcher in desk.cluster.jobs_named(&format!("hpcw-{id}")) {
        desk.cluster.wait_for_end(&watcher, SECONDS(60));
    }
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn logs_are_printed_and_followed_until_the_answer() {
    let desk = Desk::with_script(
        "echo first; until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done\n\
         printf 'se\\033[31mcond'; exit 3",
    );
    let id = running(&desk);
    let follows = desk.check().args(["logs", &id, "-f"]).start();
    support::wait_for("the first line", SECONDS(60), || follows.has_said("first\n").then_some(()));
    fs::write(desk.site.path().join("go"), "").unwrap();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    expect(&desk.check().run(), 9, &[]);
    let finished = follows.wait().success();
    assert!(
        finished.stdout.contains("first\n") && finished.stdout.contains("se [31mcond"),
        "{finished}"
    );
    assert!(finished.stderr.contains("is answered"), "{finished}");
    let finished = run(&desk, &["logs", &id[..8]]).success();
    assert!(finished.stdout.contains("first\nse [31mcond"), "{finished}");
}

#[test]
fn purge_removes_what_is_old_and_answered_and_nothing_else() {
    let mut desk = Desk::with_script("exit 3");
    let (young, young_done) = answered(&mut desk);
    let (old, old_done) = answered(&mut desk);
    let (odd, odd_done) = answered(&mut desk);
    let log = |id: &str| desk.site.logs().join(format!("hpct-{id}-{}.log", desk.slurm_job(id)));
    let logs = [log(&young), log(&old), log(&odd)];
    let day = "2026-01-01T00:00:00Z";
    for done in [&old_done, &odd_done] {
        let path = done.join("record.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["changed_at"] = json!(day);
        fs::write(&path, record.to_string()).unwrap();
    }
    for path in &logs[1..] {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + SECONDS(1_767_225_600)).unwrap();
    }
    fs::write(odd_done.join("notes.txt"), "of the operator").unwrap();
    fs::write(old_done.join("report.html"), "<!DOCTYPE html>").unwrap();
    let rejected = desk.site.spool().join("rejected");
    for name in ["1767225600000-x.message", "notes.txt"] {
        fs::write(rejected.join(name), "text").unwrap();
    }
    fs::write(desk.site.logs().join("hpct-stranger-1.log"), "").unwrap();
    let all = || {
        [desk.site.files_below(&desk.site.spool()), desk.site.files_below(&desk.site.logs())]
            .concat()
    };
    let before = all();
    for wrong in ["30", "30m", "0d"] {
        expect(&run(&desk, &["purge", "--older", wrong]), 2, &["--older"]);
    }
    let finished = run(&desk, &["purge", "--older", "2d", "--dry-run"]).success();
    eprintln!("{finished}");
    says(
        &finished,
        &[&format!("done/{old}"), "rejected/1767225600000-x.message", "would be removed in all (3"],
    );
    assert_eq!(all(), before, "a dry run changes nothing");
    let finished = run(&desk, &["purge", "--older", "2d"]).success();
    says(&finished, &["removed in all (3 of 3)"]);
    assert!(finished.stderr.contains("left alone"), "{finished}");
    let gone: Vec<_> = before.iter().filter(|path| !path.exists()).collect();
    assert!(!old_done.exists() && !logs[1].exists() && young_done.exists() && odd_done.exists());
    let is_meant = |path: &PathBuf| {
        path.starts_with(&old_done) || *path == logs[1] || path.ends_with("1767225600000-x.message")
    };
    assert!(gone.iter().all(|path| is_meant(path)), "{gone:?}");
    says(&run(&desk, &["purge", "--older", "1h"]).success(), &["There is nothing that old."]);
    let finished = run(&desk, &["status", "--all"]).success();
    says(&finished, &[&young[..8], &odd[..8], "answered", "with an error"]);
    assert!(!finished.stdout.contains(&old[..8]), "{finished}");
}

#[test]
fn a_job_that_waits_is_tried_again_at_once_and_any_other_is_left_alone() {
    let mut desk = Desk::with_script("exit 3");
    let id = desk.vhost.publish_job(&job());
    desk.site.set("SITE_SLURM_BIN", "/nowhere");
    assert_eq!(desk.check().run().code(), Some(6));
    expect(
        &run(&desk, &["retry", &id[..8]]),
        6,
        &["still waits", "SITE_SLURM_BIN", "the next check tries again"],
    );
    // However long it has waited: the operator knows that another try is worth it.
    desk.site.unset("SITE_SLURM_BIN").set("GIVE_UP_HOURS", "0");
    let finished = run(&desk, &["retry", &id]).success();
    let slurm_id = desk.slurm_job(&id);
    assert!(
        finished.stdout.contains(&format!("{id} is with Slurm now, as job {slurm_id}.")),
        "{finished}"
    );
    expect(&run(&desk, &["retry", &id]), 2, &["is with Slurm already", "check cancel"]);
    desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
    expect(&desk.check().run(), 9, &[]);
    desk.error_reply(&id);
    let finished = run(&desk, &["retry", &id]);
    expect(
        &finished,
        2,
        &["was answered before, with an error", "run the workflow in Rodan again"],
    );
    assert_eq!(desk.cluster.jobs_named(&format!("hpct-{id}")).len(), 1, "one Slurm job only");
    expect(&run(&desk, &["retry", "nobody"]), 2, &["there is no job 'nobody'"]);

    // Rodan is away, and comes back.
    desk.site.unset("GIVE_UP_HOURS");
    let id = desk.vhost.publish_job(&job());
    desk.rodan.answer_next(LOGIN, 6, &Answer::Status(503));
    assert_eq!(desk.check().run().code(), Some(5));
    desk.site.set("GIVE_UP_HOURS", "0");
    expect(&run(&desk, &["retry", &id]), 5, &["still waits", "503"]);
    run(&desk, &["retry", &id]).success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0));

    // A reply that could not be delivered is delivered now.
    let broker = desk.vhost.url();
    desk.site.set("RABBITMQ_HOST", format!("127.0.0.1:{}", support::DEAD_PORT));
    desk.check().run();
    expect(&run(&desk, &["retry", &id]), 4, &["still waits", "RabbitMQ"]);
    desk.site.set("RABBITMQ_HOST", broker);
    let finished = run(&desk, &["retry", &id]);
    expect(&finished, 9, &[]);
    assert!(
        finished.stdout.contains(&format!("{id} is answered now, with an error.")),
        "{finished}"
    );
    desk.error_reply(&id);
}

#[test]
fn a_job_in_slurms_queue_has_a_place_in_it() {
    // The only node of this cluster is busy.
    let cluster = Services::private(&[
        ("PARTS", "slurm"),
        ("NODES", "1"),
        ("CPUS", "2"),
        ("MEMORY_MB", "2000"),
    ]);
    let services = Services::shared().with_cluster_of(cluster);
    let mut desk = Desk::on(services, Some("exit 0"), support::rodan::Rodan::start());
    desk.site.set("SITE_GRES", "none");
    let busy = desk
        .cluster
        .submit(desk.site.path(), ["--output=/dev/null", "-c2", "--mem=100", "--wrap=sleep 600"]);
    desk.cluster.wait_for_state(&busy, &["RUNNING"], SECONDS(60));
    let first = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let second = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let status = support::wait_for("both places", SECONDS(60), || {
        let status = run(&desk, &["status"]).success();
        let all = ["1st of 2 pending in ", "2nd of 2 pending in "]
            .iter()
            .all(|p| status.stdout.contains(p));
        (all && status.stdout.contains("(Resources)")).then_some(status)
    });
    says(&status, &[&first[..8], &second[..8], "waiting"]);
    let details = run(&desk, &["status", &first]).success();
    eprintln!("{details}");
    assert!(details.stdout.contains("place           1st of 2 pending in "), "{details}");
    let nodes = "nodes           asks for 500 MB and 1 CPUs, which the only node there has\n";
    assert!(details.stdout.contains(nodes), "{details}");
    let json: Value =
        serde_json::from_str(&run(&desk, &["status", &second, "--json"]).success().stdout).unwrap();
    let waiting = &json["waiting"];
    assert_eq!((&waiting["position"], &waiting["of"]), (&json!(2), &json!(2)), "{waiting}");
    assert_eq!(
        (&waiting["fitting_nodes"], &waiting["memory_mb"]),
        (&json!(1), &json!(500)),
        "{waiting}"
    );
    desk.cluster.cancel(&busy);
}

#[test]
fn a_shell_in_a_job_is_a_step_of_it() {
    let desk = Desk::with_script(RUNS);
    let id = running(&desk);
    let inside = ["shell", &id, "sh", "-c", "echo job $SLURM_JOB_ID, step $SLURM_STEP_ID"];
    let finished = run(&desk, &inside).success();
    let slurm_id = desk.slurm_job(&id);
    assert_eq!(finished.stdout, format!("job {slurm_id}, step 0\n"), "{finished}");
    desk.cluster.cancel(&slurm_id);
}
