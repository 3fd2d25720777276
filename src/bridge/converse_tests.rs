use contract::wire::conversation::{Asked, Origin};
use domain::{CorrelationId, JobId, SlurmJobId};
use scheduler::slurm::{JobInfo, JobState as SlurmState};

use super::*;
use crate::ledger::{Event, Outcome};

const BODY: &[u8] = br#"{"protocol": 2}"#;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

/// A job of a conversation after these events, one a second.
fn job(events: &[Event]) -> Record {
    let id = CorrelationId("c-1".into());
    let mut job =
        Record::new(JobId::from_correlation_id(&id), id, "hpc-reply-c-1".into(), BODY, at(0));
    for (event, second) in events.iter().zip(1..) {
        job.apply(event.clone(), at(second)).unwrap();
    }
    job
}

fn submitted() -> Vec<Event> {
    vec![Event::SubmitStarted, Event::Accepted(SlurmJobId(17))]
}

fn running() -> Vec<Event> {
    [submitted(), vec![Event::Started]].concat()
}

fn info(state: &str, reason: &str) -> JobInfo {
    JobInfo {
        id: SlurmJobId(17),
        name: "hpct-c-1".into(),
        state: SlurmState::parse(state),
        reason: reason.into(),
        elapsed: String::new(),
        used_mb: None,
        exit_code: None,
    }
}

fn silent() -> Known<'static> {
    Known { scheduler: Kind::Slurm, slurm: Slurm::Silent, place: None, live: None }
}

#[track_caller]
fn state(news: News) -> JobState {
    match news {
        News::State(state) => state,
        other => panic!("no state: {other:?}"),
    }
}

/// The asker knows this from here on.
fn tell(job: &mut Record, state: &JobState) {
    job.told = Some(Told { state: state.clone(), sent: true, progress_at: None });
}

#[test]
fn each_change_is_told_once_and_a_later_hour_is_none() {
    let mut job = job(&[]);
    job.asked = Some(Asked {
        cpus: 6,
        cpus_from: Origin::Site,
        memory_mb: 4400,
        memory_from: Origin::Estimate,
        time_seconds: 21_600,
        time_from: Origin::Site,
        instances: None,
    });
    let taken = state(news(&job, &silent(), at(50)));
    assert_eq!((taken.state, taken.at, taken.slurm_job), (Stage::Taken, at(0), None));
    assert_eq!(taken.asked, job.asked);
    tell(&mut job, &taken);
    assert_eq!(news(&job, &silent(), at(60)), News::Nothing);
    for (event, second) in submitted().into_iter().zip(61..) {
        job.apply(event, at(second)).unwrap();
    }
    let now = state(news(&job, &silent(), at(70)));
    assert_eq!((now.state, now.at, now.slurm_job), (Stage::Submitted, at(62), Some(17)));
    tell(&mut job, &now);
    let info = info("PENDING", "Priority");
    let place = |position| Place { position, of: 9, partition: "gpu".into(), start: None };
    let waits =
        |position| Known { slurm: Slurm::Has(&info), place: Some(place(position)), ..silent() };
    let waiting = state(news(&job, &waits(3), at(80)));
    assert_eq!(
        (waiting.state, waiting.at, waiting.queue_position),
        (Stage::Waiting, at(80), Some(3))
    );
    assert!(waiting.detail.contains("number 3 of 9 in the queue of gpu: "), "{}", waiting.detail);
    tell(&mut job, &waiting);
    assert_eq!(news(&job, &waits(3), at(90)), News::Nothing, "only the time has changed");
    assert_eq!(state(news(&job, &waits(2), at(99))).queue_position, Some(2));
}

/// Whoever asks has no interest in a scheduler that is not there.
#[test]
fn nobody_hears_of_slurm_where_a_host_runs_the_jobs() {
    let local = || Known { scheduler: Kind::Local { jobs: 1 }, ..silent() };
    let (info, place) = (
        info("PENDING", "Priority"),
        Place { position: 2, of: 3, partition: "this host".into(), start: None },
    );
    let waits = Known { slurm: Slurm::Has(&info), place: Some(place), ..local() };
    for (events, known, words) in [
        (submitted(), local(), "the training (job 17) was put into the queue"),
        (submitted(), waits, "the training (job 17) is number 2 of 3 in the queue"),
        (running(), local(), "the training (job 17) runs"),
    ] {
        assert_eq!(state(news(&job(&events), &known, at(9))).detail, words);
    }
}

#[test]
fn an_expected_start_is_told_and_again_where_it_moves_by_a_minute() {
    let mut job = job(&submitted());
    let info = info("PENDING", "Resources");
    let known = |start| Known {
        slurm: Slurm::Has(&info),
        place: Some(Place { position: 1, of: 1, partition: "gpu".into(), start }),
        ..silent()
    };
    let waits = state(news(&job, &known(Some(at(5000))), at(10)));
    assert_eq!((waits.state, waits.starts_at), (Stage::Waiting, Some(at(5000))));
    tell(&mut job, &waits);
    for (start, told) in [
        (Some(5000), false),
        (Some(5059), false),
        (Some(4941), false),
        (Some(5060), true),
        (Some(4000), true),
        (None, true),
    ] {
        let news = news(&job, &known(start.map(at)), at(20));
        assert_eq!(news != News::Nothing, told, "{start:?}: {news:?}");
    }
}

#[test]
fn what_the_trainer_has_told_is_not_told_again_and_what_it_could_not_is_told_in_its_words() {
    let mut job = job(&running());
    let words = JobState {
        slurm_job: Some(17),
        ..JobState::new(Stage::Running, at(5), "it runs on node 3")
    };
    let live = |sent| Live {
        reachable: sent,
        state: Some(words.clone()),
        state_sent: sent,
        progress_at: None,
    };
    let (told, untold) = (live(true), live(false));
    let known = |live| Known { live: Some(live), ..silent() };
    assert_eq!(news(&job, &known(&told), at(9)), News::ByTrainer(words.clone()));
    assert_eq!(news(&job, &known(&untold), at(9)), News::State(words.clone()));
    tell(&mut job, &words);
    assert_eq!(news(&job, &known(&told), at(9)), News::Nothing);
    // Of another Slurm job it says nothing.
    let other = Live { state: Some(JobState { slurm_job: Some(16), ..words }), ..told };
    assert_eq!(state(news(&job, &known(&other), at(9))).detail, "the training (Slurm job 17) runs");
    assert_eq!(state(news(&job, &silent(), at(9))).at, at(3), "since Slurm has started it");
}

#[test]
fn a_job_that_goes_back_into_the_queue_is_requeued_and_not_new() {
    let mut job = job(&running());
    let runs = state(news(&job, &silent(), at(9)));
    tell(&mut job, &runs);
    job.apply(Event::Requeued, at(10)).unwrap();
    let info = info("PENDING", "BeginTime");
    let known = Known { slurm: Slurm::Has(&info), ..silent() };
    let requeued = state(news(&job, &known, at(11)));
    assert_eq!((requeued.state, requeued.at), (Stage::Requeued, at(10)));
    tell(&mut job, &requeued);
    assert_eq!(news(&job, &known, at(12)), News::Nothing);
}

#[test]
fn a_job_that_gets_more_memory_is_requeued_and_says_why() {
    let mut job = job(&running());
    job.resources = Some(domain::ResourceSettings {
        cpus: 1,
        memory_mb: 500,
        walltime: domain::Walltime::MINUTE,
        email: None,
        instances: 1,
    });
    let runs = state(news(&job, &silent(), at(9)));
    tell(&mut job, &runs);
    job.raise_memory(1000, at(10)).unwrap();
    let again = state(news(&job, &silent(), at(11)));
    assert_eq!((again.state, again.at), (Stage::Requeued, at(10)));
    let why = "with 1000 MB of memory because 500 MB were not enough";
    assert!(again.detail.contains(why), "{}", again.detail);
    tell(&mut job, &again);
    assert_eq!(news(&job, &silent(), at(12)), News::Nothing);
    job.apply(Event::SubmitStarted, at(13)).unwrap();
    job.apply(Event::Accepted(SlurmJobId(18)), at(14)).unwrap();
    let again = state(news(&job, &silent(), at(15)));
    assert_eq!((again.state, again.slurm_job), (Stage::Requeued, Some(18)));
    assert!(again.detail.contains(why), "{}", again.detail);
    job.apply(Event::Started, at(16)).unwrap();
    assert_eq!(state(news(&job, &silent(), at(17))).state, Stage::Running);
}

#[test]
fn a_job_that_is_cancelled_is_told_so_and_one_that_is_over_has_its_end() {
    let mut job = job(&running());
    job.verdict = Some(Verdict::CancelledByAsker);
    assert_eq!(state(news(&job, &silent(), at(9))).state, Stage::Cancelling);
    job.apply(Event::Failed("x".into()), at(10)).unwrap();
    assert_eq!(news(&job, &silent(), at(11)), News::Nothing);
    let mut early = self::job(&[]);
    early.verdict = Some(Verdict::CancelledByAsker);
    assert_eq!(news(&early, &silent(), at(11)), News::Nothing, "its end is the next word");
    assert!(may_be_cancelled(&self::job(&running())) && !may_be_cancelled(&early));
    let spooled = self::job(&[running(), vec![Event::ReplySpooled(Outcome::Models)]].concat());
    assert!(!may_be_cancelled(&spooled) && !is_open(&spooled), "what has its answer keeps it");
}
