//! The files that the tasks of a job share.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::ledger::{JobFiles, Progress};
use crate::worker::error::Failure;
use crate::worker::requeue::Allocation;
use base::files::{create_atomic, read_own, sync_directory, write_atomic};
use domain::{Layer, SettingsMap};
use page_layers::TrainingInputs;

/// What every task has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The settings as they came.
    pub(crate) given: SettingsMap,
    /// The seed of all random choices.
    pub(crate) seed: u64,
    /// Where the pages and the models to start from lie.
    pub(crate) inputs: TrainingInputs,
    /// The layers in the order in which they are begun: the longest first.
    pub(crate) order: Vec<Layer>,
    /// How many tasks there are.
    pub(crate) tasks: u32,
    /// A checkpoint is written after so many seconds.
    pub(crate) checkpoint_seconds: u64,
    /// Whom a musicologist is to ask.
    pub(crate) operator: String,
    /// The job's directory for TensorBoard, if that is wanted.
    pub(crate) tensorboard: Option<PathBuf>,
}

/// A layer that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Done {
    /// By which task.
    pub(super) task: u32,
    /// The name of what it computed on.
    pub(super) device: String,
}

/// Which task trains a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    task: u32,
}

/// The files of one run of a job with several tasks.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    run: PathBuf,
    checkpoints: PathBuf,
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_own(path).ok()?).ok()
}

fn bytes(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

impl Shared {
    /// The files of a job in this run of its Slurm job.
    pub(crate) fn new(files: &JobFiles, allocation: &Allocation) -> Self {
        let root = files.tasks();
        let number = allocation.job.map_or(0, |job| job.0);
        let run = root.join(format!("run-{number}-{}", allocation.restarts));
        Self { root, run, checkpoints: files.checkpoint() }
    }

    /// Makes the directories, without anything of earlier runs. Only the leader calls it.
    pub(crate) fn make(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make(&self.run)?;
        make(&self.inputs())
    }

    /// Where the downloaded files lie.
    pub(crate) fn inputs(&self) -> PathBuf {
        self.root.join("inputs")
    }

    /// The directory of a layer's checkpoint.
    pub(super) fn checkpoint(&self, layer: Layer) -> PathBuf {
        self.checkpoints.join(layer.model_name())
    }

    /// The directories of the checkpoints that are there.
    pub(super) fn checkpoints(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.checkpoints).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    pub(super) fn write_plan(&self, plan: &Plan) -> io::Result<()> {
        write_atomic(&self.root.join("plan.json"), &bytes(plan)?)
    }

    pub(super) fn plan(&self) -> io::Result<Plan> {
        serde_json::from_slice(&read_own(&self.root.join("plan.json"))?).map_err(io::Error::other)
    }

    fn of_layer(&self, layer: Layer, what: &str) -> PathBuf {
        self.run.join(format!("{}.{what}", layer.model_name()))
    }

    fn of_task(&self, task: u32, what: &str) -> PathBuf {
        self.run.join(format!("{task}.{what}"))
    }

    /// Takes a layer; false when another task has it.
    pub(super) fn claim(&self, layer: Layer, task: u32) -> io::Result<bool> {
        create_atomic(&self.of_layer(layer, "claim"), &bytes(&Claim { task })?)
    }

    /// The layers of these that are taken, each with its task. A claim that can't be read is that
    /// of no task.
    pub(super) fn claims(&self, layers: &[Layer]) -> BTreeMap<Layer, Option<u32>> {
        let claim = |layer: &Layer| {
            let path = self.of_layer(*layer, "claim");
            let task = read::<Claim>(&path).map(|claim| claim.task);
            (task.is_some() || path.exists()).then_some((*layer, task))
        };
        layers.iter().filter_map(claim).collect()
    }

    /// Gives a layer back whose task is gone. Only the leader calls it.
    pub(super) fn release(&self, layer: Layer) -> io::Result<()> {
        match fs::remove_file(self.of_layer(layer, "claim")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(&self.run),
        }
    }

    pub(super) fn note_done(&self, layer: Layer, done: &Done) -> io::Result<()> {
        write_atomic(&self.of_layer(layer, "done"), &bytes(done)?)
    }

    pub(super) fn done(&self, layer: Layer) -> Option<Done> {
        read(&self.of_layer(layer, "done"))
    }

    /// Notes that a task has begun. Without it the leader takes the task for one that could not be
    /// started.
    pub(super) fn note_started(&self, task: u32) -> io::Result<()> {
        write_atomic(&self.of_task(task, "started"), b"")
    }

    pub(super) fn has_started(&self, task: u32) -> bool {
        // Listing the directory makes the client of a shared filesystem ask its server.
        let name = format!("{task}.started");
        let mut entries = fs::read_dir(&self.run).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name() == name.as_str())
    }

    /// Where a task notes how far it is.
    pub(super) fn progress_file(&self, task: u32) -> PathBuf {
        self.of_task(task, "progress")
    }

    pub(super) fn progress(&self, task: u32) -> Option<Progress> {
        Progress::read(&self.progress_file(task))
    }

    pub(super) fn note_failure(&self, task: u32, failure: &Failure) {
        let write = || write_atomic(&self.of_task(task, "failure"), &bytes(failure)?);
        if let Err(error) = write() {
            warn!("why task {task} failed can't be written: {error}");
        }
    }

    pub(super) fn failure(&self, task: u32) -> Option<Failure> {
        read(&self.of_task(task, "failure"))
    }

    /// Forgets what an earlier start of a task has noted.
    pub(super) fn forget(&self, task: u32) {
        for what in ["started", "progress", "failure"] {
            let path = self.of_task(task, what);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("{} can't be removed: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Cause;
    use domain::SlurmJobId;

    fn shared(directory: &Path, restarts: u64) -> Shared {
        let allocation = Allocation { job: Some(SlurmJobId(17)), restarts, tasks: 2 };
        Shared::new(&JobFiles::new(directory), &allocation)
    }

    #[test]
    fn one_task_has_a_layer_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let shared = shared(dir.path(), 0);
        shared.make().unwrap();
        let layers = [Layer::Background, Layer::Numbered(0)];
        assert!(shared.claims(&layers).is_empty());
        assert!(shared.claim(layers[0], 1).unwrap());
        assert!(!shared.claim(layers[0], 0).unwrap());
        assert_eq!(shared.claims(&layers), [(layers[0], Some(1))].into());
        shared.release(layers[0]).unwrap();
        shared.release(layers[0]).unwrap();
        assert!(shared.claim(layers[0], 0).unwrap());
        fs::write(shared.of_layer(layers[1], "claim"), "{").unwrap();
        assert_eq!(shared.claims(&layers), [(layers[0], Some(0)), (layers[1], None)].into());
    }

    #[test]
    fn a_run_has_nothing_of_the_run_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = shared(dir.path(), 0);
        first.make().unwrap();
        let layer = Layer::Background;
        let done = Done { task: 0, device: "CPU".into() };
        first.note_done(layer, &done).unwrap();
        first.note_started(0).unwrap();
        let failure = Failure { sentence: "No.".into(), cause: Cause::Input, code: 11 };
        first.note_failure(0, &failure);
        assert_eq!((first.done(layer), first.failure(0)), (Some(done), Some(failure)));
        assert!(first.has_started(0) && !first.has_started(1));
        first.forget(0);
        assert!(!first.has_started(0) && first.failure(0).is_none());
        fs::write(first.inputs().join("image"), "").unwrap();
        let second = shared(dir.path(), 1);
        second.make().unwrap();
        assert!(second.done(layer).is_none() && !second.inputs().join("image").exists());
        // A task of the first run that Slurm could not end finds no place for its claim.
        assert!(first.claim(layer, 0).is_err() && second.claim(layer, 1).unwrap());
    }
}
