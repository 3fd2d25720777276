//! Runs Slurm's commands: no shell, a clean environment, a deadline.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base::advice::Advice;
use domain::SlurmJobId;
use thiserror::Error;
use tokio::process::Command;

/// Variables that are passed on to Slurm's commands, and by sbatch to the job. Everything else is
/// left out: secrets, and `SLURM_*` or `SBATCH_*` that would change what is asked for. `SLURM_CONF`
/// says where the cluster is.
const PASSED_ON: [&str; 12] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TMPDIR",
    "SLURM_CONF",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "KRB5CCNAME",
];

/// Slurm's commands, as one site has them.
#[derive(Clone, Debug)]
pub struct Slurm {
    directory: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    deadline: Duration,
}

/// A Slurm command that gave no answer.
#[derive(Debug, Error)]
pub enum SlurmError {
    /// The command is not there.
    #[error("can't run {command}: {detail}; {}", SET_BIN)]
    Missing {
        /// Its name.
        command: &'static str,
        /// What the system says.
        detail: String,
    },
    /// It did not end in time.
    #[error("{command} did not answer within {} s", deadline.as_secs())]
    Silent {
        /// Its name.
        command: &'static str,
        /// How long we waited.
        deadline: Duration,
    },
    /// It failed.
    #[error("{command} failed: {detail}")]
    Failed {
        /// Its name.
        command: &'static str,
        /// What it said.
        detail: String,
    },
}

/// What to do where Slurm's commands are not found.
const SET_BIN: &str = "set SITE_SLURM_BIN to the directory of Slurm's commands";

impl Advice for SlurmError {
    fn advice(&self) -> Option<Cow<'static, str>> {
        matches!(self, Self::Missing { .. }).then(|| SET_BIN.into())
    }
}

/// What a command printed.
#[derive(Debug)]
pub(super) struct Output {
    /// True when it ended with 0.
    pub(super) success: bool,
    /// Standard output.
    pub(super) stdout: String,
    /// Standard error.
    pub(super) stderr: String,
}

impl Output {
    /// The last line of its output that is not empty, for a message.
    pub(super) fn last_words(&self) -> String {
        let line =
            |text: &str| text.lines().map(str::trim).rfind(|l| !l.is_empty()).map(str::to_owned);
        let text = line(&self.stderr)
            .or_else(|| line(&self.stdout))
            .unwrap_or_else(|| "it said nothing".into());
        base::text::printable(&text, 300)
    }
}

/// What of this process's environment the scheduler and its jobs get, and `handed_on`.
pub(crate) fn environment(
    handed_on: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<(OsString, OsString)> = PASSED_ON
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect();
    environment.push(("LC_ALL".into(), "C".into()));
    environment.extend(handed_on);
    environment
}

impl Slurm {
    /// Slurm's commands in `directory` (`None`: where `PATH` has them), each with `deadline` to
    /// answer. They get of this process's environment what they need, and `handed_on`, which sbatch
    /// hands on to its job.
    pub fn new(
        directory: Option<PathBuf>,
        deadline: Duration,
        handed_on: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        Self { directory, environment: environment(handed_on), deadline }
    }

    /// A step of a job that runs, for somebody who looks into it. It shares what the job has.
    pub fn inside(
        &self,
        id: SlurmJobId,
        words: &[OsString],
        terminal: bool,
    ) -> std::process::Command {
        let mut command = std::process::Command::new(self.program("srun"));
        command.arg(format!("--jobid={id}")).args(["--overlap", "--ntasks=1"]);
        if terminal {
            command.arg("--pty");
        }
        // Without the dashes srun would take words of the command for its own options.
        command
            .arg("--")
            .args(words)
            .env_clear()
            .envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    fn program(&self, command: &str) -> PathBuf {
        self.directory.as_ref().map_or_else(|| PathBuf::from(command), |d| d.join(command))
    }

    /// The same commands, which give all times in UTC.
    pub(super) fn in_utc(&self) -> Self {
        let mut commands = self.clone();
        commands.environment.retain(|(name, _)| name != "TZ");
        commands.environment.push(("TZ".into(), "UTC0".into()));
        commands
    }

    /// Runs one command to its end.
    pub(super) async fn run(
        &self,
        command: &'static str,
        arguments: &[OsString],
    ) -> Result<Output, SlurmError> {
        let mut child = Command::new(self.program(command));
        child.args(arguments).env_clear().envs(self.environment.iter().map(|(k, v)| (k, v)));
        child.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(self.deadline, child.output())
            .await
            .map_err(|_| SlurmError::Silent { command, deadline: self.deadline })?
            .map_err(|e| SlurmError::Missing { command, detail: e.to_string() })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output {
            success: output.status.success(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }
}
