//! One job's record and the states that it goes through.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use domain::{CorrelationId, JobId, SlurmJobId, hex_sha256};

use super::cause::Cause;

/// What a spooled reply holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The models.
    Models,
    /// An error for the person who started the workflow.
    Error,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum State {
    /// Its message is on disk; it may or may not be acknowledged yet.
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
    /// Its reply is on disk and not yet delivered.
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
    /// It ended, or can't begin, without a result.
    Failed(String),
    /// A reply is on disk.
    ReplySpooled(Outcome),
    /// The broker confirmed the reply.
    Delivered,
}

/// An event that can't happen in a state: a fault of the program or of a record that somebody edited.
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
            (
                S::Received
                | S::Submitting { .. }
                | S::Submitted { .. }
                | S::Running { .. }
                | S::Failed { .. },
                E::Failed(sentence),
            ) => S::Failed { sentence },
            // A valid result wins over whatever Slurm says of the job that made it.
            (S::Failed { .. }, E::ReplySpooled(outcome)) => S::ResultSpooled { outcome },
            (S::Submitting { .. } | S::Submitted { .. } | S::Running { .. }, E::ReplySpooled(outcome)) => {
                S::ResultSpooled { outcome }
            }
            (S::ResultSpooled { .. }, E::ReplySpooled(outcome)) => S::ResultSpooled { outcome },
            (S::ResultSpooled { .. } | S::Replied, E::Delivered) => S::Replied,
            (state, event) => return Err(TransitionError { state: state.clone(), event }),
        })
    }

    /// Slurm's number, where it is known.
    pub fn slurm_id(&self) -> Option<SlurmJobId> {
        match self {
            Self::Submitted { slurm_id } | Self::Running { slurm_id } => Some(*slurm_id),
            _ => None,
        }
    }
}

/// Version of the record's form; an older one is read, a newer one is left alone.
///
/// 1: the first. 2: `outcome`, `watcher`, `limited` and `verdict`. (`cause` and `ran_seconds` are for the metrics alone: a
/// program that does not know them does without.)
pub(super) const RECORD_VERSION: u32 = 2;

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
    #[serde(default)]
    pub correlation_id_generated: bool,
    /// Queue that the reply goes to.
    pub reply_to: String,
    /// Message id of the reply, the same however often it is sent.
    pub message_id: String,
    /// SHA-256 of the message's body, hexadecimal: tells a redelivery from another job.
    pub body_sha256: String,
    /// When the message was taken.
    pub received_at: Timestamp,
    /// When the state last changed.
    pub changed_at: Timestamp,
    /// Where the job stands.
    pub state: State,
    /// Slurm's number, kept after the end.
    #[serde(default)]
    pub slurm_id: Option<SlurmJobId>,
    /// Since when Slurm does not know the job any more.
    #[serde(default)]
    pub missing_since: Option<Timestamp>,
    /// What last went wrong and will be tried again.
    #[serde(default)]
    pub last_error: Option<String>,
    /// What the reply holds, once it is on disk.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// Slurm's number of the watcher.
    #[serde(default)]
    pub watcher: Option<SlurmJobId>,
    /// True while it waits for room under the site's limit of jobs: Slurm is well, so nothing is given up.
    #[serde(default)]
    pub limited: bool,
    /// Why `check` cancels the Slurm job: what the error reply says when it is over.
    #[serde(default)]
    pub verdict: Option<String>,
    /// Why it is answered with an error, where `check` and not the trainer has found that out.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// How long its last run took, as Slurm says, where `check` has seen its end.
    #[serde(default)]
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
            reply_to,
            message_id: uuid::Uuid::new_v4().to_string(),
            body_sha256: hex_sha256(body),
            received_at: now,
            changed_at: now,
            state: State::Received,
            slurm_id: None,
            missing_since: None,
            last_error: None,
            outcome: None,
            watcher: None,
            limited: false,
            verdict: None,
            cause: None,
            ran_seconds: None,
        }
    }

    /// Lets `event` happen at `now`. The caller saves the record.
    ///
    /// # Errors
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
            "[a-z]{0,4}".prop_map(Event::Failed),
            prop_oneof![Just(Outcome::Models), Just(Outcome::Error)].prop_map(Event::ReplySpooled),
            Just(Event::Delivered),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: a reply is sent only after it was spooled, an answered job stays
        /// answered, and an event that can't happen changes nothing.
        #[test]
        fn a_job_is_answered_only_after_its_reply_is_on_disk(events in prop::collection::vec(event(), 0..40)) {
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
                    prop_assert_eq!(before, after, "a job has one Slurm job");
                }
                state = next;
            }
        }

        #[test]
        fn every_state_survives_the_disk(events in prop::collection::vec(event(), 0..20)) {
            let mut record = Record::new(
                JobId::from_directory("a").unwrap(), CorrelationId("a".into()), "q".into(), b"{}", Timestamp::UNIX_EPOCH);
            for event in events {
                let _ = record.apply(event, Timestamp::UNIX_EPOCH);
            }
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }

        #[test]
        fn a_job_id_is_safe_whatever_the_correlation_id(id in ".{0,80}") {
            let job = JobId::from_correlation_id(&CorrelationId(id));
            prop_assert_eq!(JobId::from_directory(job.as_str()), Some(job.clone()));
            let again = job.again(&hex_sha256(b""), 1);
            prop_assert!(JobId::from_directory(again.as_str()).is_some());
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let text = r#"{"version":1,"job_id":"a","correlation_id":"a","correlation_id_generated":false,
            "reply_to":"hpc-results","message_id":"m","body_sha256":"0","received_at":"2026-11-01T10:00:00Z",
            "changed_at":"2026-11-01T10:00:01Z","state":{"name":"running","slurm_id":17},"slurm_id":17,
            "missing_since":null,"last_error":null}"#;
        let mut record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.state, State::Running { slurm_id: SlurmJobId(17) });
        record.apply(Event::ReplySpooled(Outcome::Models), Timestamp::now()).unwrap();
        assert_eq!((record.version, record.outcome), (RECORD_VERSION, Some(Outcome::Models)));
    }

    #[test]
    fn a_uuid_stays_as_it_is() {
        let id = "3f0b5a52-6f0e-4a3e-9d55-0d7a1c1f9a10";
        assert_eq!(JobId::from_correlation_id(&CorrelationId(id.into())).as_str(), id);
        assert!(JobId::from_correlation_id(&CorrelationId("../x".into())).as_str().starts_with("x-"));
    }
}
