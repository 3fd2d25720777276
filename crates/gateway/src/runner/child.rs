//! Trains on this machine: `run_trainer --local`, a process for each run.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use base::exit_code::ExitCode;
use tracing::warn;

use super::folder::RunFolder;
use super::trainer::{Ended, StartError, Trainer, Training};

/// What a training sees of this process's environment: where programs and libraries are, which
/// GPUs it may use, and how many threads. None of these variables holds a secret.
const HANDED_ON: [&str; 17] = [
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "HPC_TRAINER_DEVICE",
    "HPC_TRAINER_CPU_PRECISION",
    "HPC_TRAINER_GPU_PRECISION",
    "HPC_TRAINER_SIMD",
    "LANG",
    "LD_LIBRARY_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "PATH",
    "RAYON_NUM_THREADS",
    "RUST_BACKTRACE",
    "SLURM_CPUS_PER_TASK",
    "TMPDIR",
    "TZ",
];

/// Bytes at the end of a log in which the reason of a failure is looked for.
const TAIL: u64 = 16 << 10;

/// Starts `run_trainer`.
#[derive(Clone, Debug)]
pub struct LocalTrainer {
    program: PathBuf,
}

impl LocalTrainer {
    /// The program that trains.
    pub fn new(program: &Path) -> Self {
        Self { program: program.to_owned() }
    }
}

impl Trainer for LocalTrainer {
    fn start(&self, folder: &RunFolder) -> Result<Box<dyn Training>, StartError> {
        let program = self.program.display();
        let failed = |error: std::io::Error| {
            StartError(format!("the training can't be started with {program}: {error}"))
        };
        let log = folder.open_log().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command.env_clear();
        for name in HANDED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        match folder.image() {
            Some(image) => {
                command.arg("--predict").arg(image);
            }
            None => {
                for page in folder.pages() {
                    command.arg("--local").arg(page);
                }
                command.arg("--checkpoints").arg(folder.checkpoints());
                command.arg("--progress").arg(folder.progress());
            }
        }
        if let Some(models) = folder.models() {
            command.arg("--models").arg(models);
        }
        command
            .arg("--out")
            .arg(folder.out())
            .arg("--attached")
            .current_dir(folder.path())
            // Ends with this process, also when that is killed.
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed)?)
            // The lock on the log is held by whoever has it open: as long as the training lives.
            .stderr(log)
            // Ctrl-C at the gateway's terminal reaches the gateway alone.
            .process_group(0);
        let child = command.spawn().map_err(failed)?;
        Ok(Box::new(LocalTraining { child, log: folder.log() }))
    }
}

/// A process that trains.
struct LocalTraining {
    child: Child,
    log: PathBuf,
}

impl Training for LocalTraining {
    fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(ended(status, &tail(&self.log))),
            Err(error) => Some(Ended::Failed(format!("the training was lost: {error}"))),
        }
    }

    fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    fn kill(&mut self) {
        if let Err(error) = self.child.kill() {
            warn!("a training can't be killed: {error}");
        }
    }
}

impl Drop for LocalTraining {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
            if let Err(error) = self.child.wait() {
                warn!("a training can't be waited for: {error}");
            }
        }
    }
}

/// The end of the log.
fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// How a training ended, from its exit and the end of its log.
fn ended(status: ExitStatus, log: &str) -> Ended {
    let code = |code: ExitCode| status.code() == Some(i32::from(code as u8));
    if code(ExitCode::Success) {
        return Ended::Done;
    }
    if code(ExitCode::Stopped) {
        return Ended::Stopped;
    }
    let last = log.lines().rev().find_map(|line| line.strip_prefix("run_trainer: "));
    Ended::Failed(match (last, status.code(), status.signal()) {
        (Some(last), Some(_), _) => last.to_owned(),
        (_, _, Some(9)) => "the training was killed, most likely because this machine has too \
                            little memory; set a smaller \"Batch Size\" or smaller patches"
            .to_owned(),
        (_, _, Some(signal)) => format!("the training was ended by signal {signal}"),
        (_, code, _) => format!(
            "the training ended with exit code {}; its log says more",
            code.unwrap_or_default()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_the_exit_and_the_last_sentence() {
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        let log = "page 3x4\nrun_trainer: old\nrun_trainer: layer_0.png: has no alpha\n";
        assert_eq!(ended(exit(0), log), Ended::Done);
        assert_eq!(ended(exit(12), log), Ended::Stopped);
        let failed = |text: &str| Ended::Failed(text.to_owned());
        assert_eq!(ended(exit(11), log), failed("layer_0.png: has no alpha"));
        assert_eq!(
            ended(exit(1), ""),
            failed("the training ended with exit code 1; its log says more")
        );
        let Ended::Failed(text) = ended(ExitStatus::from_raw(9), log) else { unreachable!() };
        assert!(text.contains("too little memory"), "{text}");
        assert_eq!(
            ended(ExitStatus::from_raw(11), ""),
            failed("the training was ended by signal 11")
        );
    }
}
