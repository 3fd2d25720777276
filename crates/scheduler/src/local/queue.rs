//! Submitting, finding, ending and putting back jobs on this host.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::process::Command;

use super::files::{Directory, Entry, Found, all, lock, next, remove_empty};
use super::judge::{Queue, Tending, cancelled_before_it_ran, lost};
use super::{host, start};
use crate::slurm::{JobInfo, JobRequest, Pending, Phase, Request, SlurmError, SubmitError};
use base::crash;
use domain::SlurmJobId;

/// The partition that all jobs are in, for the words about a queue.
const PARTITION: &str = "this host";

/// The jobs of this host.
#[derive(Clone, Debug)]
pub struct Local {
    /// The directory of all jobs.
    root: PathBuf,
    /// How many may run at a time.
    most: u32,
    /// The program that looks after a job: `check`.
    program: PathBuf,
    /// Whether a job that failed is answered at once by its supervisor.
    answers: bool,
    environment: Vec<(OsString, OsString)>,
}

/// What the local queue can't do because of a file.
fn failed(error: &io::Error) -> SlurmError {
    SlurmError::Failed { command: "the queue of this host", detail: error.to_string() }
}

impl Local {
    /// The jobs below `root`, of which `most` may run at a time. `program` is the `check` that
    /// looks after each; where `answers`, it also has a failed job answered at once. `environment`
    /// is all that a job gets beside its own variables.
    pub fn new(
        root: PathBuf,
        most: u32,
        program: PathBuf,
        answers: bool,
        environment: Vec<(OsString, OsString)>,
    ) -> Self {
        Self { root, most, program, answers, environment }
    }

    /// The directory of all jobs.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Submits a job, and starts the process that looks after it. Where a job of this name is not
    /// over yet, that one is meant.
    ///
    /// # Errors
    /// When this host can never run it, or its files can't be written.
    pub fn submit(&self, request: &Request) -> Result<SlurmJobId, SubmitError> {
        let job = request.job();
        if let Some(why) = refusal(request) {
            return Err(SubmitError::Refused(why));
        }
        crash::point("before the local submission");
        let (number, directory) = self.enter(job).map_err(|error| failed(&error))?;
        crash::point("before the local supervisor");
        if let Err(error) = self.supervise(&directory) {
            let why = format!("{} can't be started: {error}", self.program.display());
            // It must not run later as well.
            directory.remove().map_err(|error| failed(&error))?;
            return Err(SubmitError::Later(why));
        }
        crash::point("after the local submission");
        Ok(SlurmJobId(number))
    }

    /// Writes a job down, unless one of its name is open.
    fn enter(&self, job: &JobRequest) -> io::Result<(u64, Directory)> {
        let _lock = lock(&self.root)?;
        let is_open = |found: &Found| found.entry.name == job.name && found.end.is_none();
        if let Some(found) = all(&self.root)?.into_iter().find(is_open) {
            return Ok((found.entry.number, found.directory));
        }
        let (number, directory) = next(&self.root)?;
        directory.make()?;
        directory.write_entry(&Entry {
            number,
            name: job.name.clone(),
            host: base::host_name(),
            submitted_at: Timestamp::now(),
            tasks: job.tasks.max(1),
            cpus: in_all(job).0,
            memory_mb: in_all(job).1,
            seconds: job.seconds,
            warning_seconds: job.warning_seconds,
            gpu: job.gres.is_some(),
            requeue: job.requeue.unwrap_or(false),
            log: log(&job.log, number),
            directory: job.directory.clone(),
            script: job.script.clone(),
            argument: PathBuf::from(&job.argument),
        })?;
        Ok((number, directory))
    }

    /// Starts a process that looks after a job and outlives this one. Where several are started for
    /// one job, only the first stays.
    fn supervise(&self, directory: &Directory) -> io::Result<()> {
        let log = start::open_log(&directory.supervisor_log())?;
        let mut command = Command::new(&self.program);
        command.arg("supervise").arg(directory.path()).arg("--jobs").arg(self.most.to_string());
        if self.answers {
            command.arg("--answer");
        }
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
        // It is not waited for; tokio takes note of its end where this process lives that long.
        command.current_dir("/").spawn().map(drop)
    }

    /// All jobs of this host: waiting, running or recently ended.
    ///
    /// # Errors
    /// When their files can't be read. Then nothing is known, and nothing may be decided.
    pub fn queue(&self) -> Result<Vec<JobInfo>, SlurmError> {
        let jobs = all(&self.root).map_err(|error| failed(&error))?;
        let (line, now) = (Queue::of(&jobs), Timestamp::now());
        Ok(jobs.iter().map(|job| job.info(line.ahead_of(job.entry.number), now)).collect())
    }

    /// The jobs that wait, in the order that they start in.
    ///
    /// # Errors
    /// As [`Local::queue`].
    pub fn pending(&self) -> Result<Vec<Pending>, SlurmError> {
        let jobs = self.queue()?;
        let waits = |info: &&JobInfo| info.state.phase() == Phase::Waiting;
        Ok(jobs.iter().filter(waits).map(|info| Pending::new(info.id, PARTITION)).collect())
    }

    /// Makes good what crashes of supervisors or of the host have left. Only whoever holds the lock
    /// of the spool calls it.
    ///
    /// # Errors
    /// When the files of the jobs can't be read or written.
    pub fn tend(&self) -> Result<(), SlurmError> {
        self.tend_all().map_err(|error| failed(&error))
    }

    fn tend_all(&self) -> io::Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        let now = Timestamp::now();
        let mut alone = Vec::new();
        {
            let _lock = lock(&self.root)?;
            remove_empty(&self.root)?;
            for job in all(&self.root)? {
                let directory = &job.directory;
                match job.tending(now) {
                    Tending::Nothing => {}
                    Tending::Supervise => alone.push(directory.clone()),
                    Tending::End => directory.write_end(&cancelled_before_it_ran(now))?,
                    Tending::PutBack => {
                        end_processes(&job);
                        tracing::warn!(
                            job = job.entry.name,
                            "what looked after job {} is gone: it is started again",
                            job.entry.number
                        );
                        directory.count_lost_runs(job.lost_runs + 1)?;
                        directory.put_back(job.restarts + 1)?;
                        alone.push(directory.clone());
                    }
                    Tending::Lost => {
                        end_processes(&job);
                        directory.write_end(&lost(&job, now))?;
                    }
                    Tending::Remove => directory.remove()?,
                }
            }
        }
        alone.iter().try_for_each(|directory| self.supervise(directory))
    }

    /// Ends a job; one that is over or unknown stays as it is.
    ///
    /// # Errors
    /// When that can't be written down.
    pub fn cancel(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        let directory = self.directory(id);
        let found = directory.found().map_err(|error| failed(&error))?;
        let Some(found) = found.filter(|found| found.end.is_none()) else {
            return Ok(());
        };
        directory.ask_for_end().map_err(|error| failed(&error))?;
        let supervisor = directory.supervisor().map_err(|error| failed(&error))?;
        if let Some(supervisor) = supervisor.filter(|_| found.supervised) {
            supervisor.signal(Signal::TERM); // it would see that within a second anyway
            return Ok(());
        }
        // Nobody looks after it: this does what is left to do.
        self.tend()
    }

    /// Has a running job put back into the queue once its process has ended, which is up to that
    /// process.
    ///
    /// # Errors
    /// When it may not be put back, or that can't be written down.
    pub fn requeue(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        let directory = self.directory(id);
        let refused = |detail: &str| SlurmError::Failed {
            command: "the queue of this host",
            detail: detail.to_owned(),
        };
        let entry = directory.entry().map_err(|error| failed(&error))?;
        let entry = entry.ok_or_else(|| refused("it has no such job"))?;
        if !entry.requeue {
            return Err(refused("the job was submitted with REQUEUE=0"));
        }
        directory.ask_for_another_run().map_err(|error| failed(&error))
    }

    /// A command that runs these words with the variables and in the directory of a job that runs;
    /// `None` where it does not run on this host.
    ///
    /// # Errors
    /// When its files can't be read.
    pub fn inside(
        &self,
        id: SlurmJobId,
        words: &[OsString],
    ) -> Result<Option<std::process::Command>, SlurmError> {
        let found = self.directory(id).found().map_err(|error| failed(&error))?;
        let runs = |found: &Found| found.state().phase() == Phase::Active;
        let (Some(found), Some((program, arguments))) = (found.filter(runs), words.split_first())
        else {
            return Ok(None);
        };
        let gpu = found.run.as_ref().and_then(|run| run.gpu.as_deref());
        let variables = start::variables(&found.entry, found.restarts, gpu);
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(variables)
            .current_dir(&found.entry.directory);
        Ok(Some(command))
    }

    fn directory(&self, id: SlurmJobId) -> Directory {
        Directory::new(&self.root.join(id.to_string()))
    }
}

/// Kills what is left of a run whose supervisor is dead. Its first process dies with the
/// supervisor; what that one has started may be there still.
fn end_processes(job: &Found) {
    if let Some(run) = &job.run {
        run.child.signal_group(Signal::KILL);
    }
}

/// Why this host can never run such a job; `None` where it can.
pub fn refusal(request: &Request) -> Option<String> {
    too_much(request.job(), host::memory_mb(), host::cpus())
}

/// Why this host can never run a job, in the words of the answer.
fn too_much(job: &JobRequest, memory_mb: Option<u64>, cpus: u64) -> Option<String> {
    let (asked_cpus, asked_mb) = in_all(job);
    if let Some(has) = memory_mb.filter(|has| asked_mb > *has) {
        return Some(format!("it asks for {asked_mb} MB, and this host has {has} MB"));
    }
    (u64::from(asked_cpus) > cpus)
        .then(|| format!("it asks for {asked_cpus} CPUs, and this host has {cpus}"))
}

/// The cores and the memory of all tasks of a job.
fn in_all(job: &JobRequest) -> (u32, u64) {
    let tasks = job.tasks.max(1);
    (job.cpus.saturating_mul(tasks), job.memory_mb.saturating_mul(tasks.into()))
}

/// `LOG-NUMBER.log`, as Slurm is asked to name it.
fn log(base: &Path, number: u64) -> PathBuf {
    let mut name = OsString::from(base);
    name.push(OsStr::new(&format!("-{number}.log")));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::super::files::Run;
    use super::super::process::Identity;
    use super::*;

    fn request(name: &str) -> Request {
        JobRequest {
            name: name.to_owned(),
            cpus: 1,
            memory_mb: 10,
            seconds: 60,
            log: "/logs/50%/a.b".into(),
            requeue: Some(true),
            script: "/bin/true".into(),
            argument: "x".into(),
            ..JobRequest::default()
        }
        .into()
    }

    fn local(root: &Path) -> Local {
        // It stands in for `check`: what a supervisor does is a story of its own.
        Local::new(root.to_path_buf(), 1, "/bin/true".into(), true, Vec::new())
    }

    #[tokio::test]
    async fn a_name_that_is_open_is_not_submitted_again() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(&dir.path().join("local"));
        assert_eq!(local.queue().unwrap(), []);
        let first = local.submit(&request("a")).unwrap();
        assert_eq!(local.submit(&request("a")).unwrap(), first);
        let other = local.submit(&request("b")).unwrap();
        assert_eq!((first.0, other.0, local.queue().unwrap().len()), (1, 2, 2));
        local.cancel(first).unwrap();
        assert_eq!(local.queue().unwrap()[0].state.to_string(), "CANCELLED");
        assert_eq!(local.submit(&request("a")).unwrap().0, 3, "the first one is over");
        local.cancel(SlurmJobId(99)).unwrap();
        local.cancel(first).unwrap();
    }

    #[tokio::test]
    async fn only_a_lost_run_counts_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(&dir.path().join("local"));
        let directory = local.directory(local.submit(&request("a")).unwrap());
        let child = Identity { pid: 1, started: 1, boot: "another boot".into() };
        let run = Run { child, started_at: Timestamp::UNIX_EPOCH, gpu: None };
        // As a supervisor does for a job that has asked for it.
        directory.write_run(&run).unwrap();
        directory.put_back(1).unwrap();
        directory.write_run(&run).unwrap();
        local.tend().unwrap();
        let found = directory.found().unwrap().unwrap();
        assert_eq!((found.run, found.restarts, found.lost_runs), (None, 2, 1));
    }

    #[tokio::test]
    async fn only_a_job_that_may_run_again_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(&dir.path().join("local"));
        let id = local.submit(&request("a")).unwrap();
        local.requeue(id).unwrap();
        let mut once = request("b").job().clone();
        once.requeue = Some(false);
        let once = local.submit(&once.into()).unwrap();
        assert!(local.requeue(once).unwrap_err().to_string().contains("REQUEUE=0"));
        assert!(local.requeue(SlurmJobId(99)).is_err());
    }

    #[tokio::test]
    async fn a_supervisor_that_can_not_be_started_leaves_no_job() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("local");
        let local = Local::new(root, 1, "/no/such/program".into(), true, Vec::new());
        let error = local.submit(&request("a")).unwrap_err();
        assert!(matches!(error, SubmitError::Later(_)), "{error}");
        assert_eq!(local.queue().unwrap(), []);
    }

    #[test]
    fn what_the_host_does_not_have_is_refused_with_both_numbers() {
        let mut job = request("a").job().clone();
        assert_eq!(too_much(&job, Some(10), 1), None);
        assert_eq!(too_much(&job, None, 1), None);
        job.memory_mb = 11;
        let why = too_much(&job, Some(10), 1).unwrap();
        assert_eq!(why, "it asks for 11 MB, and this host has 10 MB");
        job.memory_mb = 1;
        job.cpus = 2;
        assert!(too_much(&job, Some(10), 1).unwrap().contains("2 CPUs"));
    }

    #[test]
    fn the_log_is_named_as_slurm_would() {
        assert_eq!(log(Path::new("/logs/50%/a.b"), 7), Path::new("/logs/50%/a.b-7.log"));
    }
}
