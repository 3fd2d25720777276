use domain::{EpochReport, Metrics, TaskStanding};
use proptest::prelude::*;

use super::*;

fn at() -> impl Strategy<Value = Timestamp> {
    (0i64..4_000_000_000).prop_map(|s| Timestamp::from_second(s).unwrap())
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::Job),
        Just(Origin::Site),
        Just(Origin::Estimate),
        Just(Origin::Measured),
        Just(Origin::Raised)
    ]
}

fn asked() -> impl Strategy<Value = Option<Asked>> {
    let instances = (1u32..64, origin()).prop_map(|(number, from)| AskedInstances { number, from });
    let values = (
        1u32..4096,
        origin(),
        1u64..100_000_000,
        origin(),
        60u64..31_536_000,
        origin(),
        prop::option::of(instances),
    );
    prop::option::of(values.prop_map(
        |(cpus, cpus_from, memory_mb, memory_from, time_seconds, time_from, instances)| Asked {
            cpus,
            cpus_from,
            memory_mb,
            memory_from,
            time_seconds,
            time_from,
            instances,
        },
    ))
}

fn task() -> impl Strategy<Value = TaskStanding> {
    (any::<u32>(), "[A-Za-z0-9 ]{0,20}", any::<[u16; 4]>()).prop_map(|(task, layer, counts)| {
        let [epoch, epochs, step, steps] = counts.map(usize::from);
        TaskStanding { task, layer, epoch, epochs, step, steps }
    })
}

fn epochs() -> impl Strategy<Value = EndedEpochs> {
    let metrics =
        prop::array::uniform5(-1e9..1e9).prop_map(|[loss, accuracy, precision, recall, f1]| {
            Metrics { loss, accuracy, precision, recall, f1 }
        });
    let report = (1usize..=10_000, -1e9..1e9, prop::option::of(metrics), any::<bool>(), 0.0..1e6);
    let report = report.prop_map(|(epoch, training_loss, validation, best, seconds)| EpochReport {
        epoch,
        training_loss,
        validation,
        best,
        seconds,
    });
    prop::collection::vec(("[A-Za-z0-9 ]{0,20}", report), 0..80).prop_map(|list| {
        let mut epochs = EndedEpochs::default();
        list.iter().for_each(|(layer, report)| epochs.add(layer, report));
        epochs
    })
}

/// A task whose numbers take the most places.
fn largest() -> TaskStanding {
    let most = usize::MAX;
    let layer = String::new();
    TaskStanding { task: u32::MAX, layer, epoch: most, epochs: most, step: most, steps: most }
}

fn used() -> impl Strategy<Value = Used> {
    (any::<Option<u64>>(), any::<Option<u64>>())
        .prop_map(|(memory_mb, seconds)| Used { memory_mb, seconds })
}

fn number() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(-1e9..1e9)
}

fn phase() -> impl Strategy<Value = Stage> {
    use Stage::{Cancelling, Requeued, Running, Submitted, Taken, Waiting};
    prop::sample::select(vec![Taken, Submitted, Waiting, Running, Requeued, Cancelling])
}

proptest! {
    #[test]
    fn a_state_is_read_back(
        state in phase(),
        at in at(),
        detail in "[^\\p{C}\\p{Zl}\\p{Zp}]{0,80}",
        slurm_job in any::<Option<u64>>(),
        queue_position in any::<Option<usize>>(),
        starts_at in prop::option::of(at()),
        asked in asked(),
    ) {
        let state = JobState { state, at, detail, slurm_job, queue_position, starts_at, asked };
        let message = state.message("c");
        prop_assert!(message.body.len() <= MAX_JSON_BYTES);
        prop_assert_eq!(JobState::parse(&message.body).unwrap(), state.clone());
        prop_assert_eq!(message.message_id, state.message("c").message_id);
    }

    #[test]
    fn progress_is_read_back_to_the_last_bit(
        at in at(),
        layer in "[A-Za-z0-9 ]{0,30}",
        counts in any::<[u16; 6]>(),
        loss in number(),
        accuracy in number(),
        f1 in number(),
        best in number(),
        peak_memory_mb in any::<Option<u64>>(),
        expected_end in prop::option::of(at()),
        device in prop::option::of("[A-Za-z0-9 ]{0,20}"),
        predicting in any::<bool>(),
        tasks in prop::collection::vec(task(), 0..5),
        ended_epochs in epochs(),
    ) {
        let [layer_number, layers, epoch, epochs, step, steps] = counts.map(usize::from);
        let standing = Standing {
            layer, layer_number, layers, epoch, epochs, step, steps, loss, accuracy, f1, best,
            peak_memory_mb, expected_end, device, predicting, tasks,
        };
        let progress = JobProgress { at, standing, ended_epochs };
        let message = progress.message("c");
        prop_assert!(message.body.len() <= MAX_JSON_BYTES);
        prop_assert_eq!(JobProgress::parse(&message.body).unwrap(), progress.clone());
        prop_assert!((0.0..=1.0).contains(&progress.standing.fraction()));
    }

    #[test]
    fn an_end_is_read_back_from_the_wire_and_from_the_spool(
        at in at(),
        error in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,40}",
        cause in "[a-z_]{1,20}",
        advice in "[a-z .]{0,60}",
        log in prop::collection::vec("[^\\p{C}\\p{Zl}\\p{Zp}]{0,20}", 0..12),
        asked in asked(),
        used in used(),
        names in prop::collection::vec("[A-Za-z0-9 ]{1,20}", 0..14),
        seed in any::<u64>(),
        seconds in 0.0..1e6,
    ) {
        let failed = JobFailed {
            at,
            error,
            cause,
            advice,
            log: log.clone(),
            asked: asked.clone(),
            used: used.clone(),
        };
        let models = names.iter().map(|name| ModelEntry {
            name: name.clone(), sha256: super::super::sha256(name.as_bytes()), size: seed,
        });
        let figures = names.iter().map(|name| Figures {
            model: name.clone(),
            epochs: 15,
            best_epoch: 3,
            accuracy: Some(0.98),
            f1: None,
            loss: Some(0.1),
            train_samples: 800,
            validation_samples: 200,
            learned: true,
            seconds,
        });
        let times = Times { seconds, download_seconds: seconds / 3.0 };
        let (models, figures) = (models.collect(), figures.collect());
        let done = JobDone { at, models, figures, times, seed, log, asked, used };
        for end in [End::Failed(failed), End::Done(done)] {
            let message = end.message("c");
            prop_assert!(message.body.len() <= MAX_JSON_BYTES);
            prop_assert_eq!(End::parse(end.kind(), &message.body).unwrap(), end.clone());
            prop_assert_eq!(End::from_spool(&end.body()).unwrap(), end.clone());
            prop_assert_eq!(message.kind, end.kind());
        }
    }

    /// Whatever a sentence or a log holds, the body stays within its limit.
    #[test]
    fn no_text_makes_a_body_too_large(
        text in "\\PC{0,50}",
        repeat in 0usize..400,
        lines in 0usize..80,
    ) {
        let text = format!("{text}\u{1}\u{7f}\"\\").repeat(repeat);
        let failed = JobFailed {
            at: Timestamp::UNIX_EPOCH,
            error: text.clone(),
            cause: text.clone(),
            advice: text.clone(),
            log: vec![text.clone(); lines],
            asked: None,
            used: Used::default(),
        };
        prop_assert!(End::Failed(failed).body().len() <= MAX_JSON_BYTES);
        let state = JobState::new(Stage::Waiting, Timestamp::UNIX_EPOCH, &text);
        let text_of_all = text.clone();
        let state = JobState { detail: text, ..state };
        prop_assert!(state.message("c").body.len() <= MAX_JSON_BYTES);
        let standing = Standing {
            layer: text_of_all.clone(),
            device: Some(text_of_all.clone()),
            tasks: vec![TaskStanding { layer: text_of_all.clone(), ..largest() }; lines],
            ..Standing::default()
        };
        let mut ended_epochs = EndedEpochs::default();
        let least = -f64::MIN_POSITIVE;
        let validation =
            Metrics { loss: least, accuracy: least, precision: least, recall: least, f1: least };
        for _ in 0..lines {
            ended_epochs.add(&text_of_all, &EpochReport {
                epoch: 1_000_000,
                training_loss: least,
                validation: Some(validation),
                best: false,
                seconds: least,
            });
        }
        let progress = JobProgress { at: Timestamp::UNIX_EPOCH, standing, ended_epochs };
        prop_assert!(progress.message("c").body.len() <= MAX_JSON_BYTES);
    }

    #[test]
    fn hostile_bytes_are_no_body_or_a_whole_one(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = JobState::parse(&bytes);
        let _ = JobProgress::parse(&bytes);
        if let Ok(end) = End::from_spool(&bytes) {
            prop_assert_eq!(End::from_spool(&end.body()).unwrap().kind(), end.kind());
        }
    }
}

#[test]
fn a_torn_end_is_no_end() {
    let failed = JobFailed {
        at: Timestamp::UNIX_EPOCH,
        error: "no".into(),
        cause: "input".into(),
        advice: String::new(),
        log: Vec::new(),
        asked: None,
        used: Used::default(),
    };
    let body = End::Failed(failed).body();
    for length in 0..body.len() {
        assert!(End::from_spool(&body[..length]).is_err(), "{length}");
    }
    for other in [&b"{}"[..], b"[]", b"{\"Model 0\":\"AAAA\"}", b"{\"error\":5}", b"null"] {
        assert!(End::from_spool(other).is_err());
    }
    assert!(matches!(End::parse(Kind::State, &body), Err(BodyError::NoEnd(Kind::State))));
    let large = vec![b' '; MAX_JSON_BYTES + 1];
    assert!(matches!(End::from_spool(&large), Err(BodyError::TooLarge(_))));
}

#[test]
fn words_of_a_newer_program_are_read() {
    let state = br#"{"state":"dreaming","at":"2026-11-01T10:00:00Z","detail":"","more":[1]}"#;
    assert_eq!(JobState::parse(state).unwrap().state, Stage::Unknown);
}

#[test]
fn progress_has_the_keys_of_the_protocol() {
    let progress = JobProgress {
        at: Timestamp::UNIX_EPOCH,
        standing: Standing::default(),
        ended_epochs: EndedEpochs::default(),
    };
    let body = String::from_utf8(progress.message("c").body.into_owned()).unwrap();
    assert_eq!(
        body,
        concat!(
            r#"{"at":"1970-01-01T00:00:00Z","layer":"","layer_number":0,"layers":0,"epoch":0,"#,
            r#""epochs":0,"step":0,"steps":0,"loss":null,"accuracy":null,"f1":null,"best":null,"#,
            r#""peak_memory_mb":null,"expected_end":null}"#
        )
    );
}

#[test]
fn of_a_long_log_the_last_lines_are_sent() {
    let failed = JobFailed {
        at: Timestamp::UNIX_EPOCH,
        error: "e".into(),
        cause: "training".into(),
        advice: "a".into(),
        log: (0..100).map(|n| n.to_string()).collect(),
        asked: None,
        used: Used::default(),
    };
    let End::Failed(sent) = End::from_spool(&End::Failed(failed).body()).unwrap() else {
        panic!("a failure")
    };
    assert_eq!(sent.log.len(), MAX_LINES);
    assert_eq!(sent.log.last().map(String::as_str), Some("99"));
}

#[test]
fn what_is_read_keeps_the_limits_of_what_is_written() {
    let body = br#"{"at":"2026-11-01T10:00:00Z","error":"No\n memory\u001b[2J.","cause":"out_\tof",
        "advice":"Ask\r\nfor more.","log":["a\nline"],"used":{}}"#;
    let End::Failed(failed) = End::from_spool(body).unwrap() else { panic!("no failure") };
    assert_eq!(failed.error, "No  memory [2J.");
    assert_eq!(failed.cause, "out_ of");
    assert_eq!(failed.advice, "Ask  for more.");
    assert_eq!(failed.log, ["a line"]);

    let body = br#"{"state":"running","at":"2026-11-01T10:00:00Z","detail":"on\u0007 n1"}"#;
    assert_eq!(JobState::parse(body).unwrap().detail, "on  n1");

    let long = "x".repeat(2 * MAX_LINE);
    let device = Some(format!("b\n{long}"));
    let standing = Standing { layer: format!("a\n{long}"), device, ..Standing::default() };
    let ended_epochs = EndedEpochs::default();
    let progress = JobProgress { at: Timestamp::UNIX_EPOCH, standing, ended_epochs };
    let read = JobProgress::parse(&serde_json::to_vec(&progress).unwrap()).unwrap();
    assert_eq!(read.standing.layer.len(), MAX_LINE);
    assert!(read.standing.layer.starts_with("a x"));
    assert_eq!(read.standing.device.unwrap().len(), MAX_LINE);
}
