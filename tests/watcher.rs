//! The watcher: a tiny Slurm job beside each training job, which reports its failure at once. Real
//! RabbitMQ, real Slurm.

use crate::support;

use std::time::Instant;

use support::SECONDS;
use support::broker::RESULTS;
use support::desk::{Desk, job};
use support::program::expect;

/// A job and its watcher; the job waits for `go` before it does what `script` says.
fn held(script: &str) -> (Desk, String, String) {
    let waits = "until [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done";
    let mut desk = Desk::with_script(&format!("{waits}\n{script}"));
    desk.site.set("WATCHER", "1");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let watcher = desk.record(&id).unwrap()["watcher"].to_string();
    assert_eq!(desk.cluster.jobs_named(&format!("hpcw-{id}")), [watcher.as_str()]);
    (desk, id, watcher)
}

fn go(desk: &Desk) {
    std::fs::write(desk.site.path().join("go"), "").unwrap();
}

fn watched(script: &str) -> (Desk, String, String) {
    let all = held(script);
    go(&all.0);
    all
}

fn answered(desk: &Desk, id: &str) -> bool {
    desk.site.spool().join("done").join(id).exists()
}

#[test]
fn a_failure_is_answered_within_a_minute_and_without_cron() {
    let (desk, id, watcher) = watched("exit 3");
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_end(&slurm_id, SECONDS(60));
    let failed = Instant::now();
    let sentence = desk.error_reply(&id);
    let took = failed.elapsed();
    eprintln!("from the failure to the reply, with the watcher: {:.1} s", took.as_secs_f64());
    assert!(took < SECONDS(60), "{took:?}");
    assert!(sentence.contains("without a result (FAILED"), "{sentence}");
    let ended = desk.cluster.wait_for_end(&watcher, SECONDS(60));
    assert_eq!(ended["ExitCode"], "9:0", "as check's: a job failed");
    assert!(answered(&desk, &id));
    desk.check().run().success();
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
}

#[test]
fn a_cancelled_job_is_a_failure_whether_it_had_started_or_not() {
    let (desk, id, _) = watched("sleep 300");
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    desk.cluster.cancel(&slurm_id);
    assert!(desk.error_reply(&id).contains("was cancelled"));

    // A partition in which nothing starts.
    let mut desk = Desk::with_script("exit 0");
    let partition = format!("asleep{}", std::process::id());
    desk.cluster.create(&[&format!("PartitionName={partition}"), "Nodes=node1", "State=DOWN"]);
    desk.site.set("WATCHER", "1").set("SITE_PARTITION", partition).set("WATCHER_PARTITION", "main");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    desk.cluster.wait_for_state(&slurm_id, &["PENDING"], SECONDS(60));
    desk.cluster.cancel(&slurm_id);
    assert!(desk.error_reply(&id).contains("was cancelled"));
}

#[test]
fn of_a_watcher_and_checks_at_the_same_time_one_answers() {
    for round in 0..3 {
        let (desk, id, watcher) = watched("exit 3");
        desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
        let end = Instant::now() + SECONDS(60);
        while !answered(&desk, &id) && Instant::now() < end {
            let checks: Vec<_> = (0..2).map(|_| desk.check().start()).collect();
            for check in checks {
                let finished = check.wait();
                assert!(matches!(finished.code(), Some(0 | 9)), "round {round}\n{finished}");
            }
        }
        assert!(desk.error_reply(&id).contains("without a result"));
        desk.cluster.wait_for_end(&watcher, SECONDS(60));
        assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer only");
    }
}

#[test]
fn a_lost_watcher_is_made_good_by_check() {
    let (desk, id, watcher) = held("exit 3");
    desk.cluster.cancel(&watcher);
    desk.cluster.wait_for_end(&watcher, SECONDS(60));
    go(&desk);
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    assert!(desk.vhost.try_receive_reply(&id, SECONDS(2)).is_none());
    let before = Instant::now();
    expect(&desk.check().run(), 9, &[]);
    assert!(desk.error_reply(&id).contains("without a result"));
    eprintln!("without the watcher: the wait for cron and {:.1} s", before.elapsed().as_secs_f64());
}

#[test]
fn a_watcher_that_starts_too_early_waits_and_answers_nothing_that_is_alive() {
    // Slurm does this when it does not know the number that the watcher depends on.
    let desk = Desk::with_script("sleep 300");
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let slurm_id = desk.slurm_job(&id);
    let arguments = ["--dependency=afternotok:999999", "--kill-on-invalid-dep=yes", "--mem=100M"];
    let home = desk.site.path();
    let script = home.join("slurm/handle_failure.sh");
    let log = format!("--output={}", desk.site.logs().join("watcher.log").display());
    let all = arguments.into_iter().chain([log.as_str(), script.to_str().unwrap(), &id]);
    let watcher = desk.cluster.submit(home, all);
    desk.cluster.wait_for_state(&watcher, &["RUNNING"], SECONDS(60));
    desk.cluster.wait_for_state(&slurm_id, &["RUNNING"], SECONDS(60));
    assert!(desk.vhost.try_receive_reply(&id, SECONDS(4)).is_none(), "the job is alive");
    desk.check().run().success(); // between two looks the lock is free
    desk.cluster.cancel(&slurm_id);
    assert!(desk.error_reply(&id).contains("was cancelled"));
    desk.cluster.wait_for_end(&watcher, SECONDS(60));
}

#[test]
fn the_watcher_of_a_job_that_succeeds_goes_by_itself() {
    let (desk, id, watcher) =
        watched(r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json"; sleep 1; exit 0"#);
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    let ended = desk.cluster.wait_for_end(&watcher, SECONDS(60));
    assert_eq!(ended["JobState"], "CANCELLED", "it never ran");
    desk.check().run().success();
    assert_eq!(desk.vhost.receive_reply(&id, SECONDS(60)).json()["Background Model"], "AAAA");
}

#[test]
fn a_site_that_takes_no_watcher_still_takes_the_job() {
    let mut desk = Desk::with_script("sleep 60");
    desk.site.set("WATCHER", "1").set("WATCHER_PARTITION", "nowhere");
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().run().success();
    assert!(
        finished.stderr.contains("no watcher") && finished.stderr.contains("WATCHER=0"),
        "{finished}"
    );
    desk.cluster.cancel(&desk.slurm_job(&id));
}

#[test]
fn a_watcher_looks_into_the_spool_that_check_was_told() {
    let mut desk = Desk::with_script("exit 3");
    desk.site.set("WATCHER", "1");
    let id = desk.vhost.publish_job(&job());
    let spool = desk.site.path().join("other");
    desk.check().arg("--spool").arg(&spool).run().success();
    assert!(desk.error_reply(&id).contains("without a result"));
    support::wait_for("the job to be filed away", SECONDS(60), || {
        spool.join("done").join(&id).exists().then_some(())
    });
}

#[test]
fn a_watch_of_nothing_ends_at_once() {
    let desk = Desk::with_script("exit 0");
    desk.check().args(["--watch", "unknown"]).run().success();
    expect(&desk.check().args(["--watch", "../x"]).run(), 2, &["no job's directory"]);
}
