//! Calling sbatch and scancel.

use thiserror::Error;

use super::answer::read_answer;
use super::command::{Slurm, SlurmError};
use super::request::Request;
use base::crash;
use domain::SlurmJobId;

/// A job that sbatch did not accept, as far as is known. It may exist all the same, but for
/// [`SubmitError::Refused`] and [`SubmitError::Limit`]: look for its name before it is submitted again.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// Slurm can't be reached, or the cluster takes no jobs for now.
    #[error("Slurm can't take the job now: {0}")]
    Later(String),
    /// The site's limit of jobs at a time is reached: there will be room once others are done.
    #[error("Slurm takes no more jobs of this account for now: {0}")]
    Limit(String),
    /// Slurm will never accept this job.
    #[error("Slurm refuses the job: {0}")]
    Refused(String),
    /// Nobody knows whether these words mean the job, or pass by.
    #[error("sbatch did not take the job: {0}")]
    Unclear(String),
    /// sbatch itself could not be run.
    #[error(transparent)]
    Command(#[from] SlurmError),
}

impl Slurm {
    /// Submits a job.
    ///
    /// # Errors
    /// When it was not accepted, or it is not known whether it was.
    pub async fn submit(&self, request: &Request) -> Result<SlurmJobId, SubmitError> {
        crash::point("before sbatch");
        let output = self.run("sbatch", request.arguments()).await?;
        crash::point("after sbatch");
        read_answer(&output)
    }

    /// Cancels a job; one that is over or unknown stays as it is.
    ///
    /// # Errors
    /// When scancel fails or does not answer.
    pub async fn cancel(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        let output = self.run("scancel", &[id.to_string().into()]).await?;
        if output.success {
            return Ok(());
        }
        Err(SlurmError::Failed { command: "scancel", detail: output.last_words() })
    }

    /// True when a controller says of itself that it is there (`scontrol ping`).
    pub async fn answers(&self) -> bool {
        let output = self.run("scontrol", &["ping".into()]).await;
        output.is_ok_and(|output| output.success && says_up(&output.stdout))
    }
}

/// `Slurmctld(primary) at head1 is UP`, for each controller.
fn says_up(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "UP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_controller_that_is_up_suffices() {
        assert!(says_up("Slurmctld(primary) at head1 is UP\n"));
        assert!(says_up("Slurmctld(primary) at head1 is DOWN\nSlurmctld(backup) at UPPER is UP\n"));
        assert!(says_up("Slurmctld(primary/backup) at head1/head2 are DOWN/UP\n"));
        assert!(!says_up("Slurmctld(primary) at UPPER is DOWN\n") && !says_up(""));
    }
}
