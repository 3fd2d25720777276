//! Trying Slurm out: would it take such a job, and does it have accounting?

use jiff::Timestamp;

use super::answer::reason;
use super::command::{Output, Slurm, SlurmError};
use super::request::Request;

/// What `sbatch --test-only` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would be taken; the text says when and where it would start.
    Taken(String),
    /// It would be refused, with sbatch's own words.
    Refused(String),
}

/// What a call of `sacct` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// It answers.
    Works,
    /// It is there and fails, with its own words.
    Fails(String),
    /// There is none.
    Missing,
}

impl Slurm {
    /// Asks whether a job would be taken, without submitting it.
    ///
    /// # Errors
    /// When sbatch can't be run or does not answer.
    pub async fn try_out(&self, request: &Request) -> Result<Trial, SlurmError> {
        let output = self.run("sbatch", &request.test_only()).await?;
        Ok(match output.success {
            true => Trial::Taken(start(&output)),
            false => Trial::Refused(reason(&output)),
        })
    }

    /// Whether the accounting database answers.
    ///
    /// # Errors
    /// When sacct does not answer in time.
    pub async fn accounts(&self) -> Result<Accounting, SlurmError> {
        let an_hour_ago = Timestamp::now() - jiff::SignedDuration::from_hours(1);
        let arguments = [
            "--noheader".into(),
            "--parsable2".into(),
            "--allocations".into(),
            "--format=JobIDRaw".into(),
            format!("--starttime={}", an_hour_ago.strftime("%Y-%m-%dT%H:%M:%S")).into(),
        ];
        match self.run("sacct", &arguments).await {
            Ok(output) if output.success => Ok(Accounting::Works),
            Ok(output) => Ok(Accounting::Fails(output.last_words())),
            Err(SlurmError::Missing { .. }) => Ok(Accounting::Missing),
            Err(error) => Err(error),
        }
    }
}

/// What follows "Job 17 to" in "Job 17 to start at 2026-11-24T23:40:00 using 6 processors on nodes
/// node1 in partition gpu".
fn start(output: &Output) -> String {
    let lines = output.stderr.lines().chain(output.stdout.lines());
    let text = lines.filter_map(|line| line.split_once(" to start at ")).map(|(_, text)| text.trim()).next();
    text.map_or_else(
        || "it would be taken".to_owned(),
        |text| format!("would start at {}", base::text::printable(text, 200)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_found_beside_a_banner() {
        let says =
            |stderr: &str| start(&Output { success: true, stdout: String::new(), stderr: stderr.into() });
        let line = "Welcome!\nsbatch: Job 17 to start at 2026-11-24T23:40:00 using 6 processors on nodes node1 in partition gpu\n";
        assert_eq!(
            says(line),
            "would start at 2026-11-24T23:40:00 using 6 processors on nodes node1 in partition gpu"
        );
        assert_eq!(says(""), "it would be taken");
    }
}
