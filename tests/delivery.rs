//! How a reply reaches its queue when the queue, the connection or the broker is not as it should
//! be. Every case ends with one copy of the reply in the queue. Real RabbitMQ, real Slurm; a proxy
//! in front of the broker where a connection has to break at a chosen moment.

use crate::support;

use std::fs;
use std::thread;
use std::time::Instant;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use serde_json::json;

use support::SECONDS;
use support::broker::{JOBS, Message, RESULTS};
use support::desk::{Desk, job};
use support::program::{self, Program, expect};
use support::proxy::{Fault, Proxy};
use support::rodan::Rodan;
use support::services::Services;

/// A batch script that leaves a model of this many bytes for `check` to deliver, as on a node
/// without a route to the broker.
fn leaves_a_reply(bytes: u32) -> String {
    format!(
        r#"(printf '{{"Background Model":"'; head -c {bytes} /dev/zero | tr '\0' A; echo '"}}') \
    > "${{1%/*}}/reply.new"
mv "${{1%/*}}/reply.new" "${{1%/*}}/reply.json""#
    )
}

/// Publishes a job whose reply goes to `queue`.
fn publish_job_for(desk: &Desk, queue: &str) -> String {
    let id = uuid::Uuid::new_v4().to_string();
    let properties = BasicProperties::default()
        .with_reply_to(queue.into())
        .with_correlation_id(id.as_str().into());
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), properties);
    id
}

/// A job that is over, with its reply on disk.
fn job_with_a_reply(desk: &Desk, queue: &str) -> String {
    let id = publish_job_for(desk, queue);
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    assert!(desk.directory(&id).join("reply.json").exists(), "{}", desk.log(&id));
    id
}

/// The trainer, started by hand with a small job.
fn trainer(desk: &Desk, id: &str) -> Program {
    let path = desk.site.path().join("by-hand.json");
    let mut file = job();
    file["token"] = json!(desk.rodan.setup().token);
    fs::write(&path, file.to_string()).unwrap();
    Program::new(program::run_trainer().unwrap())
        .arg(&path)
        .args([RESULTS, id])
        .arg("--env-file")
        .arg(desk.site.credentials())
        .env("TMPDIR", "/tmp")
        .limit(SECONDS(240))
}

/// Asserts that a queue holds the models of this job and nothing else.
#[track_caller]
fn assert_one_reply(queue: &[Message], id: &str) {
    let found: Vec<_> =
        queue.iter().map(|m| (m.correlation_id(), m.properties.message_id())).collect();
    assert_eq!(queue.len(), 1, "one reply, not {found:?}");
    assert_eq!(queue[0].correlation_id(), Some(id));
    assert!(queue[0].json()["Background Model"].is_string());
}

/// Asserts that the reply still waits in the spool.
#[track_caller]
fn assert_it_waits(desk: &Desk, id: &str) {
    assert_eq!(desk.record(id).unwrap()["state"]["name"], "result_spooled");
    assert!(desk.directory(id).join("reply.json").exists());
}

#[test]
fn a_reply_queue_that_is_absent_durable_or_another_connections_own() {
    let desk = Desk::with_script(&leaves_a_reply(100));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    desk.vhost.declare("durable", durable).unwrap();
    let absent = job_with_a_reply(&desk, "absent");
    let durably = job_with_a_reply(&desk, "durable");
    // Only the connection that declared an exclusive queue may use it; but messages still reach it.
    let there = &desk;
    let exclusive = desk.vhost.on_channel(|channel| async move {
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("exclusive".into(), exclusive, Default::default()).await.unwrap();
        // In a thread of its own, because the calls in it start runtimes of their own.
        let answered = || {
            let id = job_with_a_reply(there, "exclusive");
            there.check().run().success();
            id
        };
        let id = thread::scope(|scope| scope.spawn(answered).join().unwrap());
        let got =
            channel.basic_get("exclusive".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        let got = got.expect("the reply is in the exclusive queue");
        assert_eq!(got.properties.correlation_id().as_ref().unwrap().as_str(), id);
        let more =
            channel.basic_get("exclusive".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert!(more.is_none(), "one reply only");
        id
    });
    desk.check().run().success();
    assert_one_reply(&desk.vhost.leftovers("absent"), &absent);
    assert_one_reply(&desk.vhost.leftovers("durable"), &durably);
    desk.vhost
        .declare("absent", QueueDeclareOptions::default())
        .expect("declared with Rodan's arguments");
    for id in [absent, durably, exclusive] {
        assert_eq!(desk.record(&id), None);
    }
}

#[test]
fn a_full_reply_queue_makes_the_reply_wait_until_there_is_room() {
    let desk = Desk::with_script(&leaves_a_reply(100));
    desk.vhost.declare_with_room_for(1, "full");
    let first = job_with_a_reply(&desk, "full");
    desk.check().run().success();
    let second = job_with_a_reply(&desk, "full");
    for _ in 0..2 {
        let finished = desk.check().run();
        expect(&finished, 10, &[]);
        assert!(finished.stdout.contains(&format!("{second}  waiting")), "{finished}");
        assert!(finished.stdout.contains("'full' (negative confirmation)"), "{finished}");
        assert_it_waits(&desk, &second);
    }
    assert_one_reply(&desk.vhost.leftovers("full"), &first);
    desk.vhost.purge("full");
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{second}  answered")), "{finished}");
    assert_one_reply(&desk.vhost.leftovers("full"), &second);
}

/// The size of a reply in bytes, and a position within it that lies after the handshake.
const LARGE: u32 = 400_000;
const HALF: u64 = 200_000;

#[test]
fn a_connection_that_is_cut_within_the_reply() {
    let mut desk = Desk::with_script(&leaves_a_reply(LARGE));
    let proxy = Proxy::before(&desk.vhost);
    desk.site.set("RABBITMQ_HOST", proxy.url());
    let id = job_with_a_reply(&desk, RESULTS);
    proxy.break_next(Fault::Cut(HALF));
    let finished = desk.check().run();
    expect(&finished, 10, &[]);
    assert!(proxy.has_broken());
    assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "half a message is no message");
    assert_it_waits(&desk, &id);
    desk.check().run().success();
    assert_one_reply(&desk.vhost.leftovers(RESULTS), &id);
}

#[test]
fn a_reply_whose_confirmation_was_lost_is_not_sent_twice() {
    let mut desk = Desk::with_script(&leaves_a_reply(LARGE));
    let proxy = Proxy::before(&desk.vhost);
    desk.site.set("RABBITMQ_HOST", proxy.url());
    let id = job_with_a_reply(&desk, RESULTS);
    // A search for the reply in its queue must leave other replies there.
    let another = BasicProperties::default().with_correlation_id("another".into());
    desk.vhost.publish(RESULTS, b"{}", another);
    proxy.break_next(Fault::CutAnswer(HALF));
    let finished = desk.check().run();
    expect(&finished, 10, &[]);
    assert!(proxy.has_broken());
    assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
    assert_eq!(desk.vhost.waiting(RESULTS), Some(2), "the broker has it, and check does not know");
    assert_it_waits(&desk, &id);
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  answered")), "{finished}");
    let left = desk.vhost.leftovers(RESULTS);
    assert_eq!(left[0].correlation_id(), Some("another"));
    assert_one_reply(&left[1..], &id);
    assert_eq!(desk.record(&id), None);
}

#[test]
fn the_trainers_own_retries_leave_one_reply() {
    if program::run_trainer().is_none() {
        return;
    }
    let mut desk = Desk::new();
    let proxy = Proxy::before(&desk.vhost);
    desk.site.set("RABBITMQ_HOST", proxy.url());
    for (id, fault) in [("within", Fault::Cut(HALF)), ("after", Fault::CutAnswer(HALF))] {
        proxy.break_next(fault);
        let finished = trainer(&desk, id).run().success();
        assert!(proxy.has_broken() && finished.stderr.contains("trying again in"), "{finished}");
        assert_one_reply(&desk.vhost.leftovers(RESULTS), id);
        desk.vhost.purge(RESULTS);
    }
}

#[test]
fn a_broker_that_falls_silent_is_given_up_in_time_and_nothing_is_lost() {
    let mut desk = Desk::with_script(&leaves_a_reply(100));
    let proxy = Proxy::before(&desk.vhost);
    desk.site.set("RABBITMQ_HOST", proxy.url());
    let id = job_with_a_reply(&desk, RESULTS);
    let next = publish_job_for(&desk, RESULTS);
    proxy.break_next(Fault::Silence(0));
    let start = Instant::now();
    let finished = desk.check().run();
    assert!(start.elapsed() < SECONDS(50), "{:?}", start.elapsed());
    assert!(proxy.has_broken());
    expect(&finished, 4, &["can't reach RabbitMQ at", "took more than 20 s"]);
    assert_it_waits(&desk, &id);
    assert_eq!(desk.vhost.waiting(JOBS), Some(1));
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{id}  answered")), "{finished}");
    assert!(finished.stdout.contains(&format!("{next}  submitted")), "{finished}");
    desk.cluster.wait_for_end(&desk.slurm_job(&next), SECONDS(60));
    assert_one_reply(&desk.vhost.leftovers(RESULTS), &id);
}

#[test]
fn a_broker_that_restarts_between_a_job_and_its_reply() {
    let broker = Services::private(&[("PARTS", "broker"), ("VHOSTS", "1")]);
    let script = leaves_a_reply(100);
    let desk = Desk::on(broker.with_cluster_of(Services::shared()), Some(&script), Rodan::start());
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    desk.vhost.declare("durable", durable).unwrap();
    let early = job_with_a_reply(&desk, "durable");
    desk.check().run().success();
    let late = job_with_a_reply(&desk, RESULTS);
    let never_taken = publish_job_for(&desk, RESULTS);

    desk.services.service("stop", "broker");
    let finished = desk.check().run();
    expect(&finished, 4, &["can't reach RabbitMQ at 127.0.0.1:"]);
    assert_it_waits(&desk, &late);
    desk.services.service("start", "broker");

    // Rodan's queues are not durable: RabbitMQ forgets them, together with the jobs in them that
    // nobody has taken. We can't get those back; Rodan has to publish them again.
    assert!(!desk.vhost.queue_exists(JOBS) && !desk.vhost.queue_exists(RESULTS));
    assert_eq!(desk.record(&never_taken), None);
    let finished = desk.check().run().success();
    assert!(finished.stdout.contains(&format!("{late}  answered")), "{finished}");
    assert_one_reply(&desk.vhost.leftovers(RESULTS), &late);
    assert_one_reply(&desk.vhost.leftovers("durable"), &early);
    let finished = desk.check().run().success();
    assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("", ""));
}

#[test]
fn a_reply_over_the_brokers_own_limit_is_an_error_reply_that_names_it() {
    let settings = [("PARTS", "broker"), ("VHOSTS", "1"), ("MAX_MESSAGE_SIZE", "1048576")];
    let services = Services::private(&settings).with_cluster_of(Services::shared());
    let desk = Desk::on(services, Some(&leaves_a_reply(2_000_000)), Rodan::start());
    let id = job_with_a_reply(&desk, RESULTS);
    desk.check().run().success();
    let sentence = desk.error_reply(&id);
    assert!(sentence.contains("2000024 bytes, more than the 1048576"), "{sentence}");

    if program::run_trainer().is_none() {
        return;
    }
    trainer(&desk, "c-1").run().success();
    let sentence = desk.error_reply("c-1");
    assert!(sentence.starts_with("The models are trained but can't be sent"), "{sentence}");
    assert!(sentence.contains("more than the 1048576 that RabbitMQ takes"), "{sentence}");
}

#[test]
fn an_alarm_of_the_broker_holds_up_a_pass_for_seconds_only() {
    let broker = Services::private(&[("PARTS", "broker"), ("VHOSTS", "1")]);
    let script = leaves_a_reply(100);
    let desk = Desk::on(broker.with_cluster_of(Services::shared()), Some(&script), Rodan::start());
    let ids = [publish_job_for(&desk, RESULTS), publish_job_for(&desk, RESULTS)];
    desk.check().args(["--max-jobs", "2"]).run().success();
    for id in &ids {
        desk.cluster.wait_for_end(&desk.slurm_job(id), SECONDS(60));
    }
    let ctl = |arguments: &[&str]| {
        let ctl = desk.services.directory().join("broker/ctl");
        let output = std::process::Command::new(ctl).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    support::wait_for("the alarm", SECONDS(60), || {
        ctl(&["eval", "rabbit_alarm:get_alarms()."]).contains("memory").then_some(())
    });
    let start = Instant::now();
    let finished = desk.check().args(["--max-jobs", "0"]).limit(SECONDS(240)).run();
    let took = start.elapsed();
    expect(&finished, 10, &[]);
    for id in &ids {
        assert!(finished.stdout.contains(&format!("{id}  waiting")), "{finished}");
        assert_it_waits(&desk, id);
    }
    assert!(finished.stdout.contains("takes no messages for now"), "{finished}");
    assert!(took < SECONDS(60), "{took:?} for both, not three minutes for each");
    ctl(&["set_vm_memory_high_watermark", "0.4"]);
    support::wait_for("the replies", SECONDS(60), || {
        desk.check().args(["--max-jobs", "0"]).run();
        ids.iter().all(|id| !desk.directory(id).exists()).then_some(())
    });
    let replies = desk.vhost.leftovers(RESULTS);
    assert_eq!(replies.len(), 2, "one reply for each");
}
