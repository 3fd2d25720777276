//! What is known of the jobs, without the lock and without changing anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::view::is_with_slurm;
use super::find::{FindError, find, shortest};
use super::logs::logs_of;
use crate::config::Config;
use crate::ledger::{HeldBy, Outcome, Progress, Record, Seen, State, Store, StoreError};
use crate::sentences::{About, of_verdict};
use base::files::read_own;
use contract::wire::Answer;
use domain::JobId;
use domain::SlurmJobId;
use scheduler::slurm::{JobInfo, Node, Pending, Phase, fitting, in_words, place};
use scheduler::{Kind, SiteConfig, kinds_of_job};

/// A note that is older says nothing about the end: it may be of a run before the job came back.
const FRESH: Duration = Duration::from_secs(600);
/// The largest message or error reply that is looked into.
const MAX_BYTES: u64 = 1 << 20;

/// The bridge as a whole.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The jobs, oldest first.
    pub jobs: Vec<JobStatus>,
    /// What squeue said instead of an answer.
    pub slurm_error: Option<String>,
    /// Set while no new jobs are taken.
    pub paused: Option<Pause>,
    /// Who holds the spool's lock.
    pub lock: Option<HeldBy>,
    /// What lies among the open jobs and can't be read as one: its name, and why.
    pub unreadable: Vec<(JobId, String)>,
    /// How many jobs of this host may run at a time, where it runs them itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_jobs: Option<u32>,
    /// The spool's directory, where it is not there (yet): the first pass makes it.
    pub absent_spool: Option<PathBuf>,
}

/// The intake's pause.
#[derive(Debug, Serialize)]
pub struct Pause {
    /// How long it lasts.
    pub until: Timestamp,
    /// Submissions in a row that failed.
    pub failures: u32,
    /// Why the last of them did.
    pub last: String,
}

/// What is known of one job.
#[derive(Debug, Serialize)]
pub struct JobStatus {
    /// The beginning of the id that suffices to name it.
    pub short: String,
    /// Its record.
    #[serde(flatten)]
    pub record: Record,
    /// True once it is filed away.
    pub answered: bool,
    /// True when its reply is known to be delivered; a pass that sees it files the job away.
    pub delivered: bool,
    /// What Slurm says of it; nothing where it was not asked, or does not know the job.
    pub slurm: Option<InSlurm>,
    /// What Slurm says of its watcher.
    pub slurm_watcher: Option<InSlurm>,
    /// Where it stands in Slurm's queue, while it waits there.
    pub waiting: Option<Waiting>,
    /// The trainer's latest note.
    pub progress: Option<Progress>,
    /// When the training ends at the latest, at the pace so far.
    pub expected_end: Option<Timestamp>,
    /// What its error reply will say once Slurm has ended it, while it is being cancelled.
    pub being_cancelled: Option<String>,
}

/// A job's place in Slurm's queue, and how many nodes could run it.
#[derive(Debug, Serialize)]
pub struct Waiting {
    /// From 1, among the jobs that wait for its partition.
    pub position: usize,
    /// How many jobs wait there, as far as this account may see them.
    pub of: usize,
    /// The partition, or several, separated by commas.
    pub partition: String,
    /// When Slurm expects it to start.
    pub expected_start: Option<Timestamp>,
    /// The memory that it asks for, in MB.
    pub memory_mb: Option<u64>,
    /// The cores that it asks for.
    pub cpus: Option<u32>,
    /// Nodes of the partition that have as much, busy or not.
    pub fitting_nodes: Option<usize>,
    /// All nodes of the partition.
    pub nodes: Option<usize>,
}

/// What squeue says of a Slurm job.
#[derive(Debug, Serialize)]
pub struct InSlurm {
    /// Its number.
    pub id: SlurmJobId,
    /// Its state, in Slurm's word.
    pub state: String,
    /// What the state means.
    #[serde(skip)]
    pub phase: Phase,
    /// Why it waits or ended, in Slurm's word.
    pub reason: String,
    /// The same in words, while it waits.
    pub reason_in_words: Option<&'static str>,
    /// How long it has run, in Slurm's form.
    pub elapsed: String,
}

/// One job, with everything that is on disk about it.
#[derive(Debug, Serialize)]
pub struct Details {
    /// What the table shows too.
    #[serde(flatten)]
    pub job: JobStatus,
    /// What squeue said instead of an answer.
    pub slurm_error: Option<String>,
    /// True where jobs run on this host and not on Slurm.
    #[serde(skip)]
    pub is_local: bool,
    /// The settings of the message.
    pub settings: Map<String, Value>,
    /// What the error reply says, until it is delivered.
    pub error_reply: Option<String>,
    /// Its directory in the spool.
    pub directory: PathBuf,
    /// What a person looks at after the training, where the trainer has made it.
    pub report: Option<PathBuf>,
    /// Its logs, where Slurm has begun them.
    pub logs: Vec<PathBuf>,
    /// The directory of the logs.
    pub log_directory: PathBuf,
}

/// All open jobs, with `all` also the answered ones.
///
/// # Errors
/// When the spool can't be read. That Slurm does not answer is part of the result.
pub async fn status(config: &Config, all: bool) -> Result<Status, StoreError> {
    let store = Store::unopened(&config.site.spool);
    let (open, done) = store.ids()?;
    let mut names = [open.as_slice(), done.as_slice()].concat();
    names.sort();
    names.dedup();
    let mut seen: Vec<Seen> = Vec::new();
    let mut unreadable = Vec::new();
    for id in if all { &names } else { &open } {
        match store.see(id) {
            Ok(Some(job)) if all || !job.answered => seen.push(job),
            Ok(_) => {}
            Err(why) => unreadable.push((id.clone(), why.to_string())),
        }
    }
    seen.sort_by(|a, b| {
        (a.record.received_at, &a.record.job_id).cmp(&(b.record.received_at, &b.record.job_id))
    });
    let Asked { queue, pending, nodes, error: slurm_error } = ask(config, &seen).await;
    let now = Timestamp::now();
    let breaker = store.breaker();
    let paused = breaker.paused_until(now).map(|until| Pause {
        until,
        failures: breaker.failures,
        last: breaker.last.clone(),
    });
    let new = |job: Seen| {
        JobStatus::new(&job, &names, &queue, now, &config.site).placed(&job, &pending, &nodes)
    };
    let jobs = seen.into_iter().map(new).collect();
    let local_jobs = match config.site.scheduler {
        Kind::Local { jobs } => Some(jobs),
        Kind::Slurm => None,
    };
    let absent_spool = Some(&config.site.spool).filter(|spool| !spool.exists()).cloned();
    Ok(Status {
        jobs,
        slurm_error,
        paused,
        lock: store.held_by(),
        unreadable,
        local_jobs,
        absent_spool,
    })
}

/// One job, named by the beginning of its id.
///
/// # Errors
/// When no job is meant, or several, or the spool can't be read.
pub async fn details(config: &Config, text: &str) -> Result<Details, FindError> {
    let store = Store::unopened(&config.site.spool);
    let seen = find(&store, text)?;
    let (open, done) = store.ids()?;
    let Asked { queue, pending, nodes, error: slurm_error } =
        ask(config, std::slice::from_ref(&seen)).await;
    let log_directory = config.site.logs.clone();
    let logs = logs_of(&log_directory, &seen.record.job_id).unwrap_or_default();
    let is_error = seen.record.outcome == Some(Outcome::Error);
    let error_reply = small(&seen.files.reply())
        .filter(|_| is_error)
        .and_then(|body| Answer::from_body(body).ok()?.error_sentence());
    Ok(Details {
        settings: small(&seen.files.message()).and_then(|body| settings(&body)).unwrap_or_default(),
        error_reply,
        directory: seen.files.directory().to_path_buf(),
        report: Some(seen.files.report()).filter(|path| path.is_file()),
        logs: logs.into_iter().map(|log| log.path).collect(),
        log_directory,
        slurm_error,
        is_local: config.site.scheduler != Kind::Slurm,
        job: JobStatus::new(&seen, &[open, done].concat(), &queue, Timestamp::now(), &config.site)
            .placed(&seen, &pending, &nodes),
    })
}

/// What Slurm says.
#[derive(Default)]
struct Asked {
    queue: Vec<JobInfo>,
    pending: Vec<Pending>,
    nodes: Vec<Node>,
    error: Option<String>,
}

/// One call of squeue, where a job may be with Slurm; where one of ours waits, also what waits
/// beside it and what the nodes have. Without these there is still a reason to show.
async fn ask(config: &Config, jobs: &[Seen]) -> Asked {
    let is_with_slurm = |job: &Seen| {
        let state = &job.record.state;
        matches!(state, State::Submitting { .. } | State::Submitted { .. } | State::Running { .. })
    };
    if !jobs.iter().any(is_with_slurm) {
        return Asked::default();
    }
    let slurm = kinds_of_job::scheduler(&config.site);
    let queue = match slurm.queue().await {
        Ok(queue) => queue,
        Err(error) => return Asked { error: Some(error.to_string()), ..Asked::default() },
    };
    let waits = |job: &Seen| {
        let name = job.record.job_id.slurm_name();
        queue.iter().any(|info| info.name == name && info.state.phase() == Phase::Waiting)
    };
    if !jobs.iter().any(waits) {
        return Asked { queue, ..Asked::default() };
    }
    let (pending, nodes) = tokio::join!(slurm.pending(), slurm.nodes());
    Asked {
        queue,
        pending: pending.unwrap_or_default(),
        nodes: nodes.unwrap_or_default(),
        error: None,
    }
}

impl JobStatus {
    fn new(
        seen: &Seen,
        names: &[JobId],
        queue: &[JobInfo],
        now: Timestamp,
        site: &SiteConfig,
    ) -> Self {
        let record = seen.record.clone();
        let in_slurm = |name: &str, id: Option<SlurmJobId>| {
            let is_it = |info: &&JobInfo| {
                info.name == name
                    && id.is_none_or(|id| info.id == id)
                    && !record.has_outgrown(info.id)
            };
            queue.iter().rfind(is_it)
        };
        let info = in_slurm(&record.job_id.slurm_name(), record.slurm_id);
        let watcher =
            record.watcher.and_then(|id| in_slurm(&record.job_id.watcher_name(), Some(id)));
        let progress = Progress::read(&seen.files.progress());
        let expected_end = info
            .zip(progress.as_ref())
            .and_then(|(info, progress)| expected_end(info, progress, now));
        let about = About {
            slurm_id: record.slurm_id,
            asked: record.resources.as_ref(),
            operator: &site.operator,
            scheduler: site.scheduler,
        };
        let verdict = record.verdict.as_ref().filter(|_| is_with_slurm(&record));
        let being_cancelled = verdict.map(|verdict| of_verdict(verdict, about).1);
        Self {
            short: shortest(&record.job_id, names).to_owned(),
            answered: seen.answered,
            delivered: seen.answered || seen.files.delivered().is_file(),
            slurm: info.map(InSlurm::new),
            slurm_watcher: watcher.map(InSlurm::new),
            record,
            waiting: None,
            progress,
            expected_end,
            being_cancelled,
        }
    }

    /// The same with its place in the queue, if it waits.
    fn placed(mut self, seen: &Seen, pending: &[Pending], nodes: &[Node]) -> Self {
        let waits = self.slurm.as_ref().filter(|info| info.phase == Phase::Waiting);
        let Some(place) = waits.and_then(|info| place(info.id, pending)) else { return self };
        let asked = seen.record.resources.clone();
        let counted = asked
            .as_ref()
            .map(|asked| fitting(&place.partition, asked.memory_mb, asked.cpus.into(), nodes))
            .filter(|(_, all)| *all > 0);
        self.waiting = Some(Waiting {
            position: place.position,
            of: place.of,
            partition: place.partition,
            expected_start: place.start,
            memory_mb: asked.as_ref().map(|asked| asked.memory_mb),
            cpus: asked.as_ref().map(|asked| asked.cpus),
            fitting_nodes: counted.map(|(fits, _)| fits),
            nodes: counted.map(|(_, all)| all),
        });
        self
    }
}

impl InSlurm {
    fn new(info: &JobInfo) -> Self {
        let phase = info.state.phase();
        Self {
            id: info.id,
            state: info.state.to_string(),
            phase,
            reason_in_words: in_words(&info.reason).filter(|_| phase == Phase::Waiting),
            reason: info.reason.clone(),
            elapsed: info.elapsed.clone(),
        }
    }
}

/// When the training ends at the latest, by the trainer's note: where Slurm runs the job, and the
/// note is of this job and fresh.
fn expected_end(info: &JobInfo, progress: &Progress, now: Timestamp) -> Option<Timestamp> {
    let is_of_this_job =
        progress.slurm_job_id == Some(info.id) && info.state.phase() == Phase::Active;
    let is_fresh = now.duration_since(progress.updated_at).unsigned_abs() <= FRESH;
    progress.standing.expected_end.filter(|_| is_of_this_job && is_fresh)
}

fn small(path: &Path) -> Option<Vec<u8>> {
    fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= MAX_BYTES)?;
    read_own(path).ok()
}

fn settings(message: &[u8]) -> Option<Map<String, Value>> {
    let mut message: Value = serde_json::from_slice(message).ok()?;
    match message.get_mut("settings")?.take() {
        Value::Object(settings) => Some(settings),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::wire::conversation::EndedEpochs;
    use domain::Standing;
    use scheduler::slurm::JobState;

    #[test]
    fn the_end_is_the_trainers_where_it_is_fresh_and_of_the_job_that_runs() {
        let now: Timestamp = "2026-11-01T10:00:00Z".parse().unwrap();
        let info = JobInfo {
            id: SlurmJobId(17),
            name: "hpct-a".into(),
            state: JobState::parse("RUNNING"),
            reason: String::new(),
            elapsed: "10:10".into(),
            used_mb: None,
            exit_code: None,
        };
        let end = Some(now + Duration::from_secs(1500));
        let progress = Progress {
            slurm_job_id: Some(SlurmJobId(17)),
            restart_count: 1,
            standing: Standing {
                layer: "Model 0".into(),
                layer_number: 2,
                layers: 4,
                epoch: 2,
                epochs: 8,
                steps: 100,
                expected_end: end,
                ..Standing::default()
            },
            updated_at: now - Duration::from_secs(10),
            pace: None,
            ended_epochs: EndedEpochs::default(),
        };
        assert_eq!(expected_end(&info, &progress, now), end);
        let waiting = JobInfo { state: JobState::parse("PENDING"), ..info.clone() };
        assert_eq!(expected_end(&waiting, &progress, now), None);
        let other = Progress { slurm_job_id: Some(SlurmJobId(16)), ..progress.clone() };
        let old = Progress { updated_at: now - Duration::from_secs(601), ..progress.clone() };
        let silent = Progress { standing: Standing::default(), ..progress };
        for progress in [other, old, silent] {
            assert_eq!(expected_end(&info, &progress, now), None, "{progress:?}");
        }
    }
}
