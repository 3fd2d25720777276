//! What is to be done about the tasks of a job: decided from what is known, without doing anything.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::ledger::{NotedPace, Progress};
use crate::worker::error::Failure;
use base::exit_code::ExitCode;
use contract::wire::conversation::{EndedEpoch, EndedEpochs};
use domain::{Layer, Standing, TaskStanding};

/// A layer may lose its task so many times; with the next loss the job ends as the task did.
const MOST_LOSSES: u32 = 2;

/// A task is tried so many times that can't be started.
const MOST_STARTS: u32 = 3;

/// The layers that a task may take, in the order in which it tries them.
pub(super) fn open_layers(
    order: &[Layer],
    claims: &BTreeMap<Layer, Option<u32>>,
    done: &BTreeSet<Layer>,
) -> Vec<Layer> {
    let is_open = |layer: &&Layer| !claims.contains_key(*layer) && !done.contains(*layer);
    order.iter().filter(is_open).copied().collect()
}

/// The order in which layers are begun: the longest first, so that none is left alone at the end.
pub(super) fn longest_first(mut lengths: Vec<(Layer, usize)>) -> Vec<Layer> {
    lengths.sort_by_key(|(layer, length)| (std::cmp::Reverse(*length), *layer));
    lengths.into_iter().map(|(layer, _)| layer).collect()
}

/// The layers that a task has, and has not finished.
pub(super) fn layers_of(
    task: u32,
    claims: &BTreeMap<Layer, Option<u32>>,
    done: &BTreeSet<Layer>,
) -> Vec<Layer> {
    let of_task = |(layer, owner): (&Layer, &Option<u32>)| {
        (*owner == Some(task) && !done.contains(layer)).then_some(*layer)
    };
    claims.iter().filter_map(of_task).collect()
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There was no layer left for it.
    Finished,
    /// It was told to end, and has left a checkpoint.
    Suspended,
    /// It has said what it can't do.
    Failed(Failure),
    /// It was killed, by this signal if that is known.
    Died(Option<i32>),
    /// It never began.
    NotStarted,
}

/// How a task ended, from its exit code and signal (its own, or as srun passes them on) and what
/// it has noted.
pub(super) fn end(
    code: Option<i32>,
    signal: Option<i32>,
    failure: Option<Failure>,
    started: bool,
) -> End {
    // A shell and srun say 128 and the number of the signal.
    let passed_on = code.filter(|code| (129..=192).contains(code)).map(|code| code - 128);
    match (code, failure) {
        (Some(0), _) => End::Finished,
        (_, Some(failure)) => End::Failed(failure),
        _ if !started => End::NotStarted,
        (Some(code), _) if code == ExitCode::Stopped as i32 => End::Suspended,
        _ => End::Died(signal.or(passed_on)),
    }
}

/// What follows from the end of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it is not needed any more.
    Over,
    /// It is started again.
    Again,
    /// It is given up, and the others go on.
    Without,
    /// The job is answered with this.
    Answer(Failure),
    /// The job ends like the task, by this signal if it is known.
    Leave(Option<i32>),
}

/// What follows from the end of a task. `losses`: how often the layer that it had has lost its
/// task, this time included; `starts`: how often it could not be started, in sequence, this time
/// included; `stopping`: the job was told to end; `open`: there are layers that are not done.
pub(super) fn after(end: End, losses: u32, starts: u32, stopping: bool, open: bool) -> Next {
    match end {
        _ if stopping => Next::Over,
        End::Failed(failure) => Next::Answer(failure),
        _ if !open => Next::Over,
        End::Finished => Next::Over,
        End::NotStarted if starts >= MOST_STARTS => Next::Without,
        End::NotStarted => Next::Again,
        End::Died(signal) if losses > MOST_LOSSES => Next::Leave(signal),
        End::Suspended if losses > MOST_LOSSES => Next::Leave(None),
        End::Died(_) | End::Suspended => Next::Again,
    }
}

/// What becomes of a job that was warned of its time limit, once its tasks have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterWarning {
    /// The best of every layer is the answer.
    Best,
    /// It asks to be put back into the queue.
    Requeue,
    /// There is nothing to show.
    OutOfTime,
}

/// `suspends`: a warning is to requeue the job even where every layer has a model; `all_shown`:
/// every layer has one; `worth_it`: this run has trained, and its checkpoints are on disk.
pub(super) fn after_warning(suspends: bool, all_shown: bool, worth_it: bool) -> AfterWarning {
    match (suspends, all_shown, worth_it) {
        (false, true, _) | (true, true, false) => AfterWarning::Best,
        (_, _, true) => AfterWarning::Requeue,
        (_, false, false) => AfterWarning::OutOfTime,
    }
}

/// Where the job stands, from the notes of the tasks that train a layer. `None` without any.
pub(super) fn combined(
    layers: usize,
    done: usize,
    notes: &BTreeMap<u32, Progress>,
) -> Option<Standing> {
    let (_, first) = notes.first_key_value()?;
    let tasks = notes.iter().map(|(task, note)| {
        let Standing { epoch, epochs, step, steps, .. } = note.standing;
        TaskStanding { task: *task, layer: note.standing.layer.clone(), epoch, epochs, step, steps }
    });
    Some(Standing {
        layers,
        layer_number: (done + 1).min(layers),
        expected_end: expected_end(layers.saturating_sub(done + notes.len()), notes),
        peak_memory_mb: notes.values().filter_map(|note| note.standing.peak_memory_mb).max(),
        tasks: tasks.collect(),
        ..first.standing.clone()
    })
}

/// The epochs of a task's note that were not in its note before.
pub(super) fn new_epochs(before: &EndedEpochs, now: &EndedEpochs) -> Vec<EndedEpoch> {
    let is_new = |epoch: &&EndedEpoch| !before.iter().any(|known| known == *epoch);
    now.iter().filter(is_new).cloned().collect()
}

/// When all layers are done at the latest, if those that wait take as long as the longest of those
/// that are trained, and each is begun by the task that is done first.
fn expected_end(waiting: usize, notes: &BTreeMap<u32, Progress>) -> Option<Timestamp> {
    let mut ends = Vec::with_capacity(notes.len());
    let mut longest = SignedDuration::ZERO;
    for note in notes.values() {
        let end = note.standing.expected_end?;
        let left = u32::try_from(note.standing.steps_left()?).ok().filter(|left| *left > 0);
        let all = note.standing.epochs.checked_mul(note.standing.steps)?;
        let whole = end.duration_since(note.updated_at).as_secs_f64();
        if let (Some(left), Ok(all)) = (left, u32::try_from(all)) {
            let whole = whole / f64::from(left) * f64::from(all);
            longest = longest.max(SignedDuration::try_from_secs_f64(whole).ok()?);
        }
        ends.push(end);
    }
    for _ in 0..waiting {
        let first = ends.iter_mut().min()?;
        *first = first.checked_add(longest).ok()?;
    }
    ends.into_iter().max()
}

/// How fast the tasks train together, for each of them.
pub(super) fn pace(notes: &BTreeMap<u32, Progress>) -> Option<NotedPace> {
    let paces: Vec<NotedPace> = notes.values().filter_map(|note| note.pace).collect();
    let sum = |part: fn(&NotedPace) -> f64| paces.iter().map(part).sum();
    (!paces.is_empty())
        .then(|| NotedPace { megapixels: sum(|pace| pace.megapixels), seconds: sum(|p| p.seconds) })
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
