//! What is to be done about a job: decided from what is known of it, without doing anything.
//!
//! [`decide`] is asked again and again until nothing is left to do (`pass.rs`); each step is done,
//! and written down, by whoever the pass gives it to.
//!
//! # When a job is given up
//!
//! - It waits for Rodan or Slurm for `GIVE_UP_HOURS` ([`Rules::gives_up`], counted from
//!   `Record::waits_since`): [`before_submission`], [`judge_login`], [`judge_client`]. Where Rodan
//!   refuses the log-in, at once.
//! - Its message can't be read from the spool for as long, or is not there: `submit.rs`.
//! - It waits in Slurm's queue, or for room under a limit of jobs, for `MAX_PENDING_HOURS`; or it
//!   waits for a reason that can't pass (`NEVER_PASSES` in `scheduler::slurm`): [`alive`],
//!   [`before_submission`].
//! - sbatch refuses it, or says the same unknown words for half an hour: [`judge`].
//! - Slurm no longer knows it (`GRACE_SECONDS`), or it ended without a reply: [`after`].
//! - Its reply queue is gone (a conversation): `converse.rs` and `deliver.rs` note
//!   `Verdict::Abandoned`.
//!
//! A reply, not a job, is given up by [`is_undeliverable`] and [`is_undeliverable_end`].

use std::time::Duration;

use jiff::Timestamp;

use crate::courier::RestError;
use crate::ledger::{Breaker, Doubt, Outcome, Record, State, Verdict};
use crate::rodan::LoginError;
use contract::broker::{BrokerError, PublishError, TellError};
use domain::ResourceSettings;
use domain::SlurmJobId;
use scheduler::slurm::{JobInfo, JobState, Phase, SubmitError};
use scheduler::{Kind, SiteConfig};

/// Slurm calls a job completed a little before a shared filesystem shows the reply that it has
/// left.
const REPLY_LAG: Duration = Duration::from_secs(60);

/// A job that may be requeued shows its end for a moment before it is back in the queue.
const REQUEUE_LAG: Duration = Duration::from_secs(30);

/// How long sbatch has to say the same unknown words, and how often, before they are taken for a
/// refusal.
const UNCLEAR_FOR: Duration = Duration::from_secs(30 * 60);
const UNCLEAR_TIMES: u32 = 3;

/// What Slurm says of a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slurm<'a> {
    /// It was not asked about this job, or gave no answer: nothing is known.
    Silent,
    /// It has no such job.
    Unknown,
    /// It has this job.
    Has(&'a JobInfo),
}

/// What lies in a job's directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// True when the broker has confirmed the reply that the trainer published.
    pub(super) delivered: bool,
    /// What the reply on disk holds.
    pub(super) reply: Option<Outcome>,
    /// The Slurm job whose trainer has started.
    pub(super) started: Option<SlurmJobId>,
    /// The most memory that a trainer has noted for itself, MB, and its Slurm job.
    pub(super) peak_memory: Option<(SlurmJobId, u64)>,
}

/// How patient this site is, and what it does without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long a job that Slurm does not know counts as alive (`GRACE_SECONDS`).
    pub(super) grace: Duration,
    /// How long a job may wait in Slurm's queue (`MAX_PENDING_HOURS`).
    pub(super) max_pending: Duration,
    /// How long a job waits for a service (`GIVE_UP_HOURS`).
    pub(super) give_up: Duration,
    /// Whether Slurm may put a job back into its queue.
    pub(super) requeue: bool,
    /// The most memory that a job gets, in MB (`MAX_MEMORY_MB`).
    pub(super) most_memory_mb: Option<u64>,
    /// Whether a job gets a watcher now.
    pub(super) watcher: bool,
    /// True when the operator asks: then no job is given up for having waited long.
    pub(super) insists: bool,
}

impl Rules {
    pub(super) fn of(site: &SiteConfig) -> Self {
        Self {
            grace: site.grace,
            max_pending: site.max_pending,
            give_up: site.give_up,
            requeue: site.requeue,
            most_memory_mb: site.limits.memory_mb,
            // On this host the process that looks after a job answers for it.
            watcher: site.watcher && site.scheduler == Kind::Slurm,
            insists: false,
        }
    }

    /// True when a job has waited for a service for as long as the site allows.
    pub(super) fn gives_up(&self, job: &Record, now: Timestamp) -> bool {
        !self.insists && has_passed(job.waits_since(), self.give_up, now)
    }
}

/// The next step of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is nothing to do now.
    Rest,
    /// The trainer's reply is confirmed: what is left is to file the job away.
    AnsweredByTrainer {
        /// What the reply holds.
        outcome: Outcome,
    },
    /// sbatch's answer was lost, and this is the job that it has made.
    Found(SlurmJobId),
    /// Slurm has started it.
    Started,
    /// Slurm has put it back into its queue.
    Requeued,
    /// It ran out of the memory that was chosen for it, and goes on with so much, in MB.
    RaiseMemory(u64),
    /// Slurm knows it again: the time since it was missing is forgotten.
    Back,
    /// It is missing, or over without a reply, for the first time: it gets some time.
    Missing,
    /// Its trainer has left a reply and is gone: the reply is ours to deliver.
    Collect(Outcome),
    /// Slurm is told to end it; the answer follows once it is over. The verdict is written down
    /// first.
    Cancel(SlurmJobId, Verdict),
    /// It gets a watcher.
    Watch(SlurmJobId),
    /// It is answered with an error.
    Fail(Verdict),
    /// It goes to Slurm.
    Submit,
    /// Its error reply is written to disk; where a trainer's reply lies there, that wins.
    Spool,
    /// The reply on disk is published.
    Deliver,
    /// It is answered, and goes to `done/`.
    File,
}

/// The parts of a pass, in their order: no job is submitted before all are followed up, and none
/// waits with its submission for another's delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What became of the jobs.
    FollowUp,
    /// To Slurm.
    Submission,
    /// To the broker.
    Delivery,
}

impl Decision {
    /// The part of a pass that does this; `None` for [`Decision::Rest`].
    pub(super) fn part(&self) -> Option<Part> {
        match self {
            Self::Rest => None,
            Self::Submit => Some(Part::Submission),
            Self::Spool | Self::Deliver | Self::File => Some(Part::Delivery),
            _ => Some(Part::FollowUp),
        }
    }
}

/// The next step of a job, from its record, Slurm's word and what lies in its directory at `now`.
pub(super) fn decide(
    job: &Record,
    slurm: Slurm<'_>,
    found: &Found,
    now: Timestamp,
    rules: &Rules,
) -> Decision {
    if found.delivered && job.state != State::Replied {
        // Without a reply on disk it was the models: an error reply stays there until it is filed
        // away.
        return Decision::AnsweredByTrainer { outcome: found.reply.unwrap_or(Outcome::Models) };
    }
    match &job.state {
        State::Received => before_submission(job, now, rules),
        State::Submitting { .. } => match slurm {
            // The job may exist: it must not be submitted twice.
            Slurm::Silent => Decision::Rest,
            Slurm::Has(info) => Decision::Found(info.id),
            Slurm::Unknown => match found.started {
                Some(id) => Decision::Found(id),
                None => before_submission(job, now, rules),
            },
        },
        State::Submitted { slurm_id } | State::Running { slurm_id } => match slurm {
            Slurm::Silent => Decision::Rest,
            Slurm::Unknown => match found.reply {
                Some(outcome) => Decision::Collect(outcome),
                // Whoever has cancelled it is known, even where Slurm has forgotten it.
                None => after(rules.grace, job, now, || {
                    job.verdict.clone().unwrap_or(Verdict::Vanished)
                }),
            },
            Slurm::Has(info) => match info.state.phase() {
                Phase::Waiting | Phase::Active => alive(job, *slurm_id, info, now, rules),
                Phase::Ended | Phase::PerhapsEnded => over(job, info, found, now, rules),
                // A state that this program does not know decides nothing.
                Phase::Unknown => Decision::Rest,
            },
        },
        State::Failed { .. } => Decision::Spool,
        State::ResultSpooled { .. } => Decision::Deliver,
        State::Replied => Decision::File,
    }
}

/// A job that Slurm does not have yet.
fn before_submission(job: &Record, now: Timestamp, rules: &Rules) -> Decision {
    if let Some(order) = job.verdict.as_ref().filter(|verdict| verdict.ends_in_any_state()) {
        return Decision::Fail(order.clone());
    }
    if matches!(job.state, State::Submitting { .. }) && !rules.insists {
        // A limit of jobs is no fault of Slurm: the job waits as it would in Slurm's queue.
        if job.limited && has_passed(job.waits_since(), rules.max_pending, now) {
            let reason = job.last_error.clone().unwrap_or_default();
            return Decision::Fail(not_started(reason, Some(rules.max_pending)));
        }
        if !job.limited && rules.gives_up(job, now) {
            return Decision::Fail(Verdict::NotTaken);
        }
    }
    Decision::Submit
}

/// A job that waits in Slurm's queue, or runs.
fn alive(job: &Record, id: SlurmJobId, info: &JobInfo, now: Timestamp, rules: &Rules) -> Decision {
    let waits = info.state.phase() == Phase::Waiting;
    let is_ending = info.state == JobState::Active("COMPLETING");
    match job.state {
        State::Running { .. } if waits => return Decision::Requeued,
        State::Submitted { .. } if !waits && !is_ending => return Decision::Started,
        _ if job.missing_since.is_some() => return Decision::Back,
        _ => {}
    }
    // A job that is ending has been told before.
    if let Some(order) = job.verdict.as_ref().filter(|verdict| verdict.ends_in_any_state()) {
        return if is_ending { Decision::Rest } else { Decision::Cancel(id, order.clone()) };
    }
    if waits {
        let waited_for = |time| has_passed(job.changed_at, time, now);
        let verdict = match &job.verdict {
            // Slurm did not take the order to cancel it, or has not carried it out yet.
            Some(verdict) => Some(verdict.clone()),
            None if waited_for(rules.max_pending) => {
                Some(not_started(info.reason.clone(), Some(rules.max_pending)))
            }
            None if info.can_never_start() && waited_for(rules.grace) => {
                Some(not_started(info.reason.clone(), None))
            }
            None => None,
        };
        if let Some(verdict) = verdict {
            return Decision::Cancel(id, verdict);
        }
    }
    if rules.watcher && job.watcher.is_none() && !is_ending {
        return Decision::Watch(id);
    }
    Decision::Rest
}

/// A job that Slurm calls over, for good or perhaps.
fn over(job: &Record, info: &JobInfo, found: &Found, now: Timestamp, rules: &Rules) -> Decision {
    let may_come_back = info.state.phase() == Phase::PerhapsEnded;
    if let Some(outcome) = found.reply.filter(|_| !may_come_back) {
        return Decision::Collect(outcome);
    }
    let wait = match &info.state {
        _ if may_come_back && rules.requeue => REQUEUE_LAG.min(rules.grace),
        JobState::Completed => REPLY_LAG.min(rules.grace),
        _ => Duration::ZERO,
    };
    let decision = after(wait, job, now, || {
        job.verdict.clone().unwrap_or_else(|| ended(info, job.resources.as_ref(), found))
    });
    if let Decision::Fail(Verdict::OutOfMemory { .. }) = decision
        && let Some(more) = more_memory(job, rules.most_memory_mb)
    {
        return Decision::RaiseMemory(more);
    }
    // It has not come back: what its trainer has left is all that there will be.
    match (&decision, found.reply) {
        (Decision::Fail(_), Some(outcome)) => Decision::Collect(outcome),
        _ => decision,
    }
}

/// The most memory that a job can ask for, in MB.
const MOST_MEMORY_MB: u64 = 100_000_000;

/// A job gets more memory so many times.
const MOST_RAISES: usize = 2;

/// How much memory, in MB, a job gets after it ran out: twice what it had, at most what the site
/// gives. Nothing where its message names the memory, where the job had more twice already, or
/// where the site gives no more.
fn more_memory(job: &Record, most: Option<u64>) -> Option<u64> {
    let asked = job.asked.as_ref()?;
    let was_chosen = asked.memory_from.is_chosen();
    let most = most.unwrap_or(MOST_MEMORY_MB).min(MOST_MEMORY_MB);
    let more = asked.memory_mb.saturating_mul(2).min(most);
    (was_chosen && job.too_small.len() < MOST_RAISES && more > asked.memory_mb).then_some(more)
}

/// Fails a job only once it has been missing for `wait`.
fn after(
    wait: Duration,
    job: &Record,
    now: Timestamp,
    verdict: impl FnOnce() -> Verdict,
) -> Decision {
    match job.missing_since {
        Some(since) if has_passed(since, wait, now) => Decision::Fail(verdict()),
        // The clock was set back.
        Some(since) if since > now => Decision::Missing,
        None if wait.is_zero() => Decision::Fail(verdict()),
        None => Decision::Missing,
        Some(_) => Decision::Rest,
    }
}

fn not_started(reason: String, waited: Option<Duration>) -> Verdict {
    Verdict::NotStarted { reason, waited_hours: waited.map(|time| time.as_secs() / 3600) }
}

/// Why a job that ended without a reply has failed.
fn ended(info: &JobInfo, asked: Option<&ResourceSettings>, found: &Found) -> Verdict {
    // squeue says 0:00 of a job that never ran, sacct 00:00:00.
    let has_run = info.elapsed.chars().any(|c| !matches!(c, '0' | ':'));
    let ran = has_run.then(|| info.elapsed.clone());
    // Without accounting the trainer's own note is the only trace of the memory that it used.
    let noted = || found.peak_memory.filter(|(id, _)| *id == info.id).map(|(_, mb)| mb);
    let used_mb = info.used_mb.or_else(noted);
    // Slurm looks at the memory from time to time: a job that was killed for it was last seen a
    // little below the limit. A smaller figure is older than the end, and explains nothing.
    let explains = |used: &u64| asked.is_none_or(|asked| used * 100 >= asked.memory_mb * 95);
    let explaining = used_mb.filter(explains);
    match &info.state {
        JobState::Timeout | JobState::Deadline => Verdict::OutOfTime { ran },
        JobState::OutOfMemory => Verdict::OutOfMemory { used_mb: explaining },
        JobState::Failed if explaining.is_some() && asked.is_some() => {
            Verdict::OutOfMemory { used_mb: explaining }
        }
        JobState::Cancelled => Verdict::CancelledOnCluster { ran },
        JobState::NodeFail | JobState::BootFail => Verdict::NodeFailed { ran },
        JobState::Preempted | JobState::Revoked => Verdict::TakenBack { ran },
        // SIGKILL, as Slurm reports it of a batch script and of what a shell ran.
        JobState::Failed if matches!(info.exit_code.as_deref(), Some("0:9" | "137:0")) => {
            Verdict::Killed { ran }
        }
        state => {
            let exit_code = info.exit_code.clone();
            Verdict::NoResult { ran, state: state.to_string(), exit_code }
        }
    }
}

/// True once `time` has passed since `since`. Nothing has passed since a time in the future, as
/// there is where a clock was set back.
fn has_passed(since: Timestamp, time: Duration, now: Timestamp) -> bool {
    let passed = now.duration_since(since);
    !passed.is_negative() && passed.unsigned_abs() >= time
}

/// What becomes of a job that sbatch did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    /// It is answered with an error.
    Refused(Verdict),
    /// It waits for room under a limit of jobs.
    NoRoom,
    /// It waits: the cluster is not well, and no other job would fare better.
    Later,
    /// It waits: these words may mean this job alone.
    Unclear(Doubt),
}

/// Judges sbatch's words. Only what is known to be the job's own fault is a refusal at once. Words
/// that nobody knows (a site's own submit filter has such) are one when they have stayed the same
/// for half an hour while the controller answers; `controller_answers` says whether it does now.
/// With `was_raised` the job asks for more memory than before, because that was not enough: where
/// it is refused, it ran out of memory.
pub(super) fn judge(
    error: &SubmitError,
    doubt: Option<&Doubt>,
    controller_answers: bool,
    was_raised: bool,
    now: Timestamp,
) -> Untaken {
    let refused = |words: &str| {
        Untaken::Refused(match was_raised {
            true => Verdict::OutOfMemory { used_mb: None },
            false => Verdict::Refused { words: words.to_owned() },
        })
    };
    let words = match error {
        SubmitError::Refused(words) => return refused(words),
        SubmitError::Limit(_) => return Untaken::NoRoom,
        SubmitError::Unclear(words) if controller_answers => words,
        SubmitError::Unclear(_) | SubmitError::Later(_) | SubmitError::Command(_) => {
            return Untaken::Later;
        }
    };
    let doubt = match doubt.filter(|doubt| doubt.words == *words) {
        Some(doubt) => Doubt { times: doubt.times.saturating_add(1), ..doubt.clone() },
        None => Doubt { words: words.clone(), since: now, times: 1 },
    };
    if doubt.times >= UNCLEAR_TIMES && has_passed(doubt.since, UNCLEAR_FOR, now) {
        return refused(words);
    }
    Untaken::Unclear(doubt)
}

/// What becomes of a job for which Rodan gave no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// It waits, as do all others that are not with Slurm yet.
    Waits,
    /// It is answered with an error.
    Fails(Verdict),
}

/// Judges a log-in to Rodan that failed. `gives_up` says whether the job has waited long enough.
pub(super) fn judge_login(error: &LoginError, gives_up: bool) -> NoToken {
    match error {
        LoginError::Unavailable { .. } if !gives_up => NoToken::Waits,
        LoginError::Unavailable { .. } => NoToken::Fails(Verdict::RodanAway),
        LoginError::Refused { .. } | LoginError::NotRodan { .. } => {
            NoToken::Fails(Verdict::RodanRefused)
        }
    }
}

/// Judges that no connection to Rodan can even be tried (no certificates, say): the operator may
/// mend that, as a Rodan that is away may come back.
pub(super) fn judge_client(gives_up: bool) -> NoToken {
    if gives_up { NoToken::Fails(Verdict::RodanAway) } else { NoToken::Waits }
}

/// Whether one more message may be taken. What is not taken stays in RabbitMQ, and nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Intake {
    /// It may.
    Open,
    /// Submissions have failed: none before this time.
    Paused(Timestamp),
    /// So many jobs wait for Slurm; they go first.
    Waiting(usize),
    /// As many jobs are open as may be.
    Full(usize),
}

/// Decides on the intake, where `jobs` are open or were at the beginning of this pass.
pub(super) fn intake(
    jobs: &[Record],
    breaker: &Breaker,
    max_open: usize,
    now: Timestamp,
) -> Intake {
    if let Some(until) = breaker.paused_until(now) {
        return Intake::Paused(until);
    }
    // Words that may mean this job alone don't stop the intake. If they mean every job, the
    // failures add up to a pause.
    let waits = |job: &&Record| {
        matches!(job.state, State::Received | State::Submitting { .. }) && job.doubt.is_none()
    };
    let waiting = jobs.iter().filter(waits).count();
    if waiting > 0 {
        return Intake::Waiting(waiting);
    }
    // Replies to malformed messages that can't be delivered don't count; otherwise a hundred of
    // them would stop the intake.
    let open = jobs.iter().filter(|job| job.state != State::Replied && !never_ran(job)).count();
    if open >= max_open { Intake::Full(open) } else { Intake::Open }
}

/// True for a message that never became a Slurm job: no training was lost with it, and its reply is
/// a short error.
pub(super) fn never_ran(job: &Record) -> bool {
    job.slurm_id.is_none() && job.outcome == Some(Outcome::Error)
}

/// True when a reply that could not be published is not tried again. Either its queue is gone and
/// nobody but the broker can create a queue of that name, or it tells of a message that never
/// became a Slurm job and has waited long enough (`gives_up`). A broker that is away is waited for.
pub(super) fn is_undeliverable(job: &Record, error: &PublishError, gives_up: bool) -> bool {
    let is_reserved = job.reply_to.starts_with("amq.") || job.reply_to.contains(['\r', '\n']);
    match error {
        PublishError::NoQueue { .. } if is_reserved => true,
        PublishError::NoQueue { .. }
        | PublishError::Refused(_)
        | PublishError::Broker(BrokerError::Failed { .. }) => never_ran(job) && gives_up,
        PublishError::TooLarge { .. } | PublishError::Broker(_) => false,
    }
}

/// The same of the end of a conversation, once its queue is known to be there: one that is gone
/// means that nobody asks any more.
pub(super) fn is_undeliverable_end(job: &Record, error: &RestError, gives_up: bool) -> bool {
    let is_refused = match error {
        RestError::Tell(TellError::Broker(error)) => matches!(error, BrokerError::Failed { .. }),
        RestError::Tell(_) => true,
        RestError::Lost { .. } | RestError::Unread { .. } => false,
    };
    is_refused && never_ran(job) && gives_up
}

/// Calls `look` with each sentence that a person would be told of such a job.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn ends(info: &JobInfo, look: impl Fn(&str)) {
    use crate::sentences::{About, OPERATOR, of_verdict};

    let asked = ResourceSettings {
        cpus: 4,
        memory_mb: 100_000_000,
        walltime: domain::Walltime::MINUTE,
        email: None,
        instances: 1,
    };
    for asked in [None, Some(&asked)] {
        let about =
            About { slurm_id: Some(info.id), asked, operator: OPERATOR, scheduler: Kind::Slurm };
        look(&of_verdict(&ended(info, asked, &Found::default()), about).1);
        look(&of_verdict(&not_started(info.reason.clone(), None), about).1);
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
