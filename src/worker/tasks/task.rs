//! One of several tasks: trains the layers that it gets, one after the other.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal as OsSignal, set_parent_process_death_signal};
use tracing::{debug, error, info};

use super::decide::open_layers;
use super::shared::{Done, Plan, Shared};
use crate::sentences;
use crate::worker::error::{Failure, JobError};
use crate::worker::files::Place;
use crate::worker::inputs::scratch;
use crate::worker::observer::Watch;
use crate::worker::requeue::Allocation;
use crate::worker::signals::Signals;
use base::exit_code::ExitCode;
use base::harden;
use domain::{Layer, TrainingSettings};
use local::{Progress, Way, use_the_cores_of_the_allocation, wait_for_a_debugger};
use page_layers::{
    Checkpoints, EventLogs, TrainError, TrainingInputs, TrainingJob, WithEvents, choose_device,
};

/// The arguments of a task.
#[derive(Clone, Debug)]
pub(crate) struct TaskArgs {
    /// The job file: only its directory is used.
    pub(crate) job_file: PathBuf,
    /// The task's number, from 0.
    pub(crate) task: u32,
    /// No progress bar.
    pub(crate) quiet: bool,
    /// Waits for a debugger before it takes a layer.
    pub(crate) debug_wait: bool,
}

/// Trains layers until none is left. It holds no password and no token; what it can't do it notes
/// for the leader.
pub(crate) fn run(arguments: &TaskArgs) -> ExitCode {
    harden::files();
    let signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            error!("can't watch for signals: {error}");
            return ExitCode::Internal;
        }
    };
    let Some(files) = Place::of(&arguments.job_file).managed else {
        error!("{} is no job that check looks after", arguments.job_file.display());
        return ExitCode::Usage;
    };
    // Where the leader is its parent, it does not outlive it. As a step it ends with the job.
    if std::env::var_os("SLURM_STEP_ID").is_none()
        && let Err(error) = set_parent_process_death_signal(Some(OsSignal::KILL))
    {
        debug!("it may outlive the leader for a moment: {error}");
    }
    let allocation = Allocation::of_process();
    let shared = Shared::new(&files, &allocation);
    let task = arguments.task;
    let work = || Task { arguments, allocation: &allocation, shared: &shared, signals }.work();
    let result = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(JobError::Panic));
    match result {
        Ok(()) => ExitCode::Success,
        Err(error @ JobError::Left) => {
            info!("task {task}: told to end; its checkpoint is written");
            error.exit_code()
        }
        Err(error) => {
            error!("task {task}: {error}");
            let code = error.exit_code();
            let plan = shared.plan().ok();
            let operator = plan.as_ref().map_or(sentences::OPERATOR, |plan| plan.operator.as_str());
            let sentence = error.sentence(operator);
            let failure = Failure { sentence, cause: error.cause(), code: code as u8 };
            shared.note_failure(task, &failure);
            code
        }
    }
}

struct Task<'a> {
    arguments: &'a TaskArgs,
    allocation: &'a Allocation,
    shared: &'a Shared,
    signals: Signals,
}

impl Task<'_> {
    fn work(&self) -> Result<(), JobError> {
        let (shared, task) = (self.shared, self.arguments.task);
        shared.note_started(task).map_err(JobError::Tasks)?;
        let plan = shared.plan().map_err(JobError::Tasks)?;
        info!("task {task} of {} runs on {}", plan.tasks, base::host_name());
        use_the_cores_of_the_allocation();
        // As in a job with one task: before a stranger's bytes are decoded.
        let (device, device_name) = choose_device();
        harden::no_new_privileges();
        let given = plan.settings().map_err(JobError::Tasks)?;
        let settings = TrainingSettings { seed: Some(plan.seed), ..given };
        let job = TrainingJob::prepare(&plan.inputs, &settings).map_err(JobError::Train)?;
        let scratch = scratch().map_err(JobError::Scratch)?;
        if self.arguments.debug_wait {
            let directory = self.arguments.job_file.parent().and_then(Path::file_name);
            let way = Way::of_process(directory.and_then(OsStr::to_str));
            wait_for_a_debugger(&way, &|| self.signals.received().is_some());
        }
        while let Some(layer) = self.next(&plan)? {
            info!("task {task} trains {}", layer.model_name());
            let only = job.only(layer).ok_or_else(|| lost("the plan has a layer of its own"))?;
            let mut checkpoints = open(shared, layer, &plan.inputs, &given, plan.every())?;
            let note = shared.progress_file(task);
            let shown = Progress::new(self.arguments.quiet, Arc::default());
            let mut inner = Watch::new(shown, &self.signals, true, Some(note), self.allocation, 1);
            inner.measure(&settings, &device_name);
            inner.suspend_when_warned(true);
            let events = plan.tensorboard.as_ref().map(|base| EventLogs::new(base));
            let mut watch = WithEvents { inner, events };
            let trained =
                only.train_from(Some(&mut checkpoints), &device, scratch.path(), &mut watch);
            match trained {
                Ok(_) if checkpoints.layers_done() == 0 => {
                    return Err(lost("the model can't be kept beside its checkpoint"));
                }
                Ok(_) => {}
                Err(TrainError::Stopped { .. }) => return Err(JobError::Left),
                Err(error) => return Err(JobError::Train(error)),
            }
            let done = Done { task, device: device_name.clone() };
            shared.note_done(layer, &done).map_err(JobError::Tasks)?;
        }
        Ok(())
    }

    /// Takes the next layer; `None` when all of them are taken or done.
    fn next(&self, plan: &Plan) -> Result<Option<Layer>, JobError> {
        if self.signals.received().is_some() {
            return Err(JobError::Left);
        }
        let order = &plan.order;
        let done: BTreeSet<Layer> =
            order.iter().copied().filter(|layer| self.shared.done(*layer).is_some()).collect();
        for layer in open_layers(order, &self.shared.claims(order), &done) {
            if self.shared.claim(layer, self.arguments.task).map_err(JobError::Tasks)? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }
}

fn lost(what: &str) -> JobError {
    JobError::Tasks(std::io::Error::other(what.to_owned()))
}

/// The checkpoint of a layer.
pub(super) fn open(
    shared: &Shared,
    layer: Layer,
    inputs: &TrainingInputs,
    given: &TrainingSettings,
    every: Duration,
) -> Result<Checkpoints, JobError> {
    Checkpoints::open(&shared.checkpoint(layer), every, inputs, given).map_err(JobError::Tasks)
}

impl Plan {
    /// The settings of the job, without the seed that was drawn.
    fn settings(&self) -> std::io::Result<TrainingSettings> {
        TrainingSettings::from_job(&self.given).map_err(std::io::Error::other)
    }

    fn every(&self) -> Duration {
        Duration::from_secs(self.checkpoint_seconds)
    }
}
