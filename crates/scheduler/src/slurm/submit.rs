//! Calling sbatch and scancel.

use super::answer::{SubmitError, read_answer};
use super::command::{Slurm, SlurmError};
use super::request::Request;
use base::crash;
use domain::SlurmJobId;

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
