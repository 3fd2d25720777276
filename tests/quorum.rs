//! Quorum queues count how often a message was handed out, and drop it after its limit: a look must
//! not cost it anything. Real RabbitMQ, real Slurm.

use crate::support;

use std::fs;

use lapin::BasicProperties;

use support::SECONDS;
use support::broker::JOBS;
use support::desk::{Desk, job};
use support::program::expect;

#[test]
fn a_dry_run_costs_a_job_in_a_quorum_queue_nothing() {
    let desk = Desk::with_script("sleep 300");
    desk.vhost.declare_quorum(JOBS, 1);
    let empty = desk.check().arg("--dry-run").run().success();
    assert_eq!(empty.stdout, "There is no job in the queue.\n");
    let properties = BasicProperties::default().with_correlation_id("q-1".into());
    desk.vhost.publish_to(JOBS, job().to_string().as_bytes(), properties);
    for _ in 0..4 {
        expect(
            &desk.check().arg("--dry-run").run(),
            4,
            &["hpc-jobs", "quorum queue", "delivery limit"],
        );
        assert_eq!(desk.vhost.waiting(JOBS), Some(1));
    }
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains("q-1  submitted"), "{finished}");
    desk.cluster.cancel(&desk.slurm_job("q-1"));
}

#[test]
fn replies_of_others_in_a_quorum_queue_are_left_alone() {
    const QUEUE: &str = "quorum-replies";
    let desk = Desk::with_script(r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json""#);
    desk.vhost.declare_quorum(QUEUE, 1);
    let of_another = BasicProperties::default().with_correlation_id("another".into());
    desk.vhost.publish_to(QUEUE, b"{}", of_another);
    let ours =
        BasicProperties::default().with_reply_to(QUEUE.into()).with_correlation_id("q-2".into());
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), ours);
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job("q-2"), SECONDS(60));
    // Somebody has begun to publish and was broken off: the reply may be there already.
    fs::write(desk.directory("q-2").join("claim"), "{}").unwrap();
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains("q-2  answered"), "{finished}");
    let left = desk.vhost.leftovers(QUEUE);
    let found: Vec<_> = left.iter().map(|m| (m.correlation_id().unwrap(), m.redelivered)).collect();
    assert_eq!(found, [("another", false), ("q-2", false)]);
}
