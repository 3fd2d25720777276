//! What of the runs is logged at the tracking server, so that each of them is there once.

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Store, StoreError};

/// A run that is not logged to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// The run's number.
    pub run: i64,
    /// A word of its own, by which the tracking server finds it.
    pub word: String,
    /// What the tracking server calls it, once it knows it.
    pub there: Option<There>,
    /// The last of its events that is logged; 0 before the first.
    pub event: i64,
}

/// A run at the tracking server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct There {
    /// Its id.
    pub id: String,
    /// Its experiment's id.
    pub experiment: String,
    /// Where its files are to go.
    pub artifacts: String,
}

/// How the logging of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackedEnd {
    /// All of it is there.
    Whole,
    /// It was cancelled before it began: there is nothing to be logged.
    Nothing,
    /// The tracking server does not take it.
    Refused,
}

impl TrackedEnd {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Nothing => "nothing",
            Self::Refused => "refused",
        }
    }
}

/// Notes that a new run is to be logged, as a part of a change.
pub(super) fn add(change: &Transaction<'_>, run: i64) -> Result<(), StoreError> {
    let word = uuid::Uuid::new_v4().simple().to_string();
    change.execute("INSERT INTO tracked (run, word) VALUES (?, ?)", params![run, word])?;
    Ok(())
}

/// The page of a run at the tracking server with this address.
pub(super) fn link(
    database: &Connection,
    run: i64,
    address: &str,
) -> Result<Option<String>, StoreError> {
    let mut rows = database.prepare("SELECT * FROM tracked WHERE run = ?")?;
    let found = rows.query_row([run], row).optional()?;
    let link =
        |there: There| format!("{address}#/experiments/{}/runs/{}", there.experiment, there.id);
    Ok(found.and_then(|tracked| tracked.there).map(link))
}

impl Store {
    /// The runs that are not logged to their end, the oldest first.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn to_be_tracked(&self) -> Result<Vec<Tracked>, StoreError> {
        let database = self.database();
        let mut rows =
            database.prepare("SELECT * FROM tracked WHERE ended IS NULL ORDER BY run")?;
        let found = rows.query_map([], row)?.collect::<Result<_, _>>()?;
        Ok(found)
    }

    /// The tracking server knows the run.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note_tracked(&self, run: i64, there: &There) -> Result<(), StoreError> {
        self.database().execute(
            "UPDATE tracked SET id = ?, experiment = ?, artifacts = ? WHERE run = ?",
            params![there.id, there.experiment, there.artifacts, run],
        )?;
        Ok(())
    }

    /// The events of the run are logged up to this one.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note_tracked_to(&self, run: i64, event: i64) -> Result<(), StoreError> {
        let sql = "UPDATE tracked SET event = ? WHERE run = ?";
        self.database().execute(sql, params![event, run])?;
        Ok(())
    }

    /// Nothing more is to be logged of the run.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn end_tracking(&self, run: i64, end: TrackedEnd) -> Result<(), StoreError> {
        let sql = "UPDATE tracked SET ended = ? WHERE run = ?";
        self.database().execute(sql, params![end.name(), run])?;
        Ok(())
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<Tracked> {
    let id: Option<String> = row.get("id")?;
    let there = match id {
        Some(id) => {
            Some(There { id, experiment: row.get("experiment")?, artifacts: row.get("artifacts")? })
        }
        None => None,
    };
    Ok(Tracked { run: row.get("run")?, word: row.get("word")?, there, event: row.get("event")? })
}

#[cfg(test)]
mod tests {
    use base::secret::Secret;

    use super::*;
    use crate::order::Order;
    use crate::store::{DataFolder, NewRun, Role};

    #[test]
    fn what_is_logged_is_noted_step_by_step_and_only_of_runs_that_are_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(&DataFolder::at(&folder.path().join("data")).unwrap()).unwrap();
        let run = |store: &Store| {
            let account = store.account_of(&Secret::new("token of mine")).unwrap().unwrap();
            let order = Order::default();
            let wanted = NewRun {
                account: &account,
                order: &order,
                image: None,
                key: None,
                most_waiting: 9,
            };
            store.place_run(wanted).unwrap()
        };
        let store = open();
        store.add_account("me", Role::Submitter, &Secret::new("token of mine")).unwrap();
        run(&store);
        assert_eq!(store.to_be_tracked().unwrap(), []);
        let store = store.with_tracking("http://tracking/");
        let (second, third) = (run(&store), run(&store));
        let open_ones = store.to_be_tracked().unwrap();
        assert_eq!(open_ones.iter().map(|one| one.run).collect::<Vec<_>>(), [second, third]);
        assert!(open_ones[0].word != open_ones[1].word && open_ones[0].there.is_none());
        let link = |run: i64| store.any_run(run).unwrap().unwrap().tracked;
        assert_eq!(link(second), None);
        let there = There {
            id: "r".into(),
            experiment: "3".into(),
            artifacts: "mlflow-artifacts:/r".into(),
        };
        store.note_tracked(second, &there).unwrap();
        store.note_tracked_to(second, 12).unwrap();
        let known = store.to_be_tracked().unwrap().swap_remove(0);
        assert_eq!((known.event, known.there.as_ref()), (12, Some(&there)));
        store.end_tracking(second, TrackedEnd::Whole).unwrap();
        store.end_tracking(third, TrackedEnd::Nothing).unwrap();
        assert_eq!(store.to_be_tracked().unwrap(), []);
        assert_eq!(link(second).as_deref(), Some("http://tracking/#/experiments/3/runs/r"));
    }
}
