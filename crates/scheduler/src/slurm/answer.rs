//! What sbatch's words mean: the number of a job, the job's own fault, or something that passes by.
//!
//! The texts are those of Slurm's `slurm_errno.c`, versions 20.02 to 25.11, and of `sbatch.c`. They
//! are facts of Slurm's; a text that stands in no list here is unclear, and the job waits.

use std::borrow::Cow;

use thiserror::Error;

use super::command::{Output, SlurmError};
use base::advice::Advice;
use base::text::printable;
use domain::SlurmJobId;

/// A job that sbatch did not accept, as far as is known. It may exist all the same, but for
/// [`SubmitError::Refused`] and [`SubmitError::Limit`]: look for its name before it is submitted
/// again.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// Slurm can't be reached, or the cluster takes no jobs for now.
    #[error("Slurm can't take the job now: {0}")]
    Later(String),
    /// The site's limit of jobs at a time is reached: there will be room when others are done.
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

impl Advice for SubmitError {
    fn advice(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Command(error) => error.advice(),
            Self::Later(_) | Self::Limit(_) | Self::Refused(_) | Self::Unclear(_) => None,
        }
    }
}

/// Names of limits of jobs at a time, in any account, QOS or cluster: there will be room. They are
/// `AssocMaxSubmitJobLimit`, `QOSMaxSubmitJobPerUserLimit` and the like, and `MaxJobCount` of all.
const LIMITS_OF_JOBS: [&str; 5] =
    ["maxsubmitjob", "grpsubmitjob", "maxjobcount", "too many jobs", "maximum job"];

/// Names of limits for a single job, such as `QOSMaxMemoryPerJob`: it will never fit.
const LIMITS_OF_ONE_JOB: [&str; 3] = ["perjob", "pernode", "maxwallduration"];

/// What is wrong with what a job asks for, or with the account that asks: the same job is refused
/// for ever.
const REFUSALS: [&str; 44] = [
    // Partition.
    "invalid partition name specified",
    "no partition specified or system default partition",
    "user's group not permitted to use this partition",
    "requested nodes not in this partition",
    "multiple partition job request not supported",
    // Account, QOS and other names.
    "invalid account or account/partition combination",
    "invalid qos specification",
    "invalid wckey specification",
    "invalid license specification",
    "invalid mcs_label specified",
    "invalid or unknown association",
    "access denied to requested reservation",
    "requested reservation is invalid",
    // Nodes and what they have.
    "requested node configuration is not available",
    "requested topology configuration is not available",
    "invalid node name specified",
    "node count specification invalid",
    "invalid feature specification",
    "invalid preferred feature specification",
    "invalid cluster feature specification",
    "invalid knl configuration",
    "multiple knl numa",
    "job --batch option is invalid",
    // Processors, tasks and memory.
    "more processors requested than permitted",
    "requested more tasks than available processors",
    "cpu count specification invalid",
    "task count specification invalid",
    "task distribution specification invalid",
    "job size specification needs to be provided",
    "memory required by task is not available",
    "cannot request more threads per core",
    // Generic resources.
    "invalid generic resource (gres) specification",
    "duplicate generic resource (gres) specification",
    "invalid gres specification",
    "requested gres option unsupported",
    "invalid trackable resource (tres) specification",
    "restrictedcorespergpu:",
    "requires more ports than can be reserved",
    // Time.
    "requested time limit is invalid",
    "time limit specification required",
    "invalid time-min specification",
    "invalid time specified",
    // Others.
    "burst buffer request invalid",
    "pathname of a file, directory or other parameter too long",
];

/// What speaks of the cluster's condition, not of the job: it waits for as long as the site allows.
const PASSING: [&str; 50] = [
    // The controller is away, starting, ending, changing or busy.
    "unable to contact slurm controller",
    "could not establish a configuration source",
    "communication connection failure",
    "communication shutdown failure",
    "message send failure",
    "message receive failure",
    "unexpected message received",
    "unexpected missing socket",
    "unable to process incoming",
    "unable to process outgoing",
    "received zero length message",
    "zero bytes were transmitted",
    "header lengths are longer than data received",
    "insane message length",
    "socket timed out",
    "connection timed out",
    "connection refused",
    "connection reset",
    "no route to host",
    "network is unreachable",
    "broken pipe",
    "transport endpoint",
    "process is shutting down",
    "slurm backup controller in standby mode",
    "controller is in standby mode",
    "incompatible versions of client and server",
    "slurmctld is too busy",
    "rate limit exceeded",
    "temporarily",
    "try again",
    "job queue full",
    "i/o error writing script/environment",
    // Who we are can't be told at the moment: munge is away, or a clock is wrong.
    "protocol authentication error",
    "authentication credential",
    "failed to connect to authentication agent",
    "error generating job credential",
    // The cluster takes no jobs, or not these, at the moment.
    "job violates accounting/qos policy",
    "required partition not available",
    "requested partition configuration not available now",
    "partition in down state",
    "required node not available",
    "requested nodes are busy",
    "licenses currently unavailable",
    "requested reservation is in use",
    "requested reservation not usable now",
    "due to maintenance reservation",
    "system submissions disabled",
    "requested operation is presently disabled",
    "required ports are in use",
    "max powered up nodes reached",
];

/// Reads what sbatch has printed.
pub(super) fn read_answer(output: &Output) -> Result<SlurmJobId, SubmitError> {
    if output.success {
        // A site's banner may stand before or after the number, on either stream.
        let lines = output.stdout.lines().map(str::trim);
        return lines.rev().find_map(number).ok_or_else(|| {
            // It may exist: it is looked for by its name.
            SubmitError::Later(format!(
                "sbatch did not name the job's number: {}",
                output.last_words()
            ))
        });
    }
    let words = reason(output);
    let lower = words.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    // The name of a limit stands beside the general text of a policy, so names go first.
    Err(if says(&LIMITS_OF_ONE_JOB) {
        SubmitError::Refused(words)
    } else if says(&LIMITS_OF_JOBS) {
        SubmitError::Limit(words)
    } else if says(&REFUSALS) {
        SubmitError::Refused(words)
    } else if says(&PASSING) {
        SubmitError::Later(words)
    } else {
        SubmitError::Unclear(words)
    })
}

/// What these texts of sbatch mean, for the fuzz targets.
pub fn answer(success: bool, stdout: &str, stderr: &str) -> Result<SlurmJobId, SubmitError> {
    read_answer(&Output { success, stdout: stdout.into(), stderr: stderr.into() })
}

/// `JOBID` or `JOBID;CLUSTER`, as `--parsable` prints it.
fn number(line: &str) -> Option<SlurmJobId> {
    let number = line.split(';').next()?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .then(|| number.parse().ok().map(SlurmJobId))?
}

/// sbatch's own lines, without a banner around them. The first line names the limit that the second
/// is about.
pub(super) fn reason(output: &Output) -> String {
    let lines = output.stderr.lines().chain(output.stdout.lines());
    let own = |line: &'_ str| {
        let (_, text) = line.split_once("error:").or_else(|| line.split_once("fatal:"))?;
        Some(text.trim().to_owned())
    };
    let own: Vec<String> = lines.filter_map(own).collect();
    if own.is_empty() { output.last_words() } else { printable(&own.join(": "), 300) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(success: bool, stdout: &str, stderr: &str) -> Result<u64, String> {
        answer(success, stdout, stderr).map(|id| id.0).map_err(|e| e.to_string())
    }

    fn failed(words: &str) -> SubmitError {
        let stderr =
            format!("Welcome!\nsbatch: error: Batch job submission failed: {words}\nBye\n");
        answer(false, "", &stderr).unwrap_err()
    }

    #[test]
    fn the_number_is_found_in_spite_of_a_banner() {
        assert_eq!(told(true, "4711\n", ""), Ok(4711));
        assert_eq!(told(true, "4711;cedar\n", ""), Ok(4711));
        let banner = "****\nWelcome to cluster 9, 2026\nMaintenance on\n\n4711\nRemember: be nice \
            to 12 nodes\n";
        assert_eq!(told(true, banner, "sbatch: NOTE: your account has 3 core-years\n"), Ok(4711));
    }

    #[test]
    fn an_answer_without_a_number_is_not_a_refusal() {
        let error = told(true, "Submitted, I think\n", "").unwrap_err();
        assert!(error.starts_with("Slurm can't take the job now: sbatch did not name"), "{error}");
    }

    #[test]
    fn a_jobs_own_fault_is_a_refusal_in_all_versions_of_slurm() {
        for words in [
            "Invalid partition name specified",
            "No partition specified or system default partition",
            "User's group not permitted to use this partition",
            "Requested nodes not in this partition",
            "More processors requested than permitted",
            "Node count specification invalid",
            "Job size specification needs to be provided",
            "Requested node configuration is not available",
            "Invalid node name specified",
            "Task distribution specification invalid",
            "Task count specification invalid",
            "Invalid feature specification",
            "Memory required by task is not available",
            "Invalid account or account/partition combination specified",
            "Invalid qos specification",
            "Invalid wckey specification",
            "Invalid license specification",
            "Requested time limit is invalid (missing or exceeds some limit)",
            "Access denied to requested reservation",
            "Requested reservation is invalid",
            "Invalid time specified",
            "Requires more ports than can be reserved",
            "CPU count specification invalid",
            "Invalid generic resource (gres) specification",
            "Burst Buffer request invalid",
            "Invalid mcs_label specified",
            "Duplicate generic resource (gres) specification",
            "Job --batch option is invalid or not a subset of --constraints",
            "Job --batch option is invalid or not a subset of --constraint",
            "Invalid Trackable RESource (TRES) specification",
            "Invalid GRES specification (with and without type identification)",
            "Multiple KNL NUMA and/or MCDRAM constraints require use of a heterogeneous job",
            "Requested GRES option unsupported by configured SelectType plugin",
            "Invalid time-min specification (exceeds job's time or other limits)",
            "Pathname of a file, directory or other parameter too long",
            "Time limit specification required, but not provided",
            "Invalid KNL configuration (MCDRAM or NUMA option)",
            "Requested more tasks than available processors",
            "Multiple partition job request not supported when a partition is set in the \
            association",
            "Cannot request more threads per core than the job allocation",
            "Invalid preferred feature specification",
            "Invalid cluster feature specification",
            "Invalid or unknown association",
            "Invalid QOS specification, relative QOS can only be used in a single partition per \
            cluster.",
            "RestrictedCoresPerGPU: Not enough unique cores per GPU",
            "RestrictedCoresPerGPU: Missing core topology for GPUs",
            "RestrictedCoresPerGPU: No GPUs configured on node",
            "Requested topology configuration is not available",
        ] {
            assert!(matches!(failed(words), SubmitError::Refused(_)), "{words}");
        }
        assert_eq!(
            failed("Invalid account or account/partition combination specified").to_string(),
            "Slurm refuses the job: Batch job submission failed: Invalid account or \
            account/partition combination specified"
        );
    }

    #[test]
    fn the_clusters_condition_is_no_refusal() {
        for words in [
            "Unexpected message received",
            "Communication connection failure",
            "Message send failure",
            "Message receive failure",
            "Communication shutdown failure",
            "Incompatible versions of client and server code",
            "Protocol authentication error",
            "Insane message length",
            "Unexpected missing socket error",
            "Unable to process incoming file descriptor",
            "Unable to process outgoing file descriptor",
            "Unable to process incoming and outgoing file descriptors",
            "Unable to contact slurm controller (connect failure)",
            "Unable to contact slurm controller (send failure)",
            "Unable to contact slurm controller (receive failure)",
            "Unable to contact slurm controller (shutdown failure)",
            "Unable to create job record, try again",
            "Requested partition configuration not available now",
            "Requested nodes are busy",
            "I/O error writing script/environment to file",
            "Error generating job credential",
            "Slurm backup controller in standby mode",
            "Controller is in standby mode, try a different controller",
            "Requested operation is presently disabled",
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "Requested reservation is in use",
            "Requested reservation not usable now",
            "Required ports are in use",
            "Required node not available (down, drained or reserved)",
            "Required partition not available (inactive or drain)",
            "Partition in DOWN state",
            "System submissions disabled",
            "Job can not start due to maintenance reservation.",
            "Rate limit exceeded, please retry momentarily",
            "Rate limit exceeded, please retry later",
            "Licenses currently unavailable",
            "Max powered up nodes reached",
            "Received zero length message",
            "Header lengths are longer than data received",
            "Socket timed out on send/recv operation",
            "Zero Bytes were transmitted or received",
            "Invalid authentication credential",
            "Authentication credential invalid",
            "Authentication credential expired",
            "Failed to connect to authentication agent",
            "Connection timed out",
            "Connection refused",
            "Connection reset by peer",
            "No route to host",
            "Transport endpoint is not connected",
            "Resource temporarily unavailable",
            "Process is shutting down and closing all communications",
        ] {
            assert!(matches!(failed(words), SubmitError::Later(_)), "{words}");
        }
        let fatal = "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n\
                     sbatch: error: fetch_config: DNS SRV lookup failed\n\
                     sbatch: fatal: Could not establish a configuration source\n";
        assert!(matches!(answer(false, "", fatal), Err(SubmitError::Later(_))));
    }

    #[test]
    fn what_stands_in_no_list_is_unclear() {
        for words in [
            "Unspecified error",
            "Slurm internal error, contact system administrator",
            "Access/permission denied",
            "Invalid user id",
            "Environment is missing in job",
            "Requested account has breached requested QOS usage threshold",
            "Please name a project with --comment (see the wiki)",
            "",
        ] {
            assert!(matches!(failed(words), SubmitError::Unclear(_)), "{words}");
        }
        let filter = "Jobs of more than 4 GPUs go to the partition 'big'\n";
        assert_eq!(
            told(false, "", filter).unwrap_err(),
            "sbatch did not take the job: Jobs of more than 4 GPUs go to the partition 'big'"
        );
    }

    #[test]
    fn a_banner_decides_nothing() {
        let banner = "The gpu partition is temporarily down\nsbatch: error: Batch job submission \
                      failed: Invalid qos specification\nToo many jobs? Read the wiki.\n";
        assert!(matches!(answer(false, "", banner), Err(SubmitError::Refused(_))));
    }

    #[test]
    fn a_limit_of_jobs_is_no_refusal_and_a_limit_of_size_is() {
        const POLICY: &str = "sbatch: error: Batch job submission failed: Job violates \
            accounting/QOS policy (job submit limit, user's size and/or time limits)";
        for name in
            ["AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "AssocGrpSubmitJobsLimit"]
        {
            let error = told(false, "", &format!("sbatch: error: {name}\n{POLICY}")).unwrap_err();
            assert!(
                error.contains("no more jobs of this account for now") && error.contains(name),
                "{error}"
            );
        }
        assert!(matches!(failed("MaxJobCount limit reached"), SubmitError::Limit(_)));
        for name in
            ["QOSMaxMemoryPerJob", "QOSMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit"]
        {
            let error = told(false, "", &format!("sbatch: error: {name}\n{POLICY}")).unwrap_err();
            assert!(error.starts_with(&format!("Slurm refuses the job: {name}: Batch")), "{error}");
        }
    }
}
