//! What the asker of a conversation is told of a training.

use std::time::Duration;

use jiff::Timestamp;

use super::error::JobError;
use super::requeue::Allocation;
use crate::courier::{Courier, Errand, tail};
use crate::ledger::{Cause, Outbox};
use crate::sentences::advice;
use base::memory::peak_memory;
use contract::wire::conversation::{
    Asked, Figures, JobDone, JobFailed, JobState, ModelEntry, Stage, Times, Used, sha256,
};
use domain::Layer;
use page_layers::TrainedLayer;
use scheduler::Kind;

/// How long what is told meanwhile may take when time is short. What is not sent then, is sent with
/// the end.
const SHORT_GOODBYE: Duration = Duration::from_secs(10);

fn used(took: Duration) -> Used {
    Used { memory_mb: peak_memory().map(|bytes| bytes >> 20), seconds: Some(took.as_secs()) }
}

/// Tells that the training runs, or goes back into the queue.
pub(super) fn state(
    phase: Stage,
    allocation: &Allocation,
    asked: Option<&Asked>,
    scheduler: Kind,
) -> Errand {
    let node = base::host_name();
    let word = scheduler.job_word();
    let number = allocation.job.map_or_else(String::new, |id| format!(" ({word} {id})"));
    let detail = match phase {
        Stage::Requeued => {
            format!(
                "the training{number} is out of time, waits in the queue again and goes on from \
                its checkpoint"
            )
        }
        _ if allocation.restarts > 0 => format!("the training{number} goes on, on {node}"),
        _ => format!("the training{number} runs on {node}"),
    };
    let state = JobState::new(phase, Timestamp::now(), &detail);
    Errand::State(JobState {
        slurm_job: allocation.job.map(|id| id.0),
        asked: asked.cloned(),
        ..state
    })
}

/// Tells the asker that the training goes back into the queue, and ends the process that tells.
pub(super) fn tell_requeued(
    courier: Option<Courier>,
    allocation: &Allocation,
    asked: Option<&Asked>,
    scheduler: Kind,
) {
    let Some(mut courier) = courier else { return };
    courier.send(&state(Stage::Requeued, allocation, asked, scheduler));
    courier.close(SHORT_GOODBYE);
}

/// The end of a training that has models; they are still to be listed.
pub(super) fn done(
    layers: &[TrainedLayer],
    seed: u64,
    asked: Option<Asked>,
    took: Duration,
    downloaded: Duration,
) -> JobDone {
    JobDone {
        at: Timestamp::now(),
        models: Vec::with_capacity(layers.len()),
        figures: layers.iter().map(figures).collect(),
        times: Times { seconds: took.as_secs_f64(), download_seconds: downloaded.as_secs_f64() },
        seed,
        log: own_log(),
        asked,
        used: used(took),
    }
}

pub(super) fn figures(layer: &TrainedLayer) -> Figures {
    let best = layer.course.best().and_then(|report| report.validation);
    Figures {
        model: layer.layer.model_name(),
        epochs: layer.course.history.len(),
        best_epoch: layer.course.best_epoch,
        accuracy: best.map(|metrics| metrics.accuracy),
        f1: best.map(|metrics| metrics.f1),
        loss: best.map(|metrics| metrics.loss),
        train_samples: layer.samples.train,
        validation_samples: layer.samples.validation,
        learned: layer.course.learned,
        seconds: layer.times.whole.as_secs_f64(),
    }
}

/// The files of the models that were trained.
pub(super) fn read_models(trained: &[TrainedLayer]) -> Result<Vec<(Layer, Vec<u8>)>, JobError> {
    let read = |trained: &TrainedLayer| match std::fs::read(&trained.path) {
        Ok(bytes) => Ok((trained.layer, bytes)),
        Err(source) => Err(JobError::Model { layer: trained.layer.input_name(), source }),
    };
    trained.iter().map(read).collect()
}

/// Makes sure that models lie in the outbox, and says what the end lists of them.
pub(super) fn keep_models(
    outbox: &Outbox,
    models: &[(Layer, Vec<u8>)],
) -> Result<Vec<ModelEntry>, JobError> {
    let keep = |(layer, file): &(Layer, Vec<u8>)| {
        let name = layer.model_name();
        outbox
            .put_model(&name, file)
            .map_err(|source| JobError::Model { layer: layer.input_name(), source })?;
        Ok(ModelEntry { name, sha256: sha256(file), size: file.len() as u64 })
    };
    models.iter().map(keep).collect()
}

/// The end of a training that has none.
pub(super) fn failed(
    error: String,
    cause: Cause,
    asked: Option<Asked>,
    took: Duration,
) -> JobFailed {
    JobFailed {
        at: Timestamp::now(),
        error,
        cause: cause.word().to_owned(),
        advice: advice(cause).to_owned(),
        log: own_log(),
        asked,
        used: used(took),
    }
}

/// The last lines of this job's log, where standard error is one.
fn own_log() -> Vec<String> {
    let Ok(path) = std::fs::read_link("/proc/self/fd/2") else { return Vec::new() };
    std::fs::File::open(path).and_then(tail).unwrap_or_default()
}
