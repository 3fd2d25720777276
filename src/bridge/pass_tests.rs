//! What a pass does with a spool where something is wrong, without a broker and without Slurm.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::super::operator;
use super::super::view::View;
use super::*;
use crate::config::Sources;
use crate::ledger::{Cancels, Cause, Lock, Outcome};
use contract::broker::BrokerError;
use contract::wire::conversation::Cancel;
use contract::wire::{Answer, Reply};
use domain::{CorrelationId, JobId, SlurmJobId};

/// A spool and its configuration.
struct Desk {
    _dir: tempfile::TempDir,
    config: Config,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.env");
        let (spool, logs) = (dir.path().join("spool"), dir.path().join("logs"));
        let text = format!(
            "RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST=rabbit.invalid\nRODAN_USER=u\n\
             RODAN_PASSWORD=p\nRODAN_HOST=rodan.invalid\nSPOOL_DIR={}\nLOG_DIR={}\n",
            spool.display(),
            logs.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let environment = std::collections::BTreeMap::new();
        let sources = Sources { env_file: Some(&path), environment, unreadable: Vec::new() };
        let config = Config::load(&sources, None).unwrap();
        Self { _dir: dir, config }
    }

    fn store(&self) -> Store {
        Store::open(&self.config.site.spool).unwrap()
    }

    fn pass<'a>(&'a self, tell: &'a mut dyn FnMut(JobNews)) -> Pass<'a> {
        let store = self.store();
        let lock = Lock::acquire(&store.lock_path(), Role::Check, Timestamp::now()).unwrap();
        let mut pass = Pass::new(&self.config, store, lock, tell).unwrap();
        let deadline = Duration::ZERO;
        pass.no_broker = Some(BrokerError::Silent { action: "connecting", deadline });
        pass
    }

    /// A job in the spool to which all this has happened.
    fn job(&self, name: &str, events: &[Event]) -> Record {
        let mut job = record(name, b"{}");
        for event in events {
            job.apply(event.clone(), Timestamp::now()).unwrap();
        }
        self.store().create(&job, b"{}").unwrap();
        job
    }

    /// A job as it lies on disk.
    fn seen(&self, job: &Record) -> Record {
        self.store().see(&job.job_id).unwrap().unwrap().record
    }
}

fn record(name: &str, body: &[u8]) -> Record {
    let id = CorrelationId(name.into());
    Record::new(JobId::from_correlation_id(&id), id, "queue".into(), body, Timestamp::now())
}

fn with_slurm() -> Vec<Event> {
    vec![Event::SubmitStarted, Event::Accepted(SlurmJobId(17))]
}

fn spooled() -> Vec<Event> {
    [with_slurm(), vec![Event::ReplySpooled(Outcome::Models)]].concat()
}

fn failed() -> Vec<Event> {
    vec![Event::Failed("It failed.".into())]
}

/// Puts a file at `path` that can't be read, also by root: opening a socket fails.
fn make_unreadable(path: &Path) {
    let _ = fs::remove_file(path);
    drop(UnixListener::bind(path).unwrap());
}

fn is_break<E: std::fmt::Debug>(flow: Result<ControlFlow<()>, E>) -> bool {
    flow.unwrap().is_break()
}

#[tokio::test]
async fn a_reply_that_can_not_be_read_now_is_not_replaced() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let mut job = desk.job("spooled", &spooled());
    make_unreadable(&desk.store().files(&job.job_id).reply());
    assert!(is_break(pass.deliver(&mut job).await));
    assert_eq!(job.state, State::ResultSpooled { outcome: Outcome::Models });
    assert!(desk.seen(&job).last_error.unwrap().contains("reply.json can't be read"));
    assert_eq!((job.cause, &job.verdict), (None, &None));

    let mut job = desk.job("failed", &failed());
    make_unreadable(&desk.store().files(&job.job_id).reply());
    assert!(is_break(pass.spool_error(&mut job)));
    assert!(matches!(desk.seen(&job).state, State::Failed { .. }));

    let mut job = desk.job("submitted", &with_slurm());
    make_unreadable(&desk.store().files(&job.job_id).reply());
    pass.view = View::new(&[&job], Vec::new());
    let before = job.clone();
    pass.settle(&mut job, &[Part::FollowUp]).await.unwrap();
    assert_eq!((&job, &desk.seen(&job)), (&before, &before), "nothing is decided");
    assert_eq!(pass.code(), ExitCode::Spool);
    for name in ["spooled", "failed", "submitted"] {
        let id = record(name, b"").job_id;
        assert!(desk.store().reply(&id).is_err(), "{name}: it is there still");
    }
}

#[test]
fn a_trainers_error_reply_is_sent_and_not_replaced() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let mut job = desk.job("a", &failed());
    let reply = Answer::Reply(Reply::error("The page is empty."));
    desk.store().write_reply(&job.job_id, &reply).unwrap();
    assert!(!is_break(pass.spool_error(&mut job)));
    assert_eq!(job.outcome, Some(Outcome::Error));
    assert_eq!(desk.store().reply(&job.job_id).unwrap(), Some(reply));
    let mut job = desk.job("b", &failed());
    assert!(!is_break(pass.spool_error(&mut job)));
    let reply = Answer::Reply(Reply::error("It failed."));
    assert_eq!(desk.store().reply(&job.job_id).unwrap(), Some(reply));
}

#[test]
fn a_pass_that_has_lost_its_lock_writes_nothing() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let (mut job, before) = (desk.job("a", &failed()), desk.job("b", &failed()));
    let on_disk = desk.seen(&job);
    fs::write(desk.store().lock_path().with_extension("holder"), "another's").unwrap();
    let is_lost = |result| matches!(result, Err(BridgeError::Lock(LockError::Lost)));
    assert!(is_lost(pass.waits(&mut job, ExitCode::Slurm, "Slurm is away")));
    assert!(is_lost(pass.spool_error(&mut job).map(drop)));
    assert!(is_lost(pass.apply(&mut job, Event::ReplySpooled(Outcome::Error))));
    assert!(is_lost(pass.file(&before)));
    assert_eq!(desk.seen(&job), on_disk);
    assert!(!desk.store().files(&job.job_id).reply().exists());
    assert!(!desk.store().see(&before.job_id).unwrap().unwrap().answered);
}

#[test]
fn a_message_that_comes_again_is_known_by_all_that_it_has() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let pass = desk.pass(&mut tell);
    let to = |job: &Record, queue: &str| Record { reply_to: queue.into(), ..job.clone() };
    let known = |fresh: &Record, redelivered| pass.known(fresh, redelivered).unwrap();
    let job = desk.job("named", &[]);
    assert!(known(&job, false).is_some());
    assert!(known(&to(&job, "another"), true).is_none(), "another asker waits there");
    assert!(known(&Record { body_sha256: "0".into(), ..job }, true).is_none());

    // Without a correlation id each take makes up another.
    let nameless = |name: &str| {
        let fresh = record(name, b"{}");
        Record { correlation_id_generated: true, unacknowledged: true, ..fresh }
    };
    let (first, again) = (nameless("first"), nameless("again"));
    desk.store().create(&first, b"{}").unwrap();
    assert!(known(&again, true).is_some_and(|seen| !seen.answered));
    desk.store().finish(&first.job_id).unwrap();
    assert!(known(&again, false).is_none(), "two such messages may be two jobs");
    assert!(known(&to(&again, "another"), true).is_none());
    let seen = known(&again, true).unwrap();
    assert_eq!((seen.answered, &seen.record), (true, &first), "it has its answer");
    desk.store().note_acknowledged(seen).unwrap();
    assert!(known(&again, true).is_none(), "the next one is another job");
}

#[test]
fn a_message_that_is_no_job_has_failed_from_its_first_record_on() {
    let desk = Desk::new();
    let mut told = Vec::new();
    let mut tell = |news: JobNews| told.push(news.what);
    let mut pass = desk.pass(&mut tell);
    let mut job = record("a", b"no job");
    // As if it were killed right after the record was written.
    let rejected = desk.config.site.spool.join("rejected");
    fs::remove_dir(&rejected).unwrap();
    fs::write(&rejected, "").unwrap();
    assert!(pass.write_down(&mut job, b"no job", &Cancels::default()).is_err());
    fs::remove_file(&rejected).unwrap();
    let seen = desk.seen(&job);
    assert!(
        matches!(&seen.state, State::Failed { sentence } if sentence.contains("can't be read"))
    );
    assert_eq!(seen.cause, Some(Cause::Message));
    assert!(matches!(seen.verdict, Some(Verdict::NoJob { .. })));
    let mut job = record("b", b"no job");
    pass.write_down(&mut job, b"no job", &Cancels::default()).unwrap();
    assert_eq!((pass.code(), &desk.seen(&job)), (ExitCode::Rejected, &job));
    drop(pass);
    assert_eq!(told, ["failed"]);
}

#[tokio::test]
async fn one_message_that_is_lost_fails_its_job_and_not_the_pass() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let mut job = desk.job("unreadable", &[]);
    make_unreadable(&desk.store().files(&job.job_id).message());
    assert!(is_break(pass.submit(&mut job).await));
    assert_eq!(job.state, State::Received);
    assert!(job.last_error.as_deref().unwrap().contains("message.json can't be read"));
    job.received_at -= jiff::SignedDuration::from_hours(7);
    assert!(!is_break(pass.submit(&mut job).await), "it is not waited for for ever");
    assert!(matches!(&job.state, State::Failed { sentence } if sentence.contains("send the job")));
    let mut job = desk.job("lost", &[]);
    fs::remove_file(desk.store().files(&job.job_id).message()).unwrap();
    assert!(!is_break(pass.submit(&mut job).await));
    assert!(matches!(job.state, State::Failed { .. }), "{job:?}");
}

#[tokio::test]
async fn requests_to_cancel_go_with_their_job_and_are_never_wiped() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let job = desk.job("a", &failed());
    let mut cancels = Cancels::default();
    for id in ["a", "b"] {
        let cancel = Cancel { correlation_id: id.into(), reply_to: "queue".into() };
        cancels.add(&cancel, Timestamp::now());
    }
    desk.store().save_cancels(&cancels).unwrap();
    pass.file(&job).unwrap();
    let left = desk.store().cancels().unwrap();
    assert!(!left.has("a", "queue") && left.has("b", "queue"));

    make_unreadable(&desk.config.site.spool.join("cancels.json"));
    pass.read_requests(&mut []).await.unwrap();
    assert_eq!(pass.code(), ExitCode::Spool);
    assert!(matches!(pass.take_one().await, Err(BridgeError::Store(_))), "it may be cancelled");
    assert!(desk.store().cancels().is_err(), "they are there still");
}

#[tokio::test]
async fn no_message_is_taken_once_the_pass_is_to_end() {
    let desk = Desk::new();
    let mut tell = |_| {};
    let mut pass = desk.pass(&mut tell);
    let stop = AtomicBool::new(true);
    assert!(matches!(pass.take_one().await, Err(BridgeError::Broker(_))));
    pass.stop = Some(&stop);
    assert!(pass.take_one().await.unwrap().is_none());
}

#[tokio::test]
async fn a_record_that_can_not_be_read_is_no_answered_job() {
    let desk = Desk::new();
    let job = desk.job("a", &[]);
    make_unreadable(&desk.store().files(&job.job_id).record());
    let retried = operator::retry(&desk.config, &job.job_id, &mut |_| {}).await.unwrap_err();
    let cancelled = operator::cancel(&desk.config, &job.job_id, &mut |_| {}).await.unwrap_err();
    for error in [retried, cancelled] {
        assert_eq!(error.exit_code(), ExitCode::Spool);
        assert!(error.to_string().starts_with("a: its record can't be read"), "{error}");
    }
}
