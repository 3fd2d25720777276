//! The files of a job on this host.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base::files::{Replace, read_own, write_atomic};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::Identity;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its number.
    pub(super) number: u64,
    /// Its name, by which it is found where its number is not known.
    pub(super) name: String,
    /// The host that it was submitted on.
    pub(super) host: String,
    /// When it was submitted.
    pub(super) submitted_at: Timestamp,
    /// How many processes train at a time.
    #[serde(default = "one")]
    pub(super) tasks: u32,
    /// Cores of all of them.
    pub(super) cpus: u32,
    /// Memory in MB (1,048,576 bytes).
    pub(super) memory_mb: u64,
    /// Its time limit in seconds.
    pub(super) seconds: u64,
    /// How many seconds before its time limit it gets SIGUSR1; 0: it gets none.
    pub(super) warning_seconds: u64,
    /// Whether it gets a GPU, where the host has any.
    pub(super) gpu: bool,
    /// Whether it may be started a second time.
    pub(super) requeue: bool,
    /// Its log.
    pub(super) log: PathBuf,
    /// The directory that it runs in.
    pub(super) directory: PathBuf,
    /// What is run.
    pub(super) script: PathBuf,
    /// The only argument of that.
    pub(super) argument: PathBuf,
}

fn one() -> u32 {
    1
}

/// Who looks after a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Supervisor {
    /// The supervising process.
    pub(super) supervisor: Identity,
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// The process of the job, which leads its session.
    pub(super) child: Identity,
    /// Since when.
    pub(super) started_at: Timestamp,
    /// The GPU that it has.
    pub(super) gpu: Option<String>,
}

/// The supervisor's latest note of a job that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Beat {
    /// When it was written.
    pub at: Timestamp,
    /// The most memory that the job was seen to use, in MB.
    pub peak_mb: u64,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    /// In Slurm's word, such as `TIMEOUT`.
    pub(super) state: String,
    /// Exit code and signal in Slurm's form, such as `0:9`.
    pub(super) exit_code: Option<String>,
    /// When its last run began; nothing where it never ran.
    pub(super) started_at: Option<Timestamp>,
    /// When it ended.
    pub(super) ended_at: Timestamp,
    /// The most memory that it was seen to use, in MB.
    pub(super) peak_mb: Option<u64>,
}

/// The directory of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory(PathBuf);

/// All that is on disk of one job.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) directory: Directory,
    pub(super) entry: Entry,
    /// True while the process that looks after it lives.
    pub(super) supervised: bool,
    pub(super) run: Option<Run>,
    pub(super) beat: Option<Beat>,
    /// How often it was put back, for whatever reason.
    pub(super) restarts: u64,
    /// How often that was because its supervisor or its host had failed.
    pub(super) lost_runs: u64,
    pub(super) cancelled: bool,
    pub(super) end: Option<End>,
}

/// What a file holds; `None` where it is not there. Any other file that can't be read may hold what
/// decides about the job.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let wrong = |kind, why: String| {
        io::Error::new(kind, format!("{} can't be read: {why}", path.display()))
    };
    match read_own(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| wrong(io::ErrorKind::InvalidData, error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.kind(), error.to_string())),
    }
}

/// The same of what can be done without: a file that a crash of the host has left empty counts as
/// none.
fn note<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        found => found,
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_atomic(path, &serde_json::to_vec(value).map_err(io::Error::other)?)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Directory {
    /// The directory of a job.
    pub fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Makes it, for this account alone.
    pub(super) fn make(&self) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&self.0)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What was asked for; `None` where it is no job.
    pub(super) fn entry(&self) -> io::Result<Option<Entry>> {
        read(&self.file("job.json"))
    }

    pub(super) fn write_entry(&self, entry: &Entry) -> io::Result<()> {
        write(&self.file("job.json"), entry)
    }

    pub(super) fn write_supervisor(&self, supervisor: Identity) -> io::Result<()> {
        write(&self.file("supervisor.json"), &Supervisor { supervisor })
    }

    pub(super) fn write_run(&self, run: &Run) -> io::Result<()> {
        write(&self.file("run.json"), run)
    }

    /// A note that nobody waits for: the next one replaces it.
    pub(super) fn write_beat(&self, beat: &Beat) -> io::Result<()> {
        let text = serde_json::to_vec(beat).map_err(io::Error::other)?;
        Replace::NOTE.write(&self.file("beat.json"), &text)
    }

    pub(super) fn write_end(&self, end: &End) -> io::Result<()> {
        write(&self.file("end.json"), end)
    }

    /// Where the supervisor's own words go.
    pub(super) fn supervisor_log(&self) -> PathBuf {
        self.file("supervisor.log")
    }

    /// Asks for an end.
    pub(super) fn ask_for_end(&self) -> io::Result<()> {
        write_atomic(&self.file("cancel"), b"")
    }

    /// True once an end was asked for.
    pub(super) fn is_to_end(&self) -> bool {
        self.file("cancel").exists()
    }

    /// Asks for the job to be put back once its process has ended.
    pub(super) fn ask_for_another_run(&self) -> io::Result<()> {
        write_atomic(&self.file("requeue"), b"")
    }

    /// True once that was asked for.
    pub(super) fn is_to_run_again(&self) -> bool {
        self.file("requeue").exists()
    }

    /// Notes that a run was lost, before the job is put back.
    pub(super) fn count_lost_runs(&self, lost_runs: u64) -> io::Result<()> {
        write(&self.file("lost_runs.json"), &lost_runs)
    }

    /// Puts the job back: it waits again. The count comes first, so that a job is never started
    /// again without being counted.
    pub(super) fn put_back(&self, restarts: u64) -> io::Result<()> {
        write(&self.file("restarts.json"), &restarts)?;
        for name in ["beat.json", "run.json", "requeue"] {
            remove(&self.file(name))?;
        }
        Ok(())
    }

    /// Removes the job.
    pub(super) fn remove(&self) -> io::Result<()> {
        // Without its entry it is no job; the rest may go in any order.
        remove(&self.file("job.json"))?;
        fs::remove_dir_all(&self.0)
    }

    /// Everything that is on disk of the job; `None` where it is none.
    pub(super) fn found(&self) -> io::Result<Option<Found>> {
        let mut supervisor = self.supervisor()?;
        loop {
            // A supervisor writes down the end before it goes: whether it lives is looked up first.
            let supervised = supervisor.as_ref().is_some_and(Identity::is_alive);
            let Some(entry) = self.entry()? else { return Ok(None) };
            let found = Found {
                directory: self.clone(),
                entry,
                supervised,
                run: read(&self.file("run.json"))?,
                beat: note(&self.file("beat.json"))?,
                restarts: read(&self.file("restarts.json"))?.unwrap_or(0),
                lost_runs: read(&self.file("lost_runs.json"))?.unwrap_or(0),
                cancelled: self.is_to_end(),
                end: read(&self.file("end.json"))?,
            };
            // A run that another supervisor has begun meanwhile is not one without a supervisor.
            let now = self.supervisor()?;
            if now == supervisor {
                return Ok(Some(found));
            }
            supervisor = now;
        }
    }

    /// The process that looks after the job, or did.
    pub(super) fn supervisor(&self) -> io::Result<Option<Identity>> {
        let file: Option<Supervisor> = read(&self.file("supervisor.json"))?;
        Ok(file.map(|file| file.supervisor))
    }
}

/// The number that a directory is named by.
fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

/// All jobs in `root`, by number. A root that is not there has none.
pub(super) fn all(root: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(number) = number(&path)
            && let Some(job) = Directory(path).found()?
            && job.entry.number == number
        {
            found.push(job);
        }
    }
    found.sort_by_key(|job| job.entry.number);
    Ok(found)
}

/// The directory for a new job, by a number that no job has had.
pub(super) fn next(root: &Path) -> io::Result<(u64, Directory)> {
    let file = root.join("next.json");
    let mut most = 0;
    for entry in fs::read_dir(root)? {
        most = most.max(number(&entry?.path()).unwrap_or(0));
    }
    let next = note::<u64>(&file)?.unwrap_or(1).max(most + 1);
    write(&file, &(next + 1))?;
    Ok((next, Directory(root.join(next.to_string()))))
}

/// Removes directories without a job, which a submission that was broken off has left.
pub(super) fn remove_empty(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if number(&path).is_some() && !path.join("job.json").try_exists()? {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// The lock of all jobs on this host, held until dropped. It is held for as long as it takes to
/// read the jobs and to write one file, or to start one process.
#[derive(Debug)]
pub(super) struct Held(#[allow(dead_code, reason = "the lock lives as long as the file")] File);

/// Makes the directory of all jobs, and takes its lock.
pub(super) fn lock(root: &Path) -> io::Result<Held> {
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(root.join("lock"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(Held(file))
}

#[cfg(test)]
pub(super) fn entry(number: u64, name: &str) -> Entry {
    Entry {
        number,
        name: name.to_owned(),
        host: base::host_name(),
        submitted_at: Timestamp::UNIX_EPOCH,
        tasks: 1,
        cpus: 1,
        memory_mb: 500,
        seconds: 600,
        warning_seconds: 60,
        gpu: false,
        requeue: true,
        log: "/logs/a-1.log".into(),
        directory: "/".into(),
        script: "/bin/true".into(),
        argument: "x".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_given_out_twice() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (one, directory) = next(root).unwrap();
        directory.make().unwrap();
        directory.write_entry(&entry(one, "a")).unwrap();
        assert_eq!((one, all(root).unwrap().len()), (1, 1));
        directory.remove().unwrap();
        assert_eq!((next(root).unwrap().0, all(root).unwrap().len()), (2, 0));
        fs::create_dir(root.join("17")).unwrap();
        assert_eq!(next(root).unwrap().0, 18, "also where the count is lost or behind");
    }

    #[test]
    fn what_is_no_job_is_passed_over_and_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("local");
        assert_eq!(all(&root).unwrap().len(), 0, "before the first job");
        drop(lock(&root).unwrap());
        for name in ["1", "2", "other"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        Directory(root.join("2")).write_entry(&entry(3, "a")).unwrap();
        Directory(root.join("other")).write_entry(&entry(1, "a")).unwrap();
        assert_eq!(all(&root).unwrap().len(), 0, "a job's number is that of its directory");
        remove_empty(&root).unwrap();
        assert!(!root.join("1").exists() && root.join("2").exists() && root.join("other").exists());
    }

    #[test]
    fn a_job_that_is_put_back_keeps_its_count_and_forgets_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        directory.write_entry(&entry(1, "a")).unwrap();
        let child = Identity { pid: 7, started: 8, boot: "b".into() };
        let run = Run { child, started_at: Timestamp::UNIX_EPOCH, gpu: None };
        directory.write_run(&run).unwrap();
        directory.ask_for_another_run().unwrap();
        assert_eq!(directory.found().unwrap().unwrap().run, Some(run));
        directory.put_back(1).unwrap();
        let found = directory.found().unwrap().unwrap();
        assert_eq!((found.run, found.restarts, found.lost_runs), (None, 1, 0));
        assert!(!directory.is_to_run_again() && !directory.is_to_end());
        directory.count_lost_runs(1).unwrap();
        directory.put_back(2).unwrap();
        let found = directory.found().unwrap().unwrap();
        assert_eq!((found.restarts, found.lost_runs), (2, 1));
    }

    #[test]
    fn a_file_that_can_not_be_read_is_not_one_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let directory = Directory::new(&root.join("1"));
        directory.make().unwrap();
        directory.write_entry(&entry(1, "a")).unwrap();
        for name in ["job.json", "run.json", "end.json", "supervisor.json", "restarts.json"] {
            let path = directory.file(name);
            let before = fs::read(&path).ok();
            remove(&path).unwrap();
            // Reading a directory fails, whoever asks.
            fs::create_dir(&path).unwrap();
            let error = directory.found().unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("not a regular file"), "{error}");
            assert!(all(root).is_err(), "nothing is known of the jobs");
            remove_empty(root).unwrap();
            fs::remove_dir(&path).unwrap();
            fs::write(&path, "{").unwrap();
            let error = directory.found().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            match before {
                Some(bytes) => fs::write(&path, bytes).unwrap(),
                None => remove(&path).unwrap(),
            }
        }
        fs::write(directory.file("beat.json"), "").unwrap();
        let found = directory.found().unwrap().unwrap();
        assert_eq!(found.beat, None, "nothing depends on the note");
        // A link that leads to itself: whether there is a job can't be told.
        let path = directory.file("job.json");
        remove(&path).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        assert!(remove_empty(root).is_err() && directory.path().exists());
    }
}
