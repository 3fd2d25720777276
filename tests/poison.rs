//! Messages that are no jobs between others that are, and replies that can't be delivered. Real
//! RabbitMQ, real Slurm.

use crate::support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use lapin::BasicProperties;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;

use support::SECONDS;
use support::broker::{CONTROL, JOBS, RESULTS, Vhost};
use support::desk::{Desk, job};
use support::program::expect;
use support::rodan::Rodan;
use support::services::Services;

fn properties(id: &str, reply_to: &str) -> BasicProperties {
    BasicProperties::default().with_reply_to(reply_to.into()).with_correlation_id(id.into())
}

/// Messages that no program should fail on.
fn bodies() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "true",
        "7",
        "[]",
        "{}",
        "\"job\"",
        "{\"inputs\": {}}",
        "{\"settings\": {}}",
        "{\"inputs\": 7",
        "{\"inputs\": {\"Image\": 7}, \"settings\": {}}",
        "{\"inputs\": {}, \"settings\": []}",
        "NaN",
        "{\"a\":1}{\"b\":2}",
        "{\"inputs\":{},\"inputs\":{}}",
        "\u{feff}{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    bodies.push(vec![0xff, 0xfe, 0x00]);
    bodies.push(b"{\"inputs\": \"\xc3\x28\"}".to_vec());
    bodies.push("[".repeat(100_000).into_bytes());
    bodies.push("{\"a\":".repeat(10_000).into_bytes());
    bodies.push(format!("{{\"inputs\": {{\"Image\": \"{}\"}}}}", "x".repeat(1 << 20)).into_bytes());
    bodies.push(format!("{{\"{}\": 1}}", "k".repeat(500_000)).into_bytes());
    bodies.push(format!("[{}1]", "1,".repeat(200_000)).into_bytes());
    bodies.push(b"{\"inputs\": 1e999999999}".to_vec());
    bodies
}

#[test]
fn fifty_messages_of_which_every_other_is_a_job() {
    let mut desk = Desk::with_script("exit 0");
    desk.site.set("SITE_GRES", "none");
    let bodies = bodies();
    assert_eq!(bodies.len(), 25);
    let mut messages = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        // Errors for queues that can't be: of a connection that is gone, with a reserved name, and
        // our own job queue.
        let reply_to = ["amq.gen-gone", RESULTS, "amq.evil", RESULTS, JOBS][number % 5];
        messages.push((properties(&format!("poison-{number}"), reply_to), body.clone()));
        messages
            .push((properties(&format!("job-{number}"), RESULTS), job().to_string().into_bytes()));
    }
    desk.vhost.publish_all(JOBS, messages);
    let finished = desk.check().args(["--max-jobs", "80"]).limit(SECONDS(200)).run();
    assert!(matches!(finished.code(), Some(8 | 10)), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0), "{finished}");
    assert_eq!(finished.stdout.matches("  submitted  ").count(), 25, "{finished}");
    let given_up =
        finished.stdout.lines().filter(|line| line.contains("can't be delivered, and is given up"));
    assert_eq!(given_up.count(), 10, "{finished}");
    // The replies that came back into our own queue are messages that are no jobs, and end there.
    assert_eq!(fs::read_dir(desk.site.spool().join("rejected")).unwrap().count(), 30, "{finished}");
    for path in desk.site.files_below(&desk.site.spool().join("rejected")) {
        assert!(fs::metadata(&path).unwrap().len() <= 1 << 20, "{}", path.display());
    }

    support::wait_for("the end of the jobs", SECONDS(120), || {
        desk.check().args(["--max-jobs", "80"]).run();
        (fs::read_dir(desk.site.spool().join("jobs")).unwrap().count() == 0).then_some(())
    });
    let mut answered = Vec::new();
    desk.vhost.receive_all(25 + 10 + 5, SECONDS(60), |message| {
        let sentence = message.json()["error"].as_str().unwrap().to_owned();
        assert!(sentence.chars().count() < 4100, "{sentence}");
        answered.push(message.correlation_id().unwrap().to_owned());
    });
    assert_eq!(answered.iter().filter(|id| id.starts_with("job-")).count(), 25);
    assert_eq!(desk.vhost.waiting(RESULTS), Some(0), "one answer each");
    desk.check().run().success();
}

#[test]
fn a_reply_that_no_queue_takes_holds_up_nothing_and_is_given_up() {
    let mut desk = Desk::with_script("exit 0");
    // A queue without room.
    desk.vhost.declare_with_room_for(0, "full");
    desk.site.set("MAX_OPEN_JOBS", "2").set("GIVE_UP_HOURS", "1");
    let messages = (0..5).map(|n| (properties(&format!("poison-{n}"), "full"), b"no job".to_vec()));
    desk.vhost.publish_all(JOBS, messages.collect());
    desk.vhost.publish_job(&job());
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    assert!(finished.stdout.contains("  submitted  "), "the job behind them is taken: {finished}");
    assert_eq!(finished.stdout.matches("  waiting  ").count(), 5, "{finished}");
    // After the time for which anything waits, they are filed away.
    desk.site.set("GIVE_UP_HOURS", "0");
    let finished = desk.check().args(["--max-jobs", "0"]).run();
    assert_eq!(
        finished.stdout.matches("can't be delivered, and is given up").count(),
        5,
        "{finished}"
    );
    let left = desk.site.files_below(&desk.site.spool().join("jobs"));
    assert!(!left.iter().any(|path| path.to_string_lossy().contains("poison")), "{left:?}");
    // But the reply of a job that has run waits for room.
    let id = desk.vhost.publish_job(&job());
    let ours = properties(&format!("ran-{id}"), "full");
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), ours);
    desk.site.set("MAX_OPEN_JOBS", "9");
    desk.site.set("GIVE_UP_HOURS", "6");
    desk.check().args(["--max-jobs", "9"]).run();
    desk.cluster.wait_for_end(&desk.slurm_job(&format!("ran-{id}")), SECONDS(60));
    desk.site.set("GIVE_UP_HOURS", "0");
    let finished = support::wait_for("its reply to be refused", SECONDS(60), || {
        let finished = desk.check().args(["--max-jobs", "0"]).run();
        finished.to_string().contains("negative confirmation").then_some(finished)
    });
    assert!(desk.directory(&format!("ran-{id}")).exists(), "{finished}");
    desk.vhost.delete("full");
    desk.vhost.declare("full", QueueDeclareOptions::default()).unwrap();
    desk.check().args(["--max-jobs", "0"]).run();
    assert_eq!(desk.vhost.leftovers("full").len(), 1);
}

/// Publishes over a connection on which this text is replaced by bytes that are not UTF-8, as a
/// client in another language could send them; `lapin` can't.
fn publish_with_broken_text(
    vhost: &Vhost,
    queue: &str,
    marker: &str,
    properties: BasicProperties,
    body: &[u8],
) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let door = listener.local_addr().unwrap().to_string();
    let (broker, marker) = (vhost.address(), marker.as_bytes().to_vec());
    std::thread::spawn(move || {
        let Ok((client, _)) = listener.accept() else { return };
        let server = TcpStream::connect(broker).unwrap();
        let (mut from_server, mut to_client) =
            (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from_server, &mut to_client)));
        let (mut client, mut server, mut bytes) = (client, server, [0; 1 << 16]);
        while let Ok(count @ 1..) = client.read(&mut bytes) {
            let piece = &mut bytes[..count];
            while let Some(at) = piece.windows(marker.len()).position(|window| window == marker) {
                piece[at..at + marker.len()].fill(0xff);
            }
            if server.write_all(piece).is_err() {
                break;
            }
        }
    });
    vhost.publish_at(&door, queue, body, properties);
}

#[test]
fn a_property_that_is_no_text_does_not_stop_the_intake() {
    let desk = Desk::with_script("exit 0");
    desk.vhost.declare_queues();
    for marker in ["MARKER-IN-THE-ID", "MARKER-IN-THE-QUEUE"] {
        let bad = properties("id-MARKER-IN-THE-ID", "queue-MARKER-IN-THE-QUEUE");
        publish_with_broken_text(&desk.vhost, JOBS, marker, bad, job().to_string().as_bytes());
    }
    let id = desk.vhost.publish_job(&job());
    assert_eq!(desk.vhost.waiting(JOBS), Some(3));
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    assert_eq!(finished.code(), Some(8), "{finished}");
    assert_eq!(
        finished.stderr.matches("can't be read, let alone answered: it is dropped").count(),
        2,
        "{finished}"
    );
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    desk.check().args(["--max-jobs", "0"]).run();
}

#[test]
fn a_property_that_is_no_text_does_not_stop_the_requests() {
    let desk = Desk::with_script("exit 0");
    let id = desk.vhost.publish_job(&job());
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    desk.vhost.declare(CONTROL, durable).unwrap();
    let cancel = json!({"cancel": id, "reply_to": RESULTS}).to_string();
    for marker in ["MARKER-IN-THE-ID", "MARKER-IN-THE-QUEUE"] {
        let bad = properties("id-MARKER-IN-THE-ID", "queue-MARKER-IN-THE-QUEUE");
        publish_with_broken_text(&desk.vhost, CONTROL, marker, bad, cancel.as_bytes());
    }
    desk.vhost.publish_to(CONTROL, cancel.as_bytes(), BasicProperties::default());
    assert_eq!(desk.vhost.waiting(CONTROL), Some(3));
    let looked = desk.check().args(["doctor", "--no-download"]).limit(SECONDS(120)).run();
    assert!(looked.stdout.contains("the next pass of check drops it"), "{looked}");
    assert_eq!(desk.vhost.waiting(CONTROL), Some(3), "the doctor takes nothing");
    let finished = desk.check().run();
    expect(&finished, 9, &[]);
    let dropped = finished.stderr.matches("a request can't be read: it is dropped").count();
    assert_eq!(dropped, 2, "{finished}");
    assert_eq!(desk.vhost.waiting(CONTROL), Some(0), "{finished}");
    assert!(!finished.stdout.contains("  submitted"), "the request behind them counts: {finished}");
    assert!(desk.error_reply(&id).contains("cancelled"), "{finished}");
}

#[test]
fn properties_larger_than_a_frame_do_not_stop_the_intake() {
    let larger_frames = "frame_max = 262144";
    let broker =
        Services::private(&[("PARTS", "broker"), ("VHOSTS", "2"), ("BROKER_EXTRA", larger_frames)]);
    let desk = Desk::on(broker.with_cluster_of(Services::shared()), Some("exit 0"), Rodan::start());
    desk.vhost.declare_queues();
    let mut headers = FieldTable::default();
    headers.insert("x-long".into(), AMQPValue::LongString("x".repeat(150_000).into()));
    let bad = properties("too-large", RESULTS).with_headers(headers);
    desk.vhost.publish(JOBS, job().to_string().as_bytes(), bad);
    let id = desk.vhost.publish_job(&job());
    let finished = desk.check().args(["--max-jobs", "9"]).run();
    assert_eq!(finished.code(), Some(8), "{finished}");
    assert!(
        finished.stderr.contains("can't be read, let alone answered: it is dropped"),
        "{finished}"
    );
    assert!(finished.stdout.contains(&format!("{id}  submitted")), "{finished}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0));
}
