//! The exit codes of `check`, `run_trainer` and `gateway`: a public list that scripts may rely on.
//!
//! `docs/exit-codes.md` is made from it (`cargo run --example reference`).

use std::process;

/// Why a program ended. The numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything that was to be done is done. Also: there was nothing to do, or another `check` is
    /// at work.
    Success = 0,
    /// A fault of the program itself; please report it. Also: standard output could not take what
    /// was asked for, which standard error says; what a pass does for jobs does not depend on it.
    Internal = 1,
    /// The command line can't be understood, or it names a job that is not there, or that has come
    /// too far for what is asked.
    Usage = 2,
    /// A variable in `credentials.env` or the environment is missing or wrong.
    Config = 3,
    /// RabbitMQ can't be reached, or refuses us.
    Broker = 4,
    /// Rodan can't be reached, or refuses us.
    Rodan = 5,
    /// Slurm can't be reached, or refuses a job.
    Slurm = 6,
    /// The spool or the log directory can't be read or written, or another `check` holds the spool
    /// that a command would change. Of `gateway`: the data folder can't be used, or it lacks the
    /// account, or has it already.
    Spool = 7,
    /// A message was no job: it was answered with an error reply and is kept in `rejected/`. Of
    /// `run_trainer`: the job file is none.
    Rejected = 8,
    /// A job could not be trained; it was answered with an error reply.
    Training = 9,
    /// A reply is in the spool but could not be delivered; the next `check` tries again.
    NotDelivered = 10,
    /// An input can't be used: a missing, unreadable or unfitting file or setting. Of `gateway`:
    /// the address or the program that trains.
    Input = 11,
    /// The program was told to stop before there was a result. A job that `check` looks after has
    /// then sent no reply where Slurm ends it: Slurm starts it again, or `check` answers it.
    Stopped = 12,
    /// `check doctor` found nothing that keeps jobs from getting through, but something that
    /// deserves a look.
    Doubtful = 13,
    /// `check doctor` found something that keeps jobs from getting through.
    Unsound = 14,
}

impl ExitCode {
    /// All of them, by number.
    pub const ALL: [Self; 15] = [
        Self::Success,
        Self::Internal,
        Self::Usage,
        Self::Config,
        Self::Broker,
        Self::Rodan,
        Self::Slurm,
        Self::Spool,
        Self::Rejected,
        Self::Training,
        Self::NotDelivered,
        Self::Input,
        Self::Stopped,
        Self::Doubtful,
        Self::Unsound,
    ];

    /// What it means, in Markdown.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "done, or nothing to do, or another `check` is at work",
            Self::Internal => "a fault of the program",
            Self::Usage => "the command line can't be understood, or there is no such job",
            Self::Config => "a variable is missing or wrong; all of them are listed at once",
            Self::Broker => "RabbitMQ can't be reached, or refuses",
            Self::Rodan => "Rodan can't be reached, or refuses",
            Self::Slurm => "Slurm can't be reached, or refuses a job",
            Self::Spool => {
                "the spool or the log directory can't be read or written; of `cancel`, `retry` and \
                 `purge` also: another `check` is at work, and nothing was done; of `gateway`: the \
                 data folder can't be used or another gateway works with it, or an account is not \
                 there or is there already"
            }
            Self::Rejected => {
                "a message was no job: it was answered and is kept in `spool/rejected/`; \
                 of `run_trainer`: the job file can't be used"
            }
            Self::Training => {
                "a job failed: it was answered with an error reply; of `run_trainer --check-gpu`: \
                 there is no GPU, or it does not compute what the CPU computes"
            }
            Self::NotDelivered => "a reply is in the spool but not delivered yet",
            Self::Input => {
                "an input can't be used: a page, a layer, a model or a setting; of `gateway`: the \
                 address can't be listened at, or there is no program that trains"
            }
            Self::Stopped => "stopped before there was a result",
            Self::Doubtful => {
                "`check doctor`: nothing keeps jobs from getting through, but something deserves a \
                 look"
            }
            Self::Unsound => "`check doctor`: something keeps jobs from getting through",
        }
    }

    /// What to do about it, in Markdown.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Success => "nothing",
            Self::Internal => "report it, with what the program printed",
            Self::Usage => "`--help` lists what can be written",
            Self::Config => "edit `credentials.env`, or `./run_check init`",
            Self::Broker | Self::Rodan | Self::Slurm | Self::Spool => {
                "`./run_check doctor` says what; the next pass tries again"
            }
            Self::Rejected => "look at the message; whoever sent it has the answer",
            Self::Training => "nothing: the user is told what to change; `./run_check status ID`",
            Self::NotDelivered => "nothing at first: the next `check` tries again",
            Self::Input => "change what the sentence names",
            Self::Stopped => {
                "nothing: Slurm starts a job of `check` again, or the next `check` answers it"
            }
            Self::Doubtful => "read the rows with WARN",
            Self::Unsound => "read the rows with FAIL",
        }
    }
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_at_its_number() {
        for (number, code) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
    }
}
