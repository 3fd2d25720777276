//! What one pass needs from its beginning to its end, and the small things that every part of it
//! uses: the lock, the connections, writing a step down, telling what happened.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use thiserror::Error;

use super::decide::Rules;
use super::view::View;
use crate::config::Config;
use crate::courier::{Rest, RestError};
use crate::ledger::{
    Cause, Event, Lock, LockError, Record, Role, State, Store, StoreError, TransitionError,
    Unreadable, Verdict,
};
use crate::rodan::Client;
use crate::sentences::{About, of_verdict};
use base::exit_code::ExitCode;
use base::notify;
use base::secret::Secret;
use base::text::printable;
use contract::broker::{Broker, BrokerError};
use domain::JobId;
use scheduler::Scheduler;
use scheduler::kinds_of_job;

/// The longest detail that is told of a job, in characters.
const LONGEST_DETAIL: usize = 2000;

/// Something that happened to a job, for the person who reads `check`'s output.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct JobNews {
    /// Our id of the job.
    pub job: String,
    /// One word: `submitted`, `found`, `waiting`, `raised`, `cancelled`, `failed`, `answered`,
    /// `abandoned` or `duplicate`.
    pub what: &'static str,
    /// The details, in a sentence without a full stop.
    pub detail: String,
}

/// How a pass ended.
#[derive(Debug, PartialEq, Eq)]
pub enum PassEnd {
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
    #[error(
        "LOG_DIR {} can't be made: {source}; it must be a directory that this account can write",
        path.display()
    )]
    Logs {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The record of one job.
    #[error("{job}: {source}")]
    Unreadable {
        /// The job.
        job: JobId,
        /// What is wrong with it.
        source: Unreadable,
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
            Self::Store(_) | Self::Lock(_) | Self::Logs { .. } | Self::Unreadable { .. } => {
                ExitCode::Spool
            }
            Self::Transition { .. } => ExitCode::Internal,
        }
    }
}

/// What one pass needs from its beginning to its end.
pub struct Pass<'a> {
    pub(super) config: &'a Config,
    pub(super) store: Store,
    pub(super) scheduler: Scheduler,
    pub(super) broker: Option<Broker>,
    /// Why there is no broker: whoever can't do without it gets this error, and not another wait.
    pub(super) no_broker: Option<BrokerError>,
    pub(super) http: Option<Client>,
    /// Rodan's token: asked for once a pass.
    pub(super) token: Option<Secret>,
    /// What Slurm has said of the open jobs.
    pub(super) view: View,
    /// How patient this pass is.
    pub(super) rules: Rules,
    /// True when a job was cancelled since Slurm was asked.
    pub(super) cancelled: bool,
    /// True once Slurm has accepted a job in this pass: its controller answers.
    pub(super) accepted: bool,
    /// Why nothing more is submitted in this pass: the next job would fail for the same reason.
    pub(super) no_submissions: Option<(ExitCode, String)>,
    /// Raised when the pass is to end after the step that it is at.
    pub(super) stop: Option<&'a AtomicBool>,
    /// True once this pass knows that one more message may be taken.
    pub(super) open: bool,
    /// Why nothing more is delivered in this pass.
    pub(super) no_deliveries: Option<String>,
    lock: Lock,
    tell: &'a mut dyn FnMut(JobNews),
    worst: Option<ExitCode>,
}

/// Takes the spool's lock. A holder that needs it for seconds only is waited for: a watcher waits
/// for any holder, a pass waits for watchers.
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

/// The exit code of a pass in which a job was answered with an error of this cause.
fn code_of(cause: Cause) -> ExitCode {
    match cause {
        Cause::Message => ExitCode::Rejected,
        Cause::Rodan => ExitCode::Rodan,
        Cause::Slurm => ExitCode::Slurm,
        _ => ExitCode::Training,
    }
}

/// Lets `event` happen to a job, in memory.
fn happens(job: &mut Record, event: Event) -> Result<(), BridgeError> {
    let result = job.apply(event, Timestamp::now());
    result.map_err(|source| BridgeError::Transition { job: job.job_id.clone(), source })
}

impl<'a> Pass<'a> {
    /// Begins a pass. The caller holds the lock.
    pub(super) fn new(
        config: &'a Config,
        store: Store,
        lock: Lock,
        tell: &'a mut dyn FnMut(JobNews),
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
            scheduler: kinds_of_job::scheduler(&config.site),
            broker: None,
            no_broker: None,
            http: None,
            token: None,
            view: View::default(),
            rules: Rules::of(&config.site),
            cancelled: false,
            accepted: false,
            no_submissions: None,
            stop: None,
            open: false,
            no_deliveries: None,
            lock,
            tell,
            worst: None,
        })
    }

    /// Closes the connection to the broker; the lock is released with the pass.
    pub(super) async fn end(
        mut self,
        result: Result<(), BridgeError>,
    ) -> Result<PassEnd, BridgeError> {
        if let Some(broker) = self.broker.take() {
            broker.close().await;
        }
        result.map(|()| PassEnd::Done(self.code()))
    }

    /// The exit code so far.
    pub(super) fn code(&self) -> ExitCode {
        self.worst.unwrap_or(ExitCode::Success)
    }

    /// The connection to the broker, made when it is first needed.
    pub(super) async fn broker(&mut self) -> Result<&mut Broker, BrokerError> {
        connected(&mut self.broker, self.no_broker.as_ref(), self.config).await
    }

    /// Sends what is left of a job's conversation, and renews the lock before each message: many
    /// large models may take longer than other hosts wait for a sign of life.
    pub(super) async fn send_rest(
        &mut self,
        rest: &Rest<'_>,
    ) -> Result<Result<(), RestError>, BridgeError> {
        let broker = connected(&mut self.broker, self.no_broker.as_ref(), self.config).await?;
        let (lock, serves) = (&mut self.lock, self.stop.is_some());
        let mut ours = Ok(());
        let sent = rest
            .send(broker, &mut || {
                if ours.is_ok() {
                    ours = renew(lock, serves);
                }
            })
            .await;
        ours?;
        Ok(sent)
    }

    /// True when the pass is to end: the next step is for the next pass.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Who helps a musicologist.
    pub(super) fn operator(&self) -> &'a str {
        let config: &'a Config = self.config;
        &config.site.operator
    }

    /// What a sentence needs to know of a job.
    pub(super) fn about<'b>(&self, job: &'b Record) -> About<'b>
    where
        'a: 'b,
    {
        About {
            slurm_id: job.slurm_id,
            asked: job.resources.as_ref(),
            operator: self.operator(),
            scheduler: self.config.site.scheduler,
        }
    }

    /// What a job is called beside its number.
    pub(super) fn job_word(&self) -> &'static str {
        self.config.site.scheduler.job_word()
    }

    /// Lets `event` happen to a job and writes that down.
    pub(super) fn apply(&mut self, job: &mut Record, event: Event) -> Result<(), BridgeError> {
        happens(job, event)?;
        self.save(job)
    }

    /// Writes a job's record, unless another host has taken the lock over: it has written a newer
    /// one.
    pub(super) fn save(&mut self, job: &Record) -> Result<(), BridgeError> {
        self.beat()?;
        Ok(self.store.save(job)?)
    }

    /// Files a job away. A request to cancel it has nothing to wait for any more.
    pub(super) fn file(&mut self, job: &Record) -> Result<(), BridgeError> {
        self.beat()?;
        self.store.finish(&job.job_id)?;
        let forget = || -> Result<(), StoreError> {
            let mut cancels = self.store.cancels()?;
            if cancels.forget(&job.correlation_id.0, &job.reply_to) {
                self.store.save_cancels(&cancels)?;
            }
            Ok(())
        };
        if let Err(error) = forget() {
            tracing::warn!(job = %job.job_id, "a request to cancel it may stay: {error}");
        }
        Ok(())
    }

    /// Notes what keeps a job waiting; the next pass tries again.
    pub(super) fn waits(
        &mut self,
        job: &mut Record,
        code: ExitCode,
        why: &str,
    ) -> Result<(), BridgeError> {
        self.remember(code);
        let why = printable(why, LONGEST_DETAIL);
        tracing::info!(job = %job.job_id, "it waits: {why}");
        self.tell(job, "waiting", &why);
        job.last_error = Some(why);
        self.save(job)
    }

    /// Gives a job up: its error reply is to follow.
    pub(super) fn fails(&mut self, job: &mut Record, verdict: Verdict) -> Result<(), BridgeError> {
        self.note_failure(job, verdict)?;
        self.save(job)?;
        self.tell_failure(job);
        Ok(())
    }

    /// The first half of [`Self::fails`], in memory: the caller saves the record.
    pub(super) fn note_failure(
        &self,
        job: &mut Record,
        verdict: Verdict,
    ) -> Result<(), BridgeError> {
        let (cause, sentence) = of_verdict(&verdict, self.about(job));
        job.cause = Some(cause);
        job.verdict = Some(verdict);
        happens(job, Event::Failed(sentence))
    }

    /// The second half of [`Self::fails`], once the record is saved.
    pub(super) fn tell_failure(&mut self, job: &Record) {
        let State::Failed { sentence } = &job.state else { return };
        let cause = job.cause.unwrap_or(Cause::Unknown);
        self.remember(code_of(cause));
        tracing::info!(job = %job.job_id, cause = cause.word(), "it is given up: {sentence}");
        self.tell(job, "failed", sentence);
    }

    pub(super) fn tell(&mut self, job: &Record, what: &'static str, detail: &str) {
        let detail = printable(detail, LONGEST_DETAIL);
        (self.tell)(JobNews { job: job.job_id.to_string(), what, detail });
    }

    /// The first trouble of a pass decides its exit code.
    pub(super) fn remember(&mut self, code: ExitCode) {
        if code != ExitCode::Success {
            self.worst.get_or_insert(code);
        }
    }

    /// Makes sure, before a step that the world can see, that no other host has taken the lock
    /// over.
    pub(super) fn beat(&mut self) -> Result<(), BridgeError> {
        Ok(renew(&mut self.lock, self.stop.is_some())?)
    }
}

/// Renews the lock. A `check` that `serves`, under systemd, gives a sign of life besides: systemd
/// waits no longer than a step takes.
fn renew(lock: &mut Lock, serves: bool) -> Result<(), LockError> {
    if serves {
        notify::alive();
    }
    lock.heartbeat(Timestamp::now())
}

/// The connection in `broker`, made where there is none yet.
async fn connected<'b>(
    broker: &'b mut Option<Broker>,
    no_broker: Option<&BrokerError>,
    config: &Config,
) -> Result<&'b mut Broker, BrokerError> {
    if let Some(error) = no_broker {
        return Err(error.clone());
    }
    match broker {
        Some(broker) => Ok(broker),
        none => Ok(none.insert(Broker::connect(&config.broker).await?.impatient())),
    }
}
