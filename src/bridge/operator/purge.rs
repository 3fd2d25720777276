//! Room on the disk: what is left of answered jobs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::super::context::{BridgeError, lock};
use super::super::metrics;
use super::logs::Log;
use crate::config::Config;
use crate::ledger::{LockError, Role, State, Store};
use domain::JobId;

/// How long the lock of the spool is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Something that is old enough to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is: a job's directory or a file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long nothing has happened to it.
    pub age: Duration,
    /// Why it could not be removed.
    pub error: Option<String>,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Purged {
    /// What is removed, or would be.
    Items(Vec<Item>),
    /// Another `check` holds the lock: nothing is done.
    Busy(String),
}

/// Removes what is left of jobs that were answered at least `older` ago, and messages that were
/// rejected before that. With `dry_run` it only looks.
///
/// A message that RabbitMQ hands out a second time is known by its record in `done/`, so nothing
/// younger than an hour goes.
///
/// # Errors
/// When the spool or the directory of the logs can't be read. What can't be removed is part of the
/// result.
pub async fn purge(config: &Config, older: Duration, dry_run: bool) -> Result<Purged, BridgeError> {
    let site = &config.site;
    let logs = || {
        let error = |source| BridgeError::Logs { path: site.logs.clone(), source };
        Log::all(&site.logs).map_err(error)
    };
    if dry_run {
        return Ok(Purged::Items(old(&Store::unopened(&site.spool), logs()?, older)?));
    }
    let store = Store::open(&site.spool)?;
    let mut held = match lock(&store, Role::Watcher, PATIENCE).await {
        Ok(held) => held,
        Err(LockError::Held { who, .. }) => return Ok(Purged::Busy(who)),
        Err(error) => return Err(error.into()),
    };
    if site.metrics_file.is_some() {
        metrics::count(&store)?;
    }
    let mut items = old(&store, logs()?, older)?;
    for item in &mut items {
        held.heartbeat(Timestamp::now())?;
        item.error = remove(&item.path).err().map(|error| error.to_string());
    }
    Ok(Purged::Items(items))
}

/// Everything that is old enough: for each answered job its logs and its directory, then the
/// rejected messages.
fn old(store: &Store, logs: Vec<Log>, older: Duration) -> Result<Vec<Item>, BridgeError> {
    let now = Timestamp::now();
    let (open, done) = store.ids()?;
    let mut items = Vec::new();
    for id in done.iter().filter(|id| !open.contains(id)) {
        items.extend(answered(store, id, &logs, now).filter(|all| all.iter().all(|item| item.age >= older)));
    }
    let mut items: Vec<Item> = items.into_iter().flatten().collect();
    let rejected = store.rejected_files()?;
    items
        .extend(rejected.into_iter().filter_map(|(at, path)| item(path, at, now)).filter(|i| i.age >= older));
    Ok(items)
}

/// What is left of an answered job; nothing if its directory holds more than we know of. The
/// directory is removed last, because without it nobody knows whose the logs are.
fn answered(store: &Store, id: &JobId, logs: &[Log], now: Timestamp) -> Option<Vec<Item>> {
    let seen =
        store.see(id).ok().flatten().filter(|seen| seen.answered && seen.record.state == State::Replied)?;
    let directory = seen.files.directory();
    if !seen.files.are_all() {
        tracing::warn!("{}: there is something in it that is not ours; left alone", directory.display());
        return None;
    }
    let mut items = Vec::new();
    for log in logs.iter().filter(|log| log.job == *id) {
        let written = fs::symlink_metadata(&log.path).ok()?.modified().ok()?;
        items.push(item(log.path.clone(), Timestamp::try_from(written).ok()?, now)?);
    }
    items.push(item(directory.to_path_buf(), seen.record.changed_at, now)?);
    Some(items)
}

/// `None` for what lies in the future: a clock is wrong.
fn item(path: PathBuf, since: Timestamp, now: Timestamp) -> Option<Item> {
    let age = Duration::try_from(now.duration_since(since)).ok()?;
    let bytes = bytes_of(&path);
    Some(Item { path, bytes, age, error: None })
}

fn bytes_of(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_of(&entry.path())).sum()
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { remove_directory(path) } else { fs::remove_file(path) }
}

/// The record goes last, so that a directory that was half removed is still known for what it is.
fn remove_directory(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if entry.file_name() == "record.json" => {}
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir_all(path)
}
