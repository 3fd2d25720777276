//! Tests of the spool.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ledger::record::Event;
use contract::wire::{Answer, Reply};
use domain::CorrelationId;

fn record(id: &str) -> Record {
    let id = CorrelationId(id.into());
    Record::new(JobId::from_correlation_id(&id), id, "queue".into(), b"body", Timestamp::now())
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("spool")).unwrap();
    (dir, store)
}

#[test]
fn a_job_is_kept_until_it_is_done_and_known_afterwards() {
    let (_dir, store) = store();
    let mut job = record("a");
    store.create(&job, b"body").unwrap();
    job.apply(Event::SubmitStarted, Timestamp::now()).unwrap();
    store.save(&job).unwrap();
    assert_eq!(store.open_jobs().unwrap(), [job.clone()]);
    assert_eq!(store.message(&job.job_id).unwrap().unwrap(), b"body");
    fs::write(store.files(&job.job_id).job_file(), "token").unwrap();
    store.write_reply(&job.job_id, &Answer::Reply(Reply::error("x"))).unwrap();
    assert!(
        !store.files(&job.job_id).job_file().exists(),
        "the token goes when the reply is spooled"
    );
    assert_eq!(store.reply(&job.job_id).unwrap(), Some(Answer::Reply(Reply::error("x"))));
    store.finish(&job.job_id).unwrap();
    assert!(store.open_jobs().unwrap().is_empty());
    let seen = store.see(&job.job_id).unwrap().unwrap();
    assert_eq!((seen.answered, seen.record), (true, job));
}

/// A file at `path` that is there and can't be read, also by root: opening a socket fails.
fn unreadable(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
}

#[test]
fn what_can_not_be_read_is_not_taken_for_what_is_not_there() {
    let (_dir, store) = store();
    let id = record("a").job_id;
    store.create(&record("a"), b"body").unwrap();
    assert_eq!(store.reply(&id).unwrap(), None);
    fs::write(store.files(&id).reply(), "{\"error\": \"to").unwrap();
    assert_eq!(store.reply(&id).unwrap(), None, "a torn one is none");
    assert!(store.cancels().unwrap().is_empty());
    assert!(store.open_job(&id).unwrap().is_ok());
    let files = store.files(&id);
    for path in [files.reply(), files.message(), files.record()] {
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(store.message(&id).unwrap(), None);
    assert_eq!(store.open_job(&id).unwrap(), Err(None));
    let paths = [files.reply(), files.message(), files.record(), store.cancels_path()];
    paths.iter().for_each(|path| unreadable(path));
    assert!(store.reply(&id).unwrap_err().to_string().contains("reply.json can't be read"));
    assert!(store.message(&id).is_err() && store.cancels().is_err());
    assert!(matches!(store.open_job(&id), Err(Unreadable::Fault(_))));
}

#[test]
fn a_spool_that_others_could_enter_is_closed_and_one_behind_a_link_is_not_used() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("spool");
    fs::create_dir_all(root.join("jobs")).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
    Store::open(&root).unwrap();
    for path in [root.clone(), root.join("jobs")] {
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700,
            "{}",
            path.display()
        );
    }
    // The whole spool may be behind a link, but not its parts.
    let link = dir.path().join("link");
    symlink(&root, &link).unwrap();
    Store::open(&link).unwrap();
    fs::rename(root.join("done"), dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), root.join("done")).unwrap();
    let error = Store::open(&root).unwrap_err().to_string();
    assert!(error.contains("done can't be used"), "{error}");
}

#[test]
fn a_job_behind_a_link_is_set_aside_and_not_read() {
    use std::os::unix::fs::symlink;
    let (dir, store) = store();
    for id in ["directory", "record"] {
        store.create(&record(id), b"body").unwrap();
    }
    let files = |id: &str| store.files(&record(id).job_id);
    let (elsewhere, record_elsewhere) =
        (dir.path().join("elsewhere"), dir.path().join("record.json"));
    fs::rename(files("directory").directory(), &elsewhere).unwrap();
    fs::write(elsewhere.join("job.json"), "not ours").unwrap();
    symlink(&elsewhere, files("directory").directory()).unwrap();
    fs::rename(files("record").record(), &record_elsewhere).unwrap();
    symlink(&record_elsewhere, files("record").record()).unwrap();
    for id in ["directory", "record"] {
        assert!(matches!(store.see(&record(id).job_id), Err(Unreadable::Foreign(_))));
    }
    assert!(store.open_jobs().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.rejected()).unwrap().count(), 2);
    assert!(
        ["record.json", "job.json"].iter().all(|name| elsewhere.join(name).exists())
            && record_elsewhere.exists(),
        "left as they were"
    );
}

#[test]
fn nobody_else_can_read_the_spool() {
    let (_dir, store) = store();
    let job = record("a");
    store.create(&job, b"body").unwrap();
    let files = store.files(&job.job_id);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(files.directory()), 0o700);
    assert_eq!((mode(&files.message()), mode(&files.record())), (0o600, 0o600));
}

#[test]
fn torn_and_foreign_files_are_set_aside_and_stop_nothing() {
    let (_dir, store) = store();
    store.create(&record("good"), b"body").unwrap();
    for (name, text) in [("torn", "{\"version\": 1, \"job_id\": \"to"), ("other", "{}")] {
        fs::create_dir(store.jobs().join(name)).unwrap();
        fs::write(store.jobs().join(name).join("record.json"), text).unwrap();
    }
    fs::write(store.jobs().join("a file"), "").unwrap();
    fs::create_dir(store.jobs().join("unfinished")).unwrap();
    fs::write(store.jobs().join("unfinished/message.json"), "{}").unwrap();
    fs::write(store.jobs().join("unfinished/.new-x"), "{").unwrap();
    fs::create_dir(store.jobs().join("no-record")).unwrap();
    fs::write(store.jobs().join("no-record/reply.json"), "{}").unwrap();
    fs::write(store.jobs().join("no-record/job.json"), "token").unwrap();
    let version = format!("\"version\":{RECORD_VERSION}");
    let newer =
        serde_json::to_string(&record("newer")).unwrap().replace(&version, "\"version\":99");
    fs::create_dir(store.jobs().join("newer")).unwrap();
    fs::write(store.jobs().join("newer/record.json"), newer).unwrap();
    let open = store.open_jobs().unwrap();
    assert_eq!(open.iter().map(|r| r.job_id.as_str()).collect::<Vec<_>>(), ["good"]);
    let aside: Vec<_> =
        fs::read_dir(store.rejected()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(aside.len(), 4);
    assert!(aside.iter().all(|path| !path.join("job.json").exists()), "no token is kept");
    assert!(aside.iter().any(|path| path.join("reply.json").exists()));
    assert!(store.jobs().join("newer").exists());
    assert!(!store.jobs().join("unfinished").exists(), "its message comes again");
}

#[test]
fn what_is_wrong_with_a_record_is_told_without_acting_on_a_terminal() {
    let id = record("a").job_id;
    let text = serde_json::to_string(&record("a")).unwrap();
    let odd = [
        text.replace("\"received\"", &format!("\"\\u001b[2J{}\"", "x".repeat(10_000))),
        text.replace("\"job_id\":\"a\"", "\"job_id\":\"\\u001b[2J\""),
    ];
    for text in odd {
        let Err(Unreadable::Foreign(told)) = parse(text.as_bytes(), &id) else { panic!("{text}") };
        assert!(!told.contains('\u{1b}') && told.contains("[2J") && told.len() < 300, "{told:?}");
    }
}

#[test]
fn what_a_killed_run_left_half_made_is_swept_away() {
    let (_dir, store) = store();
    let job = record("a");
    store.create(&job, b"body").unwrap();
    let files = store.files(&job.job_id);
    let left = [
        store.jobs().join(".probe-1"),
        store.root.join(".new-1"),
        files.directory().join(".new-2"),
    ];
    for path in &left {
        fs::write(path, "").unwrap();
    }
    store.sweep();
    assert!(!left[0].exists() && !left[1].exists());
    assert!(left[2].exists(), "the trainer may be at work there");
    store.finish(&job.job_id).unwrap();
    assert!(!store.done().join("a/.new-2").exists());
}

#[test]
fn of_rejected_messages_the_latest_thousand_are_kept_with_their_first_mib() {
    let (_dir, store) = store();
    let id = record("a").job_id;
    let old = |n: u32| {
        store.rejected().join(format!("{}-x.message", 1_600_000_000_000_u64 + u64::from(n)))
    };
    (0..1000).for_each(|n| fs::write(old(n), "x").unwrap());
    let other = store.rejected().join("1500000000000-a-job");
    fs::write(&other, "set aside, and no message").unwrap();
    let kept = store.keep_rejected(&id, &vec![b'x'; MOST_KEPT_BYTES + 1]).unwrap();
    assert_eq!(fs::metadata(&kept).unwrap().len(), 1 << 20);
    assert!(!old(0).exists() && old(1).exists() && other.exists(), "the oldest has gone");
    assert_eq!(fs::read_dir(store.rejected()).unwrap().count(), 1001);
    store.create(&record("b"), &vec![b'x'; MOST_KEPT_BYTES + 1]).unwrap();
    assert_eq!(store.message(&record("b").job_id).unwrap().unwrap().len(), MOST_KEPT_BYTES);
}

#[test]
fn the_breaker_is_remembered_and_forgotten() {
    let (_dir, store) = store();
    assert_eq!(store.breaker(), Breaker::default());
    let mut breaker = Breaker::default();
    breaker.failed("away", Timestamp::now());
    store.save_breaker(&breaker).unwrap();
    assert_eq!(store.breaker(), breaker);
    fs::write(store.breaker_path(), "torn").unwrap();
    assert_eq!(store.breaker(), Breaker::default());
    store.save_breaker(&Breaker::default()).unwrap();
    assert!(!store.breaker_path().exists());
}

#[test]
fn an_unwritable_spool_is_an_error_that_says_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("spool")).unwrap_err().to_string();
    assert!(error.contains("SPOOL_DIR must be a directory"), "{error}");
}
