//! The report of a job that has models. It is written when the reply is safe on disk, and again
//! with a picture of the page when the reply is delivered. An error here is not an error of the
//! job.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use thiserror::Error;
use tracing::{info, warn};

use super::files::Place;
use super::signals::{Signal, Signals};
use super::told::figures;
use base::memory::peak_memory;
use domain::{Calibration, Layer, SettingsMap, TrainingSettings};
use local::{layer_parts, page_parts, picture};
use page_layers::look_at_pages as look;
use page_layers::{Device, NetworkError, Score, TrainedLayer, TrainingJob, spent_line};
use report::{Content, MOST_PICTURES, Pictures};

/// A job does not keep its node for longer than this only for a picture.
const LONGEST: Duration = Duration::from_secs(600);

/// The picture is given up when the allocation has only this much time left.
const RESERVE: Duration = Duration::from_secs(60);

/// How the log says that there is none.
const NO_REPORT: &str = "no report";

/// A training with everything that its report shows.
pub(super) struct Finished {
    pub(super) job: TrainingJob,
    pub(super) layers: Vec<TrainedLayer>,
    /// What became of their joint calibration, and how long it took.
    pub(super) calibration: (Calibration, Duration),
    pub(super) settings: TrainingSettings,
    pub(super) given: SettingsMap,
    /// The user's names for the pages, where there are several.
    pub(super) labels: Vec<Option<String>>,
    pub(super) device: Device,
    pub(super) device_name: String,
    pub(super) started: Instant,
    pub(super) downloaded: Duration,
    pub(super) encoded: Duration,
    /// How long several tasks have trained, where they did.
    pub(super) by_tasks: Option<Duration>,
}

/// Why a page is not in the report.
#[derive(Debug, Error)]
enum NoPicture {
    #[error("the job was near its time limit")]
    Time,
    #[error("the cluster ended the job")]
    Ended,
    #[error("it would have taken longer than {} minutes", LONGEST.as_secs() / 60)]
    Slow,
    #[error("the page can't be predicted ({0})")]
    Network(#[from] NetworkError),
    #[error("it can't be compressed ({0})")]
    Image(#[from] image::ImageError),
}

impl Finished {
    /// The download, the parts of the training, and making the reply.
    fn parts(&self) -> Vec<(&'static str, Duration)> {
        let mut parts = vec![("download", self.downloaded)];
        match self.by_tasks {
            None => parts.extend(self.job.spent(&self.layers).parts()),
            // The times of layers that are trained side by side have no sum.
            Some(took) => parts.push(("tasks", took)),
        }
        if self.calibration.0 != Calibration::Off {
            parts.push(("calibrate", self.calibration.1));
        }
        parts.push(("encode", self.encoded));
        parts
    }

    /// Logs where the time went, from the job file to the reply on disk. Writing the reply took
    /// `spooling`.
    pub(super) fn tell_times(&self, spooling: Duration) {
        let whole = self.started.elapsed();
        let mut parts = self.parts();
        parts.push(("spool", spooling));
        let known: Duration = parts.iter().map(|(_, took)| *took).sum();
        parts.push(("other", whole.saturating_sub(known)));
        info!("time to the reply {:.2} s: {}", whole.as_secs_f64(), spent_line(&parts));
    }

    /// Writes the report without the picture. It takes milliseconds.
    pub(super) fn report(&self, place: &Place) {
        let none = Pictures::None("the trainer ended before it was drawn".into());
        guarded(NO_REPORT, &place.report, || self.write(place, none, &[], None));
    }

    /// Keeps the figures for the asker of a conversation. It takes milliseconds.
    pub(super) fn keep_figures(&self, place: &Place) {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| {
                let epochs = layer.course.history.iter().map(|report| {
                    let validation = report.validation;
                    serde_json::json!({
                        "epoch": report.epoch,
                        "training_loss": report.training_loss,
                        "validation_loss": validation.map(|metrics| metrics.loss),
                        "validation_accuracy": validation.map(|metrics| metrics.accuracy),
                        "validation_precision": validation.map(|metrics| metrics.precision),
                        "validation_recall": validation.map(|metrics| metrics.recall),
                        "validation_f1": validation.map(|metrics| metrics.f1),
                        "best": report.best,
                        "seconds": report.seconds,
                    })
                });
                let history: Vec<_> = epochs.collect();
                serde_json::json!({ "figures": figures(layer), "history": history })
            })
            .collect();
        let text = serde_json::json!({
            "program": "hpc-trainer",
            "version": env!("CARGO_PKG_VERSION"),
            "seed": self.job.seed(),
            "device": self.device_name,
            "settings": self.given,
            "effective": self.settings.shown(),
            "layers": layers,
            "calibration": self.calibration.0.to_json(),
            "seconds": self.started.elapsed().as_secs_f64(),
        });
        let path = place.outbox.directory().join("training.json");
        guarded("no figures", &path, || place.outbox.put_figures(text.to_string().as_bytes()));
    }

    /// Predicts the page and writes the report with it, unless a signal comes or time is short.
    pub(super) fn report_with_pictures(&self, place: &Place, signals: &Signals) {
        guarded(NO_REPORT, &place.report, || {
            let began = Instant::now();
            match self.draw(signals) {
                Ok((pictures, scores)) => {
                    self.write(place, Pictures::Drawn(pictures), &scores, Some(began.elapsed()))
                }
                Err(why) => {
                    info!("no picture in the report: {why}");
                    self.write(place, Pictures::None(why.to_string()), &[], None)
                }
            }
        });
    }

    fn draw(&self, signals: &Signals) -> Result<(Vec<report::Picture>, Vec<Score>), NoPicture> {
        let layers: Vec<Layer> = self.layers.iter().map(|layer| layer.layer).collect();
        let until = Instant::now() + LONGEST;
        let of_slurm =
            time_left(std::env::var("SLURM_JOB_END_TIME").ok().as_deref(), SystemTime::now());
        let near_the_end = of_slurm.map(|left| Instant::now() + left.saturating_sub(RESERVE));
        let go_on = || match signals.received() {
            Some(Signal::Ended) => Err(NoPicture::Ended),
            Some(Signal::Warned) => Err(NoPicture::Time),
            None if near_the_end.is_some_and(|end| Instant::now() >= end) => Err(NoPicture::Time),
            None if Instant::now() >= until => Err(NoPicture::Slow),
            None => Ok(()),
        };
        let mut pictures = Vec::new();
        let scores = look(
            &self.job,
            &self.layers,
            &self.device,
            MOST_PICTURES,
            &go_on,
            |_, page, found| {
                pictures.push(picture(page, &layers, found)?);
                Ok(())
            },
        )?;
        // Scores of some of the pages would be taken for those of all.
        let whole = pictures.len() == self.job.pages().len();
        Ok((pictures, if whole { scores } else { Vec::new() }))
    }

    fn write(
        &self,
        place: &Place,
        pictures: Pictures,
        scores: &[Score],
        predicted: Option<Duration>,
    ) -> io::Result<()> {
        let mut steps = self.parts();
        steps.extend(predicted.map(|took| ("predict", took)));
        let html = report::render(&Content {
            ended: Timestamp::now(),
            pages: page_parts(&self.job, &self.labels),
            patch: (self.job.shape().height(), self.job.shape().width()),
            seed: self.job.seed(),
            device: &self.device_name,
            given: &self.given,
            effective: self.settings.shown(),
            layers: layer_parts(&self.layers, scores),
            calibration: &self.calibration.0,
            pictures,
            steps,
            whole: self.started.elapsed(),
            peak_memory: peak_memory(),
        });
        place.write_report(html.as_bytes())
    }
}

/// What can't be made is only a warning, and `lacks` says what is missing then: the reply is
/// already safe.
fn guarded(lacks: &str, path: &Path, write: impl FnOnce() -> io::Result<()>) {
    if let Some(why) = attempt(path, write) {
        warn!("{lacks}: {why}");
    }
}

/// Why this file could not be written.
fn attempt(path: &Path, write: impl FnOnce() -> io::Result<()>) -> Option<String> {
    match panic::catch_unwind(AssertUnwindSafe(write)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{} can't be written: {error}", path.display())),
        Err(_) => Some("making it ended with a fault of the program".to_owned()),
    }
}

/// The time that the allocation has left, if Slurm tells when it ends.
fn time_left(end: Option<&str>, now: SystemTime) -> Option<Duration> {
    let end: u64 = end?.parse().ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(end).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_written_is_named() {
        let path = Path::new("outbox/training.json");
        let full = || Err(io::Error::other("the disk is full"));
        let why = "outbox/training.json can't be written: the disk is full";
        assert_eq!(attempt(path, full).as_deref(), Some(why));
        assert_eq!(attempt(path, || Ok(())), None);
    }

    #[test]
    fn the_time_left_is_known_where_slurm_tells_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(time_left(Some("1090"), now), Some(Duration::from_secs(90)));
        assert_eq!(time_left(Some("990"), now), Some(Duration::ZERO));
        assert_eq!((time_left(None, now), time_left(Some("soon"), now)), (None, None));
    }
}
