//! Runs: what was asked for, where they are, and what came of them.

use std::collections::BTreeMap;

use domain::{SettingsMap, Standing};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};

use super::rows::{self, text_of};
use super::{Account, Object, Store, StoreError, events, now, tracked};
use crate::order::Order;
use crate::state::{RunStatus, State};

/// What a file of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A trained model.
    Model,
    /// `report.html`.
    Report,
    /// `training.json`.
    Record,
    /// A picture of a page as the models see it.
    Preview,
    /// A layer that the models have found on a page.
    Layer,
    /// What the training has logged.
    Log,
}

impl FileKind {
    const ALL: [Self; 6] =
        [Self::Model, Self::Report, Self::Record, Self::Preview, Self::Layer, Self::Log];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Report => "report",
            Self::Record => "record",
            Self::Preview => "preview",
            Self::Layer => "layer",
            Self::Log => "log",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFile {
    /// Its name, such as `Model 0.hdf5`.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Its bytes.
    pub object: Object,
}

/// The image of a page that models are applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its bytes.
    pub object: Object,
    /// `image.png` or `image.jpg`.
    pub file: String,
}

/// What a run's job is known to do, for those who look at the run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Away {
    /// The cluster's last words, in a sentence; empty before the first.
    pub detail: String,
    /// How many jobs of the cluster's queue are trained before it, where the cluster tells it.
    pub before: Option<u64>,
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
    pub status: RunStatus,
    /// How often its training was started.
    pub attempts: u32,
    /// The settings that were asked for.
    pub settings: SettingsMap,
    /// Words of the user's own.
    pub labels: BTreeMap<String, String>,
    /// The run whose models it goes on from.
    pub models_from: Option<i64>,
    /// The group of runs that were asked for together.
    pub group: Option<i64>,
    /// For a run that applies the models of `models_from`: to which image.
    pub image: Option<Image>,
    /// The page that such a run has made of the image and the layers.
    pub made_page: Option<String>,
    /// How far it is.
    pub progress: Standing,
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
    pub results: Vec<RunFile>,
    /// While it is queued: how many runs are to be trained before it.
    pub queue_position: Option<u64>,
    /// What is known of its job, where a cluster trains it.
    pub away: Option<Away>,
    /// What it waits for, or what the cluster says of it, in a sentence; while it is not over.
    pub detail: Option<String>,
    /// Its page at the tracking server, once it is logged there.
    pub tracked: Option<String>,
}

impl Run {
    /// How many runs are to be trained before it, where that is all that it waits for: a cluster
    /// has jobs of others, too, until it tells the place.
    pub fn place(&self) -> Option<u64> {
        let known = self.away.as_ref().is_none_or(|away| away.before.is_some());
        self.queue_position.filter(|_| known)
    }

    /// Percent that are done at least.
    pub fn percent(&self) -> u8 {
        match self.status.state {
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
    /// For what: one run, or a group of them.
    pub order: &'a Order,
    /// The image to apply models to; none for a training.
    pub image: Option<&'a Image>,
    /// The request's own key, and the hash of its body.
    pub key: Option<(&'a str, &'a str)>,
    /// How many runs of an account may wait.
    pub most_waiting: u64,
}

/// Which runs are listed.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those whose name holds this text.
    pub name: Option<String>,
    /// Only those of this group.
    pub group: Option<i64>,
    /// Only those with a lower number.
    pub before: Option<i64>,
    /// At most so many.
    pub most: u32,
}

/// A group of runs that were asked for together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its number, which never comes twice.
    pub id: i64,
    /// What its user calls it.
    pub name: String,
    /// When it was asked for.
    pub created_at: String,
    /// Its runs, the first one first.
    pub runs: Vec<Run>,
}

impl Store {
    /// Queues a run, or a group of runs: once for each key of a request. Returns the run's number,
    /// of a group that of the first.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for a page or a run that the account can't see,
    /// [`StoreError::OtherRequest`], [`StoreError::TooMany`].
    pub fn place_run(&self, wanted: NewRun<'_>) -> Result<i64, StoreError> {
        let NewRun { account, order, image, key, most_waiting } = wanted;
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some((key, body)) = key
            && let Some(run) = placed_before(&change, account.id, key, body)?
        {
            return Ok(run);
        }
        let waiting: u64 = change.query_row(
            "SELECT count(*) FROM runs WHERE account = ? AND state = ?",
            params![account.id, State::Queued.name()],
            |row| row.get(0),
        )?;
        let variations = order.variations();
        if waiting + variations.len() as u64 > most_waiting {
            return Err(StoreError::TooMany { waiting, most: most_waiting });
        }
        if let Some(Image { object, .. }) = image {
            change.execute(
                "INSERT INTO objects (sha256, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
                params![object.sha256, object.size],
            )?;
        }
        let mut group = None;
        if !order.grid.is_empty() {
            change.execute(
                "INSERT INTO groups (account, name, created_at) VALUES (?, ?, ?)",
                params![account.id, order.name, now()],
            )?;
            group = Some(change.last_insert_rowid());
        }
        let mut first = None;
        for settings in &variations {
            let run = queue(&change, &wanted, settings, group)?;
            if self.tracking.is_some() && image.is_none() {
                tracked::add(&change, run)?;
            }
            first.get_or_insert(run);
        }
        let run = first.ok_or_else(|| StoreError::Missing("run to be queued".into()))?;
        if let Some((key, body)) = key {
            change.execute(
                "INSERT INTO requests (account, key, body_sha256, run) VALUES (?, ?, ?, ?)",
                params![account.id, key, body, run],
            )?;
        }
        base::crash::point("before queueing a run");
        change.commit()?;
        drop(database);
        base::crash::point("after queueing a run");
        self.changed();
        Ok(run)
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
        run.map(|run| self.with_parts(&database, run)).transpose()
    }

    fn with_parts(&self, database: &Connection, run: Run) -> Result<Run, StoreError> {
        let mut run = with_parts(database, run)?;
        run.detail = detail(&run, self.reach().is_some(), self.trouble());
        if run.status.state.is_active() && run.away.is_none() {
            run.detail = run.detail.or_else(|| self.objects_trouble());
        }
        if let Some(address) = &self.tracking {
            run.tracked = tracked::link(database, run.id, address)?;
        }
        Ok(run)
    }

    /// The models that a run goes on from.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn models_for(&self, run: &Run) -> Result<Vec<RunFile>, StoreError> {
        let from = run.models_from.map(|from| self.any_run(from)).transpose()?.flatten();
        let results = from.map(|from| from.results).unwrap_or_default();
        Ok(results.into_iter().filter(|result| result.kind == FileKind::Model).collect())
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
             AND (?7 IS NULL OR run_group = ?7) ORDER BY id DESC LIMIT ?6",
        )?;
        let runs = rows.query_map(
            params![
                account.role.sees_all(),
                account.id,
                filter.state.map(State::name),
                filter.before,
                filter.name,
                filter.most,
                filter.group,
            ],
            run_row,
        )?;
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        runs.into_iter().map(|run| self.with_parts(&database, run)).collect()
    }

    /// The group of this number, if the account may see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn group(&self, id: i64, account: &Account) -> Result<Option<Group>, StoreError> {
        let found = {
            let database = self.database();
            let sql = "SELECT * FROM groups WHERE id = ?1 AND (?2 OR account = ?3)";
            let group = |row: &Row<'_>| {
                Ok(Group {
                    id: row.get("id")?,
                    name: row.get("name")?,
                    created_at: row.get("created_at")?,
                    runs: Vec::new(),
                })
            };
            let all = account.role.sees_all();
            database.query_row(sql, params![id, all, account.id], group).optional()?
        };
        let Some(mut group) = found else { return Ok(None) };
        let filter = Filter { group: Some(id), most: u32::MAX, ..Filter::default() };
        group.runs = self.runs(&filter, account)?;
        group.runs.reverse();
        Ok(Some(group))
    }

    /// The run whose turn on this machine is next: models are applied first, which takes minutes at
    /// most; then trainings, where `trainings` says that this machine trains.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn next_in_queue(&self, trainings: bool) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT id FROM runs WHERE state = ? AND (? OR image IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE run = runs.id)
            ORDER BY image IS NULL, id LIMIT 1";
        let queued = params![State::Queued.name(), trainings];
        Ok(self.database().query_row(sql, queued, |row| row.get(0)).optional()?)
    }

    /// The runs that were being trained on this machine when the gateway ended.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn active_runs(&self) -> Result<Vec<i64>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT id FROM runs WHERE state IN (?, ?)
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE run = runs.id) ORDER BY id",
        )?;
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
}

/// Writes one run of a request; returns its number.
fn queue(
    change: &Transaction<'_>,
    wanted: &NewRun<'_>,
    settings: &SettingsMap,
    group: Option<i64>,
) -> Result<i64, StoreError> {
    let NewRun { account, order, image, .. } = wanted;
    change.execute(
        "INSERT INTO runs (account, account_name, name, state, settings, labels, models_from,
             run_group, image, image_file, progress, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            account.id,
            account.name,
            order.name,
            State::Queued.name(),
            text_of(settings)?,
            text_of(&order.labels)?,
            order.models_from,
            group,
            image.map(|image| &image.object.sha256),
            image.map(|image| &image.file),
            text_of(&Standing::default())?,
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
    events::add(change, run, "state", &json!({"state": State::Queued.name()}))?;
    Ok(run)
}

fn placed_before(
    change: &Transaction<'_>,
    account: i64,
    key: &str,
    body: &str,
) -> Result<Option<i64>, StoreError> {
    let known: Option<(String, i64)> = change
        .query_row(
            "SELECT body_sha256, run FROM requests WHERE account = ? AND key = ?",
            params![account, key],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match known {
        Some((known, run)) if known == body => Ok(Some(run)),
        Some(_) => Err(StoreError::OtherRequest),
        None => Ok(None),
    }
}

pub(super) fn status_row(row: &Row<'_>) -> rusqlite::Result<RunStatus> {
    Ok(RunStatus { state: rows::state(row, "state")?, cancel_asked: row.get("cancel_asked")? })
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get("id")?,
        account: row.get("account")?,
        account_name: row.get("account_name")?,
        name: row.get("name")?,
        status: status_row(row)?,
        attempts: row.get("attempts")?,
        settings: rows::json(row, "settings")?,
        labels: rows::json(row, "labels")?,
        models_from: row.get("models_from")?,
        group: row.get("run_group")?,
        image: None,
        made_page: row.get("made_page")?,
        progress: rows::json(row, "progress")?,
        figures: rows::optional_json(row, "figures")?,
        error: row.get("error")?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
        pages: Vec::new(),
        results: Vec::new(),
        queue_position: None,
        away: None,
        detail: None,
        tracked: None,
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
        Ok(RunFile {
            name: row.get("name")?,
            kind: FileKind::from_name(&kind).unwrap_or(FileKind::Log),
            object: Object { sha256: row.get("sha256")?, size: row.get("size")? },
        })
    };
    run.results = results.query_map([run.id], result)?.collect::<Result<_, _>>()?;
    let mut image = database.prepare(
        "SELECT sha256, size, image_file FROM runs JOIN objects ON sha256 = image WHERE id = ?",
    )?;
    let found = |row: &Row<'_>| {
        let object = Object { sha256: row.get(0)?, size: row.get(1)? };
        Ok(Image { object, file: row.get(2)? })
    };
    run.image = image.query_row([run.id], found).optional()?;
    let mut job = database.prepare("SELECT detail, before FROM jobs WHERE run = ?")?;
    let found = |row: &Row<'_>| Ok(Away { detail: row.get(0)?, before: row.get(1)? });
    run.away = job.query_row([run.id], found).optional()?;
    if run.status.state == State::Queued {
        run.queue_position = Some(before(database, &run)?);
    }
    Ok(run)
}

/// What a run waits for, or what the cluster says of it. `clustered`: this gateway sends its runs
/// to a cluster; `trouble`: why they wait for that.
fn detail(run: &Run, clustered: bool, trouble: Option<String>) -> Option<String> {
    if run.status.state.is_end() {
        return None;
    }
    match &run.away {
        Some(_) if !clustered => Some(
            "Its job is with a cluster; start the gateway with --broker again, so that it hears \
             of it."
                .to_owned(),
        ),
        Some(away) => {
            let said = Some(base::text::sentence(&away.detail)).filter(|said| !said.is_empty());
            let both = [said, trouble].into_iter().flatten().collect::<Vec<_>>().join(" ");
            Some(both).filter(|both| !both.is_empty())
        }
        None if run.status.state == State::Queued && run.image.is_none() => trouble,
        None => None,
    }
}

/// How many runs are to be trained before one that is queued, as far as that is known: of the
/// cluster's queue where the cluster has told it, else of this gateway's runs.
fn before(database: &Connection, run: &Run) -> Result<u64, StoreError> {
    let states = [State::Launch, State::Running, State::Queued].map(State::name);
    match &run.away {
        Some(Away { before: Some(before), .. }) => Ok(*before),
        Some(_) => {
            let sql = "SELECT count(*) FROM runs WHERE state = ? AND image IS NULL AND id < ?";
            Ok(database.query_row(sql, params![states[2], run.id], |row| row.get(0))?)
        }
        None => {
            let sql = "SELECT count(*) FROM runs WHERE state IN (?1, ?2)
                AND NOT EXISTS (SELECT 1 FROM jobs WHERE run = runs.id)
                OR state = ?3 AND (image IS NULL, id) < (?4, ?5)";
            let asked = params![states[0], states[1], states[2], run.image.is_none(), run.id];
            Ok(database.query_row(sql, asked, |row| row.get(0))?)
        }
    }
}
