//! The exit codes of `check` and `run_trainer`: a public list that scripts may rely on.

use std::process;

/// Why a program ended. The numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was to be done is done; also: there was nothing to do, or another `check` is at work.
    Success = 0,
    /// A fault of the program itself; please report it.
    Internal = 1,
    /// The command line can't be understood.
    Usage = 2,
    /// A setting in `credentials.env` or the environment is missing or wrong.
    Config = 3,
    /// RabbitMQ can't be reached, or refuses us.
    Broker = 4,
    /// Rodan can't be reached, or refuses us.
    Rodan = 5,
    /// Slurm can't be reached, or refuses a job.
    Slurm = 6,
    /// The spool directory can't be read or written.
    Spool = 7,
    /// A job message was unusable; it was answered with an error reply and kept in `rejected/`.
    Rejected = 8,
    /// A job could not be trained; it was answered with an error reply.
    Training = 9,
    /// A reply is in the spool but could not be delivered; the next `check` tries again.
    NotDelivered = 10,
    /// An input of `--local` can't be used: a missing, unreadable or unfitting file or setting.
    Input = 11,
    /// The program was told to stop before there was a result. A job that `check` looks after has then sent no reply where
    /// Slurm ends it: Slurm starts it again, or `check` answers it.
    Stopped = 12,
    /// `check doctor` found nothing that keeps jobs from getting through, but something that deserves a look.
    Doubtful = 13,
    /// `check doctor` found something that keeps jobs from getting through.
    Unsound = 14,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
