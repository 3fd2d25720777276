//! What a job's messages change in the store, once; and who may fetch its files.

use std::fs;

use base::secret::Secret;
use domain::hex_sha256;
use rusqlite::params;

use super::*;
use crate::order::Order;
use crate::store::{Account, DataFolder, FileKind, NewRun, Object, Role, RunFile};

struct Place {
    _folder: tempfile::TempDir,
    store: Store,
    account: Account,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&DataFolder::at(&folder.path().join("data")).unwrap()).unwrap();
    store.add_account("me", Role::Submitter, &Secret::new("token of mine")).unwrap();
    let account = store.account_of(&Secret::new("token of mine")).unwrap().unwrap();
    Place { _folder: folder, store, account }
}

impl Place {
    fn run(&self) -> i64 {
        let order = Order::default();
        let wanted = NewRun {
            account: &self.account,
            order: &order,
            image: None,
            key: None,
            most_waiting: 100,
        };
        self.store.place_run(wanted).unwrap()
    }

    fn sent(&self, key: &str) -> i64 {
        let run = self.run();
        let key_hash = hex_sha256(key.as_bytes());
        let id = format!("id of {key}");
        let job = NewJob { correlation_id: &id, key_hash: &key_hash, body: "{}" };
        assert!(self.store.begin_job(run, &job).unwrap());
        self.store.note_job_sent(run).unwrap();
        run
    }

    fn state(&self, run: i64) -> State {
        self.store.any_run(run).unwrap().unwrap().status.state
    }

    fn kinds(&self, run: i64) -> Vec<String> {
        let events = self.store.events(run, 0, 100).unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }
}

fn happens(happened: &[Transition]) -> Hearing {
    Hearing { happened: happened.to_vec(), ..Hearing::default() }
}

#[test]
fn a_message_counts_once_and_its_run_ends_once() {
    let place = place();
    let run = place.sent("k");
    let store = &place.store;
    assert_eq!((place.state(run), place.kinds(run).len()), (State::Queued, 2));
    let begins = Hearing {
        detail: Some("it runs".into()),
        events: vec![("layer", json!({"number": 1}))],
        ..happens(&[Transition::Turn, Transition::Began])
    };
    for again in [false, true] {
        let after = store.hear(run, "m-1", &begins).unwrap();
        assert_eq!(after.map(|status| status.state), (!again).then_some(State::Running));
        assert_eq!(place.kinds(run), ["state", "state", "layer", "state", "state"]);
    }
    assert!(store.has_heard(run, "m-1").unwrap() && !store.has_heard(run, "m-2").unwrap());
    let now = store.any_run(run).unwrap().unwrap();
    assert_eq!((now.attempts, now.away.unwrap().detail), (1, "it runs".to_owned()));
    let object = |text: &str| {
        let path = store.folder().incoming().join("file");
        fs::write(&path, text).unwrap();
        let object: Object = store.objects().keep(&path).unwrap();
        fs::remove_file(&path).unwrap();
        object
    };
    let model = |text: &str| {
        let (name, kind) = ("Model 0.hdf5".to_owned(), FileKind::Model);
        let results = vec![RunFile { name, kind, object: object(text) }];
        Hearing { change: Change { results, ..Change::default() }, ..Hearing::default() }
    };
    // A model is there before the end; one that was trained again replaces it.
    for text in ["first", "second"] {
        assert!(store.hear(run, text, &model(text)).unwrap().is_none());
        let results = store.any_run(run).unwrap().unwrap().results;
        assert_eq!(results.len(), 1);
        assert_eq!(results[0].object.sha256, hex_sha256(text.as_bytes()));
        assert!(store.object(&results[0].object.sha256).unwrap().is_some());
    }
    let ends = store.hear(run, "m-9", &happens(&[Transition::Trained])).unwrap();
    assert_eq!(ends.map(|status| status.state), Some(State::Succeeded));
    // Whatever comes now changes nothing.
    for (id, late) in [("m-9", &[Transition::Trained]), ("m-10", &[Transition::Broke])] {
        assert_eq!(store.hear(run, id, &happens(late)).unwrap(), None);
    }
    assert_eq!(place.state(run), State::Succeeded);
    // It is to be forgotten some time after its end.
    assert!(store.jobs(Timestamp::UNIX_EPOCH).unwrap().is_empty());
    let later = store.jobs(Timestamp::now() + jiff::SignedDuration::from_mins(1)).unwrap();
    assert_eq!((later.len(), later[0].step), (1, Step::Over));
    store.forget_job(run).unwrap();
    assert!(store.any_run(run).unwrap().unwrap().away.is_none());
    assert!(!store.has_heard(run, "m-1").unwrap());
}

#[test]
fn a_run_is_sent_once_and_is_nothing_for_this_machine() {
    let place = place();
    let store = &place.store;
    let (first, second, third) = (place.run(), place.run(), place.run());
    let job = NewJob { correlation_id: "c", key_hash: "h", body: "{}" };
    assert_eq!(store.next_to_be_sent().unwrap(), Some(first));
    assert!(store.begin_job(first, &job).unwrap());
    // Its message is there until it is sent.
    let jobs = store.jobs(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((jobs[0].step, jobs[0].body.as_deref()), (Step::Sending, Some("{}")));
    store.note_job_sent(first).unwrap();
    store.note_job_sent(first).unwrap();
    assert_eq!(place.kinds(first).len(), 2);
    let jobs = store.jobs(Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((jobs[0].step, jobs[0].body.as_deref()), (Step::Sent, None));
    // The others are this machine's, if it trains.
    assert_eq!(store.next_in_queue(true).unwrap(), Some(second));
    assert_eq!(store.next_in_queue(false).unwrap(), None);
    // A run that was not sent is cancelled at once; then it is not sent any more.
    let cancel = |run| store.happen(run, Transition::CancelAsked, &Change::default()).unwrap();
    assert_eq!(cancel(second).state, State::Cancelled);
    let other = NewJob { correlation_id: "d", key_hash: "i", body: "{}" };
    assert!(!store.begin_job(second, &other).unwrap());
    assert_eq!(store.next_to_be_sent().unwrap(), Some(third));
    // One that was sent waits for its cluster's word.
    assert_eq!(cancel(first).state, State::Queued);
    assert!(store.jobs(Timestamp::UNIX_EPOCH).unwrap()[0].to_be_cancelled);
    store.note_cancel_sent(first).unwrap();
    assert!(!store.jobs(Timestamp::UNIX_EPOCH).unwrap()[0].to_be_cancelled);
    store.hear(first, "end", &happens(&[Transition::Broke])).unwrap();
    assert_eq!(place.state(first), State::Cancelled);
    // What can't be sent says why.
    store.refuse(third, "it has no settings").unwrap();
    let refused = store.any_run(third).unwrap().unwrap();
    assert_eq!(refused.error.as_deref(), Some("It has no settings."));
}

#[test]
fn places_are_the_clusters_where_it_tells_them() {
    let place = place();
    let (first, second) = (place.sent("a"), place.sent("b"));
    let position = |run| place.store.any_run(run).unwrap().unwrap();
    assert_eq!(position(second).queue_position, Some(1));
    assert_eq!(position(second).place(), None);
    let told = Hearing { detail: Some("it waits".into()), before: Some(7), ..Hearing::default() };
    place.store.hear(second, "m", &told).unwrap();
    assert_eq!((position(second).queue_position, position(second).place()), (Some(7), Some(7)));
    assert_eq!(position(first).queue_position, Some(0));
}

#[test]
fn token_and_word_open_a_runs_files_until_it_is_over() {
    let place = place();
    let store = &place.store;
    let secret = |text: &str| Secret::new(text);
    store.add_account("cluster", Role::Bridge, &secret("password")).unwrap();
    let admit = |name: &str, password: &str, token: &str| {
        store.admit_bridge(name, &secret(password), &secret(token)).unwrap()
    };
    assert!(!admit("cluster", "other", "t") && !admit("me", "token of mine", "t"));
    assert!(admit("cluster", "password", "t-1"));
    let first = place.sent("one");
    let second = place.sent("two");
    let opens = |key: &str, token: &str| store.run_of_upload(key, &secret(token)).unwrap();
    assert_eq!((opens("one", "t-1"), opens("two", "t-1")), (Some(first), Some(second)));
    for (key, token) in [("one", "t"), ("one", "password"), ("three", "t-1"), ("", "")] {
        assert_eq!(opens(key, token), None, "{key} {token}");
    }
    // A token of long ago opens nothing that was sent later.
    let backdate = |hours: i64| {
        let sql = "UPDATE upload_tokens SET issued_at = '2000', good_until = ?";
        let until = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        store.database().execute(sql, params![format!("{until:.3}")]).unwrap();
    };
    backdate(-1);
    assert_eq!(opens("one", "t-1"), None);
    backdate(1);
    assert_eq!(opens("one", "t-1"), Some(first));
    store.hear(first, "end", &happens(&[Transition::Broke])).unwrap();
    assert_eq!((opens("one", "t-1"), opens("two", "t-1")), (None, Some(second)));
    // With the last of its jobs a token goes, at the next log-in; a new one stays.
    let tokens = || {
        let sql = "SELECT count(*) FROM upload_tokens";
        store.database().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert!(admit("cluster", "password", "t-2"));
    assert_eq!(tokens(), 2);
    store.hear(second, "end", &happens(&[Transition::Broke])).unwrap();
    assert!(admit("cluster", "password", "t-3"));
    assert_eq!(tokens(), 2, "t-2 and t-3");
    store.remove_account("cluster").unwrap();
    assert_eq!(tokens(), 0);
    assert!(store.account_of(&secret("password")).unwrap().is_none());
}
