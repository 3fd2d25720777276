//! What is decided about a job, case by case.

use super::*;
use crate::ledger::{Event, TooSmall};
use contract::wire::conversation::{Asked, Origin};
use domain::{CorrelationId, JobId};

#[path = "decide_memory_tests.rs"]
mod memory;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn ago(time: Duration) -> Timestamp {
    now() - time
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rules() -> Rules {
    Rules {
        grace: seconds(300),
        max_pending: 72 * HOUR,
        give_up: 24 * HOUR,
        requeue: true,
        most_memory_mb: None,
        watcher: false,
        insists: false,
    }
}

const ID: SlurmJobId = SlurmJobId(17);

fn asked() -> ResourceSettings {
    let walltime = "0-06:00".parse().unwrap();
    ResourceSettings { cpus: 6, memory_mb: 2000, walltime, email: None, instances: 1 }
}

/// A job that was taken an hour ago, and to which all this has happened since then.
fn job(events: &[Event]) -> Record {
    let id = CorrelationId("a".into());
    let taken = ago(HOUR);
    let mut job = Record::new(JobId::from_correlation_id(&id), id, "queue".into(), b"{}", taken);
    job.resources = Some(asked());
    for event in events {
        job.apply(event.clone(), taken).unwrap();
    }
    job
}

fn received() -> Record {
    job(&[])
}

fn submitting() -> Record {
    job(&[Event::SubmitStarted])
}

fn submitted() -> Record {
    job(&[Event::SubmitStarted, Event::Accepted(ID)])
}

fn running() -> Record {
    job(&[Event::SubmitStarted, Event::Accepted(ID), Event::Started])
}

fn failed() -> Record {
    job(&[Event::Failed("It failed.".into())])
}

fn spooled(outcome: Outcome) -> Record {
    job(&[Event::SubmitStarted, Event::Accepted(ID), Event::ReplySpooled(outcome)])
}

fn replied() -> Record {
    job(&[Event::ReplySpooled(Outcome::Error), Event::Delivered])
}

/// What Slurm says of the job: a state, and perhaps after a slash a reason.
fn info(words: &str) -> JobInfo {
    let (state, reason) = words.split_once('/').unwrap_or((words, ""));
    JobInfo {
        id: ID,
        name: "hpct-a".into(),
        state: JobState::parse(state),
        reason: reason.into(),
        elapsed: if state == "PENDING" { "0:00".into() } else { "1:00:12".into() },
        used_mb: None,
        exit_code: None,
    }
}

/// What is decided where Slurm says `words` of a job; "silent" and "unknown" are what they say.
fn decided(job: &Record, words: &str, found: &Found, rules: &Rules) -> Decision {
    let known = info(words);
    let slurm = match words {
        "silent" => Slurm::Silent,
        "unknown" => Slurm::Unknown,
        _ => Slurm::Has(&known),
    };
    decide(job, slurm, found, now(), rules)
}

fn nothing() -> Found {
    Found::default()
}

fn a_reply(outcome: Outcome) -> Found {
    Found { reply: Some(outcome), ..nothing() }
}

fn with<T>(mut value: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut value);
    value
}

/// Missing for so long.
fn missing(job: Record, time: Duration) -> Record {
    with(job, |job| job.missing_since = Some(ago(time)))
}

/// To be cancelled by the operator.
fn told(job: Record) -> Record {
    with(job, |job| job.verdict = Some(Verdict::Cancelled))
}

fn ran() -> Option<String> {
    Some("1:00:12".to_owned())
}

fn no_result(state: &str, exit_code: Option<&str>) -> Decision {
    let exit_code = exit_code.map(str::to_owned);
    Decision::Fail(Verdict::NoResult { ran: ran(), state: state.into(), exit_code })
}

fn not_started_for(reason: &str, waited_hours: Option<u64>) -> Verdict {
    Verdict::NotStarted { reason: reason.into(), waited_hours }
}

#[test]
fn a_job_that_slurm_has_not_got_yet() {
    use Decision::{AnsweredByTrainer, Fail, Found as FoundIt, Rest, Submit};
    let limited = |job: Record| with(job, |job| job.limited = true);
    let aged = |job: Record, age| with(job, |job| job.received_at = ago(age));
    let insists = with(rules(), |rules| rules.insists = true);
    let started = || Found { started: Some(SlurmJobId(18)), ..nothing() };
    let delivered = || Found { delivered: true, ..a_reply(Outcome::Models) };
    let no_room =
        with(limited(aged(submitting(), 72 * HOUR)), |job| job.last_error = Some("full".into()));
    for (n, (job, slurm, found, rules, decision)) in [
        (received(), "silent", nothing(), rules(), Submit),
        (received(), "unknown", nothing(), rules(), Submit),
        (aged(received(), 100 * HOUR), "silent", nothing(), rules(), Submit),
        (told(received()), "silent", nothing(), rules(), Fail(Verdict::Cancelled)),
        (
            received(),
            "silent",
            delivered(),
            rules(),
            AnsweredByTrainer { outcome: Outcome::Models },
        ),
        // It may exist: only where Slurm says that it does not is it submitted again.
        (submitting(), "silent", nothing(), rules(), Rest),
        (aged(submitting(), 100 * HOUR), "silent", nothing(), rules(), Rest),
        (told(submitting()), "silent", nothing(), rules(), Rest),
        (submitting(), "unknown", nothing(), rules(), Submit),
        (submitting(), "PENDING", nothing(), rules(), FoundIt(ID)),
        (submitting(), "RUNNING", nothing(), rules(), FoundIt(ID)),
        (submitting(), "COMPLETED", nothing(), rules(), FoundIt(ID)),
        (submitting(), "NEW_STATE", nothing(), rules(), FoundIt(ID)),
        (submitting(), "unknown", started(), rules(), FoundIt(SlurmJobId(18))),
        (told(submitting()), "PENDING", nothing(), rules(), FoundIt(ID)),
        (told(submitting()), "unknown", nothing(), rules(), Fail(Verdict::Cancelled)),
        (
            submitting(),
            "silent",
            delivered(),
            rules(),
            AnsweredByTrainer { outcome: Outcome::Models },
        ),
        // Patience with Slurm.
        (aged(submitting(), 24 * HOUR - seconds(1)), "unknown", nothing(), rules(), Submit),
        (aged(submitting(), 24 * HOUR), "unknown", nothing(), rules(), Fail(Verdict::NotTaken)),
        (aged(submitting(), 24 * HOUR), "unknown", nothing(), insists, Submit),
        (
            with(submitting(), |job| job.received_at = now() + HOUR),
            "unknown",
            nothing(),
            rules(),
            Submit,
        ),
        // At a limit of jobs Slurm is well.
        (limited(aged(submitting(), 71 * HOUR)), "unknown", nothing(), rules(), Submit),
        (no_room.clone(), "unknown", nothing(), rules(), Fail(not_started_for("full", Some(72)))),
        (no_room, "unknown", nothing(), insists, Submit),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(decided(&job, slurm, &found, &rules), decision, "case {n}: {slurm} {job:?}");
    }
}

#[test]
fn a_job_that_waits_or_runs() {
    use Decision::{AnsweredByTrainer, Back, Cancel, Requeued, Rest, Started, Watch};
    let waiting = |time| with(submitted(), |job| job.changed_at = ago(time));
    let doomed = |job: Record| with(job, |job| job.verdict = Some(not_started_for("Odd", None)));
    let watched = with(rules(), |rules| rules.watcher = true);
    let has_one = with(running(), |job| job.watcher = Some(SlurmJobId(18)));
    let cancel = |reason: &str, hours| Cancel(ID, not_started_for(reason, hours));
    let delivered = |outcome| Found { delivered: true, ..a_reply(outcome) };
    let cases = [
        (submitted(), "silent", nothing(), rules(), Rest),
        (running(), "silent", nothing(), rules(), Rest),
        (submitted(), "PENDING/Resources", nothing(), rules(), Rest),
        (submitted(), "EXPEDITING", nothing(), rules(), Rest),
        (submitted(), "RUNNING", nothing(), rules(), Started),
        (submitted(), "CONFIGURING", nothing(), rules(), Started),
        (submitted(), "COMPLETING", nothing(), rules(), Rest),
        (running(), "RUNNING", nothing(), rules(), Rest),
        (running(), "SUSPENDED", nothing(), rules(), Rest),
        (running(), "PENDING/BeginTime", nothing(), rules(), Requeued),
        (running(), "REQUEUED", nothing(), rules(), Requeued),
        (missing(running(), seconds(900)), "RUNNING", nothing(), rules(), Back),
        (missing(submitted(), seconds(900)), "PENDING", nothing(), rules(), Back),
        (running(), "NEW_STATE", nothing(), rules(), Rest),
        (missing(running(), seconds(900)), "NEW_STATE", nothing(), rules(), Rest),
        // The trainer that is alive delivers its reply itself, and says so.
        (running(), "RUNNING", a_reply(Outcome::Models), rules(), Rest),
        (
            running(),
            "RUNNING",
            delivered(Outcome::Error),
            rules(),
            AnsweredByTrainer { outcome: Outcome::Error },
        ),
        (
            running(),
            "silent",
            delivered(Outcome::Models),
            rules(),
            AnsweredByTrainer { outcome: Outcome::Models },
        ),
        // It can't start: after the grace time where its reason can't pass, else after days.
        (waiting(seconds(299)), "PENDING/PartitionTimeLimit", nothing(), rules(), Rest),
        (
            waiting(seconds(300)),
            "PENDING/PartitionTimeLimit",
            nothing(),
            rules(),
            cancel("PartitionTimeLimit", None),
        ),
        (
            waiting(seconds(300)),
            "PENDING/QOSMaxMemoryPerJob",
            nothing(),
            rules(),
            cancel("QOSMaxMemoryPerJob", None),
        ),
        (waiting(71 * HOUR), "PENDING/Resources", nothing(), rules(), Rest),
        (
            waiting(72 * HOUR),
            "PENDING/Resources",
            nothing(),
            rules(),
            cancel("Resources", Some(72)),
        ),
        (waiting(72 * HOUR), "RUNNING", nothing(), rules(), Started),
        // scancel has failed before: the verdict stays as it was.
        (doomed(submitted()), "PENDING/Resources", nothing(), rules(), cancel("Odd", None)),
        (doomed(submitted()), "RUNNING", nothing(), rules(), Started),
        (doomed(submitted()), "COMPLETING", nothing(), rules(), Rest),
        // By the operator.
        (told(submitted()), "PENDING", nothing(), rules(), Cancel(ID, Verdict::Cancelled)),
        (told(running()), "RUNNING", nothing(), rules(), Cancel(ID, Verdict::Cancelled)),
        (told(running()), "COMPLETING", nothing(), rules(), Rest),
        (told(running()), "silent", nothing(), rules(), Rest),
        // A watcher, where it has none.
        (submitted(), "PENDING", nothing(), watched, Watch(ID)),
        (running(), "RUNNING", nothing(), watched, Watch(ID)),
        (has_one, "RUNNING", nothing(), watched, Rest),
        (running(), "COMPLETING", nothing(), watched, Rest),
        (running(), "silent", nothing(), watched, Rest),
        (submitted(), "RUNNING", nothing(), watched, Started),
        (told(running()), "RUNNING", nothing(), watched, Cancel(ID, Verdict::Cancelled)),
    ];
    for (n, (job, slurm, found, rules, decision)) in cases.into_iter().enumerate() {
        assert_eq!(decided(&job, slurm, &found, &rules), decision, "case {n}: {slurm} {job:?}");
    }
}

#[test]
fn a_job_that_is_over() {
    use Decision::{AnsweredByTrainer, Collect, Fail, Missing, Rest};
    let no_requeue = with(rules(), |rules| rules.requeue = false);
    let hasty = with(rules(), |rules| rules.grace = Duration::ZERO);
    let models = || a_reply(Outcome::Models);
    let an_error = || a_reply(Outcome::Error);
    let collects = |found: Found| found.reply.map_or(Rest, Collect);
    let delivered = || Found { delivered: true, ..models() };
    let by_node = || Fail(Verdict::NodeFailed { ran: ran() });
    let taken_back = || Fail(Verdict::TakenBack { ran: ran() });
    let doomed = with(submitted(), |job| job.verdict = Some(not_started_for("Odd", None)));
    let cases = [
        // A valid reply wins over whatever Slurm says.
        (running(), "COMPLETED", models(), rules(), Collect(Outcome::Models)),
        (running(), "FAILED", models(), rules(), Collect(Outcome::Models)),
        (running(), "TIMEOUT", a_reply(Outcome::Error), rules(), Collect(Outcome::Error)),
        (running(), "unknown", models(), rules(), Collect(Outcome::Models)),
        (
            running(),
            "CANCELLED",
            delivered(),
            rules(),
            AnsweredByTrainer { outcome: Outcome::Models },
        ),
        (told(running()), "CANCELLED", models(), rules(), Collect(Outcome::Models)),
        // Completed without a reply: a shared filesystem may show it later.
        (running(), "COMPLETED", nothing(), rules(), Missing),
        (missing(running(), seconds(59)), "COMPLETED", nothing(), rules(), Rest),
        (
            missing(running(), seconds(60)),
            "COMPLETED",
            nothing(),
            rules(),
            no_result("COMPLETED", None),
        ),
        (running(), "COMPLETED", nothing(), hasty, no_result("COMPLETED", None)),
        // Over for good.
        (running(), "TIMEOUT", nothing(), rules(), Fail(Verdict::OutOfTime { ran: ran() })),
        (running(), "DEADLINE", nothing(), rules(), Fail(Verdict::OutOfTime { ran: ran() })),
        (
            running(),
            "OUT_OF_MEMORY",
            nothing(),
            rules(),
            Fail(Verdict::OutOfMemory { used_mb: None }),
        ),
        (
            running(),
            "CANCELLED by 0",
            nothing(),
            rules(),
            Fail(Verdict::CancelledOnCluster { ran: ran() }),
        ),
        (running(), "BOOT_FAIL", nothing(), rules(), by_node()),
        (running(), "REVOKED", nothing(), rules(), taken_back()),
        (running(), "FAILED", nothing(), rules(), no_result("FAILED", None)),
        (submitted(), "FAILED", nothing(), rules(), no_result("FAILED", None)),
        // Over, unless it comes back.
        (running(), "NODE_FAIL", nothing(), rules(), Missing),
        (running(), "NODE_FAIL", models(), rules(), Missing),
        (missing(running(), seconds(29)), "NODE_FAIL", nothing(), rules(), Rest),
        (missing(running(), seconds(30)), "NODE_FAIL", nothing(), rules(), by_node()),
        (running(), "NODE_FAIL", nothing(), no_requeue, by_node()),
        (running(), "PREEMPTED", nothing(), rules(), Missing),
        (missing(running(), seconds(30)), "PREEMPTED", nothing(), rules(), taken_back()),
        (running(), "PREEMPTED", nothing(), no_requeue, taken_back()),
        // It has not come back: what its trainer has left is its answer.
        (missing(running(), seconds(29)), "NODE_FAIL", an_error(), rules(), Rest),
        (missing(running(), seconds(30)), "NODE_FAIL", an_error(), rules(), collects(an_error())),
        (missing(running(), seconds(30)), "PREEMPTED", models(), rules(), collects(models())),
        (told(running()), "PREEMPTED", an_error(), no_requeue, collects(an_error())),
        // Unknown to Slurm.
        (running(), "unknown", nothing(), rules(), Missing),
        (missing(running(), seconds(299)), "unknown", nothing(), rules(), Rest),
        (missing(running(), seconds(300)), "unknown", nothing(), rules(), Fail(Verdict::Vanished)),
        (running(), "unknown", nothing(), hasty, Fail(Verdict::Vanished)),
        (told(running()), "unknown", nothing(), hasty, Fail(Verdict::Cancelled)),
        // A clock that was set back starts the wait anew.
        (
            with(running(), |job| job.missing_since = Some(now() + HOUR)),
            "unknown",
            nothing(),
            rules(),
            Missing,
        ),
        // Why it was cancelled is known better here.
        (told(running()), "CANCELLED", nothing(), rules(), Fail(Verdict::Cancelled)),
        (told(running()), "TIMEOUT", nothing(), rules(), Fail(Verdict::Cancelled)),
        (doomed, "CANCELLED", nothing(), rules(), Fail(not_started_for("Odd", None))),
    ];
    for (n, (job, slurm, found, rules, decision)) in cases.into_iter().enumerate() {
        assert_eq!(decided(&job, slurm, &found, &rules), decision, "case {n}: {slurm} {job:?}");
    }
}

#[test]
fn a_job_that_is_to_be_answered() {
    use Decision::{AnsweredByTrainer, Deliver, File, Spool};
    let delivered = || Found { delivered: true, ..nothing() };
    let answered = || AnsweredByTrainer { outcome: Outcome::Models };
    for (job, found, decision) in [
        (failed(), nothing(), Spool),
        (failed(), a_reply(Outcome::Models), Spool),
        (failed(), delivered(), answered()),
        (spooled(Outcome::Models), nothing(), Deliver),
        (spooled(Outcome::Error), a_reply(Outcome::Error), Deliver),
        (spooled(Outcome::Models), delivered(), answered()),
        (replied(), nothing(), File),
        (replied(), delivered(), File),
    ] {
        for slurm in ["silent", "unknown", "RUNNING", "COMPLETED"] {
            assert_eq!(decided(&job, slurm, &found, &rules()), decision, "{slurm} {job:?}");
        }
    }
}

#[test]
fn memory_explains_an_end_only_where_the_figure_is_near_what_was_asked_for() {
    let ended =
        |state: &str, used: Option<u64>, noted: Option<(SlurmJobId, u64)>, code: Option<&str>| {
            let info = with(info(state), |info| {
                info.used_mb = used;
                info.exit_code = code.map(str::to_owned);
            });
            super::ended(&info, Some(&asked()), &Found { peak_memory: noted, ..nothing() })
        };
    let memory = |used_mb| Verdict::OutOfMemory { used_mb };
    assert_eq!(ended("OUT_OF_MEMORY", Some(1990), None, None), memory(Some(1990)));
    assert_eq!(ended("OUT_OF_MEMORY", Some(1900), None, None), memory(Some(1900)));
    assert_eq!(ended("OUT_OF_MEMORY", Some(33), None, None), memory(None), "older than the end");
    assert_eq!(ended("OUT_OF_MEMORY", None, Some((ID, 1950)), None), memory(Some(1950)));
    assert_eq!(ended("OUT_OF_MEMORY", None, Some((SlurmJobId(16), 1950)), None), memory(None));
    assert_eq!(ended("FAILED", Some(1950), None, Some("0:9")), memory(Some(1950)));
    assert_eq!(
        ended("FAILED", Some(700), Some((ID, 1999)), Some("0:9")),
        Verdict::Killed { ran: ran() }
    );
    assert_eq!(ended("FAILED", None, None, Some("137:0")), Verdict::Killed { ran: ran() });
    let code = Some("1:0".to_owned());
    let other = Verdict::NoResult { ran: ran(), state: "FAILED".into(), exit_code: code };
    assert_eq!(ended("FAILED", Some(700), None, Some("1:0")), other);
    for elapsed in ["", "0:00", "00:00:00"] {
        let never_ran = with(info("CANCELLED"), |info| info.elapsed = elapsed.into());
        let verdict = super::ended(&never_ran, None, &nothing());
        assert_eq!(verdict, Verdict::CancelledOnCluster { ran: None }, "{elapsed}");
    }
}

#[test]
fn sbatchs_words_are_a_refusal_where_they_are_known_or_stay_the_same() {
    let unclear = || SubmitError::Unclear("use --comment".into());
    let doubt =
        |words: &str, time: Duration, times| Doubt { words: words.into(), since: ago(time), times };
    let half_an_hour = seconds(1800);
    let refused = |words: &str| Untaken::Refused(Verdict::Refused { words: words.into() });
    let first = Untaken::Unclear(Doubt { words: "use --comment".into(), since: now(), times: 1 });
    let same = |time, times| Untaken::Unclear(doubt("use --comment", time, times));
    for (n, (error, before, answers, untaken)) in [
        (SubmitError::Refused("no account".into()), None, false, refused("no account")),
        (SubmitError::Limit("many".into()), None, true, Untaken::NoRoom),
        (
            SubmitError::Later("away".into()),
            Some(doubt("away", 9 * HOUR, 99)),
            true,
            Untaken::Later,
        ),
        (unclear(), None, true, first.clone()),
        (unclear(), None, false, Untaken::Later),
        (unclear(), Some(doubt("other", HOUR, 9)), true, first.clone()),
        (unclear(), Some(doubt("use --comment", HOUR, 9)), false, Untaken::Later),
        (unclear(), Some(doubt("use --comment", seconds(60), 1)), true, same(seconds(60), 2)),
        (unclear(), Some(doubt("use --comment", seconds(1799), 9)), true, same(seconds(1799), 10)),
        (unclear(), Some(doubt("use --comment", half_an_hour, 1)), true, same(half_an_hour, 2)),
        (unclear(), Some(doubt("use --comment", half_an_hour, 2)), true, refused("use --comment")),
        (
            unclear(),
            Some(doubt("use --comment", 9 * HOUR, u32::MAX)),
            true,
            refused("use --comment"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(judge(&error, before.as_ref(), answers, false, now()), untaken, "case {n}");
        let raised = match untaken {
            Untaken::Refused(_) => Untaken::Refused(Verdict::OutOfMemory { used_mb: None }),
            other => other,
        };
        assert_eq!(judge(&error, before.as_ref(), answers, true, now()), raised, "case {n}");
    }
}

#[test]
fn a_login_that_fails_is_tried_again_until_the_site_gives_up() {
    let address = || "https://rodan.example".to_owned();
    let away = LoginError::Unavailable { address: address(), detail: "timed out".into() };
    let refused =
        LoginError::Refused { address: address(), status: 400, detail: "no such user".into() };
    let other = LoginError::NotRodan { address: address(), detail: "no token".into() };
    assert_eq!(judge_login(&away, false), NoToken::Waits);
    assert_eq!(judge_login(&away, true), NoToken::Fails(Verdict::RodanAway));
    assert_eq!(judge_client(false), NoToken::Waits);
    assert_eq!(judge_client(true), NoToken::Fails(Verdict::RodanAway));
    for error in [&refused, &other] {
        for gives_up in [false, true] {
            assert_eq!(judge_login(error, gives_up), NoToken::Fails(Verdict::RodanRefused));
        }
    }
}

#[test]
fn what_is_not_taken_stays_in_rabbitmq() {
    let calm = Breaker::default();
    let paused = Breaker { failures: 3, until: Some(now() + seconds(60)), last: "away".into() };
    let doubtful = with(submitting(), |job| {
        job.doubt = Some(Doubt { words: "odd".into(), since: now(), times: 1 });
    });
    let no_job = job(&[Event::Failed("no job".into()), Event::ReplySpooled(Outcome::Error)]);
    let take = |jobs: &[Record], breaker: &Breaker| intake(jobs, breaker, 2, now());
    assert_eq!(take(&[], &calm), Intake::Open);
    assert_eq!(take(&[], &paused), Intake::Paused(now() + seconds(60)));
    assert_eq!(take(&[running()], &calm), Intake::Open);
    assert_eq!(take(&[running(), submitted()], &calm), Intake::Full(2));
    assert_eq!(take(&[running(), failed()], &calm), Intake::Full(2));
    assert_eq!(take(&[running(), replied()], &calm), Intake::Open);
    assert_eq!(take(&[running(), no_job.clone(), no_job], &calm), Intake::Open);
    assert_eq!(take(&[received()], &calm), Intake::Waiting(1));
    assert_eq!(take(&[running(), submitting(), submitting()], &calm), Intake::Waiting(2));
    assert_eq!(
        take(std::slice::from_ref(&doubtful), &calm),
        Intake::Open,
        "its words may mean it alone"
    );
    assert_eq!(take(&[doubtful, running()], &calm), Intake::Full(2));
}

#[test]
fn a_reply_is_given_up_where_nobody_can_get_it() {
    let no_queue = || PublishError::NoQueue { queue: "q".into(), detail: "absent".into() };
    let silent = || BrokerError::Silent { action: "publishing", deadline: seconds(20) };
    let refused = || BrokerError::Failed { action: "publishing", detail: "no".into() };
    let no_job = job(&[Event::Failed("no job".into()), Event::ReplySpooled(Outcome::Error)]);
    let to = |job: &Record, queue: &str| with(job.clone(), |job| job.reply_to = queue.into());
    let trained = spooled(Outcome::Models);
    for (n, (job, error, gives_up, hopeless)) in [
        (to(&trained, "amq.gen-x"), no_queue(), false, true),
        (to(&trained, "two\nlines"), no_queue(), false, true),
        (trained.clone(), no_queue(), true, false),
        (no_job.clone(), no_queue(), false, false),
        (no_job.clone(), no_queue(), true, true),
        (no_job.clone(), PublishError::Refused("q".into()), true, true),
        (no_job.clone(), refused().into(), true, true),
        (no_job.clone(), silent().into(), true, false),
        (trained, PublishError::TooLarge { size: 9, limit: None }, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(is_undeliverable(&job, &error, gives_up), hopeless, "case {n}: {error}");
    }
    // The end of a conversation, whose queue is there.
    let gone = std::io::Error::other("gone");
    let lost = RestError::Lost { name: "Model 0".into(), source: gone };
    for (error, hopeless) in [
        (RestError::Tell(TellError::Refused("q".into())), true),
        (RestError::Tell(TellError::Gone("q".into())), true),
        (RestError::Tell(TellError::TooLarge { size: 9, limit: None }), true),
        (RestError::Tell(refused().into()), true),
        (RestError::Tell(silent().into()), false),
        (lost, false),
    ] {
        assert_eq!(is_undeliverable_end(&no_job, &error, true), hopeless, "{error}");
        assert!(!is_undeliverable_end(&no_job, &error, false), "{error}");
        assert!(!is_undeliverable_end(&spooled(Outcome::Error), &error, true), "{error}");
    }
}

/// Orders end a job wherever it is: it is not submitted, or cancelled, or has its answer already.
#[test]
fn an_order_ends_a_job_wherever_it_is() {
    for order in [Verdict::Cancelled, Verdict::CancelledByAsker, Verdict::Abandoned] {
        assert!(order.ends_in_any_state());
        let told = |mut job: Record| {
            job.verdict = Some(order.clone());
            job
        };
        let next = |job: Record, words: &str| decided(&told(job), words, &nothing(), &rules());
        assert_eq!(next(received(), "silent"), Decision::Fail(order.clone()));
        assert_eq!(next(submitting(), "unknown"), Decision::Fail(order.clone()));
        assert_eq!(next(submitting(), "silent"), Decision::Rest, "it may be with Slurm");
        assert_eq!(next(submitted(), "PENDING"), Decision::Cancel(ID, order.clone()));
        assert_eq!(next(running(), "RUNNING"), Decision::Cancel(ID, order.clone()));
        assert_eq!(next(running(), "COMPLETING"), Decision::Rest, "it has been told");
        assert_eq!(next(running(), "CANCELLED"), Decision::Fail(order.clone()));
        assert_eq!(next(failed(), "silent"), Decision::Spool);
        assert_eq!(next(spooled(Outcome::Models), "silent"), Decision::Deliver);
    }
    assert!(!Verdict::Vanished.ends_in_any_state());
}
