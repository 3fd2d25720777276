//! Cases of what is decided about the tasks of a job.

use super::*;
use crate::ledger::Cause;
use domain::EpochReport;

const BACKGROUND: Layer = Layer::Background;

fn number(n: u8) -> Layer {
    Layer::Numbered(n)
}

#[test]
fn the_longest_layers_come_first_and_equal_ones_in_their_order() {
    let lengths = vec![(BACKGROUND, 80), (number(0), 200), (number(1), 80), (number(2), 300)];
    let order = longest_first(lengths);
    assert_eq!(order, [number(2), number(0), BACKGROUND, number(1)]);
    assert!(longest_first(Vec::new()).is_empty());
}

#[test]
fn a_task_takes_what_is_neither_done_nor_taken() {
    let order = [number(1), BACKGROUND, number(0)];
    let open = |claims: &[(Layer, Option<u32>)], done: &[Layer]| {
        open_layers(&order, &claims.iter().copied().collect(), &done.iter().copied().collect())
    };
    assert_eq!(open(&[], &[]), order);
    assert_eq!(open(&[(number(1), Some(0))], &[]), [BACKGROUND, number(0)]);
    // A claim that can't be read is somebody's.
    assert_eq!(open(&[(number(1), None)], &[BACKGROUND]), [number(0)]);
    assert!(open(&[(number(0), Some(1))], &[number(1), BACKGROUND]).is_empty());
}

#[test]
fn a_task_that_is_gone_gives_back_what_it_had_not_finished() {
    let claims =
        [(BACKGROUND, Some(0)), (number(0), Some(1)), (number(1), Some(0)), (number(2), None)];
    let claims: BTreeMap<_, _> = claims.into();
    let done: BTreeSet<_> = [BACKGROUND].into();
    assert_eq!(layers_of(0, &claims, &done), [number(1)]);
    assert_eq!(layers_of(1, &claims, &done), [number(0)]);
    assert!(layers_of(2, &claims, &done).is_empty());
}

fn failure() -> Failure {
    Failure { sentence: "No.".into(), cause: Cause::Training, code: 9 }
}

#[test]
fn the_end_of_a_task_is_read_from_its_code_its_signal_and_its_notes() {
    for (code, signal, failed, started, expected) in [
        (Some(0), None, false, true, End::Finished),
        // Its note is of an earlier start, or nothing was left for it.
        (Some(0), None, true, false, End::Finished),
        (Some(9), None, true, true, End::Failed(failure())),
        (Some(9), None, false, true, End::Died(None)),
        (Some(12), None, false, true, End::Suspended),
        (Some(12), None, false, false, End::NotStarted),
        (None, Some(9), false, true, End::Died(Some(9))),
        (Some(137), None, false, true, End::Died(Some(9))),
        (Some(139), None, false, true, End::Died(Some(11))),
        (Some(128), None, false, true, End::Died(None)),
        (Some(1), None, false, false, End::NotStarted),
        (Some(127), None, false, false, End::NotStarted),
        (None, Some(9), false, false, End::NotStarted),
        (None, None, false, true, End::Died(None)),
    ] {
        let failed = failed.then(failure);
        assert_eq!(end(code, signal, failed, started), expected, "{code:?} {signal:?}");
    }
}

#[test]
fn a_task_that_ends_is_started_again_for_as_long_as_that_can_help() {
    let died = || End::Died(Some(9));
    for (ended, losses, starts, stopping, open, expected) in [
        (End::Finished, 0, 0, false, true, Next::Over),
        (End::Finished, 0, 0, false, false, Next::Over),
        (died(), 1, 0, false, true, Next::Again),
        (died(), 2, 0, false, true, Next::Again),
        (died(), 3, 0, false, true, Next::Leave(Some(9))),
        (End::Died(None), 3, 0, false, true, Next::Leave(None)),
        // All layers are done: it died on its way out.
        (died(), 3, 0, false, false, Next::Over),
        (End::Suspended, 1, 0, false, true, Next::Again),
        (End::Suspended, 3, 0, false, true, Next::Leave(None)),
        (End::NotStarted, 0, 1, false, true, Next::Again),
        (End::NotStarted, 0, 2, false, true, Next::Again),
        (End::NotStarted, 0, 3, false, true, Next::Without),
        (End::NotStarted, 0, 3, false, false, Next::Over),
        (End::Failed(failure()), 0, 0, false, true, Next::Answer(failure())),
        (End::Failed(failure()), 0, 0, false, false, Next::Answer(failure())),
    ] {
        let said = format!("{ended:?} {losses} {starts} {stopping} {open}");
        assert_eq!(after(ended.clone(), losses, starts, stopping, open), expected, "{said}");
        // Whatever happens once the job is to end, no task is started again.
        assert_eq!(after(ended, losses, starts, true, open), Next::Over, "{said}");
    }
}

#[test]
fn after_a_warning_the_rules_are_those_of_a_single_trainer() {
    use AfterWarning::{Best, OutOfTime, Requeue};
    for (suspends, all_shown, worth_it, expected) in [
        (false, true, true, Best),
        (false, true, false, Best),
        (false, false, true, Requeue),
        (false, false, false, OutOfTime),
        (true, true, true, Requeue),
        (true, true, false, Best),
        (true, false, true, Requeue),
        (true, false, false, OutOfTime),
    ] {
        let found = after_warning(suspends, all_shown, worth_it);
        assert_eq!(found, expected, "{suspends} {all_shown} {worth_it}");
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A note at second 100 of a task that has done `done` of 4 epochs and ends at this second.
fn note(layer: &str, done: usize, end: Option<i64>) -> Progress {
    Progress {
        slurm_job_id: None,
        restart_count: 0,
        standing: Standing {
            layer: layer.into(),
            layer_number: 1,
            layers: 1,
            epoch: done,
            epochs: 4,
            step: 10,
            steps: 10,
            peak_memory_mb: Some(100 + done as u64),
            expected_end: end.map(at),
            ..Standing::default()
        },
        updated_at: at(100),
        pace: Some(NotedPace { megapixels: 2.0, seconds: 4.0 }),
        ended_epochs: EndedEpochs::default(),
    }
}

#[test]
fn the_epochs_of_a_task_are_taken_over_once() {
    let epochs = |numbers: &[usize]| {
        let mut epochs = EndedEpochs::default();
        for epoch in numbers {
            let (epoch, training_loss) = (*epoch, 0.5);
            let (validation, best, seconds) = (None, false, 1.0);
            let report = EpochReport { epoch, training_loss, validation, best, seconds };
            epochs.add("Model 0", &report);
        }
        epochs
    };
    let new = |before: &[usize], now: &[usize]| -> Vec<usize> {
        let new = new_epochs(&epochs(before), &epochs(now));
        new.iter().map(|epoch| epoch.report.epoch).collect()
    };
    assert_eq!(new(&[], &[1, 2]), [1, 2]);
    assert_eq!(new(&[1, 2], &[1, 2, 3]), [3]);
    // The first ones have left the note, or all of them.
    assert_eq!(new(&[1, 2, 3], &[3, 4]), [4]);
    assert_eq!(new(&[1], &[7, 8]), [7, 8]);
    assert!(new(&[1, 2], &[1, 2]).is_empty() && new(&[1], &[]).is_empty());
}

#[test]
fn what_the_tasks_note_is_put_together() {
    assert_eq!(combined(4, 0, &BTreeMap::new()), None);
    let notes: BTreeMap<_, _> =
        [(0, note("Model 1", 2, Some(300))), (2, note("Model 0", 1, Some(220)))].into();
    let standing = combined(4, 1, &notes).unwrap();
    assert_eq!(
        (standing.layer.as_str(), standing.layer_number, standing.layers),
        ("Model 1", 2, 4)
    );
    assert_eq!(standing.peak_memory_mb, Some(102));
    let tasks: Vec<_> = standing.tasks.iter().map(|t| (t.task, t.layer.as_str())).collect();
    assert_eq!(tasks, [(0, "Model 1"), (2, "Model 0")]);
    // One layer is done, one is half done and one a quarter.
    assert!((standing.fraction() - (1.0 + 0.5 + 0.25) / 4.0).abs() < 1e-9, "{standing:?}");
    // The layer that waits takes 400 s as the longer one does, from second 220 on.
    assert_eq!(standing.expected_end, Some(at(620)));
    assert_eq!(combined(3, 1, &notes).unwrap().expected_end, Some(at(300)));
    let pace = pace(&notes).unwrap();
    assert_eq!((pace.megapixels, pace.seconds), (4.0, 8.0));
    let unknown: BTreeMap<_, _> =
        [(0, note("Model 1", 2, Some(300))), (1, note("Model 0", 1, None))].into();
    assert_eq!(combined(4, 1, &unknown).unwrap().expected_end, None);
}
