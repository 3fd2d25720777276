//! What the asker of a conversation was told last.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use contract::wire::conversation::JobState;

/// The state that was told last. It is written down before it is sent: a copy has the same content,
/// and so the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The state.
    pub state: JobState,
    /// True once the broker has it.
    pub sent: bool,
    /// The time of the progress that `check` has told.
    pub progress_at: Option<Timestamp>,
}
