//! How training shows its progress: a bar on a terminal, a line per epoch in a log.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;

use domain::{EpochReport, Layer, Metrics};
use page_layers::{JobObserver, Stop, TrainedLayer};

/// Shows progress on stderr, and passes on the wish to stop.
#[derive(Debug)]
pub struct Progress {
    /// Whether a bar is shown instead of lines.
    terminal: bool,
    /// The bar of the layer that is being trained.
    bar: Option<ProgressBar>,
    stop: Arc<AtomicBool>,
    epochs: u32,
    /// The results of the latest epoch, shown beside the bar.
    latest: String,
}

impl Progress {
    /// Shows a bar if stderr is a terminal and `quiet` is false, else writes lines to the log.
    /// Training ends when `stop` becomes true.
    pub fn new(quiet: bool, stop: Arc<AtomicBool>) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        Self { terminal, bar: None, stop, epochs: 0, latest: String::new() }
    }
}

/// A bar over all epochs of a layer, in one line of an 80-column terminal.
fn new_bar(layer: Layer) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // A wrong template is no reason to fail: the plain style is kept.
    if let Ok(style) = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(layer.model_name());
    bar
}

/// The results of the latest epoch, for the text beside the bar.
fn beside_the_bar(report: &EpochReport) -> String {
    report.validation.map_or_else(String::new, |metrics| {
        format!(", acc {:.3}, F1 {:.3}", metrics.accuracy, metrics.f1)
    })
}

/// An epoch's line in the log.
fn line(report: &EpochReport, epochs: u32) -> String {
    let validation = report.validation.map_or_else(String::new, |metrics| {
        let Metrics { loss, accuracy, f1, .. } = metrics;
        format!(", validation loss {loss:.4}, accuracy {accuracy:.4}, F1 {f1:.4}")
    });
    let best = if report.best { " (best)" } else { "" };
    let EpochReport { epoch, training_loss, seconds, .. } = report;
    format!("epoch {epoch}/{epochs}, loss {training_loss:.4}{validation}{best}, {seconds:.1} s")
}

impl JobObserver for Progress {
    fn layer_started(
        &mut self,
        layer: Layer,
        _number: usize,
        train: usize,
        validation: usize,
        epochs: u32,
    ) {
        info!(
            "{}: {train} samples to learn from, {validation} to validate with",
            layer.model_name()
        );
        self.epochs = epochs;
        self.latest.clear();
        self.bar = self.terminal.then(|| new_bar(layer));
    }

    fn step(&mut self, _layer: Layer, epoch: usize, step: usize, steps: usize, loss: f32) {
        let Some(bar) = &self.bar else { return };
        let is_first = bar.length().is_none();
        let left =
            if is_first { String::new() } else { format!(", ≤{:#}", HumanDuration(bar.eta())) };
        bar.set_message(format!(
            "epoch {epoch}/{}, loss {loss:.3}{}{left}",
            self.epochs, self.latest
        ));
        bar.set_length(steps as u64 * u64::from(self.epochs));
        bar.set_position(((epoch.max(1) - 1) * steps + step) as u64);
        if is_first {
            // A layer that goes on from a checkpoint has done nothing of that just now.
            bar.reset_eta();
        }
    }

    fn epoch(&mut self, layer: Layer, report: &EpochReport) {
        if self.bar.is_some() {
            self.latest = beside_the_bar(report);
            return;
        }
        info!("{}: {}", layer.model_name(), line(report, self.epochs));
    }

    fn layer_finished(&mut self, layer: &TrainedLayer) {
        // The line that stays is the one in the log.
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        info!(
            "{}: done after {} epochs, epoch {} kept, {:.0} s",
            layer.layer.model_name(),
            layer.course.history.len(),
            layer.course.best_epoch,
            layer.times.whole.as_secs_f64()
        );
    }

    fn stop(&self) -> Stop {
        if self.stop.load(Ordering::Relaxed) { Stop::KeepBest } else { Stop::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_says_what_it_came_to() {
        let metrics =
            Metrics { loss: 0.25, accuracy: 0.98125, precision: 0.9, recall: 0.8, f1: 0.84706 };
        let report = EpochReport {
            epoch: 3,
            training_loss: 0.5,
            validation: Some(metrics),
            best: true,
            seconds: 1.25,
        };
        let said = "epoch 3/15, loss 0.5000, validation loss 0.2500, accuracy 0.9812, F1 0.8471 \
            (best), 1.2 s";
        assert_eq!(line(&report, 15), said);
        assert_eq!(beside_the_bar(&report), ", acc 0.981, F1 0.847");
        // Without validation samples nothing is shown, and no 0.
        let unvalidated = EpochReport { validation: None, best: false, ..report };
        assert_eq!(line(&unvalidated, 15), "epoch 3/15, loss 0.5000, 1.2 s");
        assert_eq!(beside_the_bar(&unvalidated), "");
    }
}
