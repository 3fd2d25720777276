//! Calling sbatch, and what its words mean.

use thiserror::Error;

use super::command::{Output, Slurm, SlurmError};
use super::request::Request;
use base::crash;
use domain::SlurmJobId;

/// A job that sbatch did not accept, as far as is known.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// Slurm can't be reached, or is at a limit that will pass: the job may be submitted later. It
    /// may also exist already, so look for its name first.
    #[error("Slurm can't take the job now: {0}")]
    Later(String),
    /// The site's limit of jobs at a time is reached: there will be room when others are done.
    #[error("Slurm takes no more jobs of this account for now: {0}")]
    Limit(String),
    /// Slurm will never accept this job.
    #[error("Slurm refuses the job: {0}")]
    Refused(String),
    /// sbatch itself could not be run.
    #[error(transparent)]
    Command(#[from] SlurmError),
}

/// Words of sbatch about the cluster's condition, not about the job (from Slurm's `slurm_errno.c`).
const PASSING: [&str; 10] = [
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "transport endpoint",
    "temporarily",
    "zero bytes were transmitted",
    "slurm backup controller",
    "protocol authentication error",
    "job violates accounting/qos policy (job submit limit",
    "slurmctld is too busy",
];

/// Words that name a limit of jobs at a time: `AssocMaxSubmitJobLimit`,
/// `QOSMaxSubmitJobPerUserLimit` and the like, and `MaxJobCount` of the whole cluster.
const LIMITS: [&str; 4] = ["maxsubmitjob", "grpsubmitjob", "too many jobs", "maximum job"];

/// Names of limits for a single job, such as `QOSMaxMemoryPerJob`: it will never fit.
const TOO_BIG: [&str; 3] = ["perjob", "pernode", "maxwallduration"];

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
}

fn read_answer(output: &Output) -> Result<SlurmJobId, SubmitError> {
    if output.success {
        // A site's banner may stand before or after the number, on either stream.
        let mut lines = output.stdout.lines().map(str::trim);
        return lines.rfind_map(parsable).ok_or_else(|| {
            SubmitError::Later(format!("sbatch did not name the job's number: {}", output.last_words()))
        });
    }
    let said = format!("{}\n{}", output.stderr, output.stdout).to_lowercase();
    let reason = reason(output);
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    if says(&LIMITS) && !says(&TOO_BIG) {
        Err(SubmitError::Limit(reason))
    } else if says(&TOO_BIG) {
        Err(SubmitError::Refused(reason))
    } else if says(&PASSING) {
        Err(SubmitError::Later(reason))
    } else {
        Err(SubmitError::Refused(reason))
    }
}

/// [`read_answer`] of texts.
pub fn answer(success: bool, stdout: &str, stderr: &str) -> Result<SlurmJobId, SubmitError> {
    read_answer(&Output { success, stdout: stdout.into(), stderr: stderr.into() })
}

/// `JOBID` or `JOBID;CLUSTER`, as `--parsable` prints it.
fn parsable(line: &str) -> Option<SlurmJobId> {
    let number = line.split(';').next()?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .then(|| number.parse().ok().map(SlurmJobId))?
}

/// sbatch's own lines, without a banner around them. The first line names the limit that the second
/// is about.
pub(super) fn reason(output: &Output) -> String {
    let lines = output.stderr.lines().chain(output.stdout.lines());
    let own: Vec<&str> = lines.filter_map(|l| l.split_once("error:")).map(|(_, text)| text.trim()).collect();
    match own[..] {
        [] => output.last_words(),
        _ => base::text::printable(&own.join(": "), 300),
    }
}

/// `Iterator::rfind` with a mapping.
trait RFindMap: DoubleEndedIterator {
    fn rfind_map<T>(&mut self, f: impl Fn(Self::Item) -> Option<T>) -> Option<T>;
}

impl<I: DoubleEndedIterator> RFindMap for I {
    fn rfind_map<T>(&mut self, f: impl Fn(Self::Item) -> Option<T>) -> Option<T> {
        self.rev().find_map(f)
    }
}

#[cfg(test)]
mod tests {
    fn answer(success: bool, stdout: &str, stderr: &str) -> Result<u64, String> {
        super::answer(success, stdout, stderr).map(|id| id.0).map_err(|e| e.to_string())
    }

    #[test]
    fn the_number_is_found_in_spite_of_a_banner() {
        assert_eq!(answer(true, "4711\n", ""), Ok(4711));
        assert_eq!(answer(true, "4711;cedar\n", ""), Ok(4711));
        let banner =
            "****\nWelcome to cluster 9, 2026\nMaintenance on\n\n4711\nRemember: be nice to 12 nodes\n";
        assert_eq!(answer(true, banner, "sbatch: NOTE: your account has 3 core-years\n"), Ok(4711));
    }

    #[test]
    fn an_answer_without_a_number_is_not_a_refusal() {
        let error = answer(true, "Submitted, I think\n", "").unwrap_err();
        assert!(error.starts_with("Slurm can't take the job now: sbatch did not name"), "{error}");
    }

    #[test]
    fn refusals_and_passing_troubles_are_told_apart() {
        let invalid = "Welcome!\nsbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\nBye\n";
        assert_eq!(
            answer(false, "", invalid).unwrap_err(),
            "Slurm refuses the job: Batch job submission failed: Invalid account or account/partition combination specified"
        );
        for passing in [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        ] {
            assert!(
                answer(false, "", passing).unwrap_err().starts_with("Slurm can't take the job now"),
                "{passing}"
            );
        }
    }

    #[test]
    fn a_limit_of_jobs_is_no_refusal_and_a_limit_of_size_is() {
        const POLICY: &str = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)";
        for name in ["AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "AssocGrpSubmitJobsLimit"] {
            let error = answer(false, "", &format!("sbatch: error: {name}\n{POLICY}")).unwrap_err();
            assert!(
                error.contains("no more jobs of this account for now") && error.contains(name),
                "{error}"
            );
        }
        for name in ["QOSMaxMemoryPerJob", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit"] {
            let error = answer(false, "", &format!("sbatch: error: {name}\n{POLICY}")).unwrap_err();
            assert!(error.starts_with(&format!("Slurm refuses the job: {name}: Batch")), "{error}");
        }
    }
}
