//! A pass and the askers of conversations: their requests (`hpc-control`), whether their reply
//! queues still exist, and what they are told while the job goes on.
//!
//! [`news`] decides what is told, and does nothing else. None of these messages has to arrive: a
//! broker that is away is left to the parts of the pass that can't do without it.

use std::time::Duration;

use jiff::Timestamp;

use super::context::{BridgeError, Pass};
use super::decide::Slurm;
use super::view::is_with_slurm;
use crate::ledger::{Cancels, Live, Progress, Record, State, Told, Verdict};
use base::exit_code::ExitCode;
use contract::broker::{BrokerError, TellError};
use contract::wire::conversation::{CONTROL_QUEUE, Cancel, JobState, Message, Stage};
use scheduler::Kind;
use scheduler::slurm::{Phase, Place, in_words, place};

/// So many requests are read in a pass: the others wait for the next.
const MOST_REQUESTS: usize = 1000;

/// Slurm works out expected starts anew from time to time; they move a little each time.
const START_WITHIN: Duration = Duration::from_secs(60);

/// Progress that the trainer has not told for so long is told here.
const SILENT: Duration = Duration::from_secs(60);

/// What is known of a job that its asker may be told.
pub(super) struct Known<'a> {
    /// What runs the jobs.
    pub(super) scheduler: Kind,
    /// What Slurm says of it.
    pub(super) slurm: Slurm<'a>,
    /// Where it stands in Slurm's queue.
    pub(super) place: Option<Place>,
    /// What its trainer could tell.
    pub(super) live: Option<&'a Live>,
}

/// What an asker is told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing: it knows all of it.
    Nothing,
    /// This state, which the trainer has told already.
    ByTrainer(JobState),
    /// This state, which is to be sent.
    State(JobState),
}

/// The state that an asker is to be told, if it differs from the one that it was told last.
pub(super) fn news(job: &Record, known: &Known<'_>, now: Timestamp) -> News {
    let Some(stage) = stage(job, known) else { return News::Nothing };
    let last = job.told.as_ref().map(|told| &told.state);
    // The trainer knows better when it began and on which node. If it could not send that, its
    // words are sent for it.
    let of_this_run = |state: &&JobState| {
        state.state == stage
            && state.slurm_job == job.slurm_id.map(|id| id.0)
            && stage != Stage::Submitted
    };
    if let Some((live, state)) =
        known.live.and_then(|live| Some((live, live.state.as_ref().filter(of_this_run)?)))
    {
        if last == Some(state) {
            return News::Nothing;
        }
        return if live.state_sent {
            News::ByTrainer(state.clone())
        } else {
            News::State(state.clone())
        };
    }
    let at = if matches!(stage, Stage::Waiting | Stage::Cancelling) { now } else { job.changed_at };
    let state = JobState {
        slurm_job: job.slurm_id.map(|id| id.0),
        queue_position: known.place.as_ref().map(|place| place.position),
        starts_at: known.place.as_ref().and_then(|place| place.start),
        asked: job.asked.clone(),
        ..JobState::new(stage, at, &words(job, stage, known))
    };
    match last {
        // A later time alone is no news, nor is a start that Slurm expects a little later.
        Some(last) if is_about(state.starts_at, last.starts_at) => {
            let same = JobState { at: last.at, starts_at: last.starts_at, ..state.clone() };
            if same == *last { News::Nothing } else { News::State(state) }
        }
        _ => News::State(state),
    }
}

/// True where two expected starts are no further apart than one can be relied on.
fn is_about(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.duration_since(other).unsigned_abs() < START_WITHIN,
        _ => one == other,
    }
}

fn stage(job: &Record, known: &Known<'_>) -> Option<Stage> {
    let is_told_to_end = job.verdict.as_ref().is_some_and(Verdict::ends_in_any_state);
    let has_run = job
        .told
        .as_ref()
        .is_some_and(|told| matches!(told.state.state, Stage::Running | Stage::Requeued));
    let is_raised = !job.too_small.is_empty();
    Some(match &job.state {
        State::Received | State::Submitting { .. } if is_told_to_end => return None,
        State::Received | State::Submitting { .. } if is_raised => Stage::Requeued,
        State::Received | State::Submitting { .. } => Stage::Taken,
        State::Submitted { .. } | State::Running { .. } if is_told_to_end => Stage::Cancelling,
        State::Submitted { .. } if has_run || is_raised => Stage::Requeued,
        State::Submitted { .. } => match known.slurm {
            Slurm::Has(info) if info.state.phase() == Phase::Waiting => Stage::Waiting,
            _ => Stage::Submitted,
        },
        State::Running { .. } => Stage::Running,
        State::Failed { .. } | State::ResultSpooled { .. } | State::Replied => return None,
    })
}

fn words(job: &Record, stage: Stage, known: &Known<'_>) -> String {
    let word = known.scheduler.job_word();
    let number = job.slurm_id.map_or_else(String::new, |id| format!(" ({word} {id})"));
    let reason = match known.slurm {
        Slurm::Has(info) if info.state.phase() == Phase::Waiting => {
            let reason = in_words(&info.reason).unwrap_or(&info.reason);
            if reason.is_empty() { String::new() } else { format!(": {reason}") }
        }
        _ => String::new(),
    };
    match stage {
        Stage::Taken => "the cluster has the job".to_owned(),
        Stage::Submitted => match known.scheduler {
            Kind::Slurm => format!("the training{number} was handed to Slurm"),
            Kind::Local { .. } => format!("the training{number} was put into the queue"),
        },
        Stage::Waiting => match &known.place {
            // A host has one queue.
            Some(Place { position, of, .. }) if known.scheduler != Kind::Slurm => {
                format!("the training{number} is number {position} of {of} in the queue")
            }
            Some(Place { position, of, partition, .. }) => {
                format!(
                    "the training{number} is number {position} of {of} in the queue of \
                    {partition}{reason}"
                )
            }
            None => format!("the training{number} waits in the queue{reason}"),
        },
        Stage::Running => format!("the training{number} runs"),
        Stage::Requeued => {
            let raised = job.too_small.last().zip(job.resources.as_ref());
            let raised = raised.map(|(small, asked)| {
                let (before, now) = (small.memory_mb, asked.memory_mb);
                format!(", with {now} MB of memory because {before} MB were not enough")
            });
            let raised = raised.unwrap_or_default();
            format!(
                "the training{number} waits in the queue again and goes on where it \
                was{raised}{reason}"
            )
        }
        Stage::Cancelling => format!("the training{number} is being cancelled"),
        Stage::Unknown => String::new(),
    }
}

impl Pass<'_> {
    /// Reads what is asked in `hpc-control`, before anything is taken. Each request is written down
    /// before it is acknowledged.
    pub(super) async fn read_requests(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        let mut cancels = match self.store.cancels() {
            Ok(cancels) => cancels,
            Err(error) => {
                tracing::error!("{error}; {CONTROL_QUEUE} is left to the next pass");
                self.remember(ExitCode::Spool);
                return Ok(());
            }
        };
        if cancels.forget_old(Timestamp::now()) {
            self.store.save_cancels(&cancels)?;
        }
        for _ in 0..MOST_REQUESTS {
            self.beat()?;
            match self.next_request(jobs, &mut cancels).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(BridgeError::Broker(error)) => {
                    tracing::debug!("{CONTROL_QUEUE} can't be read: {error}");
                    // Every part of this pass that needs the broker gets this error and does not
                    // wait again.
                    self.lost(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes one request; false when there is none.
    async fn next_request(
        &mut self,
        jobs: &mut [Record],
        cancels: &mut Cancels,
    ) -> Result<bool, BridgeError> {
        let taken = match self.broker().await?.request().await {
            Err(error @ BrokerError::Unreadable { .. }) => {
                tracing::warn!(
                    queue = CONTROL_QUEUE,
                    "a request can't be read: it is dropped ({error})"
                );
                self.broker = None; // the connection is lost with it
                let next = self.broker().await?.discard_request().await?;
                if next.is_none() {
                    self.broker = None;
                    return Ok(true);
                }
                next
            }
            taken => taken?,
        };
        let Some(taken) = taken else { return Ok(false) };
        match Cancel::parse(taken.body()) {
            Ok(cancel) => self.note_cancel(jobs, cancels, &cancel)?,
            Err(error) => tracing::warn!(queue = CONTROL_QUEUE, "a message is no request: {error}"),
        }
        self.broker().await?.acknowledge_request(taken).await?;
        Ok(true)
    }

    /// Writes a request down: in the record of its job, or for the day that the job comes.
    fn note_cancel(
        &mut self,
        jobs: &mut [Record],
        cancels: &mut Cancels,
        cancel: &Cancel,
    ) -> Result<(), BridgeError> {
        let is_it = |job: &&mut Record| cancel.is_about(&job.correlation_id.0, &job.reply_to);
        if let Some(job) = jobs.iter_mut().find(is_it) {
            if may_be_cancelled(job) {
                tracing::info!(job = %job.job_id, "its asker cancels it");
                job.verdict = Some(Verdict::CancelledByAsker);
                self.save(job)?;
            }
            return Ok(());
        }
        // This includes jobs that have their end already, because they are not searched among
        // thousands.
        cancels.add(cancel, Timestamp::now());
        Ok(self.store.save_cancels(cancels)?)
    }

    /// Finds the jobs whose reply queue is gone: nobody asks for them any more.
    pub(super) async fn look_for_askers(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        for job in jobs.iter_mut().filter(|job| !job.protocol.is_reply()) {
            if job.verdict == Some(Verdict::Abandoned) || self.no_broker.is_some() {
                continue;
            }
            self.beat()?;
            let exists = match self.broker().await {
                Ok(broker) => broker.exists(&job.reply_to).await,
                Err(error) => Err(error),
            };
            match exists {
                Ok(true) => {}
                Ok(false) => {
                    tracing::info!(job = %job.job_id, queue = job.reply_to, "its reply queue is \
                        gone: it is given up");
                    job.verdict = Some(Verdict::Abandoned);
                    self.save(job)?;
                }
                Err(error) => {
                    tracing::debug!(job = %job.job_id, "its reply queue can't be looked at: \
                        {error}");
                    self.lost(error);
                }
            }
        }
        Ok(())
    }

    /// Gives the connection up. If there is no broker at all, nobody waits for it again in this
    /// pass.
    fn lost(&mut self, error: BrokerError) {
        self.broker = None;
        if !matches!(error, BrokerError::Failed { .. } | BrokerError::Unreadable { .. }) {
            self.no_broker = Some(error);
        }
    }

    /// Tells the askers of conversations what has changed, as far as the broker is there.
    pub(super) async fn tell_news(&mut self, jobs: &mut [Record]) -> Result<(), BridgeError> {
        let waits =
            |job: &Record| matches!(job.state, State::Submitted { .. }) && !job.protocol.is_reply();
        let pending = if jobs.iter().any(waits) {
            self.scheduler.pending().await.unwrap_or_default()
        } else {
            Vec::new()
        };
        for job in jobs.iter_mut().filter(|job| !job.protocol.is_reply()) {
            if self.no_broker.is_some() || job.verdict == Some(Verdict::Abandoned) || !is_open(job)
            {
                continue;
            }
            let live = self.store.files(&job.job_id).outbox().live();
            let position = job.slurm_id.and_then(|id| place(id, &pending));
            let known = Known {
                scheduler: self.config.site.scheduler,
                slurm: self.view.of(job),
                place: position,
                live: live.as_ref(),
            };
            let news = news(job, &known, Timestamp::now());
            self.tell_state(job, news).await?;
            self.tell_progress(job, live.as_ref()).await?;
        }
        Ok(())
    }

    async fn tell_state(&mut self, job: &mut Record, news: News) -> Result<(), BridgeError> {
        let progress_at = job.told.as_ref().and_then(|told| told.progress_at);
        let told = |state, sent| Some(Told { state, sent, progress_at });
        match news {
            News::Nothing => {
                // It is written down and perhaps not sent: an earlier pass was killed in between.
                if job.told.as_ref().is_none_or(|told| told.sent) {
                    return Ok(());
                }
            }
            News::ByTrainer(state) => {
                job.told = told(state, true);
                return self.save(job);
            }
            News::State(state) => {
                // Before it is sent, so that a copy has the same content and id.
                job.told = told(state, false);
                self.save(job)?;
            }
        }
        let Some(told) = job.told.clone() else { return Ok(()) };
        let message = told.state.message(&job.correlation_id.0);
        if self.send(job, &message).await? {
            job.told = Some(Told { sent: true, ..told });
            self.save(job)?;
        }
        Ok(())
    }

    /// Tells how far a training is, where its own node can't.
    async fn tell_progress(
        &mut self,
        job: &mut Record,
        live: Option<&Live>,
    ) -> Result<(), BridgeError> {
        let (State::Running { slurm_id }, Some(told)) = (&job.state, job.told.clone()) else {
            return Ok(());
        };
        let files = self.store.files(&job.job_id);
        let Some(note) = Progress::read(&files.progress()) else { return Ok(()) };
        let by_trainer = live.filter(|live| live.reachable).and_then(|live| live.progress_at);
        let is_told = |at: Timestamp| note.updated_at.duration_since(at).unsigned_abs() < SILENT;
        let is_known = told.progress_at.is_some_and(|at| at >= note.updated_at)
            || by_trainer.is_some_and(is_told);
        if note.standing.layer_number == 0 || note.slurm_job_id != Some(*slurm_id) || is_known {
            return Ok(());
        }
        // Which of them have come is not known here; whoever knows them passes them over.
        let told_epochs = note.ended_epochs.clone();
        let message = note.told(told_epochs).message(&job.correlation_id.0);
        if self.send(job, &message).await? {
            job.told = Some(Told { progress_at: Some(note.updated_at), ..told });
            self.save(job)?;
        }
        Ok(())
    }

    /// Sends what need not arrive; true when it has.
    async fn send(&mut self, job: &Record, message: &Message<'_>) -> Result<bool, BridgeError> {
        self.beat()?;
        let sent = match self.broker().await {
            Ok(broker) => broker.tell(&job.reply_to, &job.correlation_id.0, message).await,
            Err(error) => Err(error.into()),
        };
        match sent {
            Ok(()) => return Ok(true),
            Err(TellError::Broker(error)) => {
                tracing::debug!(job = %job.job_id, "its asker can't be told: {error}");
                self.lost(error);
            }
            // The next pass sees whether the queue is gone for good.
            Err(error) => tracing::debug!(job = %job.job_id, "its asker can't be told: {error}"),
        }
        Ok(false)
    }
}

/// A job that has its answer on disk keeps it.
fn may_be_cancelled(job: &Record) -> bool {
    let is_free = job.verdict.is_none() || matches!(job.verdict, Some(Verdict::NotStarted { .. }));
    is_free && (matches!(job.state, State::Received) || is_with_slurm(job))
}

fn is_open(job: &Record) -> bool {
    matches!(job.state, State::Received) || is_with_slurm(job)
}

#[cfg(test)]
#[path = "converse_tests.rs"]
mod tests;
