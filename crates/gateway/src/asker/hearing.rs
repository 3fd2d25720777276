//! What a message of a reply queue changes: pure functions of the message and of what is known of
//! the run.

use std::collections::BTreeMap;

use contract::wire::conversation::{
    BodyError, End, Header, JobProgress, JobState, Kind, ModelEntry, ModelPart, PartError, Stage,
};
use domain::{Layer, Standing};
use serde_json::json;
use thiserror::Error;

use crate::courses::Courses;
use crate::figures;
use crate::runner::LOG;
use crate::state::{State, Transition};
use crate::store::{Change, FileKind, Hearing, Object, Run, RunFile};

/// The files that a cluster may send beside the models.
const REPORT: &str = "report.html";
pub(super) const RECORD: &str = "training.json";

/// A message that was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// Where the job is.
    State(JobState),
    /// How far its training is.
    Progress(JobProgress),
    /// A model, or a part of it.
    Model(ModelPart),
    /// A file that a person looks at.
    Report(&'static str),
    /// The end.
    End(End),
}

/// A message that can't be used. It changes nothing.
#[derive(Debug, Error)]
pub(super) enum Unfit {
    #[error("a message of the kind \"{}\", which this program does not know",
        base::text::printable(.0, 40))]
    Kind(String),
    #[error("the body of a {0}: {1}")]
    Body(Kind, #[source] BodyError),
    #[error(transparent)]
    Part(#[from] PartError),
    /// The name would become that of a file.
    #[error("a {0} of \"{name}\", which is no layer's model", name = base::text::printable(.1, 40))]
    Model(Kind, String),
    #[error("a report of another name than {REPORT} and {RECORD}")]
    Report,
}

/// Reads a message.
///
/// # Errors
/// When it is none of the conversation's.
pub(super) fn read(
    kind: &str,
    header: impl Fn(&str) -> Option<Header>,
    body: &[u8],
) -> Result<Message, Unfit> {
    let kind = Kind::from_word(kind).ok_or_else(|| Unfit::Kind(kind.to_owned()))?;
    let unread = |error| Unfit::Body(kind, error);
    Ok(match kind {
        Kind::State => Message::State(JobState::parse(body).map_err(unread)?),
        Kind::Progress => Message::Progress(JobProgress::parse(body).map_err(unread)?),
        Kind::Model => {
            let part = ModelPart::read(header)?;
            is_a_layers(kind, &part.name)?;
            Message::Model(part)
        }
        Kind::Report => match header("name") {
            Some(Header::Text(name)) if name == REPORT => Message::Report(REPORT),
            Some(Header::Text(name)) if name == RECORD => Message::Report(RECORD),
            _ => return Err(Unfit::Report),
        },
        Kind::Done | Kind::Failed => {
            let end = End::parse(kind, body).map_err(unread)?;
            if let End::Done(done) = &end {
                done.models.iter().try_for_each(|model| is_a_layers(kind, &model.name))?;
            }
            Message::End(end)
        }
    })
}

/// Makes sure that a model of this name is that of a layer.
fn is_a_layers(kind: Kind, model: &str) -> Result<(), Unfit> {
    match Layer::of_model(model) {
        Some(_) => Ok(()),
        None => Err(Unfit::Model(kind, model.to_owned())),
    }
}

/// What is known of a run when a message comes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    state: State,
    progress: Standing,
    /// The epochs that it has events of.
    courses: Courses,
    /// The models that have come: the names of their files, and their SHA-256.
    models: BTreeMap<String, String>,
    has_figures: bool,
}

impl Known {
    /// What is known of a run whose epochs went so.
    pub(super) fn of(run: &Run, courses: Courses) -> Self {
        let models = run.results.iter().filter(|result| result.kind == FileKind::Model);
        Self {
            state: run.status.state,
            progress: run.progress.clone(),
            courses,
            models: models.map(|m| (m.name.clone(), m.object.sha256.clone())).collect(),
            has_figures: run.figures.is_some(),
        }
    }
}

/// The name of a model's file.
pub(super) fn model_file(name: &str) -> String {
    format!("{name}.hdf5")
}

/// What a `job.state` changes.
pub(super) fn of_state(known: &Known, state: &JobState) -> Hearing {
    let happened = match state.state {
        Stage::Running if known.state == State::Queued => vec![Transition::Turn],
        Stage::Requeued if known.state.is_active() => vec![Transition::Requeued],
        // What the cluster does before a training are steps of waiting for the run. A snapshot of
        // Slurm's queue may also come late, when the training runs already.
        Stage::Taken
        | Stage::Submitted
        | Stage::Waiting
        | Stage::Running
        | Stage::Requeued
        | Stage::Cancelling
        | Stage::Unknown => Vec::new(),
    };
    let waits = matches!(state.state, Stage::Taken | Stage::Submitted | Stage::Waiting);
    if waits && known.state.is_active() {
        return Hearing::default();
    }
    // Its position counts itself.
    let before = state.queue_position.and_then(|position| position.checked_sub(1));
    Hearing {
        happened,
        detail: Some(state.detail.clone()),
        before: before.map(|before| before as u64),
        ..Hearing::default()
    }
}

/// What a `job.progress` changes.
pub(super) fn of_progress(known: &Known, told: &JobProgress) -> Hearing {
    let standing = &told.standing;
    if standing.layer_number == 0 {
        return Hearing::default();
    }
    let mut hearing = Hearing::default();
    if standing.layer_number != known.progress.layer_number {
        let layer = json!({
            "event": "layer", "model": standing.layer, "number": standing.layer_number,
            "layers": standing.layers, "epochs": standing.epochs,
        });
        hearing.events.push(("layer", layer));
    }
    let ended = told.ended_epochs.iter().map(|epoch| (epoch.layer.as_str(), &epoch.report));
    hearing.events.extend(known.courses.new_events(ended));
    if known.state != State::Running {
        hearing.happened.push(Transition::Began);
        hearing.detail = Some("its layers are being trained".to_owned());
    }
    hearing.progress = Some(standing.clone());
    hearing
}

/// What a model changes that has come whole and is kept.
pub(super) fn of_model(name: &str, object: Object) -> Hearing {
    let result = RunFile { name: model_file(name), kind: FileKind::Model, object };
    Hearing { change: Change { results: vec![result], ..Change::default() }, ..Hearing::default() }
}

/// What a report changes that is kept.
pub(super) fn of_report(known: &Known, name: &'static str, body: &[u8], object: Object) -> Hearing {
    let is_record = name == RECORD;
    let kind = if is_record { FileKind::Record } else { FileKind::Report };
    let mut hearing = Hearing::default();
    hearing.change.results.push(RunFile { name: name.to_owned(), kind, object });
    if is_record {
        hearing.change.figures = figures::of_record(body);
        // A conversation tells of epochs in passing; here all of them are.
        let epochs = figures::epochs_of_record(body);
        let told = epochs.iter().map(|(model, report)| (model.as_str(), report));
        hearing.events.extend(known.courses.new_events(told));
    }
    hearing
}

/// What the end changes; `log` is what is kept of the job's log. `kept` finds an object by its
/// SHA-256: a layer may have been trained again, and of its models that one counts which the end
/// lists.
pub(super) fn of_end(
    known: &Known,
    end: &End,
    log: Option<Object>,
    kept: impl Fn(&ModelEntry) -> Option<Object>,
) -> Hearing {
    let mut hearing = Hearing::default();
    if let Some(object) = log {
        let (name, kind) = (LOG.to_owned(), FileKind::Log);
        hearing.change.results.push(RunFile { name, kind, object });
    }
    match end {
        End::Failed(failed) => {
            hearing.happened.push(Transition::Broke);
            hearing.change.error = Some(base::text::sentence(&failed.error));
            hearing.detail = Some(failed.advice.clone()).filter(|advice| !advice.is_empty());
        }
        End::Done(done) => {
            if !known.has_figures {
                hearing.change.figures = Some(figures::of_end(done));
            }
            let mut absent: Vec<&str> = Vec::new();
            for model in &done.models {
                let (name, kind) = (model_file(&model.name), FileKind::Model);
                if known.models.get(&name) == Some(&model.sha256) {
                    continue;
                }
                match kept(model) {
                    Some(object) => hearing.change.results.push(RunFile { name, kind, object }),
                    None => absent.push(&model.name),
                }
            }
            if absent.is_empty() && !done.models.is_empty() {
                hearing.happened.push(Transition::Trained);
            } else {
                hearing.happened.push(Transition::Broke);
                let absent = if absent.is_empty() { "no model".into() } else { absent.join(", ") };
                let what = format!(
                    "the cluster has trained it, and not all of its models have arrived whole \
                     (missing: {absent}); ask for the run again"
                );
                hearing.change.error = Some(base::text::sentence(&what));
            }
        }
    }
    hearing
}

/// What a message changes that can't be used: nothing, unless it was the end, after which no other
/// one comes.
pub(super) fn of_unfit(message: &Unfit) -> Option<Hearing> {
    let was_the_end = matches!(
        message,
        Unfit::Body(Kind::Done | Kind::Failed, _) | Unfit::Model(Kind::Done | Kind::Failed, _)
    );
    let what = "the cluster's last message can't be read; are check and the gateway of the same \
        version? ask for the run again";
    was_the_end.then(|| broke(what))
}

/// What is left when the reply queue has gone: nothing more can be heard.
pub(super) fn of_silence() -> Hearing {
    broke(
        "its reply queue in RabbitMQ is gone, so that nothing more is heard of its job: somebody \
         has removed it, or this gateway was away for more than two weeks; ask for the run again",
    )
}

fn broke(what: &str) -> Hearing {
    Hearing {
        happened: vec![Transition::Broke],
        change: Change { error: Some(base::text::sentence(what)), ..Change::default() },
        ..Hearing::default()
    }
}

#[cfg(test)]
#[path = "hearing_tests.rs"]
mod tests;
