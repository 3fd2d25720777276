//! The pass itself. It reads like the state diagram in `docs/protocol.md`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use thiserror::Error;

use super::metrics;
use crate::config::Config;
use crate::ledger::{Cause, Event, Lock, LockError, Record, Role, Store, StoreError, TransitionError};
use crate::rodan::Client;
use base::exit_code::ExitCode;
use base::secret::Secret;
use base::text::printable;
use contract::broker::{Broker, BrokerError};
use domain::JobId;
use scheduler::slurm::Slurm;

/// How long a pass waits for a watcher, which holds the lock for seconds. Another pass is not waited for.
const PATIENCE_WITH_A_WATCHER: Duration = Duration::from_secs(30);

/// Something that happened to a job, for the person who reads `check`'s output.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Happening {
    /// Our id of the job.
    pub job: String,
    /// One word: `submitted`, `found`, `waiting`, `cancelled`, `failed`, `answered` or `duplicate`.
    pub what: &'static str,
    /// The details, in a sentence without a full stop.
    pub detail: String,
}

/// How a pass ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Another `check` holds the lock.
    Busy(String),
    /// The pass is done; the code tells the first thing that went wrong, if any.
    Done(ExitCode),
}

/// A pass that could not go on. What was begun is in the spool, and the next pass carries on.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// RabbitMQ.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The spool.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The lock file.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The log directory.
    #[error("LOG_DIR {} can't be made: {source}; it must be a directory that this account can write", path.display())]
    Logs {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A record that contradicts itself.
    #[error("{job}: {source}; its record in the spool was changed by something else")]
    Transition {
        /// The job.
        job: JobId,
        /// What can't happen.
        source: TransitionError,
    },
}

impl BridgeError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Broker(_) => ExitCode::Broker,
            Self::Store(_) | Self::Lock(_) | Self::Logs { .. } => ExitCode::Spool,
            Self::Transition { .. } => ExitCode::Internal,
        }
    }
}

/// What one pass holds in its hands.
pub struct Pass<'a> {
    pub(super) config: &'a Config,
    pub(super) store: Store,
    pub(super) slurm: Slurm,
    pub(super) broker: Option<Broker>,
    pub(super) http: Option<Client>,
    /// Rodan's token: asked for once a pass.
    pub(super) token: Option<Secret>,
    /// True once Slurm said which of the open jobs it knows: only then may one be submitted again.
    pub(super) slurm_answered: bool,
    /// Why nothing more is submitted in this pass: what one job met, the next one would meet too.
    pub(super) no_submissions: Option<(ExitCode, String)>,
    /// True when the operator asks: then a job is not given up for having waited long.
    pub(super) insists: bool,
    lock: Lock,
    tell: &'a mut dyn FnMut(Happening),
    worst: Option<ExitCode>,
}

/// Runs one pass, taking at most `max_jobs` new jobs, and tells `tell` what happens to each job.
///
/// # Errors
/// When the broker, the spool or the log directory can't be used.
pub async fn run(
    config: &Config,
    max_jobs: u32,
    tell: &mut dyn FnMut(Happening),
) -> Result<Outcome, BridgeError> {
    let began = Instant::now();
    let begin = async {
        let store = Store::open(&config.site.spool)?;
        let lock = lock(&store, Role::Check, PATIENCE_WITH_A_WATCHER).await?;
        Pass::new(config, store, lock, tell)
    };
    let mut pass = match begin.await {
        Ok(pass) => pass,
        Err(BridgeError::Lock(LockError::Held { who, .. })) => return Ok(Outcome::Busy(who)),
        Err(error) => {
            if let Some(path) = &config.site.metrics_file {
                metrics::pass_failed(path, began, error.exit_code());
            }
            return Err(error);
        }
    };
    let result = pass.steps(max_jobs).await;
    pass.measure(began, &result).await;
    pass.end(result).await
}

/// Takes the spool's lock. What holds it for seconds only is waited for: a watcher always, a pass by watchers.
pub(super) async fn lock(store: &Store, role: Role, patience: Duration) -> Result<Lock, LockError> {
    let end = Instant::now() + patience;
    loop {
        match Lock::acquire(&store.lock_path(), role, Timestamp::now()) {
            Err(LockError::Held { role: other, .. })
                if (role == Role::Watcher || other == Role::Watcher) && Instant::now() < end =>
            {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            result => return result,
        }
    }
}

impl<'a> Pass<'a> {
    /// A pass with the lock in hand.
    pub(super) fn new(
        config: &'a Config,
        store: Store,
        lock: Lock,
        tell: &'a mut dyn FnMut(Happening),
    ) -> Result<Self, BridgeError> {
        let logs = &config.site.logs;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(logs)
            .map_err(|source| BridgeError::Logs { path: logs.clone(), source })?;
        store.sweep();
        Ok(Self {
            config,
            store,
            slurm: Slurm::new(&config.site),
            broker: None,
            http: None,
            token: None,
            slurm_answered: false,
            no_submissions: None,
            insists: false,
            lock,
            tell,
            worst: None,
        })
    }

    /// Says good-bye to the broker; the lock goes with the pass.
    pub(super) async fn end(mut self, result: Result<(), BridgeError>) -> Result<Outcome, BridgeError> {
        if let Some(broker) = self.broker.take() {
            broker.close().await;
        }
        result.map(|()| Outcome::Done(self.code()))
    }

    /// The exit code so far.
    pub(super) fn code(&self) -> ExitCode {
        self.worst.unwrap_or(ExitCode::Success)
    }

    async fn steps(&mut self, max_jobs: u32) -> Result<(), BridgeError> {
        let mut jobs = self.store.open_jobs()?;
        self.reconcile(&mut jobs).await?;
        for job in &mut jobs {
            self.submit_if_due(job).await?;
        }
        for job in &mut jobs {
            self.deliver_if_due(job).await?;
        }
        for _ in 0..max_jobs {
            self.beat()?;
            if !self.may_take(&jobs) {
                break;
            }
            let Some(mut job) = self.take_one().await? else { break };
            self.submit_if_due(&mut job).await?;
            self.deliver_if_due(&mut job).await?;
            jobs.push(job);
        }
        Ok(())
    }

    /// The connection to the broker, made when it is first needed.
    pub(super) async fn broker(&mut self) -> Result<&mut Broker, BrokerError> {
        match &mut self.broker {
            Some(broker) => Ok(broker),
            none => Ok(none.insert(Broker::connect(&self.config.broker).await?)),
        }
    }

    /// Lets `event` happen to a job and writes that down.
    pub(super) fn apply(&mut self, job: &mut Record, event: Event) -> Result<(), BridgeError> {
        let result = job.apply(event, Timestamp::now());
        result.map_err(|source| BridgeError::Transition { job: job.job_id.clone(), source })?;
        Ok(self.store.save(job)?)
    }

    /// Notes what keeps a job waiting; the next pass tries again.
    pub(super) fn waits(&mut self, job: &mut Record, code: ExitCode, why: String) -> Result<(), BridgeError> {
        self.remember(code);
        let why = printable(&why, 2000);
        tracing::info!("{}: {why}", job.job_id);
        self.tell(job, "waiting", &why);
        job.last_error = Some(why);
        Ok(self.store.save(job)?)
    }

    /// Gives a job up: its error reply is to follow.
    pub(super) fn fails(
        &mut self,
        job: &mut Record,
        code: ExitCode,
        sentence: String,
    ) -> Result<(), BridgeError> {
        let cause = match code {
            ExitCode::Rejected => Cause::Message,
            ExitCode::Rodan => Cause::Rodan,
            ExitCode::Slurm => Cause::Slurm,
            _ => Cause::Training,
        };
        self.fails_because(job, code, cause, sentence)
    }

    /// The same, where the code does not tell the cause.
    pub(super) fn fails_because(
        &mut self,
        job: &mut Record,
        code: ExitCode,
        cause: Cause,
        sentence: String,
    ) -> Result<(), BridgeError> {
        self.remember(code);
        tracing::info!("{}: {sentence}", job.job_id);
        self.tell(job, "failed", &sentence);
        job.cause = Some(cause);
        self.apply(job, Event::Failed(sentence))
    }

    pub(super) fn tell(&mut self, job: &Record, what: &'static str, detail: &str) {
        (self.tell)(Happening { job: job.job_id.to_string(), what, detail: printable(detail, 2000) });
    }

    /// The first trouble of a pass decides its exit code.
    pub(super) fn remember(&mut self, code: ExitCode) {
        if code != ExitCode::Success {
            self.worst.get_or_insert(code);
        }
    }

    /// True when a job has waited for a service for as long as the site allows.
    pub(super) fn is_given_up(&self, job: &Record) -> bool {
        let waited = Timestamp::now().duration_since(job.received_at);
        !self.insists && waited.unsigned_abs() >= self.config.site.give_up && waited.is_positive()
    }

    /// Makes sure, before a step that the world can see, that no other host has taken the lock over.
    pub(super) fn beat(&mut self) -> Result<(), BridgeError> {
        Ok(self.lock.heartbeat(Timestamp::now())?)
    }
}
