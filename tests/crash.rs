//! The programs are killed at every crash point (before and after each write to the spool, each
//! acknowledgement, log-in, sbatch, publish and confirmation), and started again as cron or Slurm
//! would do it. The result is always one Slurm job, one reply, and nothing left over. Real
//! RabbitMQ, real Slurm, the stand-in Rodan.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::json;

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, with_setting};
use support::program::{Finished, Program};

/// The crash points that a program has passed, by name, in order.
pub(crate) fn points(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(' ')).map(|(_, name)| name.to_owned()).collect()
}

/// Runs a program that dies at point `at`; 0 only lists the points.
pub(crate) fn dying(program: Program, at: usize, log: &Path) -> Finished {
    let _ = fs::remove_file(log);
    program.env("HPC_TRAINER_DIE_AT", at.to_string()).env("HPC_TRAINER_DIE_LOG", log).run()
}

/// A new file for each run, which says at which point a program died.
pub(crate) fn log_of(desk: &Desk) -> std::path::PathBuf {
    desk.site.path().join("points.txt")
}

/// Passes of `check`, as cron starts them, until the job is filed away.
pub(crate) fn settle(desk: &Desk, id: &str) {
    let done = desk.site.spool().join("done").join(id);
    support::wait_for("the job to be answered", SECONDS(60), || {
        let pass = desk.check().limit(SECONDS(60)).run();
        let fine = matches!(pass.code(), Some(0 | 6 | 8 | 9 | 10));
        assert!(fine, "{pass}");
        done.exists().then_some(())
    });
    desk.check().run().success();
    // Slurm may start the watcher of a failed job seconds after the failure. Once it is over,
    // nobody else takes the lock.
    for watcher in desk.cluster.jobs_named(&format!("hpcw-{id}")) {
        desk.cluster.wait_for_end(&watcher, SECONDS(60));
    }
    let holder = desk.site.spool().join("lock.holder");
    support::wait_for("the lock to be given back", SECONDS(60), || {
        (!holder.exists()).then_some(())
    });
}

/// Asserts that there is one reply in its queue, one Slurm job (or none, if it never came to that),
/// and nothing left in the spool.
fn assert_one_of_each(desk: &Desk, id: &str, slurm_jobs: usize, what: &str) {
    let replies = desk.vhost.leftovers(RESULTS);
    assert_eq!(replies.len(), 1, "replies after {what}");
    assert_eq!(replies[0].correlation_id(), Some(id), "{what}");
    assert_eq!(desk.vhost.waiting(JOBS), Some(0), "no message is left after {what}");
    assert_eq!(
        desk.cluster.jobs_named(&format!("hpct-{id}")).len(),
        slurm_jobs,
        "submissions after {what}"
    );
    let done = desk.site.spool().join("done").join(id);
    for file in desk.site.files_below(&desk.site.spool()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let kept = [
            "record.json",
            "message.json",
            "claim",
            "started",
            "delivered",
            "progress.json",
            "report.html",
            "failure",
        ];
        let expected = file == desk.site.spool().join("lock")
            || (file.parent() == Some(&done) && kept.contains(&name.as_str()))
            || file.parent() == Some(&desk.site.spool().join("rejected"));
        assert!(expected, "{} is left after {what}", file.display());
    }
    let token = &desk.rodan.setup().token;
    let holds_token =
        |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap()).contains(token);
    assert!(!desk.site.files_below(&desk.site.spool()).iter().any(|f| holds_token(f)), "{what}");
}

/// A job that is over for Slurm, and that waits for the pass that answers it.
fn ended_job(script: &str) -> (Desk, String) {
    let desk = Desk::with_script(script);
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    (desk, id)
}

/// Kills `check` at each point of one pass, each time with a new job that `prepare` brings to this
/// state.
fn every_point_of_check(what: &str, slurm_jobs: usize, prepare: impl Fn() -> (Desk, String)) {
    let (desk, id) = prepare();
    let whole = dying(desk.check(), 0, &log_of(&desk));
    let names = points(&log_of(&desk));
    assert!(names.len() > 5, "{names:?}");
    settle_after_slurm(&desk, &id, slurm_jobs);
    assert_one_of_each(&desk, &id, slurm_jobs, "no crash at all");
    for (number, name) in (1..).zip(&names) {
        let (desk, id) = prepare();
        let killed = dying(desk.check(), number, &log_of(&desk));
        assert_eq!(killed.code(), None, "point {number}, {name}: check should have died\n{killed}");
        let passed = points(&log_of(&desk));
        assert_eq!(passed, names[..number], "other points than in this pass:\n{whole}\n{killed}");
        settle_after_slurm(&desk, &id, slurm_jobs);
        assert_one_of_each(&desk, &id, slurm_jobs, &format!("a crash at point {number}, {name}"));
    }
    eprintln!(
        "{what}: {} points, {} runs, 0 lost, 0 doubled: {names:?}",
        names.len(),
        names.len() + 1
    );
}

/// The next pass finds or submits the job; once Slurm has finished with it, further passes answer
/// it.
fn settle_after_slurm(desk: &Desk, id: &str, slurm_jobs: usize) {
    if slurm_jobs > 0 {
        let number = support::wait_for("the Slurm job", SECONDS(60), || {
            let jobs = desk.cluster.jobs_named(&format!("hpct-{id}"));
            if jobs.is_empty() {
                desk.check().limit(SECONDS(60)).run();
            }
            jobs.into_iter().next()
        });
        desk.cluster.wait_for_end(&number, SECONDS(60));
    }
    settle(desk, id);
}

#[test]
fn check_dies_while_it_answers_a_failed_job() {
    every_point_of_check("check: answer a failed job", 1, || ended_job("exit 3"));
}

#[test]
fn check_dies_while_it_delivers_the_trainers_reply() {
    let script = r#"echo '{"Background Model":"AAAA"}' > "${1%/*}/reply.json"; exit 10"#;
    every_point_of_check("check: deliver the trainer's reply", 1, || ended_job(script));
}

#[test]
fn check_dies_while_it_answers_a_message_that_is_no_job() {
    every_point_of_check("check: answer a bad message", 0, || {
        let desk = Desk::with_script("exit 0");
        let id = desk.vhost.publish_job(&with_setting("CPUs", json!("many")));
        (desk, id)
    });
}

#[test]
fn check_dies_while_it_submits_a_job_with_its_watcher() {
    every_point_of_check("check: take, submit, watch", 1, || {
        let mut desk = Desk::with_script("exit 3");
        desk.site.set("WATCHER", "1");
        let id = desk.vhost.publish_job(&job());
        (desk, id)
    });
}

/// The trainer dies at a point of its own. Slurm sees a failed job, and `check` does the rest.
#[test]
fn the_trainer_dies_wherever_it_may() {
    let script = |at: usize| {
        format!(
            "export HPC_TRAINER_DIE_AT={at} HPC_TRAINER_DIE_LOG=\"$HPC_TRAINER_HOME/points.txt\"\n\
             exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\""
        )
    };
    let run = |at: usize| {
        let desk = Desk::with_script(&script(at));
        let id = desk.vhost.publish_job(&desk.short_job());
        desk.check().run().success();
        let ended = desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(120));
        (desk, id, ended["JobState"].clone())
    };
    let (desk, id, state) = run(0);
    let names = points(&log_of(&desk));
    assert_eq!(state, "COMPLETED", "{}", desk.log(&id));
    assert!(names.len() > 5, "{names:?}");
    settle(&desk, &id);
    assert_one_of_each(&desk, &id, 1, "no crash at all");
    let mut with_models = 0;
    for (number, name) in (1..).zip(&names) {
        let (desk, id, state) = run(number);
        assert_eq!(state, "FAILED", "point {number}, {name}: {}", desk.log(&id));
        settle(&desk, &id);
        assert_one_of_each(
            &desk,
            &id,
            1,
            &format!("a crash of the trainer at point {number}, {name}"),
        );
        let reply = desk.vhost.leftovers(RESULTS).remove(0).json();
        // Once the models are on disk, they are the answer.
        with_models += usize::from(reply.get("error").is_none());
    }
    let spooled = names.iter().position(|name| name == "after writing reply.json").unwrap();
    assert!(with_models >= names.len() - spooled, "{with_models} of {names:?}");
    eprintln!(
        "trainer: {} points, {} runs, 0 lost, 0 doubled: {names:?}",
        names.len(),
        names.len() + 1
    );
}

/// The one gap that remains: Rodan has read the reply, and the trainer died before it had noted the
/// confirmation. The queue is then empty, as if nothing had been sent.
#[test]
fn a_reply_that_rodan_read_before_a_crash_is_sent_again_under_the_same_id() {
    let script = "export HPC_TRAINER_DIE_LOG=\"$HPC_TRAINER_HOME/points.txt\"\n\
                  exec \"$HPC_TRAINER_HOME/run_trainer\" \"$@\"";
    let desk = Desk::with_script(script);
    let id = desk.vhost.publish_job(&job());
    desk.check().run().success();
    let first = desk.vhost.receive_reply(&id, SECONDS(120));
    desk.cluster.wait_for_end(&desk.slurm_job(&id), SECONDS(60));
    // The state that the crash would have left.
    fs::remove_file(desk.directory(&id).join("delivered")).unwrap();
    desk.check().run().success();
    // Nobody can know that Rodan has read the first.
    let second = desk.vhost.receive_reply(&id, SECONDS(60));
    assert_eq!(second.body, first.body, "the same reply");
    assert_eq!(
        second.properties.message_id(),
        first.properties.message_id(),
        "which tells that it is a second copy"
    );
}
