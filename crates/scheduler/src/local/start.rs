//! Starting a job's process: its session, its limits, its environment.
//!
//! The supervisor starts `check supervise --begin`, which sets what a process can only set for
//! itself, and then becomes the batch script.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, Signal};
use thiserror::Error;

use super::files::{Directory, Entry};

/// How much later than others a job's processes get the processor.
const NICE: i32 = 5;
/// A process may map more than its job asked for: so many MB more, and this part of what was asked
/// for (a quarter). Mapped memory that is never touched costs nothing, but counts for the limit.
const MAPPED_EXTRA_MB: u64 = 512;
const MAPPED_EXTRA_PART: u64 = 4;

/// A job whose process can't be started.
#[derive(Debug, Error)]
pub enum BeginError {
    /// It is no job.
    #[error("{} holds no job", .0.display())]
    NoJob(PathBuf),
    /// Its files can't be read.
    #[error("{0}")]
    Unreadable(io::Error),
    /// Whoever looked after it is gone.
    #[error("the process that looks after the job is gone")]
    Alone,
    /// The script can't be run.
    #[error("{} can't be run: {source}", path.display())]
    Script {
        /// The script.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Opens a log to write at its end; nobody else may read it.
pub(super) fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The variables of a job, as Slurm sets them: the batch script and the trainer read these.
pub(super) fn variables(
    entry: &Entry,
    restarts: u64,
    gpu: Option<&str>,
) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&'static str, OsString)> = vec![
        ("SLURM_JOB_ID", entry.number.to_string().into()),
        ("SLURM_JOB_NAME", entry.name.clone().into()),
        ("SLURM_CPUS_PER_TASK", (entry.cpus / entry.tasks.max(1)).max(1).to_string().into()),
        ("SLURM_MEM_PER_NODE", entry.memory_mb.to_string().into()),
        ("SLURM_SUBMIT_DIR", entry.directory.clone().into()),
        // An empty one hides all GPUs.
        ("CUDA_VISIBLE_DEVICES", gpu.unwrap_or("").into()),
        ("SCHEDULER", "local".into()),
    ];
    if entry.tasks > 1 {
        variables.push(("SLURM_NTASKS", entry.tasks.to_string().into()));
        variables.push(("SLURM_NTASKS_PER_NODE", entry.tasks.to_string().into()));
    }
    if restarts > 0 {
        variables.push(("SLURM_RESTART_COUNT", restarts.to_string().into()));
    }
    if gpu.is_some() {
        variables.push(("SLURM_GPUS_ON_NODE", "1".into()));
    }
    variables
}

/// How a job is kept within its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bounds {
    /// A scope of systemd: the kernel counts the memory of all its processes.
    Scope,
    /// Limits of each process; the supervisor counts the memory of all.
    Process,
}

/// The command that starts a job, to be run by its supervisor.
pub(super) fn command(
    program: &Path,
    directory: &Directory,
    entry: &Entry,
    restarts: u64,
    gpu: Option<&str>,
    bounds: Bounds,
) -> io::Result<Command> {
    let mut words: Vec<OsString> = Vec::new();
    if bounds == Bounds::Scope {
        words.extend(scope(entry));
    }
    words.extend([program.into(), "supervise".into(), directory.path().into(), "--begin".into()]);
    words.push(std::process::id().to_string().into());
    let mut words = words.into_iter();
    // There is at least the program.
    let mut command = Command::new(words.next().unwrap_or_default());
    let log = open_log(&entry.log)?;
    command
        .args(words)
        .envs(variables(entry, restarts, gpu))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir(&entry.directory);
    Ok(command)
}

/// The beginning of a command that runs in a scope of its own.
fn scope(entry: &Entry) -> Vec<OsString> {
    let text = |text: &str| OsString::from(text);
    vec![
        text("systemd-run"),
        text("--user"),
        text("--scope"),
        text("--quiet"),
        text("--collect"),
        format!("--property=MemoryMax={}M", entry.memory_mb).into(),
        text("--property=MemorySwapMax=0"),
        format!("--property=CPUQuota={}%", u64::from(entry.cpus) * 100).into(),
        text("--"),
    ]
}

/// True when systemd makes scopes for this account: asked of systemd itself, within seconds.
pub fn scope_works() -> bool {
    let try_it = Command::new("timeout")
        .args(["5", "systemd-run", "--user", "--scope", "--quiet", "--collect"])
        .args(["--property=MemoryMax=64M", "--", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    try_it.is_ok_and(|status| status.success())
}

/// Makes this process the job of a directory. Returns only when that fails.
///
/// `supervisor` is the number of the process that started this one: where it is gone already, there
/// is nobody to look after the job, and nothing is begun.
pub fn begin(directory: &Directory, supervisor: i32) -> BeginError {
    let entry = match directory.entry() {
        Ok(Some(entry)) => entry,
        Ok(None) => return BeginError::NoJob(directory.path().to_path_buf()),
        Err(error) => return BeginError::Unreadable(error),
    };
    // A session of its own: signals reach all of the job and nothing else.
    let _ = rustix::process::setsid(); // fails only where it leads one already
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!("the job will outlive its supervisor: {error}");
    }
    // Asked after the line above: whatever happens from here on ends this process too.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent != Some(supervisor) {
        return BeginError::Alone;
    }
    limit(&entry);
    let source =
        Command::new(&entry.script).arg(&entry.argument).current_dir(&entry.directory).exec();
    BeginError::Script { path: entry.script, source }
}

/// The limits that a process sets for itself and its children. A job runs without them too, so one
/// that the system refuses is only a line in its log.
fn limit(entry: &Entry) {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!("the job runs at the usual priority: {error}");
    }
    let bytes = mapped_mb(entry.memory_mb) << 20;
    let old = rustix::process::getrlimit(Resource::Data);
    if old.maximum.is_none_or(|most| bytes < most) {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        if let Err(error) = rustix::process::setrlimit(Resource::Data, limit) {
            tracing::warn!("the memory of the job has no limit of the system: {error}");
        }
    }
}

/// The memory that each process of a job may map for itself, in MB. The supervisor ends a job that
/// uses more than it asked for; this keeps one that is too quick for that from filling the host.
fn mapped_mb(memory_mb: u64) -> u64 {
    let most = (u64::MAX >> 20) / 2;
    (memory_mb.min(most) + memory_mb.min(most) / MAPPED_EXTRA_PART + MAPPED_EXTRA_MB).min(most)
}

#[cfg(test)]
mod tests {
    use super::super::files::entry;
    use super::*;

    #[test]
    fn a_job_is_told_what_slurm_would_tell_it() {
        let entry = entry(17, "hpct-a");
        let of = |restarts, gpu, name| {
            let found = variables(&entry, restarts, gpu);
            found.into_iter().find(|(n, _)| *n == name).map(|(_, v)| v.into_string().unwrap())
        };
        assert_eq!(of(0, None, "SLURM_JOB_ID").as_deref(), Some("17"));
        assert_eq!(of(0, None, "SLURM_RESTART_COUNT"), None);
        assert_eq!(of(2, None, "SLURM_RESTART_COUNT").as_deref(), Some("2"));
        assert_eq!(of(0, None, "CUDA_VISIBLE_DEVICES").as_deref(), Some(""));
        assert_eq!(of(0, Some("GPU-8f"), "CUDA_VISIBLE_DEVICES").as_deref(), Some("GPU-8f"));
        assert_eq!(of(0, Some("1"), "SLURM_GPUS_ON_NODE").as_deref(), Some("1"));
        assert_eq!(of(0, None, "SCHEDULER").as_deref(), Some("local"));
        assert_eq!(of(0, None, "SLURM_NTASKS"), None);
        let three = Entry { tasks: 3, cpus: 6, ..entry.clone() };
        let found = variables(&three, 0, None);
        for (name, value) in [("SLURM_NTASKS", "3"), ("SLURM_CPUS_PER_TASK", "2")] {
            assert!(found.contains(&(name, value.into())), "{name} {value}: {found:?}");
        }
    }

    #[test]
    fn a_scope_has_the_memory_and_the_cores_of_the_job() {
        let mut entry = entry(17, "hpct-a");
        entry.cpus = 6;
        let words: Vec<String> =
            scope(&entry).into_iter().map(|word| word.into_string().unwrap()).collect();
        for part in ["--scope", "--property=MemoryMax=500M", "--property=CPUQuota=600%"] {
            assert!(words.iter().any(|word| word == part), "{words:?}");
        }
        assert_eq!(words.last().map(String::as_str), Some("--"));
    }

    #[test]
    fn what_may_be_mapped_is_more_than_what_was_asked_for() {
        assert_eq!((mapped_mb(500), mapped_mb(8000)), (1137, 10_512));
        assert!(mapped_mb(u64::MAX).checked_mul(1 << 20).is_some());
    }

    #[test]
    fn nothing_is_begun_where_there_is_no_job() {
        let dir = tempfile::tempdir().unwrap();
        let error = begin(&Directory::new(dir.path()), 1);
        assert!(matches!(error, BeginError::NoJob(_)), "{error}");
    }
}
