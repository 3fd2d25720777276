//! Keeping the store: what a killed gateway has left, copies, and what is old.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use rusqlite::params;
use tracing::{info, warn};

use super::{Store, StoreError};
use crate::state::State;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Runs.
    pub runs: usize,
    /// Pages.
    pub pages: usize,
    /// Objects.
    pub objects: usize,
}

impl Store {
    /// Removes what a gateway that was killed has left: uploads that were not noted, objects that
    /// no row names, folders of runs that are over. Only a gateway that holds the lock and serves
    /// nobody yet may call it.
    ///
    /// # Errors
    /// When the store or its folders can't be read.
    pub fn tidy(&self) -> Result<(), StoreError> {
        let incoming = self.folder.incoming();
        for entry in fs::read_dir(&incoming).map_err(unread(&incoming))?.flatten() {
            remove(&entry.path());
        }
        let known: HashSet<String> = {
            let database = self.database();
            let mut rows = database.prepare("SELECT sha256 FROM objects")?;
            rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let objects = self.folder.objects();
        let swept = self.objects.sweep(&known).map_err(unread(&objects))?;
        if swept > 0 {
            info!("removed {swept} files that an interrupted upload or run had left");
        }
        let runs = self.folder.runs();
        for entry in fs::read_dir(&runs).map_err(unread(&runs))?.flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<i64>().ok());
            let run = id.map(|id| self.any_run(id)).transpose()?.flatten();
            if run.is_none_or(|run| run.status.state.is_end()) {
                remove(&entry.path());
            }
        }
        Ok(())
    }

    /// The id of this store, which its copies have, too.
    pub(super) fn own_id(&self) -> Result<String, StoreError> {
        Ok(self.database().query_row("SELECT id FROM own", [], |row| row.get(0))?)
    }

    /// Whether it can be read: a look at one row, which whoever reaches the gateway may ask for.
    ///
    /// # Errors
    /// When it can't.
    pub fn is_readable(&self) -> Result<(), StoreError> {
        Ok(self.database().query_row("SELECT 1 FROM own", [], |_| Ok(()))?)
    }

    /// Writes a copy of the SQLite file, whole, also while a gateway works with it.
    ///
    /// # Errors
    /// When it can't be written, or is there already.
    pub fn backup(&self, target: &Path) -> Result<(), StoreError> {
        if target.exists() {
            return Err(StoreError::Taken(target.display().to_string()));
        }
        self.database().execute("VACUUM INTO ?", [target.display().to_string()])?;
        Ok(())
    }

    /// Removes the runs that were over before this time, but for those whose models another run
    /// still waits for; then the pages that no run needs and that no account has uploaded since;
    /// then the objects that nothing needs. No gateway may be at work with the folder.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn purge(&self, before: Timestamp) -> Result<Purged, StoreError> {
        let before = format!("{before:.3}");
        let mut database = self.database();
        let change = database.transaction()?;
        let ends = [State::Succeeded, State::Failed, State::Cancelled].map(State::name);
        let runs = change.execute(
            "DELETE FROM runs WHERE state IN (?1, ?2, ?3) AND finished_at < ?4
             AND NOT EXISTS (SELECT 1 FROM runs AS other WHERE other.models_from = runs.id
                             AND other.state NOT IN (?1, ?2, ?3))",
            params![ends[0], ends[1], ends[2], before],
        )?;
        change.execute(
            "DELETE FROM groups
             WHERE NOT EXISTS (SELECT 1 FROM runs WHERE run_group = groups.id)",
            [],
        )?;
        let pages = change.execute(
            "DELETE FROM pages WHERE created_at < ?1
             AND NOT EXISTS (SELECT 1 FROM page_accounts
                             WHERE page = pages.id AND added_at >= ?1)
             AND NOT EXISTS (SELECT 1 FROM run_pages WHERE page = pages.id)",
            [before],
        )?;
        let unused: Vec<String> = {
            let mut rows = change.prepare(
                "SELECT sha256 FROM objects
                 WHERE NOT EXISTS (SELECT 1 FROM page_files WHERE sha256 = objects.sha256)
                 AND NOT EXISTS (SELECT 1 FROM pages WHERE thumbnail = objects.sha256)
                 AND NOT EXISTS (SELECT 1 FROM runs WHERE image = objects.sha256)
                 AND NOT EXISTS (SELECT 1 FROM results WHERE sha256 = objects.sha256)",
            )?;
            rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        for sha256 in &unused {
            change.execute("DELETE FROM objects WHERE sha256 = ?", [sha256])?;
        }
        base::crash::point("before a purge");
        change.commit()?;
        drop(database);
        // What a kill leaves here has no row, and goes when the gateway starts.
        let objects = unused.iter().filter(|sha256| self.objects.remove(sha256)).count();
        self.changed();
        Ok(Purged { runs, pages, objects })
    }
}

fn unread(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    StoreError::file(path, "can't be read")
}

/// Removes a file or a folder with all that is in it.
fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        warn!("{}: can't be removed: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DataFolder;

    #[test]
    fn whether_it_can_be_read_is_seen_without_a_look_at_the_runs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&DataFolder::at(&folder.path().join("data")).unwrap()).unwrap();
        assert!(store.is_readable().is_ok() && store.counts().is_ok());
        store.database().execute_batch("ALTER TABLE runs RENAME TO others").unwrap();
        assert!(store.is_readable().is_ok() && store.counts().is_err());
        store.database().execute_batch("DROP TABLE own").unwrap();
        assert!(store.is_readable().is_err());
    }
}
