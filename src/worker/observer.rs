//! Between the training and the job around it: passes signals in and progress out.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{info, warn};

use super::requeue::Allocation;
use super::signals::{Signal, Signals};
use crate::courier::{Courier, Errand};
use crate::ledger::{NotedPace, Outbox, Progress as Note};
use base::memory::peak_memory;
use contract::wire::conversation::EndedEpochs;
use domain::{Layer, Standing, TrainingEvent, TrainingSettings};
use local::Progress;
use page_layers::{EpochReport, JobObserver, Stop, TrainedLayer};

/// The note is written at most this often, except at the start of a layer and at the end of an
/// epoch.
const EVERY: Duration = Duration::from_secs(2);

/// The shortest time between two messages about progress, apart from ends of epochs.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The shortest time between two messages about ends of epochs: those of a small page take a
/// fraction of a second.
const EPOCHS_EVERY: Duration = Duration::from_secs(1);

/// After this many steps the pace is known well enough.
const TELLING_STEPS: u64 = 20;

/// Shows progress, notes it for `check`, and passes signals on.
pub(super) struct Watch {
    shown: Progress,
    signals: Signals,
    managed: bool,
    suspend_when_warned: bool,
    /// The signal that the log names already.
    told: Cell<Option<Signal>>,
    /// Steps done in this run.
    steps: u64,
    /// When the first of these steps was done.
    first_step: Option<Instant>,
    note: Note,
    /// Where the note is written.
    note_file: Option<PathBuf>,
    noted: Instant,
    /// Millions of pixels of patches in a step.
    megapixels: f64,
    teller: Option<Told>,
}

/// What the asker of a conversation is told meanwhile.
struct Told {
    courier: Courier,
    outbox: Outbox,
    last: Option<Instant>,
    /// The epochs that the courier was not given yet.
    ended_epochs: EndedEpochs,
}

impl Watch {
    /// Watches a training of this many layers. `managed`: `check` looks after the job.
    pub(super) fn new(
        shown: Progress,
        signals: &Signals,
        managed: bool,
        note_file: Option<PathBuf>,
        allocation: &Allocation,
        layers: usize,
    ) -> Self {
        // What an earlier run of the job has not told, or the task's layer before this one.
        let before = note_file.as_deref().and_then(Note::read);
        let note = Note {
            slurm_job_id: allocation.job,
            restart_count: allocation.restarts,
            standing: Standing { layers, ..Standing::default() },
            updated_at: Timestamp::now(),
            pace: None,
            ended_epochs: before.map(|note| note.ended_epochs).unwrap_or_default(),
        };
        let mut watch = Self {
            shown,
            signals: signals.clone(),
            managed,
            suspend_when_warned: false,
            told: Cell::new(None),
            steps: 0,
            first_step: None,
            note,
            note_file,
            noted: Instant::now(),
            megapixels: 0.0,
            teller: None,
        };
        watch.write();
        watch
    }

    /// Notes how many pixels of patches one step learns from, and what computes.
    pub(super) fn measure(&mut self, settings: &TrainingSettings, device: &str) {
        self.note.standing.device = Some(device.to_owned());
        let pixels = f64::from(settings.patch_height) * f64::from(settings.patch_width);
        self.megapixels = pixels * f64::from(settings.batch_size) / 1e6;
    }

    /// Tells the asker how far it is, and of each model as soon as it is done.
    pub(super) fn tell_by(&mut self, courier: Courier, outbox: &Outbox) {
        let (outbox, ended_epochs) = (outbox.clone(), self.note.ended_epochs.clone());
        self.teller = Some(Told { courier, outbox, last: None, ended_epochs });
    }

    /// The process that tells the asker, to be closed or given the end.
    pub(super) fn take_courier(&mut self) -> Option<Courier> {
        self.teller.take().map(|told| told.courier)
    }

    fn tell(&mut self, every: Duration) {
        let Some(told) = &mut self.teller else { return };
        if self.note.standing.layer_number > 0
            && told.last.is_none_or(|last| last.elapsed() >= every)
        {
            told.last = Some(Instant::now());
            let ended_epochs = std::mem::take(&mut told.ended_epochs);
            told.courier.send(&Errand::Progress(self.note.told(ended_epochs)));
        }
    }

    /// Whether a warning suspends the training even if it has an epoch to show.
    pub(super) fn suspend_when_warned(&mut self, suspend: bool) {
        self.suspend_when_warned = suspend;
    }

    /// True when this run has trained at all. If it has not, a requeued run would get no further
    /// either.
    pub(super) fn made_progress(&self) -> bool {
        self.steps > 0
    }

    /// Estimated from the time that a step of this run has taken, with its share of validations and
    /// checkpoints.
    fn expected_end(&self) -> Option<Timestamp> {
        let timed = u32::try_from(self.steps.checked_sub(1)?)
            .ok()
            .filter(|n| u64::from(*n) >= TELLING_STEPS)?;
        let left = u32::try_from(self.note.standing.steps_left()?).ok()?;
        let left = (self.first_step?.elapsed() / timed).checked_mul(left)?;
        Timestamp::now().checked_add(left).ok()
    }

    /// The steps after the first, which includes what happens only once.
    fn pace(&self) -> Option<NotedPace> {
        let timed = u32::try_from(self.steps.checked_sub(1)?).ok()?;
        let seconds = self.first_step?.elapsed().as_secs_f64();
        (u64::from(timed) >= TELLING_STEPS)
            .then(|| NotedPace { megapixels: f64::from(timed) * self.megapixels, seconds })
    }

    fn write(&mut self) {
        self.noted = Instant::now();
        self.note.updated_at = Timestamp::now();
        self.note.standing.expected_end = self.expected_end();
        self.note.pace = self.pace();
        self.note.standing.peak_memory_mb = peak_memory().map(|bytes| bytes >> 20);
        self.tell(TOLD_EVERY);
        let Some(file) = &self.note_file else { return };
        if let Err(error) = self.note.write(file) {
            warn!("{} can't be written: {error}", file.display());
            self.note_file = None; // once is enough to be told
        }
    }
}

impl JobObserver for Watch {
    fn layer_started(
        &mut self,
        layer: Layer,
        number: usize,
        train: usize,
        validation: usize,
        epochs: u32,
    ) {
        self.shown.layer_started(layer, number, train, validation, epochs);
        let (model, layers) = (layer.model_name(), self.note.standing.layers);
        let began = TrainingEvent::Layer { model, number, layers, train, validation, epochs };
        self.note.standing.note(&began);
        self.write();
    }

    fn step(&mut self, layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        self.steps += 1;
        self.first_step.get_or_insert_with(Instant::now);
        self.shown.step(layer, epoch, step, steps, loss);
        let loss = Some(f64::from(loss));
        self.note.standing.note(&TrainingEvent::Step { epoch, step, steps, loss });
        if self.noted.elapsed() >= EVERY {
            self.write();
        }
    }

    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        self.shown.epoch(layer, report);
        let model = layer.model_name();
        self.note.ended_epochs.add(&model, report);
        if let Some(told) = &mut self.teller {
            told.ended_epochs.add(&model, report);
        }
        self.note.standing.note(&TrainingEvent::Epoch { model, report: report.clone() });
        self.write();
        self.tell(EPOCHS_EVERY);
    }

    fn layer_finished(&mut self, layer: &TrainedLayer) {
        self.shown.layer_finished(layer);
        // The curves of a layer are whole when its model comes.
        if self.teller.as_ref().is_some_and(|told| !told.ended_epochs.is_empty()) {
            self.tell(Duration::ZERO);
        }
        let Some(told) = &mut self.teller else { return };
        let name = layer.layer.model_name();
        let kept = std::fs::read(&layer.path).and_then(|file| told.outbox.put_model(&name, &file));
        match kept {
            Ok(()) => told.courier.send(&Errand::Model { name, at: Timestamp::now() }),
            Err(error) => warn!("{name} can't be sent before the end: {error}"),
        }
    }

    fn stop(&self) -> Stop {
        // Said when it is seen: what a checkpoint and a reply still take may be more than Slurm
        // gives.
        let received = self.signals.received();
        if self.told.replace(received) != received {
            match received {
                Some(Signal::Warned) => info!("SIGUSR1: the time is nearly up"),
                Some(Signal::Ended) => info!("SIGTERM or SIGINT: the job is to end"),
                None => {}
            }
        }
        self.signals.stop(self.managed, self.suspend_when_warned)
    }
}
