//! The tables, and how a file of an earlier version becomes one of this.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// What leads from each version to the next; `user_version` says how many are done.
const STEPS: &[&str] = &[
    "
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    token_hash TEXT UNIQUE,
    created_at TEXT NOT NULL
);
CREATE TABLE objects (
    sha256 TEXT PRIMARY KEY,
    size INTEGER NOT NULL
);
CREATE TABLE pages (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    thumbnail TEXT NOT NULL REFERENCES objects,
    created_at TEXT NOT NULL
);
CREATE TABLE page_accounts (
    page TEXT NOT NULL REFERENCES pages (id) ON DELETE CASCADE,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    PRIMARY KEY (page, account)
);
CREATE TABLE page_files (
    page TEXT NOT NULL REFERENCES pages (id) ON DELETE CASCADE,
    part TEXT NOT NULL,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES objects,
    pixels INTEGER,
    PRIMARY KEY (page, part)
);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL,
    account_name TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    settings TEXT NOT NULL,
    labels TEXT NOT NULL,
    models_from INTEGER,
    run_group INTEGER REFERENCES groups,
    image TEXT REFERENCES objects,
    image_file TEXT,
    made_page TEXT REFERENCES pages (id) ON DELETE SET NULL,
    progress TEXT NOT NULL,
    figures TEXT,
    error TEXT,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT
);
CREATE INDEX runs_by_state ON runs (state, id);
CREATE INDEX runs_by_group ON runs (run_group, id);
CREATE TABLE run_pages (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    position INTEGER NOT NULL,
    page TEXT NOT NULL REFERENCES pages (id),
    PRIMARY KEY (run, position)
);
CREATE TABLE results (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES objects,
    PRIMARY KEY (run, name)
);
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    kind TEXT NOT NULL,
    at TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX events_by_run ON events (run, id);
CREATE TABLE requests (
    account INTEGER NOT NULL,
    key TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    PRIMARY KEY (account, key)
);
",
    "
CREATE TABLE jobs (
    run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    correlation_id TEXT NOT NULL UNIQUE,
    key_hash TEXT NOT NULL UNIQUE,
    step TEXT NOT NULL,
    body TEXT,
    cancel_sent INTEGER NOT NULL DEFAULT 0,
    detail TEXT NOT NULL DEFAULT '',
    before INTEGER,
    created_at TEXT NOT NULL
);
CREATE TABLE heard (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE,
    message_id TEXT NOT NULL,
    PRIMARY KEY (run, message_id)
) WITHOUT ROWID;
CREATE TABLE upload_tokens (
    token_hash TEXT PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    issued_at TEXT NOT NULL,
    good_until TEXT NOT NULL
);
",
    "
CREATE TABLE tracked (
    run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    word TEXT NOT NULL UNIQUE,
    id TEXT,
    experiment TEXT,
    artifacts TEXT,
    event INTEGER NOT NULL DEFAULT 0,
    ended TEXT
);
CREATE INDEX tracked_now ON tracked (run) WHERE ended IS NULL;
",
    "
CREATE TABLE own (
    id TEXT NOT NULL
);
INSERT INTO own VALUES (lower(hex(randomblob(16))));
",
    // Progress has the words of domain::Standing.
    "
UPDATE runs SET progress = json_object(
    'layer', progress ->> 'model',
    'layer_number', progress ->> 'layer',
    'layers', progress ->> 'layers',
    'epoch', progress ->> 'epoch',
    'epochs', progress ->> 'epochs',
    'step', progress ->> 'step',
    'steps', progress ->> 'steps',
    'loss', progress ->> 'loss',
    'device', progress ->> 'device',
    'predicting', json(progress -> 'predicting')
);
",
    // An account has a page by its own name, since it uploaded it last.
    "
ALTER TABLE page_accounts ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE page_accounts ADD COLUMN added_at TEXT NOT NULL DEFAULT '';
UPDATE page_accounts SET
    name = (SELECT pages.name FROM pages WHERE pages.id = page_accounts.page),
    added_at = (SELECT pages.created_at FROM pages WHERE pages.id = page_accounts.page);
",
    // What a purge and the removal of a row look for.
    "
CREATE INDEX page_accounts_by_account ON page_accounts (account);
CREATE INDEX page_files_by_object ON page_files (sha256);
CREATE INDEX pages_by_thumbnail ON pages (thumbnail);
CREATE INDEX requests_by_run ON requests (run);
CREATE INDEX results_by_object ON results (sha256);
CREATE INDEX run_pages_by_page ON run_pages (page);
CREATE INDEX runs_by_image ON runs (image);
CREATE INDEX runs_by_made_page ON runs (made_page);
CREATE INDEX runs_by_models_from ON runs (models_from);
CREATE INDEX upload_tokens_by_account ON upload_tokens (account);
",
];

/// Brings the file up to this version: all of it, or nothing.
pub(super) fn migrate(database: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate_by(database, path, STEPS)
}

fn migrate_by(database: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StoreError> {
    // Of two programs that open a new file, the second waits and finds it done.
    let change = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > steps.len() {
        return Err(StoreError::Later { path: path.to_owned(), found, known: steps.len() });
    }
    for step in &steps[found..] {
        change.execute_batch(step)?;
    }
    if found < steps.len() {
        change.pragma_update(None, "user_version", steps.len())?;
    }
    base::crash::point("before bringing the store up to date");
    change.commit()?;
    base::crash::point("after bringing the store up to date");
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Row;

    use super::*;

    #[test]
    fn a_file_is_brought_up_step_by_step_and_never_down() {
        let path = Path::new("file");
        let mut database = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y", "CREATE TABLE b (z)"];
        migrate_by(&mut database, path, &steps[..1]).unwrap();
        database.execute("INSERT INTO a VALUES (7)", []).unwrap();
        migrate_by(&mut database, path, &steps).unwrap();
        migrate_by(&mut database, path, &steps).unwrap();
        let kept: (i64, Option<i64>) = database
            .query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(kept, (7, None));
        let error = migrate_by(&mut database, path, &steps[..2]).unwrap_err().to_string();
        assert!(error.contains("later version (its version is 3"), "{error}");
    }

    #[test]
    fn the_progress_of_an_earlier_version_is_kept() {
        let path = Path::new("file");
        let mut database = Connection::open_in_memory().unwrap();
        migrate_by(&mut database, path, &STEPS[..4]).unwrap();
        for (state, progress) in [
            (
                "succeeded",
                r#"{"device":"CPU","model":"Model 0","layer":2,"layers":4,"epoch":3,"epochs":15,
                    "step":5,"steps":9,"loss":0.1,"predicting":true}"#,
            ),
            (
                "queued",
                r#"{"device":null,"model":"","layer":0,"layers":0,"epoch":0,"epochs":0,
                    "step":0,"steps":0,"loss":null,"predicting":false}"#,
            ),
        ] {
            database
                .execute(
                    "INSERT INTO runs (account, account_name, name, state, settings, labels,
                        progress, created_at) VALUES (1, 'a', '', ?, '{}', '{}', ?, '')",
                    [state, progress],
                )
                .unwrap();
        }
        migrate(&mut database, path).unwrap();
        let mut rows = database.prepare("SELECT progress FROM runs ORDER BY id").unwrap();
        let texts = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let found: Vec<domain::Standing> =
            texts.map(|text| serde_json::from_str(&text.unwrap()).unwrap()).collect();
        let expected = domain::Standing {
            layer: "Model 0".into(),
            layer_number: 2,
            layers: 4,
            epoch: 3,
            epochs: 15,
            step: 5,
            steps: 9,
            loss: Some(0.1),
            device: Some("CPU".into()),
            predicting: true,
            ..domain::Standing::default()
        };
        assert_eq!(found, [expected, domain::Standing::default()]);
    }

    #[test]
    fn the_pages_of_an_earlier_version_keep_their_names_and_their_age() {
        let path = Path::new("file");
        let mut database = Connection::open_in_memory().unwrap();
        migrate_by(&mut database, path, &STEPS[..5]).unwrap();
        database
            .execute_batch(
                "INSERT INTO accounts (name, role, created_at) VALUES ('me', 'admin', '');
                 INSERT INTO objects VALUES ('o', 1);
                 INSERT INTO pages (id, name, width, height, thumbnail, created_at)
                     VALUES ('p', 'Folio 1', 1, 1, 'o', '2026'), ('q', '', 1, 1, 'o', '2027');
                 INSERT INTO page_accounts VALUES ('p', 1), ('q', 1);",
            )
            .unwrap();
        migrate(&mut database, path).unwrap();
        let sql = "SELECT page, name, added_at FROM page_accounts ORDER BY page";
        let mut rows = database.prepare(sql).unwrap();
        let row = |row: &Row<'_>| {
            let column = |index: usize| row.get::<_, String>(index);
            Ok([column(0)?, column(1)?, column(2)?])
        };
        let found: Vec<_> = rows.query_map([], row).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, [["p", "Folio 1", "2026"], ["q", "", "2027"]]);
    }

    #[test]
    fn no_table_is_read_to_its_end_for_a_row_that_is_referred_to() {
        let mut database = Connection::open_in_memory().unwrap();
        migrate(&mut database, Path::new("file")).unwrap();
        let sql = "SELECT tables.name, keys.\"from\" FROM sqlite_master AS tables
            JOIN pragma_foreign_key_list(tables.name) AS keys WHERE tables.type = 'table'";
        let mut rows = database.prepare(sql).unwrap();
        let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found = rows.query_map([], pair).unwrap().map(Result::unwrap);
        let mut found: Vec<(String, String)> = found.collect();
        assert!(found.len() > 15, "{found:?}");
        found.push(("runs".to_owned(), "models_from".to_owned()));
        for (table, column) in found {
            let sql = format!("EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {column} = ?");
            let plan: String = database.query_row(&sql, ["x"], |row| row.get("detail")).unwrap();
            assert!(plan.starts_with("SEARCH"), "{table}.{column}: {plan}");
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_file_as_it_was() {
        let path = Path::new("file");
        let mut database = Connection::open_in_memory().unwrap();
        let broken = ["CREATE TABLE a (x)", "CREATE TABLE b (y); CREATE TABLE a (x)"];
        assert!(migrate_by(&mut database, path, &broken).is_err());
        let tables: i64 = database
            .query_row("SELECT count(*) FROM sqlite_master WHERE type = 'table'", [], |r| r.get(0))
            .unwrap();
        assert_eq!(tables, 0);
        migrate(&mut database, path).unwrap();
    }
}
