//! The process that starts the tasks of a job, looks after them, and collects what they trained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal as OsSignal, kill_process};
use tokio::runtime::Runtime;
use tracing::{debug, info, warn};

use super::decide::{self, AfterWarning, End, Next};
use super::launch::{Launcher, Start};
use super::shared::{Plan, Shared};
use super::task::open;
use crate::config::TrainerConfig;
use crate::courier::{Courier, Errand};
use crate::ledger::{JobFiles, Outbox, Progress};
use crate::worker::error::JobError;
use crate::worker::requeue::Allocation;
use crate::worker::signals::{Signal, Signals};
use crate::worker::told::tell_requeued;
use base::memory::peak_memory;
use contract::wire::conversation::{Asked, EndedEpochs};
use domain::{Layer, SettingsMap, Standing, TrainingSettings};
use page_layers::{
    Checkpoints, Device, JobObserver, Stop, TrainError, TrainedLayer, TrainingInputs, TrainingJob,
};

/// How often the leader looks at its tasks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it reads their notes.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// The longest time without a message about progress while there is news.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A task that has ended is started again after this time: where Slurm ends the whole job, the
/// leader is told a little later than its tasks.
const START_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Tasks that are not needed any more get so long to end.
const END_WITHIN: Duration = Duration::from_secs(15);

/// What a job with several tasks is led with.
#[derive(Clone, Copy)]
pub(crate) struct Leader<'a> {
    pub(crate) config: &'a TrainerConfig,
    pub(crate) runtime: &'a Runtime,
    pub(crate) signals: &'a Signals,
    pub(crate) allocation: &'a Allocation,
    pub(crate) files: &'a JobFiles,
    pub(crate) shared: &'a Shared,
    pub(crate) outbox: &'a Outbox,
    pub(crate) asked: Option<&'a Asked>,
    pub(crate) job_file: &'a Path,
    /// The settings as they came, and read.
    pub(crate) given: &'a SettingsMap,
    pub(crate) settings: &'a TrainingSettings,
    pub(crate) inputs: &'a TrainingInputs,
    pub(crate) quiet: bool,
    pub(crate) debug_wait: bool,
}

/// What the tasks have trained.
pub(crate) struct Led {
    /// All layers, in their order.
    pub(crate) layers: Vec<TrainedLayer>,
    /// What they computed on.
    pub(crate) device_name: String,
    /// How long that took.
    pub(crate) took: Duration,
}

impl Leader<'_> {
    /// The seed that an earlier run of this job has drawn.
    pub(crate) fn seed(&self) -> Option<u64> {
        let seed = |directory: std::path::PathBuf| {
            let every = self.config.checkpoint_every;
            Checkpoints::open(&directory, every, self.inputs, self.settings).ok()?.seed()
        };
        self.shared.checkpoints().into_iter().find_map(seed)
    }

    /// Trains the layers of a job with its tasks. `name` is the job's, `folder` is for the models.
    pub(crate) fn lead(
        &self,
        job: &TrainingJob,
        name: &str,
        folder: &Path,
        courier: &mut Option<Courier>,
    ) -> Result<Led, JobError> {
        let began = Instant::now();
        let order = decide::longest_first(job.lengths());
        let layers = u32::try_from(order.len()).unwrap_or(u32::MAX);
        let plan = Plan {
            given: self.given.clone(),
            seed: job.seed(),
            inputs: self.inputs.clone(),
            order,
            tasks: self.allocation.tasks.min(layers),
            checkpoint_seconds: self.config.checkpoint_every.as_secs(),
            tensorboard: self.config.tensorboard.as_ref().map(|base| base.join(name)),
            operator: self.config.operator.clone(),
        };
        self.shared.write_plan(&plan).map_err(JobError::Tasks)?;
        info!("{} tasks train {layers} layers", plan.tasks);
        let mut team = Team::new(self, &plan, courier.as_mut());
        let worked = team.work();
        if worked.is_err() {
            team.end_all();
        }
        worked?;
        let Team { done, devices, has_trained, .. } = team;
        let stop = if done.len() == plan.order.len() {
            Stop::No
        } else {
            self.stopped(&plan, has_trained, courier)?
        };
        let layers = job
            .lengths()
            .into_iter()
            .map(|(layer, _)| self.collect(job, layer, stop, folder))
            .collect::<Result<Vec<_>, _>>()?;
        let names: Vec<_> = devices.into_iter().collect();
        let device_name = format!("{} ({} tasks)", names.join("; "), plan.tasks);
        Ok(Led { layers, device_name, took: began.elapsed() })
    }

    /// What becomes of a job whose tasks were told to end before all layers were done. Where there
    /// is a model to show of every layer, it says how to collect them.
    fn stopped(
        &self,
        plan: &Plan,
        has_trained: bool,
        courier: &mut Option<Courier>,
    ) -> Result<Stop, JobError> {
        let Leader { config, runtime, signals, allocation, .. } = *self;
        if signals.received() != Some(Signal::Warned) {
            return Err(JobError::Left);
        }
        let mut all_shown = true;
        let mut is_saved = false;
        for layer in &plan.order {
            let checkpoints = self.checkpoints(*layer)?;
            all_shown &= checkpoints.shows_a_model();
            is_saved |= checkpoints.is_found();
        }
        let suspends = allocation.suspends(config, self.asked);
        let worth_it = has_trained && is_saved;
        match decide::after_warning(suspends, all_shown, worth_it) {
            AfterWarning::Best => return Ok(Stop::KeepBest),
            AfterWarning::OutOfTime => return Err(JobError::Time),
            AfterWarning::Requeue => {}
        }
        if allocation.may_requeue(config).is_some() {
            // Told before it is asked for: Slurm ends this process at once.
            tell_requeued(courier.take(), allocation, self.asked, config.scheduler);
        }
        if allocation.requeue(config, runtime, signals) {
            return Err(JobError::Left);
        }
        if all_shown { Ok(Stop::KeepBest) } else { Err(JobError::Time) }
    }

    fn checkpoints(&self, layer: Layer) -> Result<Checkpoints, JobError> {
        let every = self.config.checkpoint_every;
        open(self.shared, layer, self.inputs, self.settings, every)
    }

    /// A layer that is done; with [`Stop::KeepBest`] its best epoch so far.
    fn collect(
        &self,
        job: &TrainingJob,
        layer: Layer,
        stop: Stop,
        folder: &Path,
    ) -> Result<TrainedLayer, JobError> {
        let model = layer.model_name();
        let lost = || JobError::Tasks(std::io::Error::other(format!("{model} is not there")));
        let only = job.only(layer).ok_or_else(lost)?;
        let mut checkpoints = self.checkpoints(layer)?;
        let trained = if checkpoints.layers_done() > 0 {
            only.finished(&mut checkpoints, folder)
        } else if stop == Stop::KeepBest {
            only.train_from(Some(&mut checkpoints), &Device::Cpu, folder, &mut Ends)
        } else {
            return Err(lost());
        };
        let trained = trained.map_err(|error| match error {
            TrainError::Stopped { .. } => JobError::Time,
            error => JobError::Train(error),
        })?;
        trained.into_iter().next().ok_or_else(lost)
    }
}

/// Ends a training with the best epoch that its checkpoint has.
struct Ends;

impl JobObserver for Ends {
    fn stop(&self) -> Stop {
        Stop::KeepBest
    }
}

/// The tasks of a job, and what is known of them.
struct Team<'a> {
    leader: &'a Leader<'a>,
    plan: &'a Plan,
    launcher: Launcher,
    running: BTreeMap<u32, Child>,
    /// Those that are to be started, and when.
    due: BTreeMap<u32, Instant>,
    /// How often a task could not be started, in sequence.
    starts: BTreeMap<u32, u32>,
    /// How often a layer has lost its task.
    losses: BTreeMap<Layer, u32>,
    /// How often a task was lost that had no layer.
    idle_losses: BTreeMap<u32, u32>,
    done: BTreeSet<Layer>,
    devices: BTreeSet<String>,
    /// The signal that the tasks have been told.
    passed_on: Option<Signal>,
    /// True once a step was done in this run.
    has_trained: bool,
    note: Progress,
    noted: Option<Instant>,
    told: Option<Instant>,
    /// The epochs that the asker knows of.
    told_epochs: Vec<(u32, usize)>,
    /// The epochs of each task that are taken over already.
    known_epochs: BTreeMap<u32, EndedEpochs>,
    /// Those that the courier was not given yet.
    untold_epochs: EndedEpochs,
    courier: Option<&'a mut Courier>,
}

impl<'a> Team<'a> {
    fn new(leader: &'a Leader<'a>, plan: &'a Plan, courier: Option<&'a mut Courier>) -> Self {
        // What an earlier run of the job has not told.
        let before = Progress::read(&leader.files.progress());
        let note = Progress {
            slurm_job_id: leader.allocation.job,
            restart_count: leader.allocation.restarts,
            standing: Standing { layers: plan.order.len(), ..Standing::default() },
            updated_at: Timestamp::now(),
            pace: None,
            ended_epochs: before.map(|note| note.ended_epochs).unwrap_or_default(),
        };
        let now = Instant::now();
        Self {
            leader,
            plan,
            launcher: Launcher::of(leader.config, leader.allocation),
            running: BTreeMap::new(),
            due: (0..plan.tasks).map(|task| (task, now)).collect(),
            starts: BTreeMap::new(),
            losses: BTreeMap::new(),
            idle_losses: BTreeMap::new(),
            done: BTreeSet::new(),
            devices: BTreeSet::new(),
            passed_on: None,
            has_trained: false,
            untold_epochs: note.ended_epochs.clone(),
            known_epochs: BTreeMap::new(),
            note,
            noted: None,
            told: None,
            told_epochs: Vec::new(),
            courier,
        }
    }

    /// Works until all layers are done, or the job is to end, and all tasks have ended.
    fn work(&mut self) -> Result<(), JobError> {
        loop {
            self.pass_signals_on();
            self.see_what_is_done();
            self.start_due();
            self.reap()?;
            self.write_note();
            let is_over = self.is_stopping() || self.is_done();
            if self.running.is_empty() && (is_over || self.due.is_empty()) {
                if is_over {
                    return Ok(());
                }
                self.do_without_steps()?;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn is_stopping(&self) -> bool {
        self.leader.signals.received().is_some()
    }

    fn is_done(&self) -> bool {
        self.done.len() == self.plan.order.len()
    }

    fn start_due(&mut self) {
        if self.is_stopping() || self.is_done() {
            self.due.clear();
            return;
        }
        let now = Instant::now();
        let due: Vec<u32> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(task, _)| *task).collect();
        for task in due {
            self.due.remove(&task);
            self.leader.shared.forget(task);
            let Leader { job_file, quiet, debug_wait, .. } = *self.leader;
            let start = Start { job_file, tasks: self.plan.tasks, quiet, debug_wait };
            match self.launcher.start(task, &start) {
                Ok(child) => {
                    self.running.insert(task, child);
                }
                Err(error) => {
                    warn!("task {task} can't be started by {}: {error}", self.launcher);
                    let next = self.after(task, End::NotStarted);
                    // With no other end is there nothing to be answered.
                    if next == Next::Again {
                        self.due.insert(task, now + START_AGAIN_AFTER);
                    }
                }
            }
        }
    }

    /// What follows from the end of a task, and gives back what it had.
    fn after(&mut self, task: u32, end: End) -> Next {
        let shared = self.leader.shared;
        let had = decide::layers_of(task, &shared.claims(&self.plan.order), &self.done);
        let mut losses = 0;
        if matches!(end, End::Died(_) | End::Suspended) && !self.is_stopping() {
            for layer in &had {
                let count = self.losses.entry(*layer).or_default();
                *count += 1;
                losses = losses.max(*count);
            }
            if had.is_empty() {
                let count = self.idle_losses.entry(task).or_default();
                *count += 1;
                losses = *count;
            }
        }
        let starts = self.starts.entry(task).or_default();
        *starts = if end == End::NotStarted { *starts + 1 } else { 0 };
        let (starts, open) = (*starts, !self.is_done());
        for layer in had {
            if let Err(error) = shared.release(layer) {
                warn!("{} can't be given to another task: {error}", layer.model_name());
            }
        }
        decide::after(end, losses, starts, self.is_stopping(), open)
    }

    /// Looks which tasks have ended.
    fn reap(&mut self) -> Result<(), JobError> {
        let ended: Vec<(u32, ExitStatus)> = self
            .running
            .iter_mut()
            .filter_map(|(task, child)| Some((*task, child.try_wait().ok()??)))
            .collect();
        for (task, status) in ended {
            self.running.remove(&task);
            // What it did last, so that nothing of it is trained again.
            self.see_what_is_done();
            self.remember_what_it_noted(task);
            let end = end_of(self.leader.shared, task, status);
            match (&end, self.is_stopping()) {
                (End::Finished, _) => {}
                (End::Suspended, true) => info!("task {task} has ended"),
                _ => warn!("task {task} has ended: {}", in_words(&end, status)),
            }
            match self.after(task, end) {
                Next::Over => {}
                Next::Again => {
                    self.due.insert(task, Instant::now() + START_AGAIN_AFTER);
                }
                Next::Without => warn!("task {task} can't be started: the job does without it"),
                Next::Answer(failure) => return Err(JobError::OfTask(failure)),
                Next::Leave(signal) => return Err(JobError::TaskDied(signal)),
            }
        }
        Ok(())
    }

    /// No step can be started at all: one task trains what is left on this node.
    fn do_without_steps(&mut self) -> Result<(), JobError> {
        if self.launcher == Launcher::Here {
            return Err(JobError::TaskDied(None));
        }
        warn!("no task can be started by srun: one task trains all layers, on this node");
        self.launcher = Launcher::Here;
        self.starts.clear();
        self.due.insert(0, Instant::now());
        Ok(())
    }

    /// Tells the tasks that the job is to end. All signals become the one after which a task writes
    /// its checkpoint: srun takes SIGTERM for itself, and kills its task.
    fn pass_signals_on(&mut self) {
        let received = self.leader.signals.received();
        if received.is_none() || received == self.passed_on {
            return;
        }
        match received {
            Some(Signal::Warned) => info!("SIGUSR1: the time is nearly up"),
            _ => info!("SIGTERM or SIGINT: the job is to end"),
        }
        self.passed_on = received;
        self.running.values().for_each(|child| signal(child, OsSignal::USR1));
    }

    /// Ends the tasks that still run, for nobody waits for them.
    fn end_all(&mut self) {
        self.running.values().for_each(|child| signal(child, OsSignal::TERM));
        let until = Instant::now() + END_WITHIN;
        while !self.running.is_empty() {
            self.running.retain(|_, child| matches!(child.try_wait(), Ok(None)));
            if Instant::now() >= until {
                for child in self.running.values_mut() {
                    if let Err(error) = child.kill().and_then(|()| child.wait()) {
                        debug!("a task can't be ended: {error}");
                    }
                }
                self.running.clear();
            }
            std::thread::sleep(LOOK_EVERY / 4);
        }
    }

    /// Takes note of the layers that are done since it last looked, and has their models sent.
    fn see_what_is_done(&mut self) {
        let Leader { shared, outbox, .. } = *self.leader;
        for layer in &self.plan.order {
            if self.done.contains(layer) {
                continue;
            }
            let Some(done) = shared.done(*layer) else { continue };
            self.done.insert(*layer);
            self.has_trained = true;
            self.devices.insert(done.device);
            self.noted = None;
            let name = layer.model_name();
            info!("{name} is done, by task {}", done.task);
            let Some(courier) = &mut self.courier else { continue };
            let path = Checkpoints::model_in(&shared.checkpoint(*layer), *layer);
            match std::fs::read(path).and_then(|file| outbox.put_model(&name, &file)) {
                Ok(()) => courier.send(&Errand::Model { name, at: Timestamp::now() }),
                Err(error) => warn!("{name} can't be sent before the end: {error}"),
            }
        }
    }

    /// Notes the most memory that a task has used, which explains how it ended, and its last
    /// epochs.
    fn remember_what_it_noted(&mut self, task: u32) {
        let note = self.leader.shared.progress(task);
        if let Some(note) = &note {
            self.take_epochs(task, note);
        }
        // It may be started again, with a new note.
        self.known_epochs.remove(&task);
        let used = note.and_then(|note| note.standing.peak_memory_mb);
        let known = self.note.standing.peak_memory_mb;
        self.note.standing.peak_memory_mb = known.max(used);
        self.noted = None;
    }

    /// Takes over the epochs that a task has ended since its note was last read.
    fn take_epochs(&mut self, task: u32, note: &Progress) {
        let now = note.ended_epochs.clone();
        let before = self.known_epochs.insert(task, now).unwrap_or_default();
        let new = decide::new_epochs(&before, &note.ended_epochs);
        self.note.ended_epochs.extend(new.iter().cloned());
        self.untold_epochs.extend(new);
    }

    fn write_note(&mut self) {
        if self.noted.is_some_and(|noted| noted.elapsed() < NOTE_EVERY) {
            return;
        }
        self.noted = Some(Instant::now());
        let shared = self.leader.shared;
        let running = self.running.keys();
        let mut notes: BTreeMap<u32, Progress> =
            running.filter_map(|task| Some((*task, shared.progress(*task)?))).collect();
        notes.iter().for_each(|(task, note)| self.take_epochs(*task, note));
        notes.retain(|_, note| !self.is_of_a_layer_that_is_done(note));
        self.has_trained |= notes.values().any(|note| note.standing.epoch > 0);
        let own = peak_memory().map(|bytes| bytes >> 20);
        let peak = self.note.standing.peak_memory_mb.max(own);
        if let Some(standing) = decide::combined(self.plan.order.len(), self.done.len(), &notes) {
            self.note.standing = standing;
        }
        self.note.pace = decide::pace(&notes).or(self.note.pace);
        self.note.standing.peak_memory_mb = self.note.standing.peak_memory_mb.max(peak);
        self.note.updated_at = Timestamp::now();
        if let Err(error) = self.note.write(&self.leader.files.progress()) {
            warn!("{} can't be written: {error}", self.leader.files.progress().display());
        }
        self.tell();
    }

    fn is_of_a_layer_that_is_done(&self, note: &Progress) -> bool {
        self.done.iter().any(|layer| layer.model_name() == note.standing.layer)
    }

    /// Tells the asker: each epoch at once, the rest from time to time.
    fn tell(&mut self) {
        let Some(courier) = &mut self.courier else { return };
        let standing = &self.note.standing;
        let epochs: Vec<_> = standing.tasks.iter().map(|task| (task.task, task.epoch)).collect();
        let is_new = epochs != self.told_epochs
            || !self.untold_epochs.is_empty()
            || self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if standing.layer_number > 0 && is_new {
            (self.told, self.told_epochs) = (Some(Instant::now()), epochs);
            let untold = std::mem::take(&mut self.untold_epochs);
            courier.send(&Errand::Progress(self.note.told(untold)));
        }
    }
}

/// How a task ended.
fn end_of(shared: &Shared, task: u32, status: ExitStatus) -> End {
    use std::os::unix::process::ExitStatusExt as _;
    let (failure, started) = (shared.failure(task), shared.has_started(task));
    decide::end(status.code(), status.signal(), failure, started)
}

fn in_words(end: &End, status: ExitStatus) -> String {
    match end {
        End::Finished => "there is no layer left".to_owned(),
        End::Suspended => "it was told to, and has left a checkpoint".to_owned(),
        End::Failed(failure) => failure.sentence.clone(),
        End::Died(Some(signal)) => format!("it was killed by signal {signal}"),
        End::Died(None) => format!("without a word ({status})"),
        End::NotStarted => format!("it has not begun ({status})"),
    }
}

/// Sends a signal to a task or to its srun, which passes it on.
fn signal(child: &Child, signal: OsSignal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It may have ended meanwhile.
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        debug!("a task can't be sent a signal: {error}");
    }
}
