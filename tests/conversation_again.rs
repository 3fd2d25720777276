//! A conversation whose Slurm job starts again, or later: its asker hears of it, and gets one end.
//! Real RabbitMQ, real Slurm, real training, the stand-in Rodan. Preemption and memory are in
//! `tests/endings.rs`, which has clusters of its own for them.
#![cfg(feature = "trainer")]

use crate::support;

use std::time::Duration;

use contract::wire::conversation::Kind;
use jiff::Timestamp;
use serde_json::json;

use support::asker::Asker;
use support::desk::{Desk, job};
use support::{SECONDS, wait_for};

const TRAINING: Duration = Duration::from_secs(240);

/// Passes of `check`, as cron starts them, until the job is filed away.
#[track_caller]
fn settle(desk: &Desk, asker: &Asker<'_>) {
    let done = desk.site.spool().join("done").join(&asker.id);
    wait_for("the job to be filed away", TRAINING, || {
        let pass = desk.check().limit(SECONDS(60)).run();
        // Slurm may be too busy to answer.
        assert!(matches!(pass.code(), Some(0 | 6)), "{pass}");
        done.exists().then_some(())
    });
}

#[test]
fn a_job_that_is_warned_goes_on_from_its_checkpoint_and_its_asker_hears_of_it() {
    let mut desk = Desk::new();
    // Passes follow each other at once, and Slurm needs seconds to put a job back.
    desk.site.set("GRACE_SECONDS", "60");
    let mut asked = job();
    for name in ["CPUs", "Maximum memory (MB)", "Maximum time (D-HH:MM)"] {
        asked["settings"].as_object_mut().unwrap().remove(name);
    }
    for (name, value) in [("Maximum number of training epochs", 8), ("Patience", 8), ("Seed", 7)] {
        asked["settings"][name] = json!(value);
    }
    let asker = Asker::ask(&desk.vhost, &asked);
    desk.check().run().success();
    let slurm = desk.slurm_job(&asker.id);
    wait_for("the first epoch", TRAINING, || {
        let heard = asker.heard();
        let mut progress = heard.of_kind(Kind::Progress).into_iter();
        progress.any(|message| message.json()["accuracy"].is_number()).then_some(())
    });
    // As Slurm does it shortly before the time limit.
    let warning = ["--signal=USR1", "--batch", &slurm];
    desk.cluster.command("scancel").args(warning).run().success();
    settle(&desk, &asker);
    assert_eq!(desk.cluster.wait_for_end(&slurm, SECONDS(60))["Restarts"], "1");
    let log = desk.log_of(&asker.id, &slurm);
    assert!(log.contains("going on from a checkpoint"), "{log}");

    let heard = asker.heard();
    heard.assert_sound();
    heard.assert_models(&["Background Model", "Model 0"]);
    heard.assert_curves();
    heard.assert_states_in_order(&["taken", "submitted", "running", "requeued", "running"]);
    let kinds = heard.kinds();
    let mut messages = kinds.iter().zip(&heard.messages);
    let requeued = messages.position(|(kind, message)| {
        kind == Kind::State.word() && message.json()["state"] == "requeued"
    });
    let requeued = requeued.unwrap();
    for (part, messages) in [("first", &kinds[..requeued]), ("second", &kinds[requeued..])] {
        let has_progress = messages.iter().any(|kind| kind == Kind::Progress.word());
        assert!(has_progress, "no progress in the {part} part: {kinds:?}");
    }
}

#[test]
fn an_asker_and_the_operator_are_told_when_slurm_expects_to_start_a_job() {
    let desk = Desk::with_script("#SBATCH --begin=now+1hour\nexit 0");
    let asker = Asker::ask(&desk.vhost, &job());
    // Slurm writes times as they are on the wall; here those of a place five hours behind.
    let check = || desk.check().env("TZ", "XST5");
    check().run().success();
    check().run().success();
    let heard = asker.heard();
    let states = heard.of_kind(Kind::State);
    let last = states.last().unwrap().json();
    assert_eq!(last["state"], "waiting", "{last}");
    let start: Timestamp = last["starts_at"].as_str().unwrap().parse().unwrap();
    let minutes = start.duration_since(Timestamp::now()).as_mins();
    assert!((50..=61).contains(&minutes), "{start}: in {minutes} minutes");
    let status = check().args(["status", &asker.id]).run().success();
    let line = status.stdout.lines().find(|line| line.starts_with("expected start"));
    let shown = line.unwrap_or_else(|| panic!("{status}"));
    assert!(shown.contains(&format!("{start:.0}")), "{shown}");
    desk.cluster.cancel(&desk.slurm_job(&asker.id));
}
