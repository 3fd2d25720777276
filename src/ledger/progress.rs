//! How far a training has got: the trainer's note for `check`, which otherwise knows only what
//! Slurm knows.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use base::files::Replace;
use base::files::read_own;
use contract::wire::conversation::JobProgress;
use domain::SlurmJobId;

/// What a trainer was doing when it last wrote this.
///
/// If Slurm has no accounting, this is also the only record of the memory that a killed job has
/// used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Slurm's number of the job; `None` if the trainer was started by hand.
    pub slurm_job_id: Option<SlurmJobId>,
    /// How often Slurm has put the job back into its queue.
    pub restart_count: u64,
    /// The wire's name of the model that is being trained, such as `Background Model`; empty before
    /// the first.
    pub layer: String,
    /// Number of that layer, from 1; 0 before the first.
    pub layer_number: usize,
    /// How many layers there are.
    pub layers: usize,
    /// The epoch that is being trained, from 1; 0 before the first.
    pub epoch: usize,
    /// Most epochs that the layer may take.
    pub epochs: usize,
    /// Steps of the epoch that are done.
    pub step: usize,
    /// Steps in an epoch.
    pub steps: usize,
    /// Loss of the latest step.
    pub loss: Option<f64>,
    /// Validation accuracy after the latest epoch of this layer.
    pub accuracy: Option<f64>,
    /// F1 of the layer's pixels in the validation samples after that epoch.
    pub f1: Option<f64>,
    /// When that was.
    pub updated_at: Timestamp,
    /// Largest resident memory so far, in Slurm's MB (1,048,576 bytes).
    pub peak_memory_mb: Option<u64>,
    /// When the training ends at the latest if it goes on at the pace of this run. A layer that
    /// learns nothing more ends earlier. Nothing before the pace is known.
    pub expected_end: Option<Timestamp>,
    /// The best validation accuracy of this layer so far.
    #[serde(default)]
    pub best: Option<f64>,
    /// How fast this run trains, once that is known.
    #[serde(default)]
    pub pace: Option<NotedPace>,
}

/// What a run has learned from, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotedPace {
    /// Millions of pixels of patches.
    pub megapixels: f64,
    /// Seconds, with their share of validations and checkpoints.
    pub seconds: f64,
}

impl Progress {
    /// Most steps that are left: if every layer takes all of its epochs, and if those to come are
    /// as large as this one. `None` before the first step, or if the numbers contradict each other.
    pub fn steps_left(&self) -> Option<u64> {
        let Self { layer_number, layers, epoch, epochs, step, steps, .. } = *self;
        if layer_number == 0 || epoch == 0 {
            return None;
        }
        let of_epoch = steps.checked_sub(step)?;
        let of_layer = epochs.checked_sub(epoch)?.checked_mul(steps)?;
        let of_others = layers.checked_sub(layer_number)?.checked_mul(epochs)?.checked_mul(steps)?;
        u64::try_from(of_epoch.checked_add(of_layer)?.checked_add(of_others)?).ok()
    }

    /// The same for the asker.
    pub fn told(&self) -> JobProgress {
        JobProgress {
            at: self.updated_at,
            layer: self.layer.clone(),
            layer_number: self.layer_number,
            layers: self.layers,
            epoch: self.epoch,
            epochs: self.epochs,
            step: self.step,
            steps: self.steps,
            loss: self.loss,
            accuracy: self.accuracy,
            f1: self.f1,
            best: self.best,
            peak_memory_mb: self.peak_memory_mb,
            expected_end: self.expected_end,
        }
    }

    /// Reads what was written to `path`; `None` if there is nothing, or nothing that can be
    /// understood.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&read_own(path).ok()?).ok()
    }

    /// Writes it to `path` (mode 0600), whole or not at all. It is not flushed to disk: the next
    /// one comes soon, and nothing depends on it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        Replace::NOTE.write(path, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_anything_else_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress.json");
        assert_eq!(Progress::read(&path), None);
        let progress = Progress {
            slurm_job_id: Some(SlurmJobId(17)),
            restart_count: 1,
            layer: "Model 0".into(),
            layer_number: 2,
            layers: 3,
            epoch: 4,
            epochs: 15,
            step: 5,
            steps: 600,
            loss: Some(0.25),
            accuracy: Some(0.5),
            // Read without care, what is written for it is one bit more.
            f1: Some(1.333_333_333_333_333_7),
            updated_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            peak_memory_mb: Some(700),
            expected_end: Some("2026-01-02T03:14:05Z".parse().unwrap()),
            best: Some(0.75),
            pace: Some(NotedPace { megapixels: 12.5, seconds: 3.25 }),
        };
        assert_eq!(progress.steps_left(), Some(595 + 11 * 600 + 15 * 600));
        let odd = [
            Progress { layer_number: 0, ..progress.clone() },
            Progress { layers: 1, ..progress.clone() },
            Progress { epochs: 3, ..progress.clone() },
            Progress { step: 601, ..progress.clone() },
        ];
        assert!(odd.iter().all(|odd| odd.steps_left().is_none()));
        progress.write(&path).unwrap();
        assert_eq!(Progress::read(&path), Some(progress));
        fs::write(&path, "{\"slurm_job_id\": 17, \"lay").unwrap();
        assert_eq!(Progress::read(&path), None);
    }
}
