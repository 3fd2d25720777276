//! How training shows that it gets on: a bar on a terminal, a line for each epoch in a log.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

use super::job::TrainedLayer;
use super::observe::JobObserver;
use super::outcome::{EpochReport, Stop};
use crate::wire::Layer;

/// Shows progress on stderr and passes on the wish to stop.
#[derive(Debug)]
pub struct Progress {
    /// Whether a bar is shown instead of lines.
    terminal: bool,
    /// The bar of the layer that is being trained.
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    epochs: u32,
    /// What the latest epoch came to, to be shown beside the bar.
    latest: String,
}

impl Progress {
    /// A bar where stderr is a terminal, unless `quiet`; else lines in the log. Training ends when `stop`
    /// becomes true.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        Self { terminal, bar: None, stop, epochs: 0, latest: String::new() }
    }
}

fn new_bar(layer: Layer) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // A template that is wrong leaves the plain style: no reason to fail.
    if let Ok(style) = ProgressStyle::with_template("{prefix:18} [{bar:24}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(layer.model_name());
    bar
}

impl JobObserver for Progress {
    fn layer_started(&mut self, layer: Layer, _number: usize, train: usize, validation: usize, epochs: u32) {
        info!("{}: {train} samples to learn from, {validation} to validate with", layer.model_name());
        self.epochs = epochs;
        self.latest.clear();
        self.bar = self.terminal.then(|| new_bar(layer));
    }

    fn step(&mut self, _layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(steps as u64);
        bar.set_position(step as u64);
        bar.set_message(format!("epoch {epoch}/{}, loss {loss:.4}{}", self.epochs, self.latest));
    }

    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        let accuracy = report.validation.map_or(0.0, |metrics| metrics.accuracy);
        if self.bar.is_some() {
            self.latest = format!(", accuracy {accuracy:.4}");
            return;
        }
        let loss = report.validation.map_or(0.0, |metrics| metrics.loss);
        info!(
            "{}: epoch {}/{}, loss {:.4}, validation loss {loss:.4}, accuracy {accuracy:.4}{}, {:.1} s",
            layer.model_name(),
            report.epoch,
            self.epochs,
            report.training_loss,
            if report.best { " (best)" } else { "" },
            report.seconds
        );
    }

    fn layer_finished(&mut self, layer: &TrainedLayer) {
        // The line that stays is the log's.
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        info!(
            "{}: done after {} epochs, epoch {} kept, {:.0} s",
            layer.model_name,
            layer.history.len(),
            layer.best_epoch,
            layer.time.as_secs_f64()
        );
    }

    fn stop(&self) -> Stop {
        if self.stop.load(Ordering::Relaxed) { Stop::KeepBest } else { Stop::No }
    }
}
