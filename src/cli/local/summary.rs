//! The table at the end of a local run: what each layer learned from and how well.

use std::fmt::{self, Write as _};
use std::time::Duration;

use base::memory::size;
use base::text::clock;
use domain::Score;

/// The two lines above the columns.
const HEAD: [[&str; 9]; 2] = [
    ["", "samples", "epochs", "accuracy", "prec.", "recall", "F1", "", "colour"],
    ["layer", "train/val", "best/run", "valid.", "page", "page", "page", "time", "preview"],
];

/// One layer's line.
#[derive(Clone, Debug)]
pub struct Row {
    /// The user's name for the layer.
    pub name: String,
    /// Samples learned from.
    pub train: usize,
    /// Samples validated with.
    pub validation: usize,
    /// The epoch whose weights were kept, from 1.
    pub best_epoch: usize,
    /// Epochs run.
    pub epochs: usize,
    /// Share of validation pixels that are right in the best epoch.
    pub accuracy: f64,
    /// How well the layer was found on the whole page, inside the regions.
    pub score: Score,
    /// How long its training took.
    pub time: Duration,
    /// Its colour in the picture, if it has one.
    pub colour: Option<&'static str>,
}

/// The whole table; no line is longer than 80 columns.
#[derive(Clone, Debug)]
pub struct Summary {
    /// One line for each layer.
    pub rows: Vec<Row>,
    /// From the start to now.
    pub time: Duration,
    /// Largest resident memory of the process in bytes, if the system tells it.
    pub peak_memory: Option<u64>,
    /// The device that computed, such as `CPU`.
    pub device: String,
    /// The seed of all random choices.
    pub seed: u64,
}

impl Summary {
    /// The table as text; each line ends with a line break.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        for [layer, samples, epochs, accuracy, precision, recall, f1, time, colour] in HEAD {
            let _ = writeln!(
                text,
                "{layer:<11}{samples:>12}{epochs:>9}{accuracy:>9}{precision:>7}{recall:>7}{f1:>7}{time:>8}  {colour}"
            );
        }
        let _ = writeln!(text, "{}", "-".repeat(79));
        for row in &self.rows {
            let _ = writeln!(
                text,
                "{:<11}{:>12}{:>9}{:>9.4}{:>7.3}{:>7.3}{:>7.3}{:>8}  {}",
                row.name,
                format!("{}/{}", row.train, row.validation),
                format!("{}/{}", row.best_epoch, row.epochs),
                row.accuracy,
                row.score.precision(),
                row.score.recall(),
                row.score.f1(),
                clock(row.time),
                row.colour.unwrap_or("none"),
            );
        }
        let footer = Footer { time: self.time, peak_memory: self.peak_memory, device: &self.device };
        let _ = writeln!(text, "\n{footer} · seed {}", self.seed);
        text
    }
}

/// The line below a table: how long it took, how much memory, and what computed.
#[derive(Clone, Copy, Debug)]
pub struct Footer<'a> {
    /// From the start to now.
    pub time: Duration,
    /// Largest resident memory of the process in bytes, if the system tells it.
    pub peak_memory: Option<u64>,
    /// The device that computed, such as `CPU`.
    pub device: &'a str,
}

impl fmt::Display for Footer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in all", clock(self.time))?;
        if let Some(bytes) = self.peak_memory {
            write!(f, " · peak memory {}", size(bytes))?;
        }
        write!(f, " · {}", self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_table_fits_80_columns() {
        let row = Row {
            name: "Background".into(),
            train: 800_000,
            validation: 99_999,
            best_epoch: 1000,
            epochs: 1000,
            accuracy: 1.0,
            score: Score { hits: 1, extra: 0, missed: 0 },
            time: Duration::from_secs(99 * 3600),
            colour: Some("sky blue"),
        };
        let summary = Summary {
            rows: vec![row],
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
