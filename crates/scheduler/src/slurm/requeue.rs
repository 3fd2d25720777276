//! Putting a job back into Slurm's queue.

use super::command::{Slurm, SlurmError};
use domain::SlurmJobId;

impl Slurm {
    /// Asks Slurm to end the job and to put it back into the queue. If it is the caller's own job,
    /// Slurm sends SIGTERM soon after.
    ///
    /// # Errors
    ///
    /// When Slurm does not answer or refuses: the job was submitted with `--no-requeue`, or the
    /// site allows no requeue.
    pub async fn requeue(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        let output = self.run("scontrol", &["requeue".into(), id.to_string().into()]).await?;
        if output.success {
            return Ok(());
        }
        Err(SlurmError::Failed { command: "scontrol requeue", detail: output.last_words() })
    }
}
