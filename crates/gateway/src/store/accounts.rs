//! Who may do what: accounts, each with a token, of which only a hash is kept.

use base::secret::Secret;
use domain::hex_sha256;
use rusqlite::types::FromSqlError;
use rusqlite::{OptionalExtension as _, Row, params};

use super::rows::wrong;
use super::{Store, StoreError, now};

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Upload pages and train them; sees its own pages and runs.
    Submitter,
    /// Everything.
    Admin,
    /// Fetches the files of jobs for a cluster, and nothing else: `check` and `run_trainer`.
    Bridge,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Submitter, Self::Admin, Self::Bridge];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Admin => "admin",
            Self::Bridge => "bridge",
        }
    }

    /// The role with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it may upload and train.
    pub fn may_submit(self) -> bool {
        matches!(self, Self::Submitter | Self::Admin)
    }

    /// Whether it sees what others have uploaded and trained.
    pub fn sees_all(self) -> bool {
        matches!(self, Self::Viewer | Self::Admin)
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: String,
}

impl Store {
    /// Makes an account.
    ///
    /// # Errors
    /// [`StoreError::Taken`], when there is one of this name.
    pub fn add_account(&self, name: &str, role: Role, token: &Secret) -> Result<(), StoreError> {
        let done = self.database().execute(
            "INSERT INTO accounts (name, role, token_hash, created_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (name) DO NOTHING",
            params![name, role.name(), hash(token), now()],
        )?;
        if done == 0 { Err(StoreError::Taken(format!("the account {name}"))) } else { Ok(()) }
    }

    /// Gives the account of this name the token, or none, and makes the account where it is not
    /// there.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn set_account(
        &self,
        name: &str,
        role: Role,
        token: Option<&Secret>,
    ) -> Result<(), StoreError> {
        self.database().execute(
            "INSERT INTO accounts (name, role, token_hash, created_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash,
                 role = excluded.role",
            params![name, role.name(), token.map(hash), now()],
        )?;
        Ok(())
    }

    /// Removes an account; its runs and pages stay.
    ///
    /// # Errors
    /// [`StoreError::Missing`], when there is none of this name.
    pub fn remove_account(&self, name: &str) -> Result<(), StoreError> {
        let done = self.database().execute("DELETE FROM accounts WHERE name = ?", [name])?;
        if done == 0 { Err(StoreError::Missing(format!("account {name}"))) } else { Ok(()) }
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        let database = self.database();
        let mut rows = database.prepare("SELECT * FROM accounts ORDER BY name")?;
        let accounts = rows.query_map([], account)?.collect::<Result<_, _>>()?;
        Ok(accounts)
    }

    /// The account that this token belongs to. A bridge has no account here: what it has is a
    /// password, for its log-in.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn account_of(&self, token: &Secret) -> Result<Option<Account>, StoreError> {
        let sql = "SELECT * FROM accounts WHERE token_hash = ? AND role != ?";
        let asked = params![hash(token), Role::Bridge.name()];
        Ok(self.database().query_row(sql, asked, account).optional()?)
    }
}

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let role: String = row.get("role")?;
    Ok(Account {
        id: row.get("id")?,
        name: row.get("name")?,
        role: Role::from_name(&role)
            .ok_or_else(|| wrong(row, "role", FromSqlError::InvalidType))?,
        created_at: row.get("created_at")?,
    })
}

/// Tokens are random and long, so that a plain hash can't be turned back.
pub(super) fn hash(token: &Secret) -> String {
    hex_sha256(token.expose().as_bytes())
}
