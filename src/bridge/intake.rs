//! Taking a message: record first, acknowledgement second.

use jiff::Timestamp;
use thiserror::Error;

use super::context::{BridgeError, Pass};
use crate::ledger::{Cancels, Event, NodeKind, Outcome, Paces, Record, Seen, State, Verdict};
use crate::sentences;
use base::exit_code::ExitCode;
use contract::broker::{BrokerError, DEFAULT_REPLY_QUEUE, JOBS_QUEUE, Taken};
use contract::wire::{Chosen, JobMessage, MessageError, choose};
use domain::ResourceSettings;
use domain::{CorrelationId, JobId};
use scheduler::SiteConfig;

impl Pass<'_> {
    /// Takes the next message and returns its job; `None` when there is none.
    ///
    /// A message that is no job becomes a failed job, so that it is answered like any other.
    pub(super) async fn take_one(&mut self) -> Result<Option<Record>, BridgeError> {
        // Nothing is taken while nobody knows which jobs are cancelled.
        let cancels = self.store.cancels()?;
        while !self.is_stopped() {
            self.beat()?;
            let taken = match self.broker().await?.take().await {
                Err(error @ BrokerError::Unreadable { .. }) => {
                    tracing::warn!(
                        queue = JOBS_QUEUE,
                        "a message can't be read, let alone answered: it is dropped ({error})"
                    );
                    self.remember(ExitCode::Rejected);
                    self.broker = None; // the connection is lost with it
                    let readable = self.broker().await?.discard().await?;
                    if readable.is_none() {
                        self.broker = None;
                        continue;
                    }
                    readable
                }
                taken => taken?,
            };
            let Some(taken) = taken else { return Ok(None) };
            let mut job = new_record(&taken);
            if let Some(known) = self.known(&job, taken.redelivered())? {
                // Its acknowledgement was lost with an earlier pass, or it was sent twice. The job
                // has its one answer already.
                self.broker().await?.acknowledge(taken).await?;
                self.tell(
                    &known.record,
                    "duplicate",
                    "the message was taken before; it is not taken again",
                );
                self.beat()?;
                self.store.note_acknowledged(known)?;
                continue;
            }
            self.write_down(&mut job, taken.body(), &cancels)?;
            let unanswerable = taken.reply_to().is_none() && taken.correlation_id().is_none();
            self.broker().await?.acknowledge(taken).await?;
            if job.unacknowledged {
                job.unacknowledged = false;
                self.save(&job)?;
            }
            if unanswerable && matches!(job.state, State::Failed { .. }) {
                // A message that names neither a queue nor a job can't be answered. If it stayed,
                // it would come again for ever.
                self.apply(&mut job, Event::ReplySpooled(Outcome::Error))?;
                self.apply(&mut job, Event::Delivered)?;
                self.file(&job)?;
                continue;
            }
            return Ok(Some(job));
        }
        Ok(None)
    }

    /// Writes a new job down, before its message is acknowledged. One that can't become a Slurm
    /// job has failed from its first record on.
    pub(super) fn write_down(
        &mut self,
        job: &mut Record,
        body: &[u8],
        cancels: &Cancels,
    ) -> Result<(), BridgeError> {
        // Where another job came with the same correlation id, this one gets an id of its own
        // here; also where a job's record can't be read.
        let free = ids(job).find(|id| matches!(self.store.see(id), Ok(None)));
        if let Some(free) = free {
            job.job_id = free;
        }
        let asked = read(body, &self.config.site, &self.store.paces(), self.operator());
        job.resources = asked.as_ref().ok().map(|chosen| chosen.resources.clone());
        job.asked = asked.as_ref().ok().map(|chosen| chosen.asked.clone());
        if cancels.has(&job.correlation_id.0, &job.reply_to) {
            job.verdict = Some(Verdict::CancelledByAsker);
        }
        if let Err(unfit) = &asked {
            self.note_failure(job, Verdict::NoJob { problem: unfit.to_string() })?;
        }
        self.beat()?;
        self.store.create(job, body)?;
        if let Err(Unfit::NoJob(_)) = &asked {
            let kept = self.store.keep_rejected(&job.job_id, body)?;
            tracing::warn!(job = %job.job_id, "the message is kept in {}", kept.display());
        }
        self.tell_failure(job);
        Ok(())
    }

    /// The job of a message that was taken before.
    pub(super) fn known(
        &self,
        fresh: &Record,
        redelivered: bool,
    ) -> Result<Option<Seen>, BridgeError> {
        let same = |job: &Record| {
            job.body_sha256 == fresh.body_sha256
                && job.reply_to == fresh.reply_to
                && job.correlation_id_generated == fresh.correlation_id_generated
                && (fresh.correlation_id_generated || job.correlation_id == fresh.correlation_id)
        };
        if !fresh.correlation_id_generated {
            let seen = ids(fresh).map_while(|id| self.store.see(&id).transpose());
            return Ok(seen.filter_map(Result::ok).find(|seen| same(&seen.record)));
        }
        // Without a correlation id only the content tells, and only where the broker says that it
        // hands the message out again, and where it may not have got our acknowledgement of the
        // first: two such messages may well be two jobs. The first may have its answer already.
        if !redelivered {
            return Ok(None);
        }
        let (open, done) = self.store.ids()?;
        let mut seen = open.iter().chain(&done).filter_map(|id| self.store.see(id).ok()?);
        Ok(seen.find(|seen| seen.record.unacknowledged && same(&seen.record)))
    }
}

/// A message that can't become a Slurm job.
#[derive(Debug, Error)]
pub(super) enum Unfit {
    /// It is no job.
    #[error(transparent)]
    NoJob(#[from] MessageError),
    /// It asks for more than the site gives.
    #[error("{0}")]
    TooMuch(String),
}

/// Reads a message, the only time that it is read for what it asks: what it asks Slurm for is kept
/// in the record.
pub(super) fn read(
    body: &[u8],
    site: &SiteConfig,
    paces: &Paces,
    operator: &str,
) -> Result<Chosen, Unfit> {
    let message = JobMessage::parse(body)?;
    let chosen = chosen(&message, site, paces);
    let exceeded = site.limits.exceeded_by(&message.training, &chosen.resources);
    if exceeded.is_empty() {
        return Ok(chosen);
    }
    Err(Unfit::TooMuch(sentences::beyond_the_limits(&exceeded, operator)))
}

/// What Slurm is asked for: what the message names, and what is chosen in place of what it does
/// not.
pub(crate) fn chosen(message: &JobMessage, site: &SiteConfig, paces: &Paces) -> Chosen {
    let JobMessage { named, training, inputs, .. } = message;
    // The time depends on the node, and the node on cores and memory: these are chosen first.
    let first = choose(named, training, inputs, &site.choice, None);
    let pace = paces.of(&kind(site, &first.resources));
    choose(named, training, inputs, &site.choice, pace)
}

/// The kind of node that a job runs on, as far as it is asked for.
pub(super) fn kind(site: &SiteConfig, resources: &ResourceSettings) -> NodeKind {
    NodeKind { cpus: resources.cpus, gres: site.gres_for(resources.memory_mb).gres }
}

/// The ids that a job may have: its own, then those for jobs that share its correlation id.
fn ids(job: &Record) -> impl Iterator<Item = JobId> {
    let later = |count| job.job_id.again(&job.body_sha256, count);
    std::iter::once(job.job_id.clone()).chain((1..).map(later))
}

fn new_record(taken: &Taken) -> Record {
    let given = taken.correlation_id();
    let id = CorrelationId(given.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()));
    let reply_to = taken.reply_to().unwrap_or_else(|| DEFAULT_REPLY_QUEUE.to_owned());
    let job_id = JobId::from_correlation_id(&id);
    let mut record = Record::new(job_id, id, reply_to, taken.body(), Timestamp::now());
    record.correlation_id_generated = given.is_none();
    record.unacknowledged = given.is_none();
    if record.correlation_id_generated {
        tracing::info!(job = %record.job_id, "the message has no correlation id: it gets this one");
    }
    record
}
