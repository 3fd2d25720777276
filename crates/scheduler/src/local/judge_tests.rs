use super::super::files::{Beat, Directory, Run, entry};
use super::super::process::Identity;
use super::*;
use crate::slurm::Phase;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn waiting(number: u64) -> Found {
    Found {
        directory: Directory::new(std::path::Path::new("/nowhere")),
        entry: entry(number, &format!("hpct-{number}")),
        supervised: true,
        run: None,
        beat: None,
        restarts: 0,
        lost_runs: 0,
        cancelled: false,
        end: None,
    }
}

fn running(number: u64, gpu: Option<&str>) -> Found {
    let child = Identity { pid: 1, started: 1, boot: String::new() };
    let run = Run { child, started_at: at(100), gpu: gpu.map(str::to_owned) };
    Found { run: Some(run), ..waiting(number) }
}

fn ended(state: &str) -> Found {
    let end = End {
        state: state.to_owned(),
        exit_code: Some("0:9".to_owned()),
        started_at: Some(at(100)),
        ended_at: at(161),
        peak_mb: Some(490),
    };
    Found { end: Some(end), supervised: false, ..running(1, None) }
}

#[test]
fn each_ending_is_one_of_slurms() {
    let none = Limit::default();
    let (cancelled, time, memory) = (
        Limit { cancelled: true, ..none },
        Limit { time: true, ..none },
        Limit { memory: true, ..none },
    );
    for (limit, code, signal, state, exit_code) in [
        (none, Some(0), None, "COMPLETED", "0:0"),
        (none, Some(3), None, "FAILED", "3:0"),
        (none, None, Some(9), "FAILED", "0:9"),
        (none, Some(137), None, "FAILED", "137:0"),
        (time, None, Some(15), "TIMEOUT", "0:15"),
        (time, Some(12), None, "TIMEOUT", "12:0"),
        (memory, None, Some(9), "OUT_OF_MEMORY", "0:9"),
        (cancelled, Some(12), None, "CANCELLED", "12:0"),
        // Whoever asks for an end gets that answer, whatever else came at the same time.
        (Limit { cancelled: true, time: true, memory: true }, None, Some(9), "CANCELLED", "0:9"),
    ] {
        assert_eq!(ending(limit, code, signal), (state, exit_code.to_owned()), "{limit:?}");
        assert_eq!(JobState::parse(state).phase(), Phase::Ended);
    }
}

#[test]
fn the_warning_comes_before_the_limit_and_not_after() {
    let seconds = Duration::from_secs;
    for (ran, limit, warning, expected) in [
        (0, 600, 60, (false, false)),
        (539, 600, 60, (false, false)),
        (540, 600, 60, (true, false)),
        (599, 600, 60, (true, false)),
        (600, 600, 60, (true, true)),
        (9999, 600, 60, (true, true)),
        (599, 600, 0, (false, false)),
        (600, 600, 0, (false, true)),
        (0, 60, 120, (true, false)),
    ] {
        assert_eq!(limit_of(seconds(ran), limit, warning), expected, "{ran} of {limit}");
    }
}

#[test]
fn a_job_is_what_its_files_and_its_supervisor_say() {
    let alone = |found: Found| Found { supervised: false, ..found };
    let states = [
        (waiting(1), "PENDING"),
        (alone(waiting(1)), "PENDING"),
        (running(1, None), "RUNNING"),
        (alone(running(1, None)), "NODE_FAIL"),
        (ended("TIMEOUT"), "TIMEOUT"),
        (ended("COMPLETED"), "COMPLETED"),
    ];
    for (found, state) in states {
        assert_eq!(found.state().to_string(), state);
    }
    let mut elsewhere = alone(running(1, None));
    elsewhere.entry.host = "another.example".to_owned();
    assert_eq!(elsewhere.state().phase(), Phase::Unknown, "nothing is decided about it here");
    assert_eq!(elsewhere.tending(at(0)), Tending::Nothing);
}

#[test]
fn a_job_without_a_supervisor_is_made_good() {
    let alone = |found: Found| Found { supervised: false, ..found };
    let cancelled = |found: Found| Found { cancelled: true, ..found };
    let lost = |lost_runs| Found { lost_runs, restarts: lost_runs, ..alone(running(1, None)) };
    let requeued = |lost_runs| Found { restarts: 9, ..lost(lost_runs) };
    let mut no_requeue = lost(0);
    no_requeue.entry.requeue = false;
    for (found, tending) in [
        (waiting(1), Tending::Nothing),
        (running(1, None), Tending::Nothing),
        (cancelled(running(1, None)), Tending::Nothing),
        (alone(waiting(1)), Tending::Supervise),
        (cancelled(alone(waiting(1))), Tending::End),
        (lost(0), Tending::PutBack),
        (lost(4), Tending::PutBack),
        (lost(5), Tending::Lost),
        (requeued(0), Tending::PutBack),
        (requeued(4), Tending::PutBack),
        (requeued(5), Tending::Lost),
        (no_requeue, Tending::Lost),
        (cancelled(lost(0)), Tending::Lost),
        (ended("FAILED"), Tending::Nothing),
    ] {
        assert_eq!(found.tending(at(200)), tending, "{found:?}");
    }
    let week = 7 * 86_400;
    assert_eq!(ended("FAILED").tending(at(161 + week)), Tending::Nothing);
    assert_eq!(ended("FAILED").tending(at(162 + week)), Tending::Remove);
    assert_eq!(ended("FAILED").tending(at(0)), Tending::Nothing, "the clock was set back");
}

#[test]
fn what_is_said_of_a_job_has_slurms_form() {
    let info = ended("OUT_OF_MEMORY").info(0, at(9999));
    assert_eq!((info.elapsed.as_str(), info.used_mb), ("00:01:01", Some(490)));
    assert_eq!(info.exit_code.as_deref(), Some("0:9"));
    assert_eq!(info.ran_for(), Some(Duration::from_secs(61)));
    let info = running(1, None).info(0, at(100 + 86_400 + 3600));
    assert_eq!((info.elapsed.as_str(), info.used_mb), ("1-01:00:00", None));
    let info = waiting(1).info(0, at(0));
    assert_eq!((info.elapsed.as_str(), info.reason.as_str()), ("00:00:00", "Resources"));
    assert_eq!(waiting(1).info(2, at(0)).reason, "Priority");
    // A lost run lasted until it was last seen.
    let beat = Some(Beat { at: at(130), peak_mb: 17 });
    let found = Found { supervised: false, beat, ..running(1, None) };
    let info = found.info(0, at(9999));
    assert_eq!((info.elapsed.as_str(), info.used_mb), ("00:00:30", Some(17)));
    let end = lost(&found, at(9999));
    assert_eq!((end.state.as_str(), end.ended_at, end.peak_mb), ("NODE_FAIL", at(130), Some(17)));
    assert_eq!(lost(&Found { cancelled: true, ..found }, at(9999)).state, "CANCELLED");
    assert_eq!(cancelled_before_it_ran(at(1)).started_at, None);
}

#[test]
fn jobs_start_in_order_and_each_has_a_gpu_of_its_own() {
    let gpus: Vec<String> = ["0", "1"].map(str::to_owned).into();
    let some = |gpu: &str| Some(Some(gpu.to_owned()));
    let line = Queue::of(&[waiting(3), waiting(5)]);
    assert_eq!(line.turn(3, true, 1, &gpus), some("0"));
    assert_eq!(line.turn(5, true, 1, &gpus), None, "the other came first");
    let line = Queue::of(&[running(1, Some("0")), waiting(3), ended("FAILED")]);
    assert_eq!(line.turn(3, true, 1, &gpus), None, "one job at a time");
    assert_eq!(line.turn(3, true, 2, &gpus), some("1"));
    assert_eq!(line.turn(3, false, 2, &gpus), Some(None));
    assert_eq!(line.turn(3, true, 2, &[]), Some(None), "a host without a GPU");
    assert_eq!(line.turn(3, true, 2, &gpus[..1]), None, "its only GPU is in use");
    let without = Found { supervised: false, ..waiting(2) };
    let line = Queue::of(&[without, waiting(3)]);
    assert_eq!(line.turn(3, true, 1, &gpus), some("0"), "one that can't start holds nobody up");
    // What a job had whose supervisor is dead is given again only once that job is put back or
    // over: until then its processes may use it.
    let lost = Found { supervised: false, ..running(1, Some("0")) };
    let line = Queue::of(&[lost, waiting(3)]);
    assert_eq!(line.turn(3, true, 1, &gpus), None, "what is left of the lost run counts");
    assert_eq!(line.turn(3, true, 2, &gpus), some("1"));
}
