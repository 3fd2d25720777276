//! `run_trainer JOB_FILE [REPLY_QUEUE] [CORRELATION_ID]`: one job inside a Slurm allocation.
//!
//! The reply is written to disk before it is published: a node that can't reach the broker, or
//! dies, leaves it to the next `check`.

mod arguments;
mod deliver;
mod error;
mod files;
mod finished;
mod inputs;
mod observer;
mod requeue;
mod signals;
pub(crate) mod tasks;
mod told;

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tracing::{error, info, warn};

pub use self::arguments::JobArgs;
use self::arguments::{envelope, recorded_protocol};
use self::deliver::{Delivered, deliver};
use self::error::JobError;
use self::files::Place;
use self::finished::Finished;
use self::inputs::{local_inputs, scratch};
use self::observer::Watch;
use self::requeue::Allocation;
use self::signals::{Signal, Signals};
use self::tasks::{Leader, Led, Shared};
use self::told::{failed, keep_models, read_models, state, tell_requeued};
use crate::config::{ConfigError, Sources, TrainerConfig};
use crate::courier::Courier;
use crate::ledger::JobFiles;
use crate::rodan::{Client, Downloader};
use crate::sentences;
use base::exit_code::ExitCode;
use base::files::write_atomic;
use base::harden;
use base::secret::Secret;
use base::text;
use base::tls::Identity;
use contract::wire::conversation::{Asked, End, Stage};
use contract::wire::{Answer, Envelope, JobFile, Protocol, Reply};
use domain::{
    Calibration, CorrelationId, Inputs, JobId, NotCalibrated, SettingsMap, TrainingSettings,
};
use local::{Progress, Way, use_the_cores_of_the_allocation, wait_for_a_debugger};
use page_layers::{
    Checkpoints, Device, EventLogs, TrainError, TrainedLayer, TrainingInputs, TrainingJob,
    WithEvents, choose_device,
};

/// How long the courier may take to finish after the training. What it has not sent by then is sent
/// with the end.
const LONG_GOODBYE: Duration = Duration::from_secs(60);

/// Runs the job until its one reply is sent, or leaves it to Slurm to start it again. Returns the
/// exit code.
pub fn run(arguments: &JobArgs) -> ExitCode {
    harden::files();
    let signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            return fail(ExitCode::Internal, &format!("can't watch for signals: {error}"));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(ExitCode::Internal, &error.to_string()),
    };
    let place = Place::of(&arguments.job_file);
    if let Some(files) = &place.managed {
        note_start(files);
    }
    let load = || TrainerConfig::load(&Sources::of_process(arguments.env_file.as_deref()));
    // Read now, so that a mistake is known before hours of training. What only the delivery needs
    // is read again then.
    let mut config = load();
    let identity = config.as_mut().ok().and_then(TrainerConfig::forget_credentials);
    let spooled = match place.spooled() {
        Ok(spooled) => spooled,
        // It may hold the models: nothing is put in its place, and check delivers it.
        Err(error) => {
            let reply = place.reply.display();
            return fail(
                ExitCode::NotDelivered,
                &format!("the reply in {reply} can't be read: {error}; it is left to check"),
            );
        }
    };
    let Ended { envelope, answer, code, finished } = match spooled {
        Some(answer) => {
            info!("an earlier run of this job left its reply; it is delivered now");
            Ended {
                envelope: envelope(arguments, None),
                answer,
                code: ExitCode::Success,
                finished: None,
            }
        }
        None => match attempt(arguments, &config, identity, &runtime, &signals, &place) {
            Attempt::Ended(ended) => *ended,
            Attempt::Left => return ExitCode::Stopped,
            Attempt::Died(signal) => {
                end_like_the_task(signal);
                return ExitCode::Stopped;
            }
        },
    };
    let spooling = Instant::now();
    let kept = place.spool(&arguments.job_file, &answer);
    if let Err(error) = &kept {
        error!("the reply can't be written to {}: {error}", place.reply.display());
        // Publishing may still work.
    }
    let whereabouts = place.whereabouts(kept.is_ok());
    if let Some(finished) = &finished {
        finished.tell_times(spooling.elapsed());
        finished.report(&place);
        if matches!(answer, Answer::End(_)) {
            finished.keep_figures(&place);
        }
    }
    if arguments.debug_wait {
        // Passwords are read again: from here on nobody may look into this process.
        harden::process();
    }
    let Ok(config) = config.and_then(|_| load()).inspect_err(|error| error!("{error}")) else {
        return ExitCode::Config;
    };
    let Some(envelope) = envelope else {
        return fail(
            ExitCode::NotDelivered,
            &format!(
                "neither the job file nor the command line names a correlation id: the reply is \
                not sent; it {whereabouts}"
            ),
        );
    };
    let queue = text::printable(&envelope.reply_to, 255);
    match runtime.block_on(deliver(&config, &envelope, answer, &place)) {
        Ok(Delivered::Now) => info!("the reply is in the queue '{queue}'"),
        Ok(Delivered::Before) => {
            info!("the reply is in the queue '{queue}' already: an earlier attempt came through")
        }
        Ok(Delivered::ByCheck) => {
            warn!("check has taken this job for dead and answered it; the reply is not sent");
            return code;
        }
        Err(error) => {
            return fail(ExitCode::NotDelivered, &format!("{error}; the reply {whereabouts}"));
        }
    }
    // Nobody waits for this any more.
    if let Some(finished) = &finished {
        finished.report_with_pictures(&place, &signals);
    }
    code
}

/// What became of a job here.
enum Attempt {
    /// It has an answer.
    Ended(Box<Ended>),
    /// It is left to the cluster.
    Left,
    /// It is left to `check`, as its task has ended: by this signal, where it is known.
    Died(Option<i32>),
}

/// Ends this process by the signal that a task of the job ended by: so Slurm's word for the job is
/// the same as if it had only one task.
fn end_like_the_task(signal: Option<i32>) {
    let signal = signal.and_then(rustix::process::Signal::from_named_raw);
    if let Some(signal) = signal
        && let Err(error) = rustix::process::kill_process(rustix::process::getpid(), signal)
    {
        warn!("this process can't end by a signal: {error}");
    }
}

/// How a job ended.
struct Ended {
    envelope: Option<Envelope>,
    answer: Answer,
    code: ExitCode,
    /// The training, if it has models.
    finished: Option<Finished>,
}

fn fail(code: ExitCode, error: &str) -> ExitCode {
    error!("{error}");
    code
}

/// Notes which Slurm job runs this: `check` looks here when sbatch's answer was lost.
fn note_start(files: &JobFiles) {
    if let Ok(id) = std::env::var("SLURM_JOB_ID")
        && let Err(error) = write_atomic(&files.started(), id.as_bytes())
    {
        warn!("{} can't be written: {error}", files.started().display());
    }
}

/// The job's name for directories: its id in the spool, or the id that its correlation id would
/// give.
fn name(arguments: &JobArgs, file: &JobFile, place: &Place) -> String {
    let in_spool = || {
        place.managed.as_ref()?.directory().file_name()?.to_str().and_then(JobId::from_directory)
    };
    let id = in_spool().unwrap_or_else(|| {
        let stem =
            || arguments.job_file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let id =
            envelope(arguments, Some(file)).map_or_else(stem, |envelope| envelope.correlation_id);
        JobId::from_correlation_id(&CorrelationId(id))
    });
    id.to_string()
}

/// The reply and where it goes, or why there is none.
fn attempt(
    arguments: &JobArgs,
    config: &Result<TrainerConfig, ConfigError>,
    identity: Option<Identity>,
    runtime: &Runtime,
    signals: &Signals,
    place: &Place,
) -> Attempt {
    let started = Instant::now();
    let text = place.read(&arguments.job_file).map_err(JobError::Read);
    let protocol = text.as_ref().map_or(Protocol::Reply, |text| Protocol::of(text));
    let file = text.and_then(|text| Ok(JobFile::parse(&text)?));
    let envelope = envelope(arguments, file.as_ref().ok());
    let asked = file.as_ref().ok().and_then(|file| file.asked.clone());
    let result = file.and_then(|file| {
        let config =
            config.as_ref().map_err(|_| JobError::Config(ConfigError::Variables(Vec::new())))?;
        // A fault in training must not keep the workflow waiting: it becomes an error reply like
        // any other.
        let job = Job { arguments, config, runtime, signals, place, envelope: envelope.as_ref() };
        let train = || job.train(file, identity);
        panic::catch_unwind(AssertUnwindSafe(train)).unwrap_or(Err(JobError::Panic))
    });
    match result {
        Ok((answer, finished)) => {
            let code = ExitCode::Success;
            Attempt::Ended(Box::new(Ended { envelope, answer, code, finished: Some(finished) }))
        }
        Err(error @ JobError::Left) => {
            info!("{error}");
            Attempt::Left
        }
        Err(error @ JobError::TaskDied(signal)) => {
            error!("{error}");
            Attempt::Died(signal)
        }
        Err(error) => {
            error!("{error}");
            place.managed.iter().for_each(|files| files.note_failure(error.cause()));
            let operator =
                config.as_ref().map_or(sentences::OPERATOR, |config| config.operator.as_str());
            let sentence = error.sentence(operator);
            let answer = match recorded_protocol(place).unwrap_or(protocol) {
                Protocol::Reply => Answer::Reply(Reply::error(&sentence)),
                Protocol::Conversation => Answer::End(End::Failed(failed(
                    sentence,
                    error.cause(),
                    asked,
                    started.elapsed(),
                ))),
            };
            let code = error.exit_code();
            Attempt::Ended(Box::new(Ended { envelope, answer, code, finished: None }))
        }
    }
}

/// What a job is run with.
#[derive(Clone, Copy)]
struct Job<'a> {
    arguments: &'a JobArgs,
    config: &'a TrainerConfig,
    runtime: &'a Runtime,
    signals: &'a Signals,
    place: &'a Place,
    envelope: Option<&'a Envelope>,
}

impl Job<'_> {
    fn train(
        &self,
        file: JobFile,
        identity: Option<Identity>,
    ) -> Result<(Answer, Finished), JobError> {
        let started = Instant::now();
        let Job { arguments, config, place, .. } = *self;
        let name = name(arguments, &file, place);
        let managed = place.managed.as_ref();
        let allocation = Allocation::of_process();
        let courier = self.start_courier(&file, &allocation);
        let scratch = scratch().map_err(JobError::Scratch)?;
        // Several tasks read the files on their own nodes.
        let shared = managed.filter(|_| allocation.tasks > 1);
        let shared = shared.map(|files| Shared::new(files, &allocation));
        if let Some(shared) = &shared {
            shared.make().map_err(JobError::Tasks)?;
        }
        let folder = shared.as_ref().map_or_else(|| scratch.path().to_owned(), Shared::inputs);
        self.fetch(&file.inputs, file.token, identity, &folder)?;
        let downloaded = started.elapsed();
        use_the_cores_of_the_allocation();
        // This comes before a stranger's bytes are decoded. The GPU is opened first, because its
        // driver may start a program with more rights.
        let (device, device_name) = match &shared {
            None => choose_device(),
            // The GPUs are for the tasks.
            Some(_) => (Device::Cpu, String::new()),
        };
        harden::no_new_privileges();
        let inputs = local_inputs(&file.inputs, &folder, config.max_download)?;
        let mut run = Run {
            name: &name,
            asked: file.asked.as_ref(),
            given: &file.given,
            settings: &file.settings,
            inputs: &inputs,
            allocation: &allocation,
            scratch: scratch.path(),
            courier,
        };
        let (job, settings, Led { layers: mut trained, device_name, took }) = match &shared {
            None => self.train_alone(&mut run, &device, device_name)?,
            Some(shared) => self.train_by_tasks(&mut run, shared)?,
        };
        let calibration = self.calibrate(&job, &mut trained, &device)?;
        let courier = run.courier;
        let encoding = Instant::now();
        let models = read_models(&trained)?;
        if let Some(courier) = courier {
            courier.close(LONG_GOODBYE);
        }
        let answer = match file.protocol {
            Protocol::Reply => Answer::Reply(Reply::models(
                models.iter().map(|(layer, bytes)| (*layer, bytes.as_slice())),
            )),
            Protocol::Conversation => {
                let mut done =
                    told::done(&trained, job.seed(), file.asked, started.elapsed(), downloaded);
                done.models = keep_models(&place.outbox, &models)?;
                Answer::End(End::Done(done))
            }
        };
        let encoded = encoding.elapsed();
        let labels = inputs.pages.into_iter().map(|page| page.label).collect();
        let (given, layers) = (file.given, trained);
        Ok((
            answer,
            Finished {
                job,
                layers,
                calibration,
                settings,
                given,
                labels,
                device,
                device_name,
                started,
                downloaded,
                encoded,
                by_tasks: shared.map(|_| took),
            },
        ))
    }

    /// Calibrates the layers together, where the job wants it; also says how long it took. A job
    /// that is ended meanwhile is left as it would be in the middle of its training; one that
    /// nobody looks after keeps its layers as they were trained.
    fn calibrate(
        &self,
        job: &TrainingJob,
        trained: &mut [TrainedLayer],
        device: &Device,
    ) -> Result<(Calibration, Duration), JobError> {
        let Job { signals, place, .. } = *self;
        let began = Instant::now();
        let calibration = job
            .calibrate(trained, device, &|| signals.received().is_none())
            .map_err(|error| JobError::Train(error.into()))?;
        let stopped = calibration == Calibration::LeftOut(NotCalibrated::Stopped);
        if stopped && signals.ends_without_models(place.managed.is_some()) {
            return Err(JobError::Left);
        }
        Ok((calibration, began.elapsed()))
    }

    /// Starts what tells the asker how the job goes, where it wants to know, and has it say that
    /// the job runs.
    fn start_courier(&self, file: &JobFile, allocation: &Allocation) -> Option<Courier> {
        let envelope = self.envelope.filter(|_| file.protocol == Protocol::Conversation)?;
        let mut courier = Courier::start(
            &envelope.reply_to,
            &envelope.correlation_id,
            self.place.outbox.directory(),
            self.place.managed.as_ref().map(JobFiles::directory),
            self.arguments.env_file.as_deref(),
        )?;
        let asked = file.asked.as_ref();
        courier.send(&state(Stage::Running, allocation, asked, self.config.scheduler));
        Some(courier)
    }

    /// Downloads the files of a job into a folder. The token and the key are dropped with it.
    fn fetch(
        &self,
        inputs: &Inputs,
        token: Secret,
        identity: Option<Identity>,
        folder: &Path,
    ) -> Result<(), JobError> {
        let Job { config, signals, place, .. } = *self;
        info!("downloading {} files from {}", inputs.iter().count(), config.rodan);
        let downloader = Downloader {
            client: Client::new(identity.as_ref())?,
            rodan: config.rodan.clone(),
            token,
            limit: config.max_download,
            deadline: config.download_deadline,
            retry: Downloader::RETRY,
        };
        // A runtime of its own: what its connections hold of the token is dropped with it.
        let downloads = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let downloads = downloads.map_err(JobError::Runtime)?;
        let fetched = downloads.block_on(async {
            tokio::select! {
                fetched = downloader.fetch(inputs, folder) => fetched.map_err(JobError::from),
                stopped = stopped(signals, place.managed.is_some()) => Err(stopped),
            }
        });
        downloads.shutdown_background(); // a name that is still looked up is not waited for
        fetched
    }

    /// Trains all layers in this process.
    fn train_alone(
        &self,
        run: &mut Run<'_>,
        device: &Device,
        device_name: String,
    ) -> Result<(TrainingJob, TrainingSettings, Led), JobError> {
        let began = Instant::now();
        let Job { arguments, config, runtime, signals, place, .. } = *self;
        let Run { name, asked, settings: given, inputs, allocation, scratch, .. } = *run;
        let managed = place.managed.as_ref();
        let mut checkpoints =
            managed.and_then(|files| requeue::checkpoints(files, config, inputs, given));
        let drawn = checkpoints.as_ref().and_then(Checkpoints::seed);
        let settings = TrainingSettings { seed: given.seed.or(drawn), ..*given };
        let job = TrainingJob::prepare(inputs, &settings).map_err(JobError::Train)?;
        let events = config.tensorboard.as_ref().map(|base| EventLogs::new(&base.join(name)));
        let shown = Progress::new(arguments.quiet, Arc::default());
        let note = managed.map(JobFiles::progress);
        let inner = Watch::new(shown, signals, managed.is_some(), note, allocation, job.layers());
        let mut watch = WithEvents { inner, events };
        watch.inner.measure(&settings, &device_name);
        if let Some(courier) = run.courier.take() {
            watch.inner.tell_by(courier, &place.outbox);
        }
        let suspends = checkpoints.is_some() && allocation.suspends(config, asked);
        watch.inner.suspend_when_warned(suspends);
        if arguments.debug_wait {
            let way = Way::of_process(managed.map(|_| name));
            wait_for_a_debugger(&way, &|| signals.received().is_some());
        }
        let mut trained = job.train_from(checkpoints.as_mut(), device, scratch, &mut watch);
        if let (Err(TrainError::Stopped { .. }), Some(Signal::Warned), Some(checkpoints)) =
            (&trained, signals.received(), &mut checkpoints)
        {
            let worth_it = watch.inner.made_progress() && checkpoints.is_saved();
            if worth_it && allocation.may_requeue(config).is_some() {
                // Told before it is asked for: Slurm ends this process at once.
                let courier = watch.inner.take_courier();
                tell_requeued(courier, allocation, asked, config.scheduler);
            }
            if worth_it && allocation.requeue(config, runtime, signals) {
                return Err(JobError::Left);
            }
            // A job that can't continue later ends here, with the best models so far if every layer
            // has an epoch.
            watch.inner.suspend_when_warned(false);
            checkpoints.look();
            trained = job.train_from(Some(checkpoints), device, scratch, &mut watch);
        }
        let layers = trained.map_err(|error| match (error, signals.error(managed.is_some())) {
            (TrainError::Stopped { .. }, Some(stopped)) => stopped,
            (error, _) => JobError::Train(error),
        })?;
        run.courier = watch.inner.take_courier();
        Ok((job, settings, Led { layers, device_name, took: began.elapsed() }))
    }

    /// Has the layers trained by several tasks.
    fn train_by_tasks(
        &self,
        run: &mut Run<'_>,
        shared: &Shared,
    ) -> Result<(TrainingJob, TrainingSettings, Led), JobError> {
        let Job { arguments, config, runtime, signals, place, .. } = *self;
        let Run { name, asked, given, settings, inputs, allocation, scratch, .. } = *run;
        let Some(files) = &place.managed else { return Err(JobError::Panic) };
        let leader = Leader {
            config,
            runtime,
            signals,
            allocation,
            files,
            shared,
            outbox: &place.outbox,
            asked,
            job_file: &arguments.job_file,
            given,
            settings,
            inputs,
            quiet: arguments.quiet,
            debug_wait: arguments.debug_wait,
        };
        let seed = settings.seed.or_else(|| leader.seed());
        let settings = TrainingSettings { seed, ..*settings };
        let job = TrainingJob::prepare(inputs, &settings).map_err(JobError::Train)?;
        let led = leader.lead(&job, name, scratch, &mut run.courier)?;
        Ok((job, settings, led))
    }
}

/// What a training needs beside what its job is run with.
struct Run<'a> {
    /// The job's name for directories.
    name: &'a str,
    asked: Option<&'a Asked>,
    /// The settings as they came.
    given: &'a SettingsMap,
    settings: &'a TrainingSettings,
    inputs: &'a TrainingInputs,
    allocation: &'a Allocation,
    scratch: &'a Path,
    courier: Option<Courier>,
}

async fn stopped(signals: &Signals, managed: bool) -> JobError {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if let Some(error) = signals.error(managed) {
            return error;
        }
    }
}
