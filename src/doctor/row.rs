//! One check, and all of them together.

use std::future::Future;
use std::time::Duration;

use base::advice::Advice;
use serde::{Deserialize, Serialize};

use base::text::printable;

/// How much of a foreign text is shown.
const MOST: usize = 500;

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Could not be tried, or need not be; the text says why.
    Skipped,
    /// As it should be.
    Pass,
    /// It works, or may work, but deserves a look.
    Warn,
    /// Jobs will not get through.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The part of the bridge that it belongs to.
    pub group: String,
    /// What was checked.
    pub name: String,
    /// The result.
    pub verdict: Grade,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// All checks, in order.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of the rows: `pass`, `warn` or `fail`.
    pub verdict: Grade,
    /// The machine that the checks ran on.
    pub host: String,
    /// The rows.
    pub checks: Vec<Row>,
}

impl Report {
    /// A report of these rows.
    pub fn new(checks: Vec<Row>) -> Self {
        let worst = checks.iter().map(|row| row.verdict).max().unwrap_or(Grade::Pass);
        Self { verdict: worst.max(Grade::Pass), host: host(), checks }
    }

    /// How many rows have this verdict.
    pub fn count(&self, verdict: Grade) -> usize {
        self.checks.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// This machine's name.
pub(super) fn host() -> String {
    printable(&base::host_name(), 64)
}

/// The rows of one part of the bridge, as they come.
#[derive(Debug)]
pub(super) struct Rows {
    group: String,
    rows: Vec<Row>,
}

impl Rows {
    pub(super) fn new(group: impl Into<String>) -> Self {
        Self { group: group.into(), rows: Vec::new() }
    }

    fn add(&mut self, name: &str, verdict: Grade, seen: &str, advice: Option<&str>) {
        self.rows.push(Row {
            group: self.group.clone(),
            name: printable(name, 60),
            verdict,
            seen: printable(seen, MOST),
            advice: advice.map(|advice| printable(advice, MOST)),
        });
    }

    pub(super) fn pass(&mut self, name: &str, seen: impl AsRef<str>) {
        self.add(name, Grade::Pass, seen.as_ref(), None);
    }

    pub(super) fn warn(&mut self, name: &str, seen: impl AsRef<str>, advice: impl AsRef<str>) {
        self.add(name, Grade::Warn, seen.as_ref(), Some(advice.as_ref()));
    }

    pub(super) fn fail(&mut self, name: &str, seen: impl AsRef<str>, advice: impl AsRef<str>) {
        self.add(name, Grade::Fail, seen.as_ref(), Some(advice.as_ref()));
    }

    pub(super) fn skip(&mut self, name: &str, why: impl AsRef<str>) {
        self.add(name, Grade::Skipped, why.as_ref(), None);
    }

    /// Skips several things for one reason.
    pub(super) fn skip_all(&mut self, names: &[&str], why: &str) {
        for name in names {
            self.skip(name, why);
        }
    }

    /// An error, with its own advice, or the other where it has none.
    pub(super) fn fail_with(&mut self, name: &str, error: &dyn Advice, otherwise: &str) {
        let advice = error.advice().unwrap_or(otherwise.to_owned().into());
        self.fail(name, error.what(), advice);
    }

    pub(super) fn done(self) -> Vec<Row> {
        self.rows
    }
}

/// Waits for a check, but not for ever.
pub(super) async fn within<T>(deadline: Duration, check: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(deadline, check).await.ok()
}

/// Does something that may hang, such as reading a file of a server that is away, on a thread of
/// its own; `None` when it does not end in time (the thread is left behind) or panics.
pub(super) async fn apart<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within(deadline, tokio::task::spawn_blocking(work)).await?.ok()
}
