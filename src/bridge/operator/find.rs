//! A job by the beginning of its id.

use thiserror::Error;

use crate::ledger::{Seen, Store, StoreError};
use base::exit_code::ExitCode;
use base::text::printable;
use domain::JobId;

/// Fewest characters of an id that are shown.
const SHORTEST: usize = 8;
/// So many ids are named where several fit.
const NAMED: usize = 5;

/// A text that names no job, or several.
#[derive(Debug, Error)]
pub enum FindError {
    /// No job's id begins so.
    #[error("there is no job '{0}'; `check status --all` lists those that are known")]
    Unknown(String),
    /// Several do.
    #[error("'{text}' may be any of {}: {}; give more of the id", .ids.len(), names(.ids))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// The jobs whose ids begin so.
        ids: Vec<JobId>,
    },
    /// Its record can't be read.
    #[error("{id}: {why}")]
    Unreadable {
        /// The job.
        id: JobId,
        /// What is wrong.
        why: String,
    },
    /// The spool can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FindError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unknown(_) | Self::Ambiguous { .. } => ExitCode::Usage,
            Self::Unreadable { .. } | Self::Store(_) => ExitCode::Spool,
        }
    }
}

fn names(ids: &[JobId]) -> String {
    let mut names: Vec<&str> = ids.iter().take(NAMED).map(JobId::as_str).collect();
    if ids.len() > NAMED {
        names.push("…");
    }
    names.join(", ")
}

/// The job whose id or correlation id is `text`, else the one whose id begins so, open or answered.
///
/// # Errors
/// When there is none, or more than one.
pub fn find(store: &Store, text: &str) -> Result<Seen, FindError> {
    let (mut ids, done) = store.ids()?;
    ids.extend(done);
    ids.sort();
    ids.dedup();
    let see = |id: &JobId| match store.see(id) {
        Ok(Some(seen)) => Ok(seen),
        Ok(None) => Err(FindError::Unknown(printable(text, 64))),
        Err(why) => Err(FindError::Unreadable { id: id.clone(), why: why.to_string() }),
    };
    if let Some(id) = ids.iter().find(|id| id.as_str() == text) {
        return see(id);
    }
    let mut fit: Vec<JobId> = ids
        .iter()
        .filter(|id| !text.is_empty() && id.as_str().starts_with(text))
        .cloned()
        .collect();
    if fit.is_empty() {
        // A correlation id that is no safe file name is known here by a hash of it.
        let is_meant = |id: &&JobId| {
            let seen = store.see(id).ok().flatten();
            seen.is_some_and(|seen| seen.record.correlation_id.0 == text)
        };
        fit = ids.iter().filter(is_meant).cloned().collect();
    }
    match fit.as_slice() {
        [] => Err(FindError::Unknown(printable(text, 64))),
        [id] => see(id),
        _ => Err(FindError::Ambiguous { text: printable(text, 64), ids: fit }),
    }
}

/// The shortest beginning of an id, of eight characters or more, that no other of `all` has.
pub fn shortest<'a>(id: &'a JobId, all: &[JobId]) -> &'a str {
    let text = id.as_str();
    let common = |other: &JobId| {
        text.bytes().zip(other.as_str().bytes()).take_while(|(a, b)| a == b).count()
    };
    let longest = all.iter().filter(|other| *other != id).map(common).max().unwrap_or(0);
    // Ids are ASCII; where another id begins with the whole of this one, find() prefers the exact
    // one.
    &text[..text.len().min(SHORTEST.max(longest + 1))]
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::ledger::Record;
    use domain::CorrelationId;

    fn store(names: &[&str]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in names {
            let id = CorrelationId((*name).into());
            let job_id = JobId::from_correlation_id(&id);
            store
                .create(&Record::new(job_id, id, "queue".into(), b"", Timestamp::now()), b"")
                .unwrap();
        }
        (dir, store)
    }

    #[test]
    fn a_job_is_found_by_a_beginning_that_only_it_has() {
        let (_dir, store) = store(&["abc", "abcd-1", "abcd-2", "odd id/7"]);
        let found = |text: &str| find(&store, text).map(|seen| seen.record.correlation_id.0);
        assert_eq!(found("abc").unwrap(), "abc", "the exact one, though others begin so");
        assert_eq!(found("abcd-2").unwrap(), "abcd-2");
        assert_eq!(found("x-").unwrap(), "odd id/7");
        assert_eq!(found("odd id/7").unwrap(), "odd id/7");
        let error = found("ab").unwrap_err();
        assert_eq!(
            error.to_string(),
            "'ab' may be any of 3: abc, abcd-1, abcd-2; give more of the id"
        );
        assert_eq!(error.exit_code(), ExitCode::Usage);
        for unknown in ["", "abd", "../jobs/abc"] {
            assert!(matches!(found(unknown), Err(FindError::Unknown(_))), "{unknown}");
        }
    }

    #[test]
    fn ids_are_shortened_as_far_as_they_differ() {
        let ids: Vec<JobId> = ["abc", "0123456789", "0123456789-a", "0123456789-b", "zzzzzzzzzzzz"]
            .map(|name| JobId::from_directory(name).unwrap())
            .into();
        let short: Vec<&str> = ids.iter().map(|id| shortest(id, &ids)).collect();
        assert_eq!(short, ["abc", "0123456789", "0123456789-a", "0123456789-b", "zzzzzzzz"]);
    }
}
