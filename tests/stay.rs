//! `check --stay`: it passes as soon as a message comes, tells systemd how it is, survives a broker
//! that is restarted, and ends between two steps. Jobs run on this host, which is quickest.

use crate::support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use support::SECONDS;
use support::asker::Asker;
use support::broker::JOBS;
use support::desk::{Desk, job};
use support::program::{Program, Running};
use support::rodan::Rodan;
use support::services::Services;

/// So long that no test waits for it: what happens before comes from a message.
const LONG: &str = "3600";

fn desk(services: Services) -> Desk {
    let desk = desk_without_queues(services);
    desk.vhost.declare_queues();
    desk
}

fn desk_without_queues(services: Services) -> Desk {
    let mut desk = Desk::on(services, Some("exit 3"), Rodan::start());
    desk.site.set("SCHEDULER", "local").set("WATCHER", "0").set("SITE_SLURM_BIN", "no-slurm");
    desk
}

/// What systemd hears.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(desk: &Desk) -> (Self, std::path::PathBuf) {
        let path = desk.site.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SECONDS(60))).unwrap();
        (Self(socket), path)
    }

    /// The next thing that it hears.
    fn next(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer).expect("something within a minute");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn wait_for(&self, what: &str) {
        let end = Instant::now() + SECONDS(60);
        while self.next() != what {
            assert!(Instant::now() < end, "systemd hears no {what}");
        }
    }
}

fn stay(desk: &Desk, seconds: &str) -> Program {
    desk.check().args(["--stay", seconds]).limit(SECONDS(240))
}

/// Waits until a job is submitted, or was already answered.
fn wait_until_taken(desk: &Desk, id: &str) {
    support::wait_for(&format!("{id} to be submitted"), SECONDS(60), || {
        let open = desk.record(id).is_some_and(|record| !record["slurm_id"].is_null());
        let done = desk.site.spool().join("done").join(id).exists();
        (open || done).then_some(())
    });
}

#[track_caller]
fn ends_well(running: Running) {
    running.signal("TERM");
    let finished = running.wait();
    assert_eq!(finished.code(), Some(0), "{finished}");
}

#[test]
fn a_message_is_taken_at_once_and_a_signal_ends_it() {
    let desk = desk(Services::shared());
    let (systemd, socket) = Systemd::listen(&desk);
    let running = stay(&desk, LONG).env("NOTIFY_SOCKET", &socket).start();
    systemd.wait_for("READY=1");
    for _ in 0..2 {
        let id = desk.vhost.publish_job(&job());
        wait_until_taken(&desk, &id);
        assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    }
    // The lock is held only during a pass: this looks and changes nothing, and that waits for it.
    desk.check().arg("status").run().success();
    running.signal("TERM");
    systemd.wait_for("STOPPING=1");
    let finished = running.wait();
    assert_eq!(finished.code(), Some(0), "{finished}");
    assert_eq!(finished.stdout.matches("submitted").count(), 2, "{finished}");
    assert!(!desk.site.spool().join("lock.holder").exists());
}

/// A message without a correlation id is known only by its content, and only where the broker says
/// that it hands the message out again. Two equal ones are two jobs.
#[test]
fn two_equal_messages_without_an_id_are_two_jobs() {
    let desk = desk(Services::shared());
    let (systemd, socket) = Systemd::listen(&desk);
    let running = stay(&desk, LONG).env("NOTIFY_SOCKET", &socket).start();
    systemd.wait_for("READY=1");
    let taken = |count: usize| {
        support::wait_for(&format!("{count} jobs"), SECONDS(60), || {
            let directories = ["jobs", "done"].map(|name| desk.site.spool().join(name));
            let files = directories.iter().flat_map(|directory| desk.site.files_below(directory));
            let records = files.filter(|file| file.ends_with("record.json")).count();
            (records == count).then_some(())
        });
    };
    for count in 1..=2 {
        let properties = lapin::BasicProperties::default().with_reply_to("hpc-results".into());
        desk.vhost.publish(JOBS, job().to_string().as_bytes(), properties);
        taken(count);
    }
    ends_well(running);
}

#[test]
fn systemd_hears_that_an_idle_check_is_alive() {
    let desk = desk(Services::shared());
    let (systemd, socket) = Systemd::listen(&desk);
    let running =
        stay(&desk, LONG).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000").start();
    systemd.wait_for("READY=1");
    // Passes tell it too, but there is only one here.
    for _ in 0..20 {
        systemd.wait_for("WATCHDOG=1");
    }
    ends_well(running);
}

#[test]
fn without_messages_it_passes_after_the_time() {
    let desk = desk(Services::shared());
    let running = stay(&desk, "1").start();
    let lock = desk.site.spool().join("lock");
    let modified = || std::fs::metadata(lock.parent().unwrap()).and_then(|m| m.modified()).ok();
    support::wait_for("the first pass", SECONDS(60), || lock.exists().then_some(()));
    for _ in 0..2 {
        let before = modified();
        support::wait_for("another pass", SECONDS(60), || (modified() != before).then_some(()));
    }
    ends_well(running);
}

/// A message that can't be taken stays in the queue, where others see it, and is taken once there
/// is room.
#[test]
fn a_message_that_can_not_be_taken_is_not_held() {
    let mut desk = desk(Services::shared());
    desk.site.set("MAX_OPEN_JOBS", "1");
    desk.use_script(
        "#!/bin/bash\nuntil [ -e \"$HPC_TRAINER_HOME/go\" ]; do sleep 0.1; done; exit 3\n",
    );
    let running = stay(&desk, "2").start();
    let first = desk.vhost.publish_job(&job());
    wait_until_taken(&desk, &first);
    let second = desk.vhost.publish_job(&job());
    let end = Instant::now() + SECONDS(5);
    support::wait_for("the message to lie in the queue", SECONDS(30), || {
        (desk.vhost.waiting(JOBS) == Some(1)).then_some(())
    });
    while Instant::now() < end {
        assert_eq!(desk.vhost.waiting(JOBS), Some(1), "it stays there");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::fs::write(desk.site.path().join("go"), "").unwrap();
    wait_until_taken(&desk, &second);
    ends_well(running);
}

/// A request of an asker wakes it too, and is read at once.
#[test]
fn a_request_to_cancel_is_read_at_once() {
    let mut desk = desk_without_queues(Services::shared());
    // The job's end is told at once too.
    desk.site.set("WATCHER", "1");
    desk.use_script("#!/bin/bash\nexec sleep 300\n");
    let asker = Asker::ask(&desk.vhost, &job());
    // The queue of requests is there before anybody waits for one.
    asker.request("no request");
    let (systemd, socket) = Systemd::listen(&desk);
    let running = stay(&desk, LONG).env("NOTIFY_SOCKET", &socket).start();
    systemd.wait_for("READY=1");
    wait_until_taken(&desk, &asker.id);
    asker.cancel();
    let heard = asker.wait_for_end(SECONDS(60));
    heard.assert_sound();
    assert_eq!(heard.end()["cause"], "cancelled", "{}", heard.end());
    ends_well(running);
}

/// Each delivery counts in a quorum queue, and the message is dropped after its limit: one that
/// waits in the queue, or is taken, is handed out once.
#[test]
fn a_job_in_a_quorum_queue_is_handed_out_once() {
    let desk = desk_without_queues(Services::shared());
    // Handed out again, a job would be lost.
    desk.vhost.declare_quorum(JOBS, 0);
    let (systemd, socket) = Systemd::listen(&desk);
    let running = stay(&desk, "1").env("NOTIFY_SOCKET", &socket).start();
    systemd.wait_for("READY=1");
    for id in ["q-1", "q-2"] {
        let properties = lapin::BasicProperties::default()
            .with_correlation_id(id.into())
            .with_reply_to("hpc-results".into());
        desk.vhost.publish_to(JOBS, job().to_string().as_bytes(), properties);
        wait_until_taken(&desk, id);
    }
    assert_eq!(desk.vhost.waiting(JOBS), Some(0));
    ends_well(running);
}

#[test]
fn it_goes_on_after_the_broker_was_restarted() {
    let broker = Services::private(&[("PARTS", "broker"), ("VHOSTS", "1")]);
    let desk = desk(broker.with_cluster_of(Services::shared()));
    let running = stay(&desk, "5").start();
    let first = desk.vhost.publish_job(&job());
    wait_until_taken(&desk, &first);
    desk.services.service("stop", "broker");
    // Some passes find no broker.
    std::thread::sleep(SECONDS(4));
    desk.services.service("start", "broker");
    let second = desk.vhost.publish_job(&job());
    wait_until_taken(&desk, &second);
    running.signal("TERM");
    let finished = running.wait();
    assert_eq!(finished.code(), Some(0), "{finished}");
    assert!(finished.stderr.contains("RabbitMQ"), "it says what is wrong\n{finished}");
}
