//! Jobs: the runs that are trained by a cluster, from the message that is sent to its last answer.
//!
//! A job's message is written down, with its ids, before it is sent; what is heard of it is written
//! down before it is acknowledged, together with the id of the message that said it. So a gateway
//! that is killed anywhere sends no other job for the run, and takes nothing twice.

use domain::Standing;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};

use super::changes::{happen_in, keep_results};
use super::rows::{text_of, wrong};
use super::runs::status_row;
use super::{Change, Store, StoreError, events, now};
use crate::state::{RunStatus, State, Transition};

/// How far a job is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its message is written down, and perhaps sent.
    Sending,
    /// The broker has confirmed its message.
    Sent,
    /// Its run is over; its reply queue is to be removed.
    Over,
}

impl Step {
    const ALL: [Self; 3] = [Self::Sending, Self::Sent, Self::Over];

    fn name(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Over => "over",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The number of its run.
    pub run: i64,
    /// Its correlation id.
    pub correlation_id: String,
    /// How far it is.
    pub step: Step,
    /// Its message, until the broker has confirmed it.
    pub body: Option<String>,
    /// Somebody wants its end, and the cluster was not told yet.
    pub to_be_cancelled: bool,
}

/// A message to be sent, and what it is known by.
#[derive(Clone, Copy, Debug)]
pub struct NewJob<'a> {
    /// Its correlation id.
    pub correlation_id: &'a str,
    /// The hash of the word that its addresses hold.
    pub key_hash: &'a str,
    /// The message.
    pub body: &'a str,
}

/// What a message changes.
#[derive(Clone, Debug, Default)]
pub struct Hearing {
    /// What happens to the run, in order.
    pub happened: Vec<Transition>,
    /// How far it is now.
    pub progress: Option<Standing>,
    /// Kind and data of events beside those of its states.
    pub events: Vec<(&'static str, Value)>,
    /// The cluster's words.
    pub detail: Option<String>,
    /// How many jobs are before it; `None` leaves it unknown.
    pub before: Option<u64>,
    /// Its files, figures and error.
    pub change: Change,
}

impl Store {
    /// Writes down the job of a run that waits, before it is sent; false when the run does not wait
    /// for that any more.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn begin_job(&self, run: i64, job: &NewJob<'_>) -> Result<bool, StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let status = change
            .query_row("SELECT * FROM runs WHERE id = ?", [run], status_row)
            .optional()?
            .filter(|status| status.state == State::Queued && !status.cancel_asked);
        if status.is_none() {
            return Ok(false);
        }
        change.execute(
            "INSERT INTO jobs (run, correlation_id, key_hash, step, body, created_at)
             VALUES (?, ?, ?, ?, ?, ?)",
            params![run, job.correlation_id, job.key_hash, Step::Sending.name(), job.body, now()],
        )?;
        base::crash::point("before writing a job down");
        change.commit()?;
        drop(database);
        base::crash::point("after writing a job down");
        self.changed();
        Ok(true)
    }

    /// Ends a run whose message can't be made.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn refuse(&self, run: i64, why: &str) -> Result<(), StoreError> {
        self.happen(run, Transition::Turn, &Change::default())?;
        let change = Change { error: Some(base::text::sentence(why)), ..Change::default() };
        self.happen(run, Transition::Broke, &change).map(drop)
    }

    /// Notes that the broker has the job's message.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note_job_sent(&self, run: i64) -> Result<(), StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let detail = "its job is in RabbitMQ, and the cluster has not taken it yet";
        let sent = change.execute(
            "UPDATE jobs SET step = ?, body = NULL, detail = ? WHERE run = ? AND step = ?",
            params![Step::Sent.name(), detail, run, Step::Sending.name()],
        )?;
        if sent > 0 {
            let data = json!({"state": State::Queued.name(), "detail": detail});
            events::add(&change, run, "state", &data)?;
        }
        base::crash::point("before noting that a job is sent");
        change.commit()?;
        drop(database);
        base::crash::point("after noting that a job is sent");
        self.changed();
        Ok(())
    }

    /// Notes that the cluster was asked to cancel the job.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn note_cancel_sent(&self, run: i64) -> Result<(), StoreError> {
        base::crash::point("before noting that a cancel is sent");
        self.database().execute("UPDATE jobs SET cancel_sent = 1 WHERE run = ?", [run])?;
        base::crash::point("after noting that a cancel is sent");
        Ok(())
    }

    /// Removes what is known of a job whose reply queue is gone.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn forget_job(&self, run: i64) -> Result<(), StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute("DELETE FROM heard WHERE run = ?", [run])?;
        change.execute("DELETE FROM jobs WHERE run = ?", [run])?;
        base::crash::point("before forgetting a job");
        change.commit()?;
        base::crash::point("after forgetting a job");
        Ok(())
    }

    /// The jobs for which something is to be done, in the order of their runs: those that are not
    /// over, and those that were over before this time.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn jobs(&self, over_before: Timestamp) -> Result<Vec<Job>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare(
            "SELECT jobs.*, cancel_asked AND NOT cancel_sent AS to_be_cancelled
             FROM jobs JOIN runs ON runs.id = run
             WHERE step != ? OR finished_at < ? ORDER BY run",
        )?;
        let asked = params![Step::Over.name(), format!("{over_before:.3}")];
        let jobs = rows.query_map(asked, job_row)?.collect::<Result<_, _>>()?;
        Ok(jobs)
    }

    /// The training that is to be sent next.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn next_to_be_sent(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT id FROM runs WHERE state = ? AND image IS NULL
            AND NOT EXISTS (SELECT 1 FROM jobs WHERE run = runs.id) ORDER BY id LIMIT 1";
        let queued = [State::Queued.name()];
        Ok(self.database().query_row(sql, queued, |row| row.get(0)).optional()?)
    }

    /// Whether a message about a run's job was taken before.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn has_heard(&self, run: i64, message_id: &str) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM heard WHERE run = ? AND message_id = ?";
        let found = self.database().query_row(sql, params![run, message_id], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    /// Takes a message about a run's job, once: all that it changes, or nothing. What can't happen
    /// to the run any more, since it is over, is left out.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn hear(
        &self,
        run: i64,
        message_id: &str,
        hearing: &Hearing,
    ) -> Result<Option<RunStatus>, StoreError> {
        let mut database = self.database();
        let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let new = change.execute(
            "INSERT INTO heard (run, message_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
            params![run, message_id],
        )?;
        let status = change.query_row("SELECT * FROM runs WHERE id = ?", [run], status_row)?;
        let mut after = status;
        if new > 0 && !status.state.is_end() {
            after = apply(&change, run, status, hearing)?;
        }
        if after.state.is_end() {
            change.execute(
                "UPDATE jobs SET step = ?, body = NULL WHERE run = ?",
                params![Step::Over.name(), run],
            )?;
        }
        base::crash::point("before taking a message");
        change.commit()?;
        drop(database);
        base::crash::point("after taking a message");
        self.changed();
        Ok((after != status).then_some(after))
    }
}

fn apply(
    change: &Transaction<'_>,
    run: i64,
    status: RunStatus,
    hearing: &Hearing,
) -> Result<RunStatus, StoreError> {
    let Hearing { happened, progress, events: told, detail, before, change: what } = hearing;
    if let Some(progress) = progress {
        let text = text_of(progress)?;
        change.execute("UPDATE runs SET progress = ? WHERE id = ?", params![text, run])?;
    }
    if let Some(detail) = detail {
        change.execute(
            "UPDATE jobs SET detail = ?, before = ? WHERE run = ?",
            params![detail, before, run],
        )?;
    }
    for (kind, data) in told {
        events::add(change, run, kind, data)?;
    }
    let mut after = status;
    for transition in happened {
        // What comes with the end is noted with it; what comes without one by itself.
        let last = matches!(transition, Transition::Trained | Transition::Broke);
        let what = if last { what.clone() } else { Change::default() };
        after = happen_in(change, run, *transition, &what, detail.as_deref())?;
    }
    if !after.state.is_end() {
        keep_results(change, run, &what.results)?;
        if let Some(figures) = &what.figures {
            let text = text_of(figures)?;
            change.execute("UPDATE runs SET figures = ? WHERE id = ?", params![text, run])?;
        }
        if after == status
            && let Some(detail) = detail
        {
            let data = json!({"state": after.state.name(), "detail": detail});
            events::add(change, run, "state", &data)?;
        }
    }
    Ok(after)
}

fn job_row(row: &Row<'_>) -> rusqlite::Result<Job> {
    let step: String = row.get("step")?;
    let unknown = || wrong(row, "step", rusqlite::types::FromSqlError::InvalidType);
    Ok(Job {
        run: row.get("run")?,
        correlation_id: row.get("correlation_id")?,
        step: Step::from_name(&step).ok_or_else(unknown)?,
        body: row.get("body")?,
        to_be_cancelled: row.get("to_be_cancelled")?,
    })
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
