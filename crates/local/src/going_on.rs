//! What lets a person or another program watch a run, end it and go on with it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;

use base::exit_code::ExitCode;
use domain::{EpochReport, Layer, TrainingEvent, TrainingSettings};
use page_layers::{Checkpoints, JobObserver, Stop, TrainedLayer, TrainingInputs};

/// The shortest time between two checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// The shortest time between two lines about steps.
const STEPS_EVERY: Duration = Duration::from_secs(1);

/// A flag that becomes true with the first Ctrl-C or SIGTERM; the second one ends the program at
/// once.
pub(crate) fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(ExitCode::Stopped as u8),
            Arc::clone(&stop),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Raises the flag when standard input ends.
pub(crate) fn stop_with_standard_input(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut input = io::stdin().lock();
        while matches!(input.read(&mut buffer), Ok(1..)) {}
        stop.store(true, Ordering::Relaxed);
    });
}

/// The checkpoints of this run.
pub(crate) fn checkpoints(
    path: &Path,
    inputs: &TrainingInputs,
    settings: &TrainingSettings,
) -> io::Result<Checkpoints> {
    Checkpoints::open(path, CHECKPOINT_EVERY, inputs, settings)
}

/// Passes on what happens, and tells it to a file, a JSON object a line.
#[derive(Debug)]
pub(crate) struct Telling<O> {
    inner: O,
    file: Option<File>,
    /// Whether a stop keeps a checkpoint instead of the best epoch so far.
    suspends: bool,
    /// How many layers there are.
    layers: usize,
    steps_told: Option<Instant>,
}

impl<O: JobObserver> Telling<O> {
    pub(crate) fn new(
        inner: O,
        file: Option<&Path>,
        suspends: bool,
        layers: usize,
    ) -> io::Result<Self> {
        let file = file.map(File::create).transpose()?;
        Ok(Self { inner, file, suspends, layers, steps_told: None })
    }

    pub(crate) fn tell(&mut self, event: &TrainingEvent) {
        let Some(file) = &mut self.file else { return };
        let line = serde_json::to_string(event).map_err(io::Error::from);
        // One write a line: whoever reads meanwhile sees whole lines, but for the last.
        if let Err(error) = line.and_then(|line| file.write_all((line + "\n").as_bytes())) {
            warn!("the file for the progress can't be written: {error}");
            self.file = None; // once is enough to be told
        }
    }
}

impl<O: JobObserver> JobObserver for Telling<O> {
    fn layer_started(
        &mut self,
        layer: Layer,
        number: usize,
        train: usize,
        validation: usize,
        epochs: u32,
    ) {
        self.inner.layer_started(layer, number, train, validation, epochs);
        let (model, layers) = (layer.model_name(), self.layers);
        self.tell(&TrainingEvent::Layer { model, number, layers, train, validation, epochs });
    }

    fn step(&mut self, layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        self.inner.step(layer, epoch, step, steps, loss);
        if self.steps_told.is_none_or(|told| told.elapsed() >= STEPS_EVERY) {
            self.steps_told = Some(Instant::now());
            let loss = Some(f64::from(loss)).filter(|loss| loss.is_finite());
            self.tell(&TrainingEvent::Step { epoch, step, steps, loss });
        }
    }

    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        self.inner.epoch(layer, report);
        let event = TrainingEvent::Epoch { model: layer.model_name(), report: report.clone() };
        self.tell(&event);
    }

    fn layer_finished(&mut self, layer: &TrainedLayer) {
        self.inner.layer_finished(layer);
        self.tell(&TrainingEvent::Finished { model: layer.layer.model_name() });
    }

    fn stop(&self) -> Stop {
        match self.inner.stop() {
            Stop::KeepBest if self.suspends => Stop::Suspend,
            other => other,
        }
    }
}
