//! How far a training has got: the trainer's note for `check`, which otherwise knows only what
//! Slurm knows.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use base::files::Replace;
use base::files::read_own;
use contract::wire::conversation::{EndedEpochs, JobProgress};
use domain::{SlurmJobId, Standing};

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
    /// Where the training stands.
    #[serde(flatten)]
    pub standing: Standing,
    /// When that was.
    pub updated_at: Timestamp,
    /// How fast this run trains, once that is known.
    #[serde(default)]
    pub pace: Option<NotedPace>,
    /// The epochs that have ended last, those of earlier runs of the job included.
    #[serde(default, skip_serializing_if = "EndedEpochs::is_empty")]
    pub ended_epochs: EndedEpochs,
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
    /// The same for the asker, who is also told of these epochs.
    pub fn told(&self, ended_epochs: EndedEpochs) -> JobProgress {
        JobProgress { at: self.updated_at, standing: self.standing.clone(), ended_epochs }
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
    use std::collections::BTreeSet;
    use std::fs;

    use domain::EpochReport;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_anything_else_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress.json");
        assert_eq!(Progress::read(&path), None);
        let mut ended_epochs = EndedEpochs::default();
        let report = EpochReport {
            epoch: 3,
            training_loss: 0.1,
            validation: None,
            best: true,
            seconds: 1.5,
        };
        ended_epochs.add("Model 0", &report);
        let progress = Progress {
            slurm_job_id: Some(SlurmJobId(17)),
            restart_count: 1,
            standing: Standing {
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
                best: Some(0.75),
                peak_memory_mb: Some(700),
                expected_end: Some("2026-01-02T03:14:05Z".parse().unwrap()),
                device: Some("CPU".into()),
                predicting: false,
                tasks: Vec::new(),
            },
            updated_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            pace: Some(NotedPace { megapixels: 12.5, seconds: 3.25 }),
            ended_epochs,
        };
        progress.write(&path).unwrap();
        assert_eq!(Progress::read(&path), Some(progress));
        // An older note lacks what has come later.
        let note = r#"{"slurm_job_id":17,"restart_count":0,"layer":"Model 0","layer_number":2,
            "layers":3,"epoch":4,"epochs":15,"step":5,"steps":600,"loss":0.25,"accuracy":null,
            "f1":null,"updated_at":"2026-01-02T03:04:05Z","peak_memory_mb":700,
            "expected_end":null}"#;
        fs::write(&path, note).unwrap();
        let read = Progress::read(&path).unwrap();
        assert_eq!((read.standing.layer_number, read.standing.loss), (2, Some(0.25)));
        let names = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>()
        };
        let mut expected = names(note);
        expected.extend(["best".to_owned(), "pace".to_owned()]);
        assert_eq!(names(&serde_json::to_string(&read).unwrap()), expected);
        fs::write(&path, "{\"slurm_job_id\": 17, \"lay").unwrap();
        assert_eq!(Progress::read(&path), None);
    }
}
