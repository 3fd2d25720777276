//! Writes the epochs of a training to event files, one directory for each layer.

use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::writer::EventFile;
use crate::{EpochReport, JobObserver, Stop, TrainedLayer};
use domain::Layer;

/// The event files of a training.
#[derive(Debug)]
pub struct EventLogs {
    directory: PathBuf,
    /// The file of the layer that is being trained, and the last epoch in it.
    open: Option<(EventFile, usize)>,
    /// True once something could not be written: then nothing more is written.
    failed: bool,
}

impl EventLogs {
    /// Event files below `directory`, which is made when the first epoch is done.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), open: None, failed: false }
    }

    fn layer_started(&mut self) {
        self.open = None;
    }

    /// Writes an epoch. A failure is a warning, once.
    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        if self.failed {
            return;
        }
        let directory = self.directory.join(layer.model_name());
        if let Err(error) = self.write(&directory, report) {
            let path = self.open.as_ref().map_or(directory.as_path(), |(file, _)| file.path());
            warn!("no more events for TensorBoard: {} can't be written: {error}", path.display());
            self.failed = true;
        }
    }

    fn write(&mut self, directory: &Path, report: &EpochReport) -> io::Result<()> {
        let step = report.epoch as u64;
        if self.open.is_none() {
            self.open = Some((EventFile::create(directory)?, usize::MAX));
        }
        let Some((file, last)) = &mut self.open else { return Ok(()) };
        // The first epoch of a file, or of a layer that was started anew: readers drop the later
        // epochs that an earlier run has written.
        if report.epoch <= *last {
            file.start(step)?;
        }
        *last = report.epoch;
        let mut values = vec![("loss", report.training_loss)];
        if let Some(metrics) = report.validation {
            values.push(("validation loss", metrics.loss));
            values.push(("validation accuracy", metrics.accuracy));
            values.push(("validation F1", metrics.f1));
        }
        values.push(("seconds per epoch", report.seconds));
        file.scalars(step, &values)
    }
}

/// An observer that also writes event files, where they are wanted.
#[derive(Debug)]
pub struct WithEvents<O> {
    /// The observer that is told too.
    pub inner: O,
    /// The files.
    pub events: Option<EventLogs>,
}

impl<O: JobObserver> JobObserver for WithEvents<O> {
    fn layer_started(
        &mut self,
        layer: Layer,
        number: usize,
        train: usize,
        validation: usize,
        epochs: u32,
    ) {
        self.events.iter_mut().for_each(EventLogs::layer_started);
        self.inner.layer_started(layer, number, train, validation, epochs);
    }

    fn step(&mut self, layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        self.inner.step(layer, epoch, step, steps, loss);
    }

    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        self.inner.epoch(layer, report);
        self.events.iter_mut().for_each(|events| events.epoch(layer, report));
    }

    fn layer_finished(&mut self, layer: &TrainedLayer) {
        self.inner.layer_finished(layer);
    }

    fn stop(&self) -> Stop {
        self.inner.stop()
    }
}
