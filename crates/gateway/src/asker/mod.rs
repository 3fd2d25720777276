//! The broker mode: runs are jobs in RabbitMQ, which a cluster takes and tells of.
//!
//! It is an asker as `docs/protocol.md` describes one. Each step is in the store before the next
//! one that others can see: the message of a job before it is sent, what a message says before it
//! is acknowledged. After a kill, or when the broker was away, it goes on with all jobs that are
//! not over.

mod hearing;
mod message;
mod parts;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use base::retry::Policy;
use contract::broker::{Broker, BrokerConfig, BrokerError, JOBS_QUEUE, Said, TellError};
use contract::wire::conversation::{
    Cancel, End, Kind, ModelEntry, message_id as id_of_content, reply_queue,
};
use domain::hex_sha256;
use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use crate::courses::Courses;
use crate::job_files;
use crate::reach::{Fault, Reach};
use crate::runner::RunFolder;
use crate::store::{Hearing, Job, NewJob, Object, Run, Step, Store, StoreError};
use hearing::{Known, Message};
use parts::{Parts, PartsError};

/// Most jobs that are with the broker at a time; further runs wait in the store. A connection has
/// 2047 channels, and each reply queue needs one.
const MOST_JOBS: usize = 1000;

/// How often a broker that says nothing is asked whether it is there.
const LOOK: Duration = Duration::from_secs(5);

/// How long a reply queue stays after the end. A cluster that finds no queue takes it that nobody
/// asks for the job any more, and its next pass may look for it although it has sent the end.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// How long is waited after the broker could not be used.
const WAITS: Policy = Policy {
    attempts: u32::MAX,
    first_wait: Duration::from_secs(1),
    longest_wait: Duration::from_secs(30),
};

/// Why the work with the broker is broken off, to be begun again.
#[derive(Debug, Error)]
enum AskerError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Tell(#[from] TellError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "this account of RabbitMQ may not read the queue '{0}', which it has declared itself; give \
        it the right"
    )]
    Unreadable(String),
}

impl AskerError {
    /// What is wrong with the broker; `None` where something else is the reason.
    fn fault(&self) -> Option<Fault> {
        match self {
            // What has failed in another way is most often a connection that has broken.
            Self::Broker(error) | Self::Tell(TellError::Broker(error)) => Some(match error {
                BrokerError::Unreachable { .. }
                | BrokerError::Tls { .. }
                | BrokerError::Silent { .. }
                | BrokerError::Failed { .. } => Fault::Away,
                BrokerError::Login { .. }
                | BrokerError::Vhost { .. }
                | BrokerError::Counted { .. }
                | BrokerError::PerhapsCounted { .. }
                | BrokerError::Blocked { .. }
                | BrokerError::Unreadable { .. } => Fault::Refuses,
            }),
            Self::Tell(_) | Self::Unreadable(_) => Some(Fault::Refuses),
            Self::Store(_) | Self::File { .. } => None,
        }
    }
}

/// The thread that talks with the broker.
#[derive(Debug)]
pub struct Asker {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Asker {
    /// Starts it. `reach` is told whether the broker is there.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn start(store: Arc<Store>, broker: BrokerConfig, reach: Reach) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = Work { store, config: broker, reach, stopped };
        let thread = std::thread::Builder::new()
            .name("asker".to_owned())
            .spawn(move || runtime.block_on(work.until_stopped()))?;
        Ok(Self { stop, thread })
    }

    /// Ends the connection. What was not acknowledged comes again to the next gateway.
    pub fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            error!("what talks with RabbitMQ ended by a fault of the program");
        }
    }
}

/// What comes of the reply queues: the run, and the message; `None` when its queue has gone.
type Heard = SelectAll<BoxStream<'static, (i64, Option<Result<Said, BrokerError>>)>>;

/// The runs whose reply queues are listened to; what is removed here is listened to no longer.
type Listened = BTreeMap<i64, oneshot::Sender<()>>;

struct Work {
    store: Arc<Store>,
    config: BrokerConfig,
    reach: Reach,
    stopped: watch::Receiver<bool>,
}

/// Comes when this gateway is to stop.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that nobody can say so any more: that is the end as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

impl Work {
    async fn until_stopped(&self) {
        let (mut failures, mut told) = (0, String::new());
        let mut stopped = self.stopped.clone();
        while !*self.stopped.borrow() {
            let Err(error) = self.session(&mut failures).await else { return };
            let text = error.to_string();
            let news = match error.fault() {
                Some(fault) => self.reach.fails(fault, &text),
                None => text != told,
            };
            if news {
                warn!("runs wait: {text}");
                // Whoever looks at a run learns why.
                self.store.wake();
            }
            told = text;
            let wait = WAITS.wait(failures, None);
            failures = failures.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = told_to_stop(&mut stopped) => return,
            }
        }
    }

    /// Works with one connection until it is lost, or until this gateway is to stop.
    async fn session(&self, failures: &mut u32) -> Result<(), AskerError> {
        let mut changes = self.store.watch();
        let mut stopped = self.stopped.clone();
        let mut broker = Broker::connect(&self.config).await?.impatient();
        let mut heard: Heard = SelectAll::new();
        let mut listened = Listened::new();
        let mut first = true;
        loop {
            changes.mark_unchanged();
            self.send(&mut broker, first).await?;
            self.listen(&mut broker, &mut heard, &mut listened).await?;
            first = false;
            if !self.reach.is_there() {
                info!("RabbitMQ at {} answers", self.config.address);
                self.reach.answers();
                // Whoever looks at a run learns that it waits for it no longer.
                self.store.wake();
            }
            *failures = 0;
            tokio::select! {
                biased;
                () = told_to_stop(&mut stopped) => {
                    broker.close().await;
                    return Ok(());
                }
                Some((run, said)) = heard.next() => match said {
                    Some(said) => {
                        if self.take(run, said?).await? {
                            listened.remove(&run);
                        }
                    }
                    None => drop(listened.remove(&run)),
                },
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(LOOK) => drop(broker.depth(JOBS_QUEUE).await?),
            }
        }
    }

    /// Sends what is to be sent: jobs, requests to cancel; and forgets what is long over.
    async fn send(&self, broker: &mut Broker, first: bool) -> Result<(), AskerError> {
        let now = Timestamp::now();
        let jobs = self.store.jobs(now.checked_sub(KEPT).unwrap_or(now))?;
        let mut open = 0;
        for job in &jobs {
            match job.step {
                Step::Over => {
                    broker.forget(&reply_queue(&job.correlation_id)).await?;
                    self.store.forget_job(job.run)?;
                    continue;
                }
                Step::Sending => self.publish(broker, job, first).await?,
                Step::Sent if job.to_be_cancelled => {
                    let reply_to = reply_queue(&job.correlation_id);
                    let correlation_id = job.correlation_id.clone();
                    broker.ask_to_cancel(&Cancel { correlation_id, reply_to }).await?;
                    self.store.note_cancel_sent(job.run)?;
                    info!("run {}: the cluster was asked to cancel it", job.run);
                }
                Step::Sent => {}
            }
            open += 1;
        }
        while open < MOST_JOBS
            && let Some(run) = self.store.next_to_be_sent()?
        {
            let Some(job) = self.begin(run)? else { continue };
            self.publish(broker, &job, false).await?;
            open += 1;
        }
        Ok(())
    }

    /// Writes down the job of a run; `None` when it does not wait any more, or can't be sent.
    fn begin(&self, id: i64) -> Result<Option<Job>, AskerError> {
        let Some(run) = self.store.any_run(id)? else { return Ok(None) };
        let models = self.store.models_for(&run)?;
        let key = uuid::Uuid::new_v4().simple().to_string();
        let inputs = job_files::inputs(&self.store.pages_of(id)?, &models, &key);
        let body = match message::message(&inputs, &run.settings) {
            Ok(body) => body,
            Err(error) => {
                self.store.refuse(id, &error.to_string())?;
                return Ok(None);
            }
        };
        let correlation_id = uuid::Uuid::new_v4().to_string();
        let key_hash = hex_sha256(key.as_bytes());
        let job = NewJob { correlation_id: &correlation_id, key_hash: &key_hash, body: &body };
        if !self.store.begin_job(id, &job)? {
            return Ok(None);
        }
        let (step, body) = (Step::Sending, Some(body));
        Ok(Some(Job { run: id, correlation_id, step, body, to_be_cancelled: false }))
    }

    /// Sends a job. `perhaps` says that an earlier attempt may have sent it: when something has
    /// come into its reply queue, it has. If not, it is sent again with the same ids, by which the
    /// cluster knows a copy.
    async fn publish(
        &self,
        broker: &mut Broker,
        job: &Job,
        perhaps: bool,
    ) -> Result<(), AskerError> {
        let queue = reply_queue(&job.correlation_id);
        let answered = perhaps && broker.depth(&queue).await?.is_some_and(|waiting| waiting > 0);
        if !answered {
            let body = job.body.as_deref().unwrap_or_default();
            broker.ask(&job.correlation_id, &queue, body.as_bytes()).await?;
        }
        self.store.note_job_sent(job.run)?;
        info!("run {}: its job {} is in {JOBS_QUEUE}", job.run, job.correlation_id);
        Ok(())
    }

    /// Listens to the reply queues that are not listened to yet.
    async fn listen(
        &self,
        broker: &mut Broker,
        heard: &mut Heard,
        listened: &mut Listened,
    ) -> Result<(), AskerError> {
        for job in self.store.jobs(Timestamp::UNIX_EPOCH)? {
            if listened.contains_key(&job.run) {
                continue;
            }
            let (run, queue) = (job.run, reply_queue(&job.correlation_id));
            if let Some(said) = broker.hear(&queue).await? {
                let (listening, over) = oneshot::channel();
                let said = said.map(move |said| (run, Some(said))).take_until(over);
                heard.push(said.chain(stream::iter([(run, None)])).boxed());
                listened.insert(run, listening);
            } else if broker.exists(&queue).await? {
                return Err(AskerError::Unreadable(queue));
            } else {
                warn!("run {run}: its reply queue {queue} is gone");
                self.store.hear(run, "gone", &hearing::of_silence())?;
                RunFolder::new(&self.store.folder().run(run)).remove();
            }
        }
        Ok(())
    }

    /// Takes a message: what it changes is in the store when it is acknowledged. True when the run
    /// is over.
    async fn take(&self, id: i64, said: Said) -> Result<bool, AskerError> {
        let mut is_over = true;
        if let Some(run) = self.store.any_run(id)? {
            let kind = Kind::from_word(&said.kind());
            let message_id = match (said.message_id(), kind) {
                (own, _) if !own.is_empty() => own,
                (_, kind) => {
                    let kind = kind.unwrap_or(Kind::State);
                    id_of_content(&said.correlation_id(), kind, &[said.body()])
                }
            };
            is_over = run.status.state.is_end();
            if !is_over && !self.store.has_heard(id, &message_id)? {
                is_over = self.note(&run, &message_id, &said)?;
            }
        }
        said.acknowledge().await?;
        Ok(is_over)
    }

    fn note(&self, run: &Run, message_id: &str, said: &Said) -> Result<bool, AskerError> {
        let read = hearing::read(&said.kind(), |name| said.header(name), said.body());
        let (message, hearing) = match read {
            Ok(message) => {
                let hearing = self.hearing(run, &message, said.body())?;
                (Some(message), hearing)
            }
            Err(error) => {
                let Some(hearing) = hearing::of_unfit(&error) else {
                    warn!("run {}: {error}; it is left out", run.id);
                    return Ok(false);
                };
                warn!("run {}: {error}; it was the end of its job", run.id);
                (None, hearing)
            }
        };
        let after = self.store.hear(run.id, message_id, &hearing)?;
        if let Some(Message::Model(part)) = &message
            && !hearing.change.results.is_empty()
        {
            // Not before: the last part may come again, and the others will not.
            Parts::of(&self.store.folder().run(run.id)).forget(part);
        }
        let Some(status) = after else { return Ok(false) };
        info!("run {} is {}", run.id, status.state);
        if status.state.is_end() {
            RunFolder::new(&self.store.folder().run(run.id)).remove();
        }
        Ok(status.state.is_end())
    }

    /// What a message changes; the files that it brings are kept first.
    fn hearing(&self, run: &Run, message: &Message, body: &[u8]) -> Result<Hearing, AskerError> {
        let tells_of_epochs = match message {
            Message::Progress(progress) => !progress.ended_epochs.is_empty(),
            Message::Report(name) => *name == hearing::RECORD,
            _ => false,
        };
        let courses = if tells_of_epochs {
            Courses::of(&self.store.events_of(run.id, "epoch")?)
        } else {
            Courses::default()
        };
        let known = Known::of(run, courses);
        Ok(match message {
            Message::State(state) => hearing::of_state(&known, state),
            Message::Progress(progress) => hearing::of_progress(&known, progress),
            Message::Report(name) => {
                hearing::of_report(&known, name, body, self.keep(run.id, body)?)
            }
            Message::End(end) => {
                let lines = match end {
                    End::Done(done) => &done.log,
                    End::Failed(failed) => &failed.log,
                };
                let log = match lines[..] {
                    [] => None,
                    _ => Some(self.keep(run.id, (lines.join("\n") + "\n").as_bytes())?),
                };
                let mut kept = BTreeMap::new();
                if let End::Done(done) = end {
                    for model in &done.models {
                        kept.insert(&model.sha256, self.store.object(&model.sha256)?);
                    }
                }
                let find = |model: &ModelEntry| kept.get(&model.sha256).cloned().flatten();
                hearing::of_end(&known, end, log, find)
            }
            Message::Model(part) => {
                let parts = Parts::of(&self.store.folder().run(run.id));
                match parts.take(part, body) {
                    Ok(None) => Hearing::default(),
                    Ok(Some(path)) => {
                        let kept = self.store.objects().keep(&path);
                        let object = kept.map_err(|source| AskerError::File { path, source })?;
                        hearing::of_model(&part.name, object)
                    }
                    Err(PartsError::File { path, source }) => {
                        return Err(AskerError::File { path, source });
                    }
                    Err(PartsError::Unfit(error)) => {
                        warn!("run {}: {error}; it is left out", run.id);
                        Hearing::default()
                    }
                }
            }
        })
    }

    /// Keeps bytes as an object.
    fn keep(&self, run: i64, bytes: &[u8]) -> Result<Object, AskerError> {
        let folder = self.store.folder().run(run);
        let path = folder.join("incoming");
        let kept = || {
            std::fs::create_dir_all(&folder)?;
            base::files::write_atomic(&path, bytes)?;
            self.store.objects().keep(&path)
        };
        kept().map_err(|source| AskerError::File { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_answers_and_refuses_is_not_away() {
        let queue = || "reply".to_owned();
        let silent = || BrokerError::Silent { action: "asking", deadline: LOOK };
        let blocked = || BrokerError::Blocked { reason: "memory".into() };
        for (error, fault) in [
            (AskerError::Broker(silent()), Some(Fault::Away)),
            (AskerError::Tell(silent().into()), Some(Fault::Away)),
            (AskerError::Tell(blocked().into()), Some(Fault::Refuses)),
            (AskerError::Tell(TellError::Refused(queue())), Some(Fault::Refuses)),
            (AskerError::Unreadable(queue()), Some(Fault::Refuses)),
            (AskerError::Store(StoreError::OtherRequest), None),
        ] {
            assert_eq!(error.fault(), fault, "{error}");
        }
    }
}
