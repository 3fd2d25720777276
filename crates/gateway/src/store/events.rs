//! What has happened to a run, in order.

use rusqlite::{Row, Transaction, params};
use serde_json::Value;

use super::rows::{json, text_of};
use super::{Store, StoreError, now};

/// Something that has happened to a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number, which grows.
    pub id: i64,
    /// `state`, `layer` or `epoch`.
    pub kind: String,
    /// When it happened.
    pub at: String,
    /// What happened.
    pub data: Value,
}

/// Writes an event as a part of a change.
pub(super) fn add(
    change: &Transaction<'_>,
    run: i64,
    kind: &str,
    data: &Value,
) -> Result<(), StoreError> {
    change.execute(
        "INSERT INTO events (run, kind, at, data) VALUES (?, ?, ?, ?)",
        params![run, kind, now(), text_of(data)?],
    )?;
    Ok(())
}

impl Store {
    /// The events of a run after the one with the number `after`, at most `most`.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn events(&self, run: i64, after: i64, most: u32) -> Result<Vec<Event>, StoreError> {
        let database = self.database();
        let mut rows = database
            .prepare("SELECT * FROM events WHERE run = ? AND id > ? ORDER BY id LIMIT ?")?;
        let events = rows.query_map(params![run, after, most], event)?.collect::<Result<_, _>>()?;
        Ok(events)
    }

    /// The events of this kind of a run.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn events_of(&self, run: i64, kind: &str) -> Result<Vec<Event>, StoreError> {
        let database = self.database();
        let mut rows =
            database.prepare("SELECT * FROM events WHERE run = ? AND kind = ? ORDER BY id")?;
        let events = rows.query_map(params![run, kind], event)?.collect::<Result<_, _>>()?;
        Ok(events)
    }
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get("id")?,
        kind: row.get("kind")?,
        at: row.get("at")?,
        data: json(row, "data")?,
    })
}
