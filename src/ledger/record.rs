//! One job's record and the states that it goes through.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::cause::Cause;
use super::last_news::Told;
use super::verdict::Verdict;
use base::text::hex;
use contract::wire::conversation::{Asked, Origin};
use contract::wire::{Envelope, Protocol};
use domain::ResourceSettings;
use domain::SlurmJobId;
use domain::{CorrelationId, JobId};

/// What a spooled reply contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The models.
    Models,
    /// An error for the person who started the workflow.
    Error,
}

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum State {
    /// Its message is on disk; it may or may not be acknowledged.
    Received,
    /// sbatch is about to be called, or was called and its answer is not known.
    Submitting {
        /// Number of calls so far, this one included.
        attempts: u32,
    },
    /// Slurm has it and it waits for resources.
    Submitted {
        /// Slurm's number.
        slurm_id: SlurmJobId,
    },
    /// Slurm runs it.
    Running {
        /// Slurm's number.
        slurm_id: SlurmJobId,
    },
    /// It ended without a result; the error reply is still to be spooled.
    Failed {
        /// What the error reply says.
        sentence: String,
    },
    /// Its reply is on disk and not delivered yet.
    ResultSpooled {
        /// What the reply holds.
        outcome: Outcome,
    },
    /// The broker confirmed its reply: the end.
    Replied,
}

/// What can happen to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// sbatch is about to be called.
    SubmitStarted,
    /// Slurm accepted the job, or a job of its name was found.
    Accepted(SlurmJobId),
    /// Slurm started it.
    Started,
    /// Slurm put it back into its queue.
    Requeued,
    /// It ran out of memory, and is to be submitted again with more.
    OutOfMemory,
    /// It ended, or can't begin, without a result.
    Failed(String),
    /// A reply is on disk.
    ReplySpooled(Outcome),
    /// The broker confirmed the reply.
    Delivered,
}

/// An event that can't happen in a state: a fault of the program, or a record that somebody edited.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a job in state {state:?} can't take the event {event:?}")]
pub struct TransitionError {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// When the event can't happen in this state.
    pub fn next(&self, event: Event) -> Result<Self, TransitionError> {
        use Event as E;
        use State as S;
        Ok(match (self, event) {
            (S::Received, E::SubmitStarted) => S::Submitting { attempts: 1 },
            (S::Submitting { attempts }, E::SubmitStarted) => {
                S::Submitting { attempts: attempts.saturating_add(1) }
            }
            (S::Submitting { .. }, E::Accepted(slurm_id)) => S::Submitted { slurm_id },
            (S::Submitted { slurm_id } | S::Running { slurm_id }, E::Started) => {
                S::Running { slurm_id: *slurm_id }
            }
            (S::Submitted { slurm_id } | S::Running { slurm_id }, E::Requeued) => {
                S::Submitted { slurm_id: *slurm_id }
            }
            (S::Submitted { .. } | S::Running { .. }, E::OutOfMemory) => S::Received,
            (
                S::Received
                | S::Submitting { .. }
                | S::Submitted { .. }
                | S::Running { .. }
                | S::Failed { .. },
                E::Failed(sentence),
            ) => S::Failed { sentence },
            // A valid result wins over whatever Slurm says about the job that made it.
            (S::Failed { .. }, E::ReplySpooled(outcome)) => S::ResultSpooled { outcome },
            (
                S::Received
                | S::Submitting { .. }
                | S::Submitted { .. }
                | S::Running { .. }
                | S::ResultSpooled { .. },
                E::ReplySpooled(outcome),
            ) => S::ResultSpooled { outcome },
            (S::ResultSpooled { .. } | S::Replied, E::Delivered) => S::Replied,
            (state, event) => return Err(TransitionError { state: state.clone(), event }),
        })
    }

    /// Slurm's number, if it is known.
    pub fn slurm_id(&self) -> Option<SlurmJobId> {
        match self {
            Self::Submitted { slurm_id } | Self::Running { slurm_id } => Some(*slurm_id),
            _ => None,
        }
    }
}

/// Version of the record's form; a newer one is left alone.
pub(super) const RECORD_VERSION: u32 = 1;

/// What sbatch has said, where nobody knows whether that means the job or passes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Its words.
    pub words: String,
    /// Since when they have been the same.
    pub since: Timestamp,
    /// How often it has said them.
    pub times: u32,
}

/// A Slurm job that ran out of the memory that was chosen for it; one with more has followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TooSmall {
    /// Its number.
    pub slurm_id: SlurmJobId,
    /// The memory that it had, in Slurm's MB.
    pub memory_mb: u64,
    /// Its watcher.
    pub watcher: Option<SlurmJobId>,
    /// When that was seen.
    pub at: Timestamp,
}

/// One job, as it is kept on disk. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Form of this record.
    pub version: u32,
    /// Our id.
    pub job_id: JobId,
    /// Rodan's id.
    pub correlation_id: CorrelationId,
    /// True when the message had no correlation id and we made one.
    pub correlation_id_generated: bool,
    /// True for a message without correlation id until its acknowledgement is known to be with
    /// the broker: until then the same message may come again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unacknowledged: bool,
    /// Queue that the reply goes to.
    pub reply_to: String,
    /// Message id of the reply, the same however often it is sent.
    pub message_id: String,
    /// SHA-256 of the message's body, hexadecimal: it tells a redelivered message from another job.
    pub body_sha256: String,
    /// When the message was taken.
    pub received_at: Timestamp,
    /// When the state last changed.
    pub changed_at: Timestamp,
    /// Where the job stands.
    pub state: State,
    /// Which contract it is answered by.
    #[serde(default, skip_serializing_if = "Protocol::is_reply")]
    pub protocol: Protocol,
    /// What Slurm is asked for; nothing where the message is no job.
    pub resources: Option<ResourceSettings>,
    /// The same with where each value comes from.
    pub asked: Option<Asked>,
    /// What the asker of a conversation was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// The Slurm jobs that had too little memory, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub too_small: Vec<TooSmall>,
    /// Slurm's number, kept after the end.
    pub slurm_id: Option<SlurmJobId>,
    /// Since when Slurm does not know the job any more.
    pub missing_since: Option<Timestamp>,
    /// The last trouble; it will be tried again.
    pub last_error: Option<String>,
    /// What the reply holds, once it is on disk.
    pub outcome: Option<Outcome>,
    /// Slurm's number of the watcher.
    pub watcher: Option<SlurmJobId>,
    /// True while the job waits for room under the site's limit of jobs. Slurm works, so the job is
    /// not given up.
    pub limited: bool,
    /// What sbatch's last answer leaves in doubt, while the job waits because of it.
    pub doubt: Option<Doubt>,
    /// Why it is answered with an error, if `check` and not the trainer has found that out.
    /// While the job is with Slurm: why it is being cancelled.
    pub verdict: Option<Verdict>,
    /// The cause under which the failure is counted.
    pub cause: Option<Cause>,
    /// How long its last run took, by Slurm, if `check` has seen its end.
    pub ran_seconds: Option<u64>,
}

impl Record {
    /// A record for a message that was just taken.
    pub fn new(
        job_id: JobId,
        correlation_id: CorrelationId,
        reply_to: String,
        body: &[u8],
        now: Timestamp,
    ) -> Self {
        Self {
            version: RECORD_VERSION,
            job_id,
            correlation_id,
            correlation_id_generated: false,
            unacknowledged: false,
            reply_to,
            message_id: uuid::Uuid::new_v4().to_string(),
            body_sha256: hex(&Sha256::digest(body)),
            received_at: now,
            changed_at: now,
            state: State::Received,
            protocol: Protocol::of(body),
            resources: None,
            asked: None,
            told: None,
            too_small: Vec::new(),
            slurm_id: None,
            missing_since: None,
            last_error: None,
            outcome: None,
            watcher: None,
            limited: false,
            doubt: None,
            verdict: None,
            cause: None,
            ran_seconds: None,
        }
    }

    /// Where its reply goes, and how it is recognised.
    pub fn envelope(&self) -> Envelope {
        Envelope {
            reply_to: self.reply_to.clone(),
            correlation_id: self.correlation_id.0.clone(),
            message_id: self.message_id.clone(),
        }
    }

    /// Notes that the job ran out of the memory that was chosen for it, and gives it `memory_mb`.
    /// The caller saves the record.
    ///
    /// # Errors
    /// When Slurm does not have the job.
    pub fn raise_memory(&mut self, memory_mb: u64, now: Timestamp) -> Result<(), TransitionError> {
        let slurm_id = self.state.slurm_id();
        self.apply(Event::OutOfMemory, now)?;
        if let (Some(slurm_id), Some(resources)) = (slurm_id, &mut self.resources) {
            let watcher = self.watcher.take();
            let memory_mb = resources.memory_mb;
            self.too_small.push(TooSmall { slurm_id, memory_mb, watcher, at: now });
        }
        self.ask_memory(memory_mb, Origin::Raised);
        Ok(())
    }

    /// Takes the last raise back: Slurm has not so much. The caller saves the record.
    pub fn lower_memory(&mut self) {
        if let Some(last) = self.too_small.pop() {
            let origin = if self.too_small.is_empty() { Origin::Estimate } else { Origin::Raised };
            self.ask_memory(last.memory_mb, origin);
        }
    }

    fn ask_memory(&mut self, memory_mb: u64, origin: Origin) {
        if let Some(resources) = &mut self.resources {
            resources.memory_mb = memory_mb;
        }
        if let Some(asked) = &mut self.asked {
            (asked.memory_mb, asked.memory_from) = (memory_mb, origin);
        }
    }

    /// True for a Slurm job that had too little memory, and for its watcher.
    pub fn has_outgrown(&self, id: SlurmJobId) -> bool {
        self.too_small.iter().any(|small| small.slurm_id == id || small.watcher == Some(id))
    }

    /// Since when it waits for services: since it was taken, or since it got more memory.
    pub fn waits_since(&self) -> Timestamp {
        self.too_small.last().map_or(self.received_at, |small| small.at)
    }

    /// Applies `event` at `now`. The caller saves the record.
    ///
    /// # Errors
    ///
    /// When the event can't happen in the job's state.
    pub fn apply(&mut self, event: Event, now: Timestamp) -> Result<(), TransitionError> {
        let outcome = match &event {
            Event::ReplySpooled(outcome) => Some(*outcome),
            _ => self.outcome,
        };
        self.state = self.state.next(event)?;
        self.outcome = outcome;
        self.slurm_id = self.state.slurm_id().or(self.slurm_id);
        self.changed_at = now;
        self.missing_since = None;
        self.version = RECORD_VERSION;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::SubmitStarted),
            (1u64..9).prop_map(|id| Event::Accepted(SlurmJobId(id))),
            Just(Event::Started),
            Just(Event::Requeued),
            Just(Event::OutOfMemory),
            "[a-z]{0,4}".prop_map(Event::Failed),
            prop_oneof![Just(Outcome::Models), Just(Outcome::Error)].prop_map(Event::ReplySpooled),
            Just(Event::Delivered),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: a reply is sent only after it was spooled, an
        /// answered job stays answered, and an event that can't happen changes nothing.
        #[test]
        fn a_job_is_answered_only_after_its_reply_is_on_disk(
            events in prop::collection::vec(event(), 0..40),
        ) {
            let mut state = State::Received;
            let (mut spooled, mut replied) = (false, false);
            for event in events {
                let Ok(next) = state.next(event.clone()) else { continue };
                spooled |= matches!(event, Event::ReplySpooled(_));
                prop_assert!(!replied || next == State::Replied);
                if next == State::Replied {
                    prop_assert!(spooled);
                    replied = true;
                }
                if let (Some(before), Some(after)) = (state.slurm_id(), next.slurm_id()) {
                    prop_assert_eq!(before, after, "a job has one Slurm job at a time");
                }
                state = next;
            }
        }

        #[test]
        fn every_state_survives_the_disk(events in prop::collection::vec(event(), 0..20)) {
            let correlation_id = CorrelationId("a".into());
            let mut record = Record::new(
                JobId::from_correlation_id(&correlation_id),
                correlation_id,
                "q".into(),
                b"{}",
                Timestamp::UNIX_EPOCH,
            );
            for event in events {
                let _ = record.apply(event, Timestamp::UNIX_EPOCH);
            }
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }
    }
}
