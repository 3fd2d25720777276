//! Putting a job back into Slurm's queue.

use super::command::{Slurm, SlurmError};
use domain::SlurmJobId;

impl Slurm {
    /// Asks for the job to be ended and to wait in the queue again.
    ///
    /// Where it is the caller's own job, Slurm sends SIGTERM to all of its processes at once, the
    /// `scontrol` that asks among them. So the caller says beforehand what it has to say, and an
    /// error after SIGTERM means nothing.
    ///
    /// # Errors
    /// When Slurm does not answer or refuses: the job was submitted with `--no-requeue`, or the
    /// site allows none.
    pub async fn requeue(&self, id: SlurmJobId) -> Result<(), SlurmError> {
        let output = self.run("scontrol", &["requeue".into(), id.to_string().into()]).await?;
        if output.success {
            return Ok(());
        }
        Err(SlurmError::Failed { command: "scontrol requeue", detail: output.last_words() })
    }
}
