//! What changes a run: its state with the event that shows it, its files, how far it is.

use domain::Standing;
use rusqlite::{OptionalExtension as _, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};

use super::rows::text_of;
use super::runs::{RunFile, status_row};
use super::{Store, StoreError, events, now};
use crate::state::{RunStatus, State, Transition, next, next_away};

/// What changes with a run's state.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Why it failed.
    pub error: Option<String>,
    /// What came of it.
    pub figures: Option<Value>,
    /// Its files.
    pub results: Vec<RunFile>,
    /// The page that it has made.
    pub made_page: Option<String>,
}

impl Store {
    /// Changes a run's state, with the event that shows it, and what comes with it: all of it, or
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Transition`], when nothing of the kind can happen to it now.
    pub fn happen(
        &self,
        id: i64,
        transition: Transition,
        what: &Change,
    ) -> Result<RunStatus, StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = change
            .query_row("SELECT * FROM runs WHERE id = ?", [id], status_row)
            .optional()?
            .ok_or_else(|| StoreError::Missing(format!("run {id}")))?;
        let status = happen_in(&change, id, transition, what, None)?;
        if status == before && transition != Transition::Found {
            return Ok(status);
        }
        base::crash::point(&format!("before a run is {}", status.state));
        change.commit()?;
        drop(database);
        base::crash::point(&format!("after a run is {}", status.state));
        self.changed();
        Ok(status)
    }

    /// Notes how far a run is, and what has happened in its training.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note(
        &self,
        id: i64,
        progress: &Standing,
        happened: &[(&str, Value)],
    ) -> Result<(), StoreError> {
        let mut database = self.database();
        let change = database.transaction()?;
        change.execute(
            "UPDATE runs SET progress = ? WHERE id = ?",
            params![text_of(progress)?, id],
        )?;
        for (kind, data) in happened {
            events::add(&change, id, kind, data)?;
        }
        change.commit()?;
        drop(database);
        self.changed();
        Ok(())
    }
}

/// Changes a run's state as a part of a change.
pub(super) fn happen_in(
    change: &Transaction<'_>,
    id: i64,
    transition: Transition,
    what: &Change,
    detail: Option<&str>,
) -> Result<RunStatus, StoreError> {
    let found = change
        .query_row("SELECT * FROM runs WHERE id = ?", [id], status_row)
        .optional()?
        .ok_or_else(|| StoreError::Missing(format!("run {id}")))?;
    let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE run = ?)";
    let away: bool = change.query_row(sql, [id], |row| row.get(0))?;
    let status = if away { next_away(found, transition)? } else { next(found, transition)? };
    if status == found && transition != Transition::Found {
        return Ok(status);
    }
    let at = now();
    let starts = match transition {
        Transition::Turn | Transition::Found => status.state == State::Launch,
        // It was not told that the training starts.
        Transition::Began => found.state == State::Queued,
        _ => false,
    };
    let error = what.error.as_ref().filter(|_| status.state == State::Failed);
    change.execute(
        "UPDATE runs SET state = ?2, cancel_asked = ?3, attempts = attempts + ?4,
             started_at = coalesce(started_at, ?5), finished_at = ?6, error = ?7,
             figures = coalesce(?8, figures), made_page = coalesce(made_page, ?9)
         WHERE id = ?1",
        params![
            id,
            status.state.name(),
            status.cancel_asked,
            u8::from(starts),
            starts.then_some(&at),
            status.state.is_end().then_some(&at),
            error,
            what.figures.as_ref().map(text_of).transpose()?,
            what.made_page,
        ],
    )?;
    keep_results(change, id, &what.results)?;
    let mut data = json!({"state": status.state.name()});
    if status.cancel_asked && !status.state.is_end() {
        data["cancel_asked"] = true.into();
    }
    if let Some(error) = error {
        data["error"] = error.as_str().into();
    }
    if transition == Transition::Found && status.state == State::Launch {
        data["detail"] =
            "the gateway was started again; the run goes on from its checkpoint".into();
    }
    if let Some(detail) = detail {
        data["detail"] = detail.into();
    }
    events::add(change, id, "state", &data)?;
    Ok(status)
}

/// Notes files of a run as a part of a change.
pub(super) fn keep_results(
    change: &Transaction<'_>,
    run: i64,
    results: &[RunFile],
) -> Result<(), StoreError> {
    for RunFile { name, kind, object } in results {
        change.execute(
            "INSERT INTO objects (sha256, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
            params![object.sha256, object.size],
        )?;
        change.execute(
            "INSERT OR REPLACE INTO results (run, name, kind, sha256) VALUES (?, ?, ?, ?)",
            params![run, name, kind.name(), object.sha256],
        )?;
    }
    Ok(())
}
