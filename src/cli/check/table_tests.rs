use serde_json::json;

use super::*;
use crate::bridge::operator::{InSlurm, Pause, Waiting};
use crate::ledger::{Event, Record};
use domain::SlurmJobId;
use domain::{CorrelationId, JobId};

fn now() -> Timestamp {
    "2026-11-01T10:00:00Z".parse().unwrap()
}

fn job(id: &str, events: &[Event]) -> JobStatus {
    let taken = now() - Duration::from_secs(3000);
    let id = CorrelationId(id.into());
    let mut record = Record::new(JobId::from_correlation_id(&id), id, "queue".into(), b"", taken);
    for event in events {
        record.apply(event.clone(), taken).unwrap();
    }
    JobStatus {
        short: record.job_id.as_str().chars().take(8).collect(),
        record,
        answered: false,
        slurm: None,
        delivered: false,
        slurm_watcher: None,
        waiting: None,
        progress: None,
        expected_end: None,
        being_cancelled: None,
    }
}

fn in_slurm(state: &str, phase: Phase, reason: &str) -> Option<InSlurm> {
    Some(InSlurm {
        id: SlurmJobId(17),
        state: state.into(),
        phase,
        reason: reason.into(),
        reason_in_words: scheduler::slurm::in_words(reason),
        elapsed: "1:00".into(),
    })
}

fn status(jobs: Vec<JobStatus>) -> Status {
    Status {
        jobs,
        slurm_error: None,
        paused: None,
        lock: None,
        unreadable: Vec::new(),
        local_jobs: None,
        absent_spool: None,
    }
}

#[test]
fn the_table_fits_a_terminal_whatever_comes_from_outside() {
    let with_slurm = [Event::SubmitStarted, Event::Accepted(SlurmJobId(12_345_678))];
    let mut waiting = job("waiting-1", &with_slurm);
    waiting.slurm = in_slurm("PENDING", Phase::Waiting, "Resources");
    let waits = |position, of, fitting_nodes| Waiting {
        position,
        of,
        partition: "gpu".into(),
        expected_start: None,
        memory_mb: Some(257_000),
        cpus: Some(6),
        fitting_nodes: Some(fitting_nodes),
        nodes: Some(9),
    };
    let mut third = job("third-one", &with_slurm);
    third.slurm = in_slurm("PENDING", Phase::Waiting, "Resources");
    third.waiting = Some(waits(3, 5, 2));
    assert_eq!(
        ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th"].map(str::to_owned),
        [1, 2, 3, 4, 11, 12, 13, 21, 112].map(|n| place(&waits(n, 200, 2))
            .split(' ')
            .next()
            .unwrap()
            .to_owned())
    );
    let says = |fits| nodes(&waits(1, 1, fits)).unwrap();
    assert_eq!(says(2), "asks for 257000 MB and 6 CPUs, which only 2 of 9 nodes there have");
    assert!(says(0).ends_with("which none of the 9 nodes there has"));
    assert!(says(9).ends_with("which all 9 nodes there have"));
    let mut odd = job("odd-reason", &with_slurm);
    odd.slurm =
        in_slurm("PENDING", Phase::Waiting, &"ReqNodeNotAvail, UnavailableNodes:n[1-9]".repeat(9));
    let mut running = job("running-1", &[&with_slurm[..], &[Event::Started]].concat());
    running.slurm = in_slurm("RUNNING", Phase::Active, "");
    running.expected_end = Some(now() + Duration::from_secs(2400));
    running.progress = serde_json::from_value(json!({
        "slurm_job_id": 17, "restart_count": 0, "layer": "Model\u{1b} 0", "layer_number": 2,
        "layers": 3, "epoch": 4, "epochs": 15, "step": 1, "steps": 9, "loss": 0.5, "accuracy": null,
        "updated_at": "2026-11-01T09:59:59Z", "peak_memory_mb": 700
    }))
    .unwrap();
    let mut failed = job("failed-1", &[Event::Failed("It \u{1b}[31mfailed. ".repeat(30))]);
    failed.record.last_error = Some("no\nroute ".repeat(40));
    let mut long = job(&"l".repeat(64), &with_slurm);
    long.short = "l".repeat(64);
    long.slurm = in_slurm("COMPLETED", Phase::Ended, "");
    let mut found = status(vec![waiting, third, odd, running, failed]);
    found.slurm_error = Some("squeue failed: \u{7} no ".repeat(20));
    found.paused = Some(Pause { until: now(), failures: 4, last: "no ".repeat(90) });
    let text = render(&found, now());
    eprintln!("{text}");
    for part in [
        "ID           SLURM  STATE",
        "waiting-  12345678  waiting       50 min  nodes are busy (Resources)\n",
        "running-  12345678  running       50 min\n    Model  0 (2/3), epoch 4/15, ≤ 40 min left\n",
        "third-on  12345678  waiting       50 min\n    nodes are busy (Resources), 3rd of 5 \
        pending in gpu\n",
        "    the nodes for it are down or reserved (ReqNodeNotAvail,",
        "    last error: no route",
        "Slurm does not answer",
        "No new jobs are taken until 2026-11-01T10:00:00Z",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    let longest = text.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(COLUMNS), "{longest:?}\n{text}");
    let mut delivered = job("delivered", &with_slurm);
    delivered.slurm = in_slurm("COMPLETED", Phase::Ended, "");
    delivered.delivered = true;
    let text = render(&status(vec![long, delivered]), now());
    assert!(text.contains("\n    over; the next check answers\n"), "{text}");
    assert!(text.contains("over, and its reply is delivered; the next check files it"), "{text}");
    assert_eq!(render(&status(Vec::new()), now()), "There are no open jobs.\n");
    let mut none = status(Vec::new());
    none.absent_spool = Some("/project/spool".into());
    let text = render(&none, now());
    assert!(
        text.contains("There is no /project/spool yet; the first pass of check makes it."),
        "{text}"
    );
}

#[test]
fn a_lock_that_is_left_is_told_from_one_that_is_held() {
    let mut found = status(Vec::new());
    let holder =
        |host: &str| HeldBy { host: host.into(), pid: 7, heartbeat: now(), role: Role::Check };
    found.lock = Some(holder("elsewhere.example"));
    let text = render(&found, now());
    assert!(text.contains("locked by a check: process 7 on elsewhere.example"), "{text}");
    let text = render(&found, now() + Duration::from_secs(900));
    assert!(text.contains("which is gone"), "{text}");
}
