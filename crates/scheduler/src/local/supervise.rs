//! The process that looks after one job, from its place in the queue to its end.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::files::{Beat, Directory, End, Entry, Found, Run, all, lock};
use super::judge::{Limit, Queue, cancelled_before_it_ran, ending, limit_of};
use super::process::{Identity, session_mb};
use super::{host, start};

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Between two notes.
const BEAT: Duration = Duration::from_secs(30);
/// How long a job that is told to end may take. Slurm's own (`KillWait`) is the same.
const KILL_WAIT: Duration = Duration::from_secs(30);
/// So many bytes at the end of a log are looked into.
const LOG_TAIL: u64 = 4096;
/// What a Rust program says where the system refuses it memory, before it aborts.
const NO_MEMORY: &str = "memory allocation of ";

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supervised {
    /// It is over and did not complete: it failed, reached a limit or was cancelled. The name of
    /// the job.
    Failed(String),
    /// It is over, or somebody else looks after it.
    Done,
    /// This process was told to end; what is left is for the next `check`.
    Stopped,
}

/// Looks after a job until it is over. At most `most` jobs run at a time; `program` is this
/// program.
///
/// # Errors
/// When its files can't be read or written.
pub async fn supervise(directory: &Directory, most: u32, program: &Path) -> io::Result<Supervised> {
    // Whoever started this process may end, and its terminal close, without a signal for the job.
    let _ = rustix::process::setsid(); // fails only where it leads a session already
    let Some(root) = directory.path().parent() else { return Ok(Supervised::Done) };
    if !claim(root, directory)? {
        return Ok(Supervised::Done);
    }
    let mut stop = Stop::new()?;
    loop {
        let begun = match wait_for_turn(root, directory, most, program, &mut stop).await? {
            Turn::Begun(begun) => begun,
            Turn::Over => return Ok(Supervised::Done),
            Turn::Stopped => return Ok(Supervised::Stopped),
        };
        let entry = begun.entry.clone();
        let ended = look_after(directory, *begun, &mut stop).await?;
        let Some(end) = ended else { return Ok(Supervised::Stopped) };
        let _lock = lock(root)?;
        let wants_more = directory.is_to_run_again() && !directory.is_to_end() && entry.requeue;
        // A job that has left a result does not run again, and neither does one that would run out
        // of memory again.
        if wants_more && end.state != "COMPLETED" && end.state != "OUT_OF_MEMORY" {
            let restarts = directory.found()?.map_or(0, |found| found.restarts);
            directory.put_back(restarts + 1)?;
            continue;
        }
        directory.write_end(&end)?;
        return Ok(match end.state.as_str() {
            "COMPLETED" => Supervised::Done,
            _ => Supervised::Failed(entry.name),
        });
    }
}

/// Makes this process the one that looks after the job; false when there is another, or nothing to
/// look after. A run that has lost its supervisor is not continued: `check` puts it back first.
fn claim(root: &Path, directory: &Directory) -> io::Result<bool> {
    let _lock = lock(root)?;
    let Some(found) = directory.found()? else { return Ok(false) };
    if found.end.is_some() || found.supervised || found.run.is_some() {
        return Ok(false);
    }
    let own =
        Identity::own().ok_or_else(|| io::Error::other("/proc does not show this process"))?;
    directory.write_supervisor(own)?;
    Ok(true)
}

/// SIGTERM and SIGINT.
struct Stop {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// A run that has just begun.
struct BegunRun {
    entry: Entry,
    child: Child,
    run: Run,
    since: Instant,
}

enum Turn {
    Begun(Box<BegunRun>),
    /// It was cancelled before it ran.
    Over,
    Stopped,
}

async fn wait_for_turn(
    root: &Path,
    directory: &Directory,
    most: u32,
    program: &Path,
    stop: &mut Stop,
) -> io::Result<Turn> {
    let gpus = host::gpus();
    let mut bounds = None;
    loop {
        {
            let _lock = lock(root)?;
            let jobs = all(root)?;
            let Some(own) = jobs.iter().find(|job| job.directory == *directory) else {
                return Ok(Turn::Over); // it was removed
            };
            if own.cancelled {
                directory.write_end(&cancelled_before_it_ran(Timestamp::now()))?;
                return Ok(Turn::Over);
            }
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let line = Queue::of(&jobs);
            if let Some(gpu) = line.turn(own.entry.number, own.entry.gpu, most, &gpus) {
                let bounds = *bounds.get_or_insert_with(|| match start::scope_works() {
                    true => start::Bounds::Scope,
                    false => start::Bounds::Process,
                });
                return Ok(Turn::Begun(Box::new(run(directory, own, gpu, bounds, program)?)));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.told() => if !directory.is_to_end() { return Ok(Turn::Stopped) },
        }
    }
}

/// Starts the job and writes that down. The caller holds the lock, so that nobody counts the jobs
/// in between; a process that is not written down dies with this one.
fn run(
    directory: &Directory,
    job: &Found,
    gpu: Option<String>,
    bounds: start::Bounds,
    program: &Path,
) -> io::Result<BegunRun> {
    let entry = &job.entry;
    let command = start::command(program, directory, entry, job.restarts, gpu.as_deref(), bounds)?;
    let child = Command::from(command).spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let identity = pid.and_then(Identity::of);
    let identity = identity.ok_or_else(|| io::Error::other("/proc does not show the job"))?;
    let run = Run { child: identity, started_at: Timestamp::now(), gpu };
    directory.write_run(&run)?;
    Ok(BegunRun { entry: entry.clone(), child, run, since: Instant::now() })
}

/// What has been done about a run so far.
#[derive(Debug, Default)]
struct Done {
    limit: Limit,
    warned: bool,
    /// This process was told to end, and not by a cancel.
    stopped: bool,
    /// When what is left is killed.
    kill_at: Option<Instant>,
}

/// Waits for the end of a run, and brings it about where a limit is reached. `None` when this
/// process was told to end: the run is then over, and nothing is written down about that.
async fn look_after(
    directory: &Directory,
    begun: BegunRun,
    stop: &mut Stop,
) -> io::Result<Option<End>> {
    let BegunRun { entry, mut child, run, since } = begun;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut done, mut peak_mb, mut noted) = (Done::default(), 0, None);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = stop.told() => {
                if !directory.is_to_end() && !done.stopped {
                    done.stopped = true;
                    end_gently(&run, &mut done);
                }
            }
            _ = ticks.tick() => {}
        }
        let used_mb = session_mb(run.child.pid);
        peak_mb = peak_mb.max(used_mb);
        if noted.is_none_or(|noted: Instant| noted.elapsed() >= BEAT) {
            noted = Some(Instant::now());
            // The next note says more.
            let _ = directory.write_beat(&Beat { at: Timestamp::now(), peak_mb });
        }
        keep_within_limits(directory, &entry, &run, since, used_mb, &mut done);
    };
    // Whatever the job has left behind.
    run.child.signal_group(Signal::KILL);
    if done.stopped {
        return Ok(None);
    }
    let no_memory = status.signal() == Some(Signal::ABORT.as_raw()) && says_no_memory(&entry.log);
    let limit = Limit { memory: done.limit.memory || no_memory, ..done.limit };
    Ok(Some(end(&run, limit, status, peak_mb)))
}

fn end(run: &Run, limit: Limit, status: ExitStatus, peak_mb: u64) -> End {
    let (state, exit_code) = ending(limit, status.code(), status.signal());
    End {
        state: state.to_owned(),
        exit_code: Some(exit_code),
        started_at: Some(run.started_at),
        ended_at: Timestamp::now(),
        peak_mb: Some(peak_mb).filter(|mb| *mb > 0),
    }
}

fn keep_within_limits(
    directory: &Directory,
    entry: &Entry,
    run: &Run,
    since: Instant,
    used_mb: u64,
    done: &mut Done,
) {
    if done.kill_at.is_some_and(|at| Instant::now() >= at) {
        run.child.signal_group(Signal::KILL);
    }
    if used_mb > entry.memory_mb && !done.limit.memory {
        done.limit.memory = true;
        run.child.signal_group(Signal::KILL);
    }
    if directory.is_to_end() && !done.limit.cancelled {
        done.limit.cancelled = true;
        end_gently(run, done);
    }
    // A job that has asked to be put back is ended at once, as Slurm ends it.
    let (is_warned, is_over) = limit_of(since.elapsed(), entry.seconds, entry.warning_seconds);
    if is_warned && !done.warned {
        done.warned = true;
        run.child.signal(Signal::USR1);
    }
    if is_over && !done.limit.time {
        done.limit.time = true;
        end_gently(run, done);
    }
}

/// Tells all of the job to end; what is still there after a while is killed.
fn end_gently(run: &Run, done: &mut Done) {
    run.child.signal_group(Signal::TERM);
    done.kill_at.get_or_insert_with(|| Instant::now() + KILL_WAIT);
}

/// True when the last words of a log are those of a program that was refused memory.
fn says_no_memory(log: &Path) -> bool {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    tail().is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(NO_MEMORY))
}

#[cfg(test)]
mod tests {
    use super::super::files::entry;
    use super::*;

    #[test]
    fn one_supervisor_at_a_time_and_none_for_a_run_that_lost_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let directory = Directory::new(&root.join("1"));
        assert!(!claim(root, &directory).unwrap(), "there is no job");
        directory.make().unwrap();
        directory.write_entry(&entry(1, "a")).unwrap();
        assert!(claim(root, &directory).unwrap());
        assert!(!claim(root, &directory).unwrap(), "the first one lives: it is this process");
        let dead = Identity { started: 1, ..Identity::own().unwrap() };
        directory.write_supervisor(dead.clone()).unwrap();
        assert!(claim(root, &directory).unwrap(), "the first one is dead");
        directory.write_supervisor(dead.clone()).unwrap();
        let run = Run { child: dead, started_at: Timestamp::UNIX_EPOCH, gpu: None };
        directory.write_run(&run).unwrap();
        assert!(!claim(root, &directory).unwrap());
        directory.put_back(1).unwrap();
        assert!(claim(root, &directory).unwrap());
        let cancelled = cancelled_before_it_ran(Timestamp::now());
        directory.write_end(&cancelled).unwrap();
        assert!(!claim(root, &directory).unwrap());
    }

    #[test]
    fn the_words_of_a_refused_allocation_are_found_at_the_end_of_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        assert!(!says_no_memory(&log));
        let text = format!("{}\nmemory allocation of 700000000 bytes failed\n", "x".repeat(9000));
        std::fs::write(&log, &text).unwrap();
        assert!(says_no_memory(&log));
        std::fs::write(&log, text + &"y".repeat(9000)).unwrap();
        assert!(!says_no_memory(&log));
    }
}
