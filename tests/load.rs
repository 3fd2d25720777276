//! Many jobs, many passes, a cluster that is full or away: what is not taken waits, what is taken
//! is answered once.

use crate::support;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, with_setting};
use support::program::expect;
use support::rodan::Rodan;
use support::services::Services;

#[test]
fn no_more_jobs_are_open_than_the_site_wants() {
    let mut desk = Desk::with_script("sleep 300");
    desk.site.set("MAX_OPEN_JOBS", "2");
    let ids: Vec<String> = (0..4).map(|_| desk.vhost.publish_job(&job())).collect();
    let finished = desk.check().args(["--max-jobs", "9", "-v"]).run().success();
    assert!(finished.stderr.contains("2 are open (MAX_OPEN_JOBS=2)"), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(2), "the others stay in RabbitMQ");
    let finished = desk.check().args(["--max-jobs", "9"]).run().success();
    assert_eq!(finished.stdout, "", "and nothing is said about it each time");
    desk.cluster.cancel(&desk.slurm_job(&ids[0]));
    desk.cluster.wait_for_end(&desk.slurm_job(&ids[0]), SECONDS(60));
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    assert!(
        finished.stdout.contains(&format!("{}  submitted", ids[2])),
        "one answered, one taken\n{finished}"
    );
    assert_eq!(desk.vhost.waiting(JOBS), Some(1));
    for id in &ids[1..3] {
        desk.cluster.cancel(&desk.slurm_job(id));
    }
}

#[test]
fn after_repeated_refusals_the_intake_pauses_and_says_so() {
    let mut desk = Desk::with_script("sleep 300");
    desk.site.set("SITE_PARTITION", "nowhere");
    let ids: Vec<String> = (0..5).map(|_| desk.vhost.publish_job(&job())).collect();
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    expect(
        &finished,
        6,
        &["no new jobs are taken until", "3 submissions in a row failed", "invalid partition"],
    );
    assert_eq!(desk.vhost.waiting(JOBS), Some(2), "the others don't get the same error");
    for id in &ids[..3] {
        assert!(desk.error_reply(id).starts_with("The cluster refuses the job"));
    }
    desk.site.unset("SITE_PARTITION");
    expect(&desk.check().run(), 6, &["no new jobs are taken until"]);
    // Lets the pause be over.
    let path = desk.site.spool().join("breaker.json");
    let mut breaker: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(breaker["failures"], 3);
    breaker["until"] = json!("2026-01-01T00:00:00Z");
    fs::write(&path, breaker.to_string()).unwrap();
    let finished = desk.check().args(["--max-jobs", "9"]).run().success();
    assert_eq!(finished.stdout.matches("submitted").count(), 2, "{finished}");
    assert!(!path.exists(), "a success forgets the failures");
    for id in &ids[3..] {
        desk.cluster.cancel(&desk.slurm_job(id));
    }
}

#[test]
fn at_the_sites_own_limit_of_jobs_the_messages_stay_in_the_queue() {
    let settings = [
        ("PARTS", "slurm"),
        ("DBD", "1"),
        ("SLURM_EXTRA", "AccountingStorageEnforce=associations,limits"),
    ];
    let services = Services::shared().with_cluster_of(Services::private(&settings));
    let mut desk = Desk::on(services, Some("sleep 300"), Rodan::start());
    let sacctmgr = |arguments: &[&str]| {
        desk.cluster
            .command("sacctmgr")
            .arg("-i")
            .args(arguments)
            .limit(SECONDS(60))
            .run()
            .success();
    };
    let user =
        String::from_utf8(std::process::Command::new("id").arg("-un").output().unwrap().stdout)
            .unwrap();
    let user = user.trim();
    sacctmgr(&["add", "account", "music"]);
    sacctmgr(&["add", "user", user, "account=music", "MaxSubmitJobs=1"]);
    desk.site.set("GIVE_UP_HOURS", "0").set("SITE_ACCOUNT", "music");
    let ids: Vec<String> = (0..4).map(|_| desk.vhost.publish_job(&job())).collect();
    // Slurm learns of the account a moment later. Until then it refuses it, which is another story.
    support::wait_for("Slurm to know the account", SECONDS(60), || {
        let test = ["--test-only", "--account=music", "--wrap", "true"];
        desk.cluster.command("sbatch").args(test).run().status.success().then_some(())
    });
    for pass in 0..3 {
        let finished = desk.check().args(["--max-jobs", "9"]).run().success();
        assert_eq!(
            finished.stdout.matches("submitted").count(),
            usize::from(pass == 0),
            "{finished}"
        );
        assert!(finished.stdout.contains(&format!("{}  waiting", ids[1])), "{finished}");
        assert!(finished.stdout.contains("MaxSubmitJob"), "{finished}");
        assert_eq!(
            desk.vhost.waiting(JOBS),
            Some(2),
            "one waits in the spool, the others in RabbitMQ"
        );
    }
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "a limit is no failure");
    for (number, id) in ids.iter().enumerate() {
        if number > 0 {
            desk.check().run();
        }
        let slurm_id = desk.slurm_job(id);
        desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
        desk.cluster.cancel(&slurm_id);
        desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
        desk.check().args(["--max-jobs", "0"]).run();
        assert!(desk.error_reply(id).contains("was cancelled"));
    }
}

#[test]
fn a_job_that_no_node_can_hold_is_taken_out_of_the_queue_and_answered() {
    let desk = Desk::with_script("exit 0");
    let id = desk.vhost.publish_job(&with_setting("CPUs", json!(500)));
    let finished = desk.check().run();
    if finished.code() == Some(6) {
        // A Slurm that refuses it at once.
        assert!(desk.error_reply(&id).starts_with("The cluster refuses the job"));
        return;
    }
    let slurm_id = desk.slurm_job(&id);
    assert_eq!(desk.cluster.job(&slurm_id).unwrap()["JobState"], "PENDING");
    desk.check().run().success();
    let finished = support::wait_for("the grace time", SECONDS(60), || {
        let finished = desk.check().run();
        (finished.code() == Some(9)).then_some(finished)
    });
    assert!(finished.stdout.contains(&format!("{id}  cancelled")), "{finished}");
    let sentence = desk.error_reply(&id);
    for part in ["can't start on this cluster", "500 CPUs, 500 MB", "Set \"CPUs\""] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert_eq!(desk.cluster.job(&slurm_id).unwrap()["JobState"], "CANCELLED");
}

#[test]
fn a_job_does_not_wait_in_slurms_queue_for_ever() {
    let mut desk = Desk::with_script("sleep 300");
    desk.site.set("MAX_PENDING_HOURS", "2").set("GRACE_SECONDS", "600");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    desk.check().run().success();
    // The job is held, as an administrator would do it.
    desk.cluster.command("scontrol").args(["requeuehold", &slurm_id]).run().success();
    desk.cluster.wait_for_state(&slurm_id, &["PENDING", "REQUEUE_HOLD"], SECONDS(60));
    desk.check().run().success();
    assert_eq!(desk.record(&id).unwrap()["state"]["name"], "submitted", "back in the queue");
    let path = desk.directory(&id).join("record.json");
    let mut record = desk.record(&id).unwrap();
    record["changed_at"] = json!("2026-01-01T00:00:00Z");
    fs::write(&path, record.to_string()).unwrap();
    expect(&desk.check().run(), 9, &[]);
    let sentence = desk.error_reply(&id);
    assert!(sentence.contains("did not start within 2 hours"), "{sentence}");
}

#[test]
fn checks_that_run_over_each_other_submit_each_job_once() {
    let desk = Desk::with_script("exit 3");
    let ids: Vec<String> = (0..6).map(|_| desk.vhost.publish_job(&job())).collect();
    let end = Instant::now() + SECONDS(240);
    while ids.iter().any(|id| !desk.site.spool().join("done").join(id).exists()) {
        assert!(Instant::now() < end, "not all are answered");
        let checks: Vec<_> =
            (0..4).map(|_| desk.check().args(["--max-jobs", "2"]).start()).collect();
        for check in checks {
            let finished = check.wait();
            assert!(matches!(finished.code(), Some(0 | 9)), "{finished}");
        }
    }
    for id in &ids {
        desk.slurm_job(id); // one
        desk.error_reply(id); // one
    }
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0));
}

/// A batch script that trains, or in nine jobs of ten leaves an answer for `check`: what is many
/// here are the jobs, not the trainings. With `HPC_TRAINER_TEST_JOBS` each job is trained.
fn every_tenth_is_trained() -> String {
    let trained = if env::var_os("HPC_TRAINER_TEST_JOBS").is_some() { 1 } else { 10 };
    format!(
        r#"[ $((SLURM_JOB_ID % {trained})) != 0 ] || exec "$HPC_TRAINER_HOME/run_trainer" "$@"
        echo '{{"Background Model":"AAAA","Model 0":"AAAA"}}' > "${{1%/*}}/reply.json"
        exit 10"#
    )
}

#[test]
fn many_jobs_are_answered_once_each() {
    let jobs_at_once =
        env::var("HPC_TRAINER_TEST_JOBS").map_or(60, |number| number.parse().expect("a number"));
    // A cluster of its own, so that no other test waits behind these jobs.
    let settings = [("PARTS", "slurm"), ("CPUS", "2")];
    let services = Services::shared().with_cluster_of(Services::private(&settings));
    let mut desk = Desk::on(services, Some(&every_tenth_is_trained()), Rodan::start());
    desk.site.set("MAX_OPEN_JOBS", "500").set("SITE_GRES", "none");
    let asked = desk.short_job();
    let started = Instant::now();
    let ids: Vec<String> = desk.vhost.publish_jobs(&asked, jobs_at_once);
    let published = started.elapsed();
    let finished = desk
        .check()
        .args(["--max-jobs", &jobs_at_once.to_string()])
        .limit(SECONDS(300))
        .run()
        .success();
    let submitted = started.elapsed() - published;
    assert_eq!(finished.stdout.matches("submitted").count(), jobs_at_once);
    assert_eq!(desk.rodan.requests_for("/api/auth/token/").len(), 1, "one log-in for all");
    let mut replies: BTreeMap<String, u32> = BTreeMap::new();
    std::thread::scope(|scope| {
        // As Rodan's waiting workflows do. The models of one job have 15 MB.
        let receiver = scope.spawn(|| {
            desk.vhost.receive_all(jobs_at_once, SECONDS(1500), |reply| {
                let id = reply.correlation_id().unwrap().to_owned();
                assert!(reply.json().get("Model 0").is_some(), "{id}: {}", reply.json());
                *replies.entry(id).or_default() += 1;
            });
        });
        // Passes send what the batch scripts have left.
        while !receiver.is_finished() {
            desk.check().args(["--max-jobs", "0"]).limit(SECONDS(120)).run().success();
            std::thread::sleep(SECONDS(2));
        }
    });
    let answered = started.elapsed();
    support::wait_for("all jobs to be filed away", SECONDS(300), || {
        desk.check().args(["--max-jobs", "0"]).limit(SECONDS(120)).run().success();
        fs::read_dir(desk.site.spool().join("jobs")).unwrap().next().is_none().then_some(())
    });
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "no second reply");
    assert_eq!(replies.len(), jobs_at_once);
    assert!(ids.iter().all(|id| replies.get(id) == Some(&1)), "{replies:?}");
    eprintln!(
        "{jobs_at_once} jobs: submitted in {:.1} s ({:.0} a second), all answered after {:.0} s",
        submitted.as_secs_f64(),
        jobs_at_once as f64 / submitted.as_secs_f64(),
        answered.as_secs_f64()
    );
}
