//! Who may fetch a run's files for its training: `check` and `run_trainer`, as they do from Rodan.

use base::secret::Secret;
use domain::hex_sha256;
use rusqlite::{OptionalExtension as _, params};

use super::accounts::{Role, hash};
use super::{Store, StoreError, now};

/// Hours after a log-in within which a job may be written down that its token is still good for.
/// `check` logs in once a pass, and takes jobs afterwards in the same pass.
const PASS_HOURS: i64 = 24;

impl Store {
    /// Gives a new token to a bridge that names its account and its password; `None` where there is
    /// no such account, or the password is another.
    ///
    /// Tokens that are good for nothing any more are removed: those that are older than a pass, and
    /// older than all jobs that are not over.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn admit_bridge(
        &self,
        name: &str,
        password: &Secret,
        token: &Secret,
    ) -> Result<bool, StoreError> {
        let mut database = self.database();
        let change = database.transaction()?;
        let account: Option<i64> = change
            .query_row(
                "SELECT id FROM accounts WHERE name = ? AND role = ? AND token_hash = ?",
                params![name, Role::Bridge.name(), hash(password)],
                |row| row.get(0),
            )
            .optional()?;
        let Some(account) = account else { return Ok(false) };
        let pass_ago = hours_from_now(-PASS_HOURS);
        change.execute(
            "DELETE FROM upload_tokens WHERE issued_at < ?1 AND NOT EXISTS
                (SELECT 1 FROM jobs WHERE step != 'over' AND created_at <= good_until)",
            [pass_ago],
        )?;
        change.execute(
            "INSERT INTO upload_tokens (token_hash, account, issued_at, good_until)
             VALUES (?, ?, ?, ?)",
            params![hash(token), account, now(), hours_from_now(PASS_HOURS)],
        )?;
        change.commit()?;
        Ok(true)
    }

    /// The run whose files lie below this word, if the token is good for it: it was given to a
    /// bridge whose account is still there, and the run's job is not over and was not written down
    /// long after.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn run_of_upload(&self, key: &str, token: &Secret) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT jobs.run FROM jobs, upload_tokens
            JOIN accounts ON accounts.id = upload_tokens.account
            WHERE key_hash = ? AND step != 'over' AND jobs.created_at <= good_until
            AND upload_tokens.token_hash = ? AND role = ?";
        let key = hex_sha256(key.as_bytes());
        let asked = params![key, hash(token), Role::Bridge.name()];
        Ok(self.database().query_row(sql, asked, |row| row.get(0)).optional()?)
    }
}

fn hours_from_now(hours: i64) -> String {
    let now = jiff::Timestamp::now();
    let then = now.checked_add(jiff::SignedDuration::from_hours(hours)).unwrap_or(now);
    format!("{then:.3}")
}
