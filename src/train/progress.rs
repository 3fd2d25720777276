//! How training shows that it gets on: a bar on a terminal, a line for each epoch in a log.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

use super::job::{JobObserver, TrainedLayer};
use super::outcome::EpochReport;
use crate::wire::Layer;

/// Shows progress on stderr and passes on the wish to stop.
#[derive(Debug)]
pub struct Progress {
    /// None where stderr is no terminal, or nothing is to be shown.
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    epochs: u32,
    latest: String,
}

impl Progress {
    /// A bar where stderr is a terminal, unless `quiet`; else lines in the log. Training ends when `stop`
    /// becomes true.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Self {
        let bar = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix:18} [{bar:24}] {pos}/{len} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, stop, epochs: 0, latest: String::new() }
    }
}

impl JobObserver for Progress {
    fn layer_started(&mut self, layer: Layer, train: usize, validation: usize, epochs: u32) {
        self.epochs = epochs;
        self.latest.clear();
        info!("{}: {train} samples to learn from, {validation} to validate with", layer.model_name());
    }

    fn step(&mut self, layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        let Some(bar) = &self.bar else { return };
        bar.set_prefix(layer.model_name());
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
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bar.reset();
        }
        info!(
            "{}: done after {} epochs, epoch {} kept, {:.0} s",
            layer.model_name,
            layer.history.len(),
            layer.best_epoch,
            layer.time.as_secs_f64()
        );
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
