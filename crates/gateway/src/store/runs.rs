//! Runs: what was asked for, where they are, and what came of them.

use std::collections::BTreeMap;

use domain::SettingsMap;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};

use super::rows::{self, text_of};
use super::{Account, Object, Store, StoreError, events, now};
use crate::order::Order;
use crate::progress::Progress;
use crate::state::{Happening, Life, State, next};

/// What a file of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultKind {
    /// A trained model.
    Model,
    /// `report.html`.
    Report,
    /// `training.json`.
    Record,
    /// A picture of a page as the models see it.
    Preview,
    /// What the training has logged.
    Log,
}

impl ResultKind {
    const ALL: [Self; 5] = [Self::Model, Self::Report, Self::Record, Self::Preview, Self::Log];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Report => "report",
            Self::Record => "record",
            Self::Preview => "preview",
            Self::Log => "log",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Result_ {
    /// Its name, such as `Model 0.hdf5`.
    pub name: String,
    /// What it is.
    pub kind: ResultKind,
    /// Its bytes.
    pub object: Object,
}

/// A run in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its number, which never comes twice.
    pub id: i64,
    /// The account that it belongs to.
    pub account: i64,
    /// The name of that account.
    pub account_name: String,
    /// What its user calls it.
    pub name: String,
    /// Where it is.
    pub life: Life,
    /// How often its training was started.
    pub attempts: u32,
    /// The settings that were asked for.
    pub settings: SettingsMap,
    /// Words of the user's own.
    pub labels: BTreeMap<String, String>,
    /// The run whose models it goes on from.
    pub models_from: Option<i64>,
    /// How far it is.
    pub progress: Progress,
    /// What came of it, layer by layer, as `training.json` has it.
    pub figures: Option<Value>,
    /// Why it failed, in a sentence.
    pub error: Option<String>,
    /// When it was asked for.
    pub created_at: String,
    /// When its training was started first.
    pub started_at: Option<String>,
    /// When it was over.
    pub finished_at: Option<String>,
    /// The ids of its pages.
    pub pages: Vec<String>,
    /// Its files.
    pub results: Vec<Result_>,
    /// While it is queued: how many runs are to be trained before it.
    pub queue_position: Option<u64>,
}

impl Run {
    /// Percent that are done at least.
    pub fn percent(&self) -> u8 {
        match self.life.state {
            State::Succeeded => 100,
            _ => self.progress.percent(),
        }
    }
}

/// A run that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct NewRun<'a> {
    /// Who asks.
    pub account: &'a Account,
    /// For what.
    pub order: &'a Order,
    /// The request's own key, and the hash of its body.
    pub key: Option<(&'a str, &'a str)>,
    /// How many runs of an account may wait.
    pub most_waiting: u64,
}

/// What became of a request for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The run's number.
    pub run: i64,
    /// False when the same request had come before.
    pub new: bool,
}

/// Which runs are listed.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those whose name holds this text.
    pub name: Option<String>,
    /// Only those with a lower number.
    pub before: Option<i64>,
    /// At most so many.
    pub most: u32,
}

/// What changes with a run's state.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Why it failed.
    pub error: Option<String>,
    /// What came of it.
    pub figures: Option<Value>,
    /// Its files.
    pub results: Vec<Result_>,
}

impl Store {
    /// Queues a run: once for each key of a request.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for a page or a run that the account can't see,
    /// [`StoreError::OtherRequest`], [`StoreError::TooMany`].
    pub fn place_run(&self, wanted: NewRun<'_>) -> Result<Placed, StoreError> {
        let NewRun { account, order, key, most_waiting } = wanted;
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some((key, body)) = key
            && let Some(placed) = placed_before(&change, account.id, key, body)?
        {
            return Ok(placed);
        }
        let waiting: u64 = change.query_row(
            "SELECT count(*) FROM runs WHERE account = ? AND state = ?",
            params![account.id, State::Queued.name()],
            |row| row.get(0),
        )?;
        if waiting >= most_waiting {
            return Err(StoreError::TooMany { waiting });
        }
        change.execute(
            "INSERT INTO runs (account, account_name, name, state, settings, labels, models_from,
                 progress, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                account.id,
                account.name,
                order.name,
                State::Queued.name(),
                text_of(&order.settings)?,
                text_of(&order.labels)?,
                order.models_from,
                text_of(&Progress::default())?,
                now(),
            ],
        )?;
        let run = change.last_insert_rowid();
        for (position, page) in order.pages.iter().enumerate() {
            change.execute(
                "INSERT INTO run_pages (run, position, page) VALUES (?, ?, ?)",
                params![run, position, page],
            )?;
        }
        if let Some((key, body)) = key {
            change.execute(
                "INSERT INTO requests (account, key, body_sha256, run) VALUES (?, ?, ?, ?)",
                params![account.id, key, body, run],
            )?;
        }
        events::add(&change, run, "state", &json!({"state": State::Queued.name()}))?;
        base::crash::point("before queueing a run");
        change.commit()?;
        drop(database);
        base::crash::point("after queueing a run");
        self.changed();
        Ok(Placed { run, new: true })
    }

    /// The run of this number, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn run(&self, id: i64, account: &Account) -> Result<Option<Run>, StoreError> {
        let run = self.any_run(id)?;
        Ok(run.filter(|run| account.role.sees_all() || run.account == account.id))
    }

    /// The run of this number.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn any_run(&self, id: i64) -> Result<Option<Run>, StoreError> {
        let database = self.database();
        let run =
            database.query_row("SELECT * FROM runs WHERE id = ?", [id], run_row).optional()?;
        run.map(|run| with_parts(&database, run)).transpose()
    }

    /// The runs that the account may see, the newest first.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn runs(&self, filter: &Filter, account: &Account) -> Result<Vec<Run>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT * FROM runs WHERE (?1 OR account = ?2) AND (?3 IS NULL OR state = ?3)
             AND (?4 IS NULL OR id < ?4) AND (?5 IS NULL OR instr(lower(name), lower(?5)) > 0)
             ORDER BY id DESC LIMIT ?6",
        )?;
        let runs = rows.query_map(
            params![
                account.role.sees_all(),
                account.id,
                filter.state.map(State::name),
                filter.before,
                filter.name,
                filter.most,
            ],
            run_row,
        )?;
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        runs.into_iter().map(|run| with_parts(&database, run)).collect()
    }

    /// The run whose turn is next.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn next_in_queue(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT min(id) FROM runs WHERE state = ?";
        Ok(self.database().query_row(sql, [State::Queued.name()], |row| row.get(0))?)
    }

    /// The runs that were being trained when the gateway ended.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn active_runs(&self) -> Result<Vec<i64>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare("SELECT id FROM runs WHERE state IN (?, ?) ORDER BY id")?;
        let states = [State::Launch.name(), State::Running.name()];
        let ids = rows.query_map(states, |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(ids)
    }

    /// How many runs are in each state.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn counts(&self) -> Result<Vec<(State, u64)>, StoreError> {
        let database = self.database();
        let count = |state: State| {
            let sql = "SELECT count(*) FROM runs WHERE state = ?";
            Ok((state, database.query_row(sql, [state.name()], |row| row.get(0))?))
        };
        State::ALL.into_iter().map(count).collect()
    }

    /// Changes a run's state, with the event that shows it, and what comes with it: all of it, or
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::NotNow`], when nothing of the kind can happen to it now.
    pub fn happen(&self, id: i64, happening: Happening, what: &Change) -> Result<Life, StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = change
            .query_row("SELECT * FROM runs WHERE id = ?", [id], life_row)
            .optional()?
            .ok_or_else(|| StoreError::Missing(format!("run {id}")))?;
        let life = next(found, happening)?;
        if life == found && happening != Happening::Found {
            return Ok(life);
        }
        let at = now();
        let starts =
            matches!(happening, Happening::Turn | Happening::Found) && life.state == State::Launch;
        let error = what.error.as_ref().filter(|_| life.state == State::Failed);
        change.execute(
            "UPDATE runs SET state = ?2, cancel_asked = ?3, attempts = attempts + ?4,
                 started_at = coalesce(started_at, ?5), finished_at = ?6, error = ?7, figures = ?8
             WHERE id = ?1",
            params![
                id,
                life.state.name(),
                life.cancel_asked,
                u8::from(starts),
                starts.then_some(&at),
                life.state.is_end().then_some(&at),
                error,
                what.figures.as_ref().map(text_of).transpose()?,
            ],
        )?;
        for result in &what.results {
            let Result_ { name, kind, object } = result;
            change.execute(
                "INSERT INTO objects (sha256, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
                params![object.sha256, object.size],
            )?;
            change.execute(
                "INSERT OR REPLACE INTO results (run, name, kind, sha256) VALUES (?, ?, ?, ?)",
                params![id, name, kind.name(), object.sha256],
            )?;
        }
        let mut data = json!({"state": life.state.name()});
        if life.cancel_asked && !life.state.is_end() {
            data["cancel_asked"] = true.into();
        }
        if let Some(error) = error {
            data["error"] = error.as_str().into();
        }
        if happening == Happening::Found && life.state == State::Launch {
            data["detail"] =
                "the gateway was started again; the run goes on from its checkpoint".into();
        }
        events::add(&change, id, "state", &data)?;
        base::crash::point(&format!("before a run is {}", life.state));
        change.commit()?;
        drop(database);
        base::crash::point(&format!("after a run is {}", life.state));
        self.changed();
        Ok(life)
    }

    /// Notes how far a run is, and what has happened in its training.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note(
        &self,
        id: i64,
        progress: &Progress,
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

fn placed_before(
    change: &Transaction<'_>,
    account: i64,
    key: &str,
    body: &str,
) -> Result<Option<Placed>, StoreError> {
    let known: Option<(String, i64)> = change
        .query_row(
            "SELECT body_sha256, run FROM requests WHERE account = ? AND key = ?",
            params![account, key],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match known {
        Some((known, run)) if known == body => Ok(Some(Placed { run, new: false })),
        Some(_) => Err(StoreError::OtherRequest),
        None => Ok(None),
    }
}

fn life_row(row: &Row<'_>) -> rusqlite::Result<Life> {
    Ok(Life { state: rows::state(row, "state")?, cancel_asked: row.get("cancel_asked")? })
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get("id")?,
        account: row.get("account")?,
        account_name: row.get("account_name")?,
        name: row.get("name")?,
        life: life_row(row)?,
        attempts: row.get("attempts")?,
        settings: rows::json(row, "settings")?,
        labels: rows::json(row, "labels")?,
        models_from: row.get("models_from")?,
        progress: rows::json(row, "progress")?,
        figures: rows::optional_json(row, "figures")?,
        error: row.get("error")?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
        pages: Vec::new(),
        results: Vec::new(),
        queue_position: None,
    })
}

fn with_parts(database: &Connection, mut run: Run) -> Result<Run, StoreError> {
    let mut pages =
        database.prepare("SELECT page FROM run_pages WHERE run = ? ORDER BY position")?;
    run.pages = pages.query_map([run.id], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut results = database.prepare(
        "SELECT name, kind, objects.sha256, size FROM results
         JOIN objects ON objects.sha256 = results.sha256 WHERE run = ? ORDER BY name",
    )?;
    let result = |row: &Row<'_>| {
        let kind: String = row.get("kind")?;
        Ok(Result_ {
            name: row.get("name")?,
            kind: ResultKind::from_name(&kind).unwrap_or(ResultKind::Log),
            object: Object { sha256: row.get("sha256")?, size: row.get("size")? },
        })
    };
    run.results = results.query_map([run.id], result)?.collect::<Result<_, _>>()?;
    if run.life.state == State::Queued {
        let sql = "SELECT count(*) FROM runs WHERE id < ? AND state IN (?, ?, ?)";
        let before = [State::Queued, State::Launch, State::Running].map(State::name);
        run.queue_position = Some(database.query_row(
            sql,
            params![run.id, before[0], before[1], before[2]],
            |row| row.get(0),
        )?);
    }
    Ok(run)
}
