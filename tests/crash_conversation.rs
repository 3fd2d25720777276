//! The programs are killed at every point that they pass in a conversation, and started again: one
//! end, models whole, copies with the ids of the first, one Slurm job, nothing left over. Real
//! RabbitMQ, real Slurm, the stand-in Rodan.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;

use contract::wire::conversation::{End, JobDone, ModelEntry, Times, Used, reply_queue, sha256};
use serde_json::json;

use crate::crash::{
    dying, dying_script, groups, log_of, points, points_of_trainer, settle, train_and_die,
};
use support::SECONDS;
use support::asker::{Asker, Heard};
use support::broker::{CONTROL, JOBS};
use support::desk::{Desk, job, with_setting};
use support::rodan::Rodan;
use support::services::Services;

/// What a case comes to when nothing crashes.
struct Expected {
    /// How many Slurm jobs there may be.
    slurm_jobs: std::ops::RangeInclusive<usize>,
    /// The end's cause; nothing for models.
    cause: Option<&'static str>,
    /// Whether the asker is still there to be answered.
    answered: bool,
}

/// One end for the asker, nothing left in the queues and in the spool.
fn assert_settled(desk: &Desk, id: &str, queue: &str, expected: &Expected, what: &str) {
    if expected.answered {
        assert_heard(&Asker::known(&desk.vhost, id, queue).heard(), expected.cause, what);
    } else {
        assert!(!desk.vhost.queue_exists(queue), "{what}: the queue was declared again");
    }
    assert_nothing_left(desk, id, expected, what);
}

/// One end, with this cause, or models.
fn assert_heard(heard: &Heard, cause: Option<&str>, what: &str) {
    assert!(!heard.messages.is_empty(), "nothing was told after {what}");
    heard.assert_sound();
    match cause {
        Some(cause) => assert_eq!(heard.end()["cause"], cause, "{what}"),
        None => heard.assert_models(&["Background Model", "Model 0"]),
    }
}

/// The right number of Slurm jobs, and nothing in the other queues and in the spool.
fn assert_nothing_left(desk: &Desk, id: &str, expected: &Expected, what: &str) {
    assert_eq!(desk.vhost.waiting(JOBS), Some(0), "no message is left after {what}");
    assert_eq!(desk.vhost.waiting(CONTROL).unwrap_or(0), 0, "no request is left after {what}");
    let jobs = desk.cluster.jobs_named(&format!("hpct-{id}")).len();
    assert!(expected.slurm_jobs.contains(&jobs), "{jobs} submissions after {what}");
    let done = desk.site.spool().join("done").join(id);
    for file in ["outbox", "reply.json", "job.json", "checkpoint"] {
        assert!(!done.join(file).exists(), "{file} is left after {what}");
    }
    let open = fs::read_dir(desk.site.spool().join("jobs")).unwrap();
    let left: Vec<_> = open.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?} are left after {what}");
}

/// Kills `check` at each point of one pass, each time with a new job that `prepare` brings to this
/// state.
fn every_point_of_check(
    what: &str,
    expected: Expected,
    prepare: impl Fn() -> (Desk, String, String),
) {
    let (desk, id, queue) = prepare();
    dying(desk.check(), 0, &log_of(&desk));
    let names = points(&log_of(&desk));
    assert!(names.len() > 5, "{names:?}");
    end(&desk, &id);
    assert_settled(&desk, &id, &queue, &expected, "no crash at all");
    let mut died = 0;
    for (number, name) in (1..).zip(&names) {
        let (desk, id, queue) = prepare();
        let killed = dying(desk.check(), number, &log_of(&desk));
        // How fast Slurm is decides how many points there are; a pass that has fewer dies nowhere.
        if killed.code().is_none() {
            died += 1;
        }
        end(&desk, &id);
        assert_settled(
            &desk,
            &id,
            &queue,
            &expected,
            &format!("a crash at point {number}, {name}"),
        );
    }
    assert!(died * 10 >= names.len() * 9, "{died} of {} died", names.len());
    eprintln!("{what}: {} points, {died} deaths, 0 lost, 0 doubled: {names:?}", names.len());
}

/// Passes as cron starts them, with time for Slurm in between.
fn end(desk: &Desk, id: &str) {
    let done = desk.site.spool().join("done").join(id);
    for _ in 0..3 {
        if done.exists() {
            break;
        }
        desk.check().limit(SECONDS(60)).run();
        for number in desk.cluster.jobs_named(&format!("hpct-{id}")) {
            let state = desk.cluster.job(&number).map(|job| job["JobState"].clone());
            if state.as_deref() != Some("RUNNING") {
                desk.cluster.wait_for_end(&number, SECONDS(60));
            }
        }
    }
    settle(desk, id);
}

fn asked(desk: &Desk, job: &serde_json::Value) -> (String, String) {
    let asker = Asker::ask(&desk.vhost, job);
    (asker.id.clone(), asker.queue.clone())
}

#[test]
fn check_dies_while_it_takes_and_submits_a_job() {
    let expected = Expected { slurm_jobs: 1..=1, cause: Some("training"), answered: true };
    every_point_of_check("check: take, tell, submit", expected, || {
        let desk = Desk::with_script("exit 3");
        let (id, queue) = asked(&desk, &job());
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_answers_a_failed_job() {
    let expected = Expected { slurm_jobs: 1..=1, cause: Some("training"), answered: true };
    every_point_of_check("check: answer a failed job", expected, || {
        let desk = Desk::with_script("exit 3");
        let (id, queue) = asked(&desk, &job());
        desk.check().run().success();
        desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_gives_a_job_more_memory() {
    if !Services::can_have_cgroups() {
        eprintln!("no cgroups of version 1 to write to: out of memory was not tested");
        return;
    }
    let cluster = Services::private(&[("PARTS", "slurm"), ("NODES", "1"), ("CGROUP", "1")]);
    // Taking all of a gigabyte, time and again, would take seconds of a core: the job has less.
    let script = "[ \"$SLURM_MEM_PER_NODE\" -lt 2000 ] || exit 3\n\
                  own=$(sed -n 's/.*:memory://p' /proc/self/cgroup)\n\
                  echo 64M >\"/sys/fs/cgroup/memory$own/memory.limit_in_bytes\" || exit 4\n\
                  exec perl -e '$x = \"a\" x 1e8'";
    let mut asks = job();
    asks["settings"].as_object_mut().unwrap().remove("Maximum memory (MB)");
    // The first has too little, the second fails for another reason.
    let expected = Expected { slurm_jobs: 2..=2, cause: Some("training"), answered: true };
    every_point_of_check("check: more memory", expected, || {
        let services = Services::shared().with_cluster_of(cluster.lent());
        let mut desk = Desk::on(services, Some(script), Rodan::start());
        desk.site.set("SITE_GRES", "none");
        let (id, queue) = asked(&desk, &asks);
        desk.check().run().success();
        let ended = desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
        assert_eq!(ended["JobState"], "OUT_OF_MEMORY");
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_answers_a_message_that_is_no_job() {
    let expected = Expected { slurm_jobs: 0..=0, cause: Some("message"), answered: true };
    every_point_of_check("check: answer a bad message", expected, || {
        let desk = Desk::with_script("exit 0");
        let (id, queue) = asked(&desk, &with_setting("CPUs", json!("many")));
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_sends_the_models_that_a_trainer_left() {
    let expected = Expected { slurm_jobs: 1..=1, cause: None, answered: true };
    every_point_of_check("check: send models and their end", expected, || {
        let desk = Desk::with_script("exit 10");
        let (id, queue) = asked(&desk, &job());
        desk.check().run().success();
        desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
        leave_models(&desk, &id);
        (desk, id, queue)
    });
}

/// What a trainer on a node without a route to the broker has left.
fn leave_models(desk: &Desk, id: &str) {
    let outbox = desk.directory(id).join("outbox");
    fs::create_dir(&outbox).unwrap();
    let models = ["Background Model", "Model 0"].map(|name| {
        let file = [b"\x89HDF\r\n\x1a\n", name.as_bytes()].concat();
        fs::write(outbox.join(format!("{name}.hdf5")), &file).unwrap();
        ModelEntry { name: name.into(), sha256: sha256(&file), size: file.len() as u64 }
    });
    let done = JobDone {
        at: "2026-11-01T10:00:00Z".parse().unwrap(),
        models: models.into(),
        figures: Vec::new(),
        times: Times::default(),
        seed: 1,
        log: Vec::new(),
        asked: None,
        used: Used::default(),
    };
    fs::write(desk.directory(id).join("reply.json"), End::Done(done).body()).unwrap();
}

#[test]
fn check_dies_while_it_reads_a_cancel_of_a_job_that_waits_in_rabbitmq() {
    let expected = Expected { slurm_jobs: 0..=0, cause: Some("cancelled"), answered: true };
    every_point_of_check("check: cancel before the job", expected, || {
        let desk = Desk::with_script("exit 0");
        let asker = Asker::ask(&desk.vhost, &job());
        asker.cancel();
        let (id, queue) = (asker.id.clone(), asker.queue.clone());
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_cancels_a_job_that_runs() {
    let expected = Expected { slurm_jobs: 1..=1, cause: Some("cancelled"), answered: true };
    every_point_of_check("check: cancel a running job", expected, || {
        let desk = Desk::with_script("exec sleep 300");
        let (id, queue) = asked(&desk, &job());
        desk.check().run().success();
        desk.cluster.wait_for_state(&desk.slurm_job(&id), &["RUNNING"], SECONDS(60));
        Asker::known(&desk.vhost, &id, &queue).cancel();
        (desk, id, queue)
    });
}

#[test]
fn check_dies_while_it_gives_up_a_job_that_nobody_asks_for() {
    let expected = Expected { slurm_jobs: 1..=1, cause: None, answered: false };
    every_point_of_check("check: abandoned", expected, || {
        let desk = Desk::with_script("exec sleep 300");
        let (id, queue) = asked(&desk, &job());
        desk.check().run().success();
        desk.cluster.wait_for_state(&desk.slurm_job(&id), &["RUNNING"], SECONDS(60));
        Asker::known(&desk.vhost, &id, &queue).leave();
        (desk, id, queue)
    });
}

/// The trainer (or the process that tells for it) dies at a point of its own; Slurm and `check` do
/// the rest.
fn every_point_of_the_trainer(whose: &str) {
    let one_job = Expected { slurm_jobs: 1..=1, cause: None, answered: true };
    let run = |at: Vec<usize>, names: &[String]| {
        let desk = Desk::with_script(&dying_script(whose));
        let asked = desk.short_job();
        let jobs = train_and_die(&desk, at, || Asker::ask(&desk.vhost, &asked).id);
        for job in &jobs {
            let what = match job.at.checked_sub(1) {
                Some(index) => format!("a crash at point {}, {}", job.at, names[index]),
                None => "no crash at all".into(),
            };
            let heard = Asker::known(&desk.vhost, &job.id, &reply_queue(&job.id)).heard();
            let has_models = heard.end().get("models").is_some();
            if job.at == 0 {
                assert_eq!(job.state, "COMPLETED", "{}", desk.log(&job.id));
            }
            // What tells for the trainer can die without any harm.
            assert!(has_models || (job.at > 0 && whose.is_empty()), "{what}");
            assert_heard(&heard, (!has_models).then_some("training"), &what);
            assert_nothing_left(&desk, &job.id, &one_job, &what);
        }
        points_of_trainer(&desk, &jobs[0].id)
    };
    let names = run(vec![0], &[]);
    assert!(names.len() > 5, "{names:?}");
    for group in groups(&names) {
        run(group, &names);
    }
    eprintln!("trainer {whose}: {} points, {} runs: {names:?}", names.len(), names.len() + 1);
}

#[test]
fn the_trainer_dies_wherever_it_may() {
    every_point_of_the_trainer("");
}

#[test]
fn what_tells_for_the_trainer_dies_wherever_it_may() {
    every_point_of_the_trainer("COURIER_");
}
