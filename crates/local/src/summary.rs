//! The table at the end of a local run: what each layer learned from and how well.

use std::fmt::{self, Write as _};
use std::time::Duration;

use base::memory::memory_size;
use base::text::clock;
use domain::colour_name;
use report::{LayerPart, layer_name};

/// The two lines above the columns.
const HEAD: [[&str; 9]; 2] = [
    ["", "samples", "epochs", "accuracy", "prec.", "recall", "F1", "", "colour"],
    ["layer", "train/val", "best/run", "valid.", "page", "page", "page", "time", "preview"],
];

/// The whole table; no line is longer than 80 columns.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    /// One line for each layer.
    pub(crate) layers: Vec<LayerPart<'a>>,
    /// From the start to now.
    pub(crate) time: Duration,
    /// Largest resident memory of the process in bytes, if the system tells it.
    pub(crate) peak_memory: Option<u64>,
    /// The device that computed, such as `CPU`.
    pub(crate) device: String,
    /// The seed of all random choices.
    pub(crate) seed: u64,
}

impl Summary<'_> {
    /// The table as text; each line ends with a line break.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        for [layer, samples, epochs, accuracy, precision, recall, f1, time, colour] in HEAD {
            let _ = writeln!(
                text,
                "{layer:<11}{samples:>12}{epochs:>9}{accuracy:>9}{precision:>7}{recall:>7}{f1:>7}\
                 {time:>8}  {colour}"
            );
        }
        let _ = writeln!(text, "{}", "-".repeat(79));
        for part in &self.layers {
            let accuracy =
                part.course.best().and_then(|report| report.validation).map(|m| m.accuracy);
            let score = part.score.unwrap_or_default();
            let _ = writeln!(
                text,
                "{:<11}{:>12}{:>9}{:>9.4}{:>7.3}{:>7.3}{:>7.3}{:>8}  {}",
                layer_name(part.layer),
                format!("{}/{}", part.samples.train, part.samples.validation),
                format!("{}/{}", part.course.best_epoch, part.course.history.len()),
                accuracy.unwrap_or_default(),
                score.precision(),
                score.recall(),
                score.f1(),
                clock(part.time),
                colour_name(part.layer).unwrap_or("none"),
            );
        }
        let footer =
            Footer { time: self.time, peak_memory: self.peak_memory, device: &self.device };
        let _ = writeln!(text, "\n{footer} · seed {}", self.seed);
        text
    }
}

/// The line below a table: how long it took, how much memory, and what computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footer<'a> {
    /// From the start to now.
    pub(crate) time: Duration,
    /// Largest resident memory of the process in bytes, if the system tells it.
    pub(crate) peak_memory: Option<u64>,
    /// The device that computed, such as `CPU`.
    pub(crate) device: &'a str,
}

impl fmt::Display for Footer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in all", clock(self.time))?;
        if let Some(bytes) = self.peak_memory {
            write!(f, " · peak memory {}", memory_size(bytes))?;
        }
        write!(f, " · {}", self.device)
    }
}

#[cfg(test)]
mod tests {
    use domain::{Course, EpochReport, Layer, Metrics, SampleCounts, Score};

    use super::*;

    #[test]
    fn the_widest_table_fits_80_columns() {
        let metrics = Metrics { loss: 0.0, accuracy: 1.0, precision: 1.0, recall: 1.0, f1: 1.0 };
        let report = |epoch| EpochReport {
            epoch,
            training_loss: 0.0,
            validation: Some(metrics),
            best: true,
            seconds: 1.0,
        };
        let history = (1..=1000).map(report).collect();
        let course = Course { history, best_epoch: 1000, restarts: 0, learned: true };
        let part = |layer| LayerPart {
            layer,
            samples: SampleCounts { train: 800_000, validation: 99_999 },
            course: &course,
            time: Duration::from_secs(99 * 3600),
            score: Some(Score { hits: 1, extra: 0, missed: 0 }),
        };
        let summary = Summary {
            layers: vec![part(Layer::Background), part(Layer::Numbered(9))],
            time: Duration::from_secs(3661),
            peak_memory: Some(30 << 30),
            device: "NVIDIA GPU (CUDA)".into(),
            seed: u64::from(u32::MAX),
        };
        let table = summary.table();
        for line in table.lines() {
            assert!(line.chars().count() <= 80, "{}: {line}", line.chars().count());
        }
        assert!(table.contains("1:01:01 in all · peak memory 30.0 GiB"), "{table}");
    }
}
