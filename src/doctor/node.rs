//! The checks on a compute node: a small job that runs them there and writes down the results.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::row::{Row, Rows, host};
use super::spool::DIRECTORY;
use base::text::{printable, span};
use domain::SlurmJobId;
use scheduler::SiteConfig;
use scheduler::kinds_of_job;
use scheduler::slurm::{JobInfo, Phase, in_words};
use scheduler::{Kind, Scheduler};

/// The time between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a job's file may take to be seen after its end, through another node's filesystem.
const LAG: Duration = Duration::from_secs(20);
/// The file that the job leaves for us.
pub(super) const RESULT: &str = "rows.json";
const GROUP: &str = "compute node";

/// How long a compute node is waited for.
#[derive(Clone, Copy, Debug)]
pub struct NodeCheck {
    /// From the submission to the result.
    pub wait: Duration,
}

/// How the wait for a compute node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// There is a result, or there can't be one.
    Done,
    /// It was told to stop.
    Stopped,
}

/// Submits the job, waits for what it writes, and leaves nothing behind.
pub(super) async fn on_node(
    site: &SiteConfig,
    memory_mb: u64,
    node: NodeCheck,
    tell: &mut dyn FnMut(&str),
    stop: impl Future<Output = ()>,
) -> (Vec<Row>, Ended) {
    let mut rows = Rows::new(GROUP);
    // Before the first pass there is no such directory yet.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&site.spool);
    let directory =
        made.and_then(|()| tempfile::Builder::new().prefix(DIRECTORY).tempdir_in(&site.spool));
    let directory = match directory {
        Ok(directory) => directory,
        Err(error) => {
            rows.skip(
                "job",
                format!("no place for its result in {}: {error}", site.spool.display()),
            );
            return (rows.done(), Ended::Done);
        }
    };
    let script = site.home.join("slurm/check_node.sh");
    if !script.is_file() {
        rows.fail(
            "job",
            format!("there is no {}", script.display()),
            "put the script back from the release",
        );
        return (rows.done(), Ended::Done);
    }
    let slurm = kinds_of_job::scheduler(site);
    // A name that no other doctor has.
    let name = format!("hpcd-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let request = kinds_of_job::node_check(site, &name, memory_mb, &script, directory.path());
    let id = match slurm.submit(&request).await {
        Ok(id) => id,
        Err(error) => {
            rows.fail_with(
                "job",
                &error,
                match site.scheduler {
                    Kind::Slurm => "check the SITE_ variables, and see sbatch's words above",
                    Kind::Local { .. } => "see the rows of this host above",
                },
            );
            return (rows.done(), Ended::Done);
        }
    };
    let word = site.scheduler.job_word();
    tell(&format!(
        "a job looks from a compute node: {word} {id}, waited for {} at most",
        span(node.wait)
    ));
    let (mut found, ended) = tokio::select! {
        found = wait(&slurm, site.scheduler, id, directory.path(), node.wait, tell) => {
            (found, Ended::Done)
        }
        () = stop => {
            rows.skip("job", format!("stopped; {word} {id} is cancelled"));
            (Vec::new(), Ended::Stopped)
        }
    };
    // Also a job that is done, which may still be ending; Slurm does not mind.
    if let Err(error) = slurm.cancel(id).await {
        rows.warn(
            "job",
            format!("{word} {id} can't be cancelled: {error}"),
            match site.scheduler {
                Kind::Slurm => format!("scancel {id}"),
                Kind::Local { .. } => "it ends by itself within minutes".to_owned(),
            },
        );
    }
    let mut all = rows.done();
    all.append(&mut found);
    (all, ended)
}

async fn wait(
    slurm: &Scheduler,
    kind: Kind,
    id: SlurmJobId,
    directory: &Path,
    patience: Duration,
    tell: &mut dyn FnMut(&str),
) -> Vec<Row> {
    let begun = Instant::now();
    let word = kind.job_word();
    let mut rows = Rows::new(GROUP);
    let mut told = String::new();
    let mut over_since: Option<Instant> = None;
    loop {
        if let Some(mut found) = result(directory) {
            rows.pass("job", format!("{word} {id} looked around and wrote down what it saw"));
            let mut all = rows.done();
            all.append(&mut found);
            return all;
        }
        // Slurm may fail to answer now and answer in two seconds.
        let info = slurm.queue().await.ok().map(|jobs| jobs.into_iter().find(|job| job.id == id));
        let state = info.as_ref().map_or_else(|| told.clone(), |info| describe(info.as_ref()));
        if state != told && !state.is_empty() {
            tell(&state);
            told.clone_from(&state);
        }
        let info = info.flatten();
        if let Some(info) = info.as_ref().filter(|info| info.can_never_start()) {
            rows.fail(
                "job",
                describe(Some(info)),
                "check SITE_PARTITION, SITE_QOS, SITE_GRES and SITE_CONSTRAINT",
            );
            return rows.done();
        }
        if info.is_some_and(|info| info.state.phase() == Phase::Ended) {
            let since = over_since.get_or_insert_with(Instant::now);
            if since.elapsed() > LAG {
                let log = std::fs::read_to_string(directory.join(format!("node-{id}.log")))
                    .unwrap_or_default();
                let last =
                    log.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing");
                let seen = format!(
                    "{word} {id} is over ({told}) and wrote no result here; its log says: {last}"
                );
                let advice = format!(
                    "make sure that the installation and SPOOL_DIR are the same directories on \
                    compute nodes as on {}",
                    host()
                );
                rows.fail("job", seen, advice);
                return rows.done();
            }
        }
        if begun.elapsed() > patience {
            let seen = format!(
                "no result within {}: {}",
                span(patience),
                if told.is_empty() {
                    format!("{} does not answer", kind.subject())
                } else {
                    told.clone()
                }
            );
            rows.warn(
                "job",
                seen,
                "give it more time with --wait SECONDS, or try when the cluster is less busy",
            );
            return rows.done();
        }
        tokio::time::sleep(PAUSE.min(patience)).await;
    }
}

/// Where a job stands, in words.
fn describe(info: Option<&JobInfo>) -> String {
    let Some(info) = info else { return String::new() };
    let why = match in_words(&info.reason).filter(|_| info.state.phase() == Phase::Waiting) {
        Some(words) => format!(": {words} ({})", info.reason),
        None if info.reason.is_empty() => String::new(),
        None => format!(": {}", info.reason),
    };
    printable(&format!("{}{why}", info.state.to_string().to_lowercase()), 200)
}

/// The rows that the job has written. Listing the directory makes a shared filesystem ask its
/// server.
fn result(directory: &Path) -> Option<Vec<Row>> {
    let mut entries = std::fs::read_dir(directory).ok()?;
    entries.find(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() == RESULT))?.ok()?;
    let text = base::files::read_own(&directory.join(RESULT)).ok()?;
    serde_json::from_slice(&text).ok()
}
