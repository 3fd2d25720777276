//! The states of a run, and what leads from one to another: pure functions.

use std::fmt;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It waits for its turn.
    Queued,
    /// Its training is being started: pages are read and checked.
    Launch,
    /// Its layers are being trained.
    Running,
    /// Its models are there.
    Succeeded,
    /// It ended without models; the run says why.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl State {
    /// All of them, in the order of a run's life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Launch, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Its name in the interface and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Launch => "launch",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing happens to it any more.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether a training may be going on.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Launch | Self::Running)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It is its turn.
    Turn,
    /// The first layer begins.
    Began,
    /// The training ended with a model for every layer.
    Trained,
    /// The training ended without a model for every layer.
    Broke,
    /// Somebody wants it to end.
    CancelAsked,
    /// The gateway was started again and finds it.
    Found,
    /// The cluster has put its job back into its queue, from where it goes on.
    Requeued,
}

/// Where a run is, and whether its end was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunStatus {
    /// Its state.
    pub state: State,
    /// Whether somebody has asked for its end.
    pub cancel_asked: bool,
}

/// Nothing of the kind can happen in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing of the kind can happen to a run that is {0}")]
pub struct TransitionError(pub State);

/// What becomes of a run.
///
/// Whoever asks for a run's end gets it: a training that is done before it hears of that is
/// cancelled all the same, so that the answer to the request stays true. A run that the gateway
/// finds when it is started again goes back to [`State::Launch`], from where it goes on from its
/// checkpoint.
///
/// # Errors
/// [`TransitionError`], when it is over, or when nothing of the kind can happen yet.
pub(crate) fn next(
    status: RunStatus,
    transition: Transition,
) -> Result<RunStatus, TransitionError> {
    use State as S;
    use Transition as T;
    let RunStatus { state, cancel_asked } = status;
    let state = match (state, transition) {
        (S::Queued, T::CancelAsked) => S::Cancelled,
        (S::Queued, T::Turn) => S::Launch,
        (S::Queued, T::Found) => S::Queued,
        (S::Launch, T::Began) => S::Running,
        // A training that goes on begins a layer again and again.
        (S::Running, T::Began) => S::Running,
        (S::Launch | S::Running, T::CancelAsked) => {
            return Ok(RunStatus { state, cancel_asked: true });
        }
        (S::Launch | S::Running, T::Found | T::Trained | T::Broke) if cancel_asked => S::Cancelled,
        (S::Launch | S::Running, T::Found) => S::Launch,
        (S::Launch | S::Running, T::Trained) => S::Succeeded,
        (S::Launch | S::Running, T::Broke) => S::Failed,
        (S::Queued, T::Began | T::Trained | T::Broke | T::Requeued)
        | (S::Launch | S::Running, T::Turn | T::Requeued)
        | (S::Succeeded | S::Failed | S::Cancelled, _) => return Err(TransitionError(state)),
    };
    Ok(RunStatus { state, cancel_asked: cancel_asked || transition == T::CancelAsked })
}

/// What becomes of a run whose job is with the broker.
///
/// What the cluster tells of a state is told at best effort, so that any of it may be missing: such
/// a run may begin, and end, from every state. Its end is the cluster's: whoever cancels it while
/// it waits gets that end when the cluster has heard of it.
///
/// # Errors
/// As [`next`].
pub(crate) fn next_away(
    status: RunStatus,
    transition: Transition,
) -> Result<RunStatus, TransitionError> {
    use State as S;
    use Transition as T;
    let to = |state| Ok(RunStatus { state, ..status });
    match (status.state, transition) {
        (S::Queued, T::CancelAsked) => Ok(RunStatus { cancel_asked: true, ..status }),
        (S::Queued, T::Began) => to(S::Running),
        (S::Queued, T::Trained | T::Broke) if status.cancel_asked => to(S::Cancelled),
        (S::Queued, T::Trained) => to(S::Succeeded),
        (S::Queued, T::Broke) => to(S::Failed),
        (S::Queued | S::Launch | S::Running, T::Requeued) => to(S::Queued),
        // Told twice.
        (S::Launch | S::Running, T::Turn) => to(status.state),
        (S::Queued | S::Launch | S::Running, T::Found) => to(status.state),
        _ => next(status, transition),
    }
}

#[cfg(test)]
mod tests {
    use super::State::{Cancelled, Failed, Launch, Queued, Running, Succeeded};
    use super::Transition::{Began, Broke, CancelAsked, Found, Requeued, Trained, Turn};
    use super::*;

    /// Every state with everything that can happen: what becomes of it without and with a request
    /// for its end; `None` where it can't happen.
    #[test]
    fn every_case_is_as_the_table_says() {
        let table = [
            (Queued, Turn, Some(Launch), Some(Launch)),
            (Queued, Began, None, None),
            (Queued, Trained, None, None),
            (Queued, Broke, None, None),
            (Queued, CancelAsked, Some(Cancelled), Some(Cancelled)),
            (Queued, Found, Some(Queued), Some(Queued)),
            (Queued, Requeued, None, None),
            (Launch, Requeued, None, None),
            (Running, Requeued, None, None),
            (Launch, Turn, None, None),
            (Launch, Began, Some(Running), Some(Running)),
            (Launch, Trained, Some(Succeeded), Some(Cancelled)),
            (Launch, Broke, Some(Failed), Some(Cancelled)),
            (Launch, CancelAsked, Some(Launch), Some(Launch)),
            (Launch, Found, Some(Launch), Some(Cancelled)),
            (Running, Turn, None, None),
            (Running, Began, Some(Running), Some(Running)),
            (Running, Trained, Some(Succeeded), Some(Cancelled)),
            (Running, Broke, Some(Failed), Some(Cancelled)),
            (Running, CancelAsked, Some(Running), Some(Running)),
            (Running, Found, Some(Launch), Some(Cancelled)),
        ];
        holds(next, &table);
    }

    /// The same where the job is with the broker.
    #[test]
    fn every_case_of_a_job_that_is_away_is_as_the_table_says() {
        let table = [
            (Queued, Turn, Some(Launch), Some(Launch)),
            (Queued, Began, Some(Running), Some(Running)),
            (Queued, Trained, Some(Succeeded), Some(Cancelled)),
            (Queued, Broke, Some(Failed), Some(Cancelled)),
            (Queued, CancelAsked, Some(Queued), Some(Queued)),
            (Queued, Found, Some(Queued), Some(Queued)),
            (Queued, Requeued, Some(Queued), Some(Queued)),
            (Launch, Turn, Some(Launch), Some(Launch)),
            (Launch, Began, Some(Running), Some(Running)),
            (Launch, Trained, Some(Succeeded), Some(Cancelled)),
            (Launch, Broke, Some(Failed), Some(Cancelled)),
            (Launch, CancelAsked, Some(Launch), Some(Launch)),
            (Launch, Found, Some(Launch), Some(Launch)),
            (Launch, Requeued, Some(Queued), Some(Queued)),
            (Running, Turn, Some(Running), Some(Running)),
            (Running, Began, Some(Running), Some(Running)),
            (Running, Trained, Some(Succeeded), Some(Cancelled)),
            (Running, Broke, Some(Failed), Some(Cancelled)),
            (Running, CancelAsked, Some(Running), Some(Running)),
            (Running, Found, Some(Running), Some(Running)),
            (Running, Requeued, Some(Queued), Some(Queued)),
        ];
        holds(next_away, &table);
    }

    type Row = (State, Transition, Option<State>, Option<State>);

    fn holds(next: fn(RunStatus, Transition) -> Result<RunStatus, TransitionError>, table: &[Row]) {
        for &(state, transition, plain, asked) in table {
            for (cancel_asked, expected) in [(false, plain), (true, asked)] {
                let found = next(RunStatus { state, cancel_asked }, transition);
                let expected = expected
                    .map(|state| {
                        let cancel_asked = cancel_asked || transition == CancelAsked;
                        RunStatus { state, cancel_asked }
                    })
                    .ok_or(TransitionError(state));
                assert_eq!(found, expected, "{state} {transition:?} {cancel_asked}");
            }
        }
        for state in [Succeeded, Failed, Cancelled] {
            for transition in [Turn, Began, Trained, Broke, CancelAsked, Found, Requeued] {
                for cancel_asked in [false, true] {
                    let found = next(RunStatus { state, cancel_asked }, transition);
                    assert_eq!(found, Err(TransitionError(state)), "{state} {transition:?}");
                }
            }
        }
    }

    #[test]
    fn names_are_read_back_and_an_end_is_no_activity() {
        for state in State::ALL {
            assert_eq!(State::from_name(state.name()), Some(state));
            assert!(!(state.is_end() && state.is_active()), "{state}");
        }
        assert_eq!(State::from_name("Queued"), None);
    }
}
