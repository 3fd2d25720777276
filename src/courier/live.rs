//! The trainer's side of the process that tells while it trains.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use contract::wire::conversation::{JobProgress, JobState};

/// What the process needs to know before the first errand: a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) reply_to: String,
    pub(super) correlation_id: String,
    /// The job's outbox.
    pub(super) outbox: PathBuf,
    /// The job's directory, where `check` looks after it: there the right to publish is claimed.
    pub(super) job: Option<PathBuf>,
}

/// Something to tell: a line of JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// Where the job stands.
    State(JobState),
    /// How far it is; only the latest is worth sending.
    Progress(JobProgress),
    /// A model that lies in the outbox.
    Model {
        /// Its name.
        name: String,
        /// When it was done.
        at: Timestamp,
    },
}

/// The process that publishes while this one trains. If it is dropped without [`Courier::close`],
/// it is killed.
#[derive(Debug)]
pub struct Courier {
    child: Child,
    errands: Option<ChildStdin>,
}

impl Courier {
    /// Starts the process. Without it the training goes on all the same: everything that has to
    /// arrive is sent at its end.
    pub fn start(
        reply_to: &str,
        correlation_id: &str,
        outbox: &Path,
        job: Option<&Path>,
        env_file: Option<&Path>,
    ) -> Option<Self> {
        let hello = Hello {
            reply_to: reply_to.to_owned(),
            correlation_id: correlation_id.to_owned(),
            outbox: std::path::absolute(outbox).unwrap_or_else(|_| outbox.to_path_buf()),
            job: job.map(|job| std::path::absolute(job).unwrap_or_else(|_| job.to_path_buf())),
        };
        let program = std::env::current_exe().ok()?;
        let mut command = Command::new(program);
        command.arg("--courier").stdin(Stdio::piped()).stdout(Stdio::null());
        if let Some(file) = env_file {
            command.arg("--env-file").arg(file);
        }
        points_of_its_own(&mut command);
        let mut child =
            command.spawn().inspect_err(|error| warn!("nothing can be told before the end: {error}")).ok()?;
        let errands = child.stdin.take();
        let mut courier = Self { child, errands };
        courier.write(&hello);
        Some(courier)
    }

    /// Hands an errand to the process. It never waits for the broker.
    pub fn send(&mut self, errand: &Errand) {
        self.write(errand);
    }

    fn write(&mut self, line: &impl Serialize) {
        let Some(pipe) = &mut self.errands else { return };
        let mut text = serde_json::to_vec(line).unwrap_or_default();
        text.push(b'\n');
        if let Err(error) = pipe.write_all(&text).and_then(|()| pipe.flush()) {
            warn!("nothing more can be told before the end: {error}");
            self.errands = None;
        }
    }

    /// Lets the process finish what it is sending, and ends it. What it has not sent then, the
    /// trainer sends itself.
    pub fn close(mut self, longest: Duration) {
        drop(self.errands.take());
        let end = Instant::now() + longest;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Ok(Some(_)) => return,
                Err(_) => break,
            }
        }
        // Dropping it kills it: there may be only one publisher.
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            warn!("the process that tells can't be ended: {error}");
        }
    }
}

/// The crash points that a test sets for the trainer are not meant for this process, which has its
/// own.
fn points_of_its_own(command: &mut Command) {
    for (own, name) in [
        ("HPC_TRAINER_COURIER_DIE_AT", "HPC_TRAINER_DIE_AT"),
        ("HPC_TRAINER_COURIER_DIE_LOG", "HPC_TRAINER_DIE_LOG"),
    ] {
        match std::env::var_os(own) {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}
