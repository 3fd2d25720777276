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
        match self.in_utc().run("sacct", &arguments).await {
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
    let text = lines
        .filter_map(|line| line.split_once(" to start at "))
        .map(|(_, text)| text.trim())
        .next();
    text.map_or_else(
        || "it would be taken".to_owned(),
        |text| format!("would start at {}", base::text::printable(text, 200)),
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn sacct_reads_the_time_that_it_is_asked_about_in_utc() {
        let dir = tempfile::tempdir().unwrap();
        // Another process writes the script: a test that starts a program meanwhile holds no file
        // of this process open.
        let write =
            r#"printf '#!/bin/sh\necho "TZ is $TZ" >&2\nexit 1\n' > "$0" && chmod 700 "$0""#;
        let written = Command::new("sh").args(["-c", write]).arg(dir.path().join("sacct")).status();
        assert!(written.unwrap().success());
        let zone = [(OsString::from("TZ"), OsString::from("XST5"))];
        let slurm = Slurm::new(Some(dir.path().to_path_buf()), Duration::from_secs(60), zone);
        let found = slurm.accounts().await.unwrap();
        assert_eq!(found, Accounting::Fails("TZ is UTC0".to_owned()));
    }

    #[test]
    fn the_start_is_found_beside_a_banner() {
        let says = |stderr: &str| {
            start(&Output { success: true, stdout: String::new(), stderr: stderr.into() })
        };
        let line = "Welcome!\nsbatch: Job 17 to start at 2026-11-24T23:40:00 using 6 processors on \
            nodes node1 in partition gpu\n";
        assert_eq!(
            says(line),
            "would start at 2026-11-24T23:40:00 using 6 processors on nodes node1 in partition gpu"
        );
        assert_eq!(says(""), "it would be taken");
    }
}
