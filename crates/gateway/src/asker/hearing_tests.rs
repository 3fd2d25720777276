//! Each message, and what it changes.

use contract::wire::conversation::{EndedEpochs, JobDone, JobFailed, ModelEntry, Times, Used};
use domain::{EpochReport, Metrics, TrainingEvent};
use jiff::Timestamp;
use serde_json::Value;

use super::*;

fn known(state: State) -> Known {
    Known {
        state,
        progress: Standing::default(),
        courses: Courses::default(),
        models: BTreeMap::new(),
        has_figures: false,
    }
}

fn told(standing: Standing) -> JobProgress {
    JobProgress { at: Timestamp::UNIX_EPOCH, standing, ended_epochs: EndedEpochs::default() }
}

fn report(epoch: usize, training_loss: f64) -> EpochReport {
    let metrics = Metrics { loss: 0.5, accuracy: 0.75, precision: 0.5, recall: 0.25, f1: 0.3 };
    EpochReport { epoch, training_loss, validation: Some(metrics), best: epoch == 1, seconds: 1.0 }
}

/// Progress that tells of these epochs of a layer.
fn tells_of(epochs: &[(&str, usize, f64)]) -> JobProgress {
    let standing = Standing { layer_number: 1, ..Standing::default() };
    let mut told = told(standing);
    for (layer, epoch, loss) in epochs {
        told.ended_epochs.add(layer, &report(*epoch, *loss));
    }
    told
}

/// The epochs among the events: layer, number and loss.
fn epochs_in(hearing: &Hearing) -> Vec<(String, usize, f64)> {
    let of_event = |(kind, data): &(&str, Value)| match serde_json::from_value(data.clone()) {
        Ok(TrainingEvent::Epoch { model, report }) if *kind == "epoch" => {
            Some((model, report.epoch, report.training_loss))
        }
        _ => None,
    };
    hearing.events.iter().filter_map(of_event).collect()
}

fn state(phase: Stage) -> JobState {
    JobState::new(phase, Timestamp::UNIX_EPOCH, "it is told so")
}

fn object(sha256: &str) -> Object {
    Object { sha256: sha256.into(), size: 3 }
}

fn done(models: &[(&str, &str)]) -> End {
    let entry = |(name, sha256): &(&str, &str)| ModelEntry {
        name: (*name).into(),
        sha256: (*sha256).into(),
        size: 3,
    };
    End::Done(JobDone {
        at: Timestamp::UNIX_EPOCH,
        models: models.iter().map(entry).collect(),
        figures: Vec::new(),
        times: Times { seconds: 1.5, download_seconds: 0.5 },
        seed: 7,
        log: Vec::new(),
        asked: None,
        used: Used { memory_mb: Some(2), seconds: None },
    })
}

fn nothing(_: &ModelEntry) -> Option<Object> {
    None
}

fn failed(cause: &str) -> End {
    End::Failed(JobFailed {
        at: Timestamp::UNIX_EPOCH,
        error: "there was no memory left".into(),
        cause: cause.into(),
        advice: "Take smaller patches.".into(),
        log: Vec::new(),
        asked: None,
        used: Used::default(),
    })
}

#[test]
fn each_phase_in_each_state_is_as_the_table_says() {
    use Transition::{Requeued, Turn};
    let states = [State::Queued, State::Launch, State::Running];
    // What happens when the run is queued, launched, running; whether the words are taken then.
    let table = [
        (Stage::Taken, [None, None, None], [true, false, false]),
        (Stage::Submitted, [None, None, None], [true, false, false]),
        (Stage::Waiting, [None, None, None], [true, false, false]),
        (Stage::Running, [Some(Turn), None, None], [true; 3]),
        (Stage::Requeued, [None, Some(Requeued), Some(Requeued)], [true; 3]),
        (Stage::Cancelling, [None, None, None], [true; 3]),
        (Stage::Unknown, [None, None, None], [true; 3]),
    ];
    for (phase, happened, taken) in table {
        for ((now, happened), taken) in states.into_iter().zip(happened).zip(taken) {
            let hearing = of_state(&known(now), &state(phase));
            assert_eq!(hearing.happened, Vec::from_iter(happened), "{phase:?} {now}");
            assert_eq!(hearing.detail.is_some(), taken, "{phase:?} {now}");
            assert!(hearing.progress.is_none() && hearing.change.results.is_empty());
        }
    }
}

#[test]
fn a_position_in_slurms_queue_counts_those_before() {
    for (position, before) in
        [(None, None), (Some(0), None), (Some(1), Some(0)), (Some(7), Some(6))]
    {
        let told = JobState { queue_position: position, ..state(Stage::Waiting) };
        assert_eq!(of_state(&known(State::Queued), &told).before, before);
    }
}

#[test]
fn progress_begins_a_run_and_tells_of_each_layer_once() {
    let standing = Standing {
        layer: "Model 0".into(),
        layer_number: 2,
        layers: 4,
        epoch: 3,
        epochs: 15,
        step: 5,
        steps: 9,
        loss: Some(0.25),
        ..Standing::default()
    };
    let told = told(standing);
    for (now, begins) in [(State::Queued, true), (State::Launch, true), (State::Running, false)] {
        let mut before = known(now);
        let hearing = of_progress(&before, &told);
        assert_eq!(!hearing.happened.is_empty(), begins, "{now}");
        assert_eq!((hearing.events.len(), hearing.events[0].0), (1, "layer"));
        assert_eq!(hearing.events[0].1["number"], 2);
        let progress = hearing.progress.unwrap();
        assert_eq!((progress.layer_number, progress.epoch, progress.epochs), (2, 3, 15));
        assert_eq!((progress.percent(), progress.loss), (29, Some(0.25)));
        // The same layer again.
        before.progress = progress;
        assert!(of_progress(&before, &told).events.is_empty());
    }
    // Before the first layer there is nothing to tell.
    let standing = Standing { layers: 4, ..Standing::default() };
    let hearing = of_progress(&known(State::Launch), &JobProgress { standing, ..told });
    assert!(hearing.happened.is_empty() && hearing.progress.is_none());
}

#[test]
fn the_end_of_a_job_whose_models_have_come_is_a_success() {
    let mut run = known(State::Running);
    for (came, listed, happens, missing) in [
        (&[("Model 0.hdf5", "a")][..], &[("Model 0", "a")][..], Transition::Trained, ""),
        (&[("Model 0.hdf5", "b")], &[("Model 0", "a")], Transition::Broke, "missing: Model 0)"),
        (&[], &[("Model 0", "a"), ("Model 1", "b")], Transition::Broke, "Model 0, Model 1"),
        (&[], &[], Transition::Broke, "missing: no model"),
    ] {
        run.models = came.iter().map(|(n, s)| ((*n).into(), (*s).into())).collect();
        let hearing = of_end(&run, &done(listed), None, nothing);
        assert_eq!(hearing.happened, [happens], "{listed:?}");
        let error = hearing.change.error.unwrap_or_default();
        assert!(error.contains(missing) && error.is_empty() == missing.is_empty(), "{error}");
    }
    // A layer that was trained twice: the model counts that is listed, in whatever order they came.
    run.models = [("Model 0.hdf5".to_owned(), "b".to_owned())].into();
    let kept = |model: &ModelEntry| Some(object(&model.sha256));
    let hearing = of_end(&run, &done(&[("Model 0", "a")]), None, kept);
    assert_eq!(hearing.happened, [Transition::Trained]);
    assert_eq!(hearing.change.results[0].object, object("a"));
    // Figures come from the end where no record has come.
    let figures = of_end(&run, &done(&[]), None, nothing).change.figures.unwrap();
    assert_eq!((&figures["seed"], &figures["peak_memory_bytes"]), (&json!(7), &json!(2 << 20)));
    run.has_figures = true;
    assert!(of_end(&run, &done(&[]), None, nothing).change.figures.is_none());
}

#[test]
fn a_failure_has_its_sentence_its_advice_and_its_log() {
    let hearing = of_end(&known(State::Queued), &failed("memory"), Some(object("l")), nothing);
    assert_eq!(hearing.happened, [Transition::Broke]);
    assert_eq!(hearing.change.error.as_deref(), Some("There was no memory left."));
    assert_eq!(hearing.detail.as_deref(), Some("Take smaller patches."));
    let [log] = &hearing.change.results[..] else { panic!("no log") };
    assert_eq!((log.name.as_str(), log.kind), (LOG, FileKind::Log));
    assert_eq!(of_silence().happened, [Transition::Broke]);
    assert!(of_silence().change.error.unwrap().contains("is gone"));
}

#[test]
fn models_and_reports_are_files_of_the_run() {
    let model = of_model("Model 0", object("m"));
    assert_eq!(model.change.results[0].name, "Model 0.hdf5");
    assert_eq!(model.change.results[0].kind, FileKind::Model);
    let run = known(State::Running);
    let page = of_report(&run, REPORT, b"<p>", object("p"));
    assert_eq!(page.change.results[0].kind, FileKind::Report);
    assert!(page.change.figures.is_none() && page.events.is_empty());
    let record = json!({"seed": 1, "layers": [{"figures": {"model": "Model 0", "best_epoch": 1},
        "history": [{"training_loss": 0.5, "seconds": 1.0}]}]});
    let record = of_report(&run, RECORD, record.to_string().as_bytes(), object("r"));
    assert_eq!(record.change.results[0].kind, FileKind::Record);
    assert!(record.change.figures.is_some());
    assert_eq!(epochs_in(&record), [("Model 0".to_owned(), 1, 0.5)]);
    assert_eq!(record.events.len(), 1);
}

#[test]
fn each_epoch_is_an_event_once_however_often_it_is_told() {
    let mut run = known(State::Running);
    let mut hear = |told: &JobProgress| {
        let new = epochs_in(&of_progress(&run, told));
        for (layer, epoch, loss) in &new {
            run.courses.take(layer, &report(*epoch, *loss));
        }
        new.into_iter().map(|(layer, epoch, _)| format!("{layer} {epoch}")).collect::<Vec<_>>()
    };
    assert_eq!(hear(&tells_of(&[("a", 1, 0.9)])), ["a 1"]);
    // The message before was not confirmed; two tasks, and one epoch twice in the same message.
    let two = [("a", 1, 0.9), ("a", 2, 0.8), ("b", 1, 0.7), ("b", 1, 0.7)];
    assert_eq!(hear(&tells_of(&two)), ["a 2", "b 1"]);
    assert!(hear(&tells_of(&two)).is_empty());
    // A trainer that was started again does an epoch again, and goes on.
    assert_eq!(hear(&tells_of(&[("a", 2, 0.8), ("a", 3, 0.6)])), ["a 3"]);
    // Another course.
    assert_eq!(hear(&tells_of(&[("a", 2, 0.5)])), ["a 2"]);
    // The record has what was left out, and nothing else is new.
    let history = |losses: &[f64]| {
        let epoch = |loss: &f64| {
            json!({"training_loss": loss, "validation_loss": 0.5, "validation_accuracy": 0.75,
                "validation_precision": 0.5, "validation_recall": 0.25, "validation_f1": 0.3,
                "best": false, "seconds": 2.0})
        };
        losses.iter().map(epoch).collect::<Vec<_>>()
    };
    let layer = |model: &str, losses: &[f64]| {
        let figures = json!({"model": model, "best_epoch": 1});
        json!({"figures": figures, "history": history(losses)})
    };
    let record = json!({"layers": [layer("a", &[0.9, 0.5]), layer("b", &[0.7, 0.4])]});
    let record = of_report(&run, RECORD, record.to_string().as_bytes(), object("r"));
    assert_eq!(epochs_in(&record), [("b".to_owned(), 2, 0.4)]);
}

#[test]
fn messages_are_read_by_their_kind_or_refused() {
    let none = |_: &str| None;
    let named = |name: &'static str| {
        move |header: &str| (header == "name").then(|| Header::Text(name.to_owned()))
    };
    let told = state(Stage::Waiting).message("c");
    let message = read("job.state", none, &told.body).unwrap();
    assert_eq!(message, Message::State(state(Stage::Waiting)));
    for end in [done(&[("Model 0", "a")]), failed("memory")] {
        let message = read(end.kind().word(), none, &end.body()).unwrap();
        assert_eq!(message, Message::End(end));
    }
    assert_eq!(read("job.report", named(RECORD), b"{}").unwrap(), Message::Report(RECORD));
    assert!(matches!(read("job.report", named("x.html"), b""), Err(Unfit::Report)));
    assert!(matches!(read("job.model", named("Model 0"), b"x"), Err(Unfit::Part(_))));
    for kind in ["job.state", "job.progress", "job.done", "job.failed"] {
        for body in [&b""[..], b"[]", b"{}", b"no json"] {
            assert!(matches!(read(kind, none, body), Err(Unfit::Body(..))), "{kind}");
        }
    }
    for kind in ["", "job.later", "state"] {
        assert!(matches!(read(kind, none, b"{}"), Err(Unfit::Kind(_))), "{kind}");
    }
}

#[test]
fn an_end_that_can_not_be_read_is_an_end_all_the_same() {
    for (kind, ends) in
        [("job.state", false), ("job.progress", false), ("job.done", true), ("job.failed", true)]
    {
        for body in [&b""[..], b"{}", b"no json"] {
            let hearing = of_unfit(&read(kind, |_| None, body).unwrap_err());
            assert_eq!(hearing.is_some(), ends, "{kind}");
            if let Some(hearing) = hearing {
                assert_eq!(hearing.happened, [Transition::Broke]);
                let error = hearing.change.error.unwrap();
                assert!(error.starts_with("The cluster's last message can't be read"), "{error}");
            }
        }
    }
    assert!(of_unfit(&read("job.later", |_| None, b"").unwrap_err()).is_none());
}

#[test]
fn a_models_name_is_that_of_a_layer() {
    let header = |model: &'static str| {
        move |name: &str| match name {
            "name" => Some(Header::Text(model.to_owned())),
            "sha256" => Some(Header::Text("0".repeat(64))),
            "size" | "part" | "parts" => Some(Header::Number(1)),
            _ => None,
        }
    };
    for name in ["Model 0", "Background Model", "Text Model"] {
        assert!(matches!(read("job.model", header(name), b"x"), Ok(Message::Model(_))), "{name}");
        assert!(read("job.done", |_| None, &done(&[(name, "a")]).body()).is_ok(), "{name}");
    }
    for name in ["../../x", "/x", "", "Model 10", "Model 0/x"] {
        assert!(read("job.model", header(name), b"x").is_err(), "{name}");
        let ends = done(&[("Model 0", "a"), (name, "b")]).body();
        let error = read("job.done", |_| None, &ends).unwrap_err();
        assert!(matches!(error, Unfit::Model(Kind::Done, _)), "{name}");
        assert!(of_unfit(&error).is_some(), "{name}");
    }
}

#[test]
fn the_json_of_an_event_is_an_object() {
    let standing = Standing { layer_number: 1, ..Standing::default() };
    let hearing = of_progress(&known(State::Queued), &told(standing));
    assert!(hearing.events.iter().all(|(_, data): &(&str, Value)| data.is_object()));
}
