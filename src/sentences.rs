//! What a person is told about a job that failed: one sentence or two, what happened and what to change.

use crate::ledger::Cause;
use contract::broker::PublishError;
use domain::ResourceSettings;
use scheduler::slurm::{JobInfo, JobState};

/// The error reply for a job that Slurm ended before there was a result.
pub fn ended(job: &JobInfo, asked_for: Option<&ResourceSettings>) -> String {
    let number = job.id;
    // squeue says 0:00 of a job that never ran, sacct 00:00:00.
    let never_ran = job.elapsed.chars().all(|c| matches!(c, '0' | ':'));
    let ran = if never_ran { String::new() } else { format!(" after {}", job.elapsed) };
    match &job.state {
        JobState::Timeout | JobState::Deadline => {
            let limit = asked_for.map_or_else(String::new, |r| format!(" (asked for {})", r.walltime));
            format!(
                "The training ran out of time{limit} and was stopped{ran}. Set \"Maximum time (D-HH:MM)\" higher, or train with fewer samples or epochs."
            )
        }
        JobState::OutOfMemory => out_of_memory(job, asked_for),
        JobState::Failed if near_the_limit(job, asked_for) => out_of_memory(job, asked_for),
        JobState::Cancelled => format!(
            "The training (Slurm job {number}) was cancelled on the cluster{ran}. Run the workflow again, or ask the operator of the cluster why."
        ),
        JobState::NodeFail | JobState::BootFail => format!(
            "The cluster's node that ran the training (Slurm job {number}) failed{ran}. Run the workflow again."
        ),
        JobState::Preempted | JobState::Revoked => format!(
            "The cluster took back the node from the training (Slurm job {number}){ran}. Run the workflow again."
        ),
        JobState::Failed if was_killed(job) => {
            let asked = asked_for.map_or_else(String::new, |r| format!(": it asked for {} MB", r.memory_mb));
            let more = asked_for.map_or_else(|| "higher".to_owned(), |r| format!("to {}", r.memory_mb * 2));
            format!(
                "The training (Slurm job {number}) was killed{ran} and nothing says why. Most often that is too little memory{asked}. Set \"Maximum memory (MB)\" {more}, and ask the operator of the cluster if it happens again."
            )
        }
        state => {
            let code = job.exit_code.as_deref().map_or_else(String::new, |c| format!(", exit code {c}"));
            format!(
                "The training (Slurm job {number}) ended{ran} without a result ({state}{code}). Ask the operator of the cluster to look into the job's log."
            )
        }
    }
}

/// The cause that [`ended`] tells in words.
pub fn cause(job: &JobInfo, asked_for: Option<&ResourceSettings>) -> Cause {
    match &job.state {
        JobState::Timeout | JobState::Deadline => Cause::Time,
        JobState::OutOfMemory => Cause::OutOfMemory,
        JobState::Failed if near_the_limit(job, asked_for) => Cause::OutOfMemory,
        JobState::Cancelled => Cause::Cancelled,
        JobState::NodeFail | JobState::BootFail | JobState::Preempted | JobState::Revoked => Cause::Node,
        JobState::Failed if was_killed(job) => Cause::Killed,
        _ => Cause::Training,
    }
}

/// SIGKILL, as Slurm reports it of a batch script and of what a shell ran.
fn was_killed(job: &JobInfo) -> bool {
    matches!(job.exit_code.as_deref(), Some("0:9" | "137:0"))
}

/// The error reply of a job that never started; `waited` when it waited for longer than the site allows.
pub fn not_started(
    reason: &str,
    asked_for: Option<&ResourceSettings>,
    waited: Option<std::time::Duration>,
) -> String {
    let asked = asked_for.map_or_else(String::new, |r| {
        format!(" It asked for {} CPUs, {} MB and {}.", r.cpus, r.memory_mb, r.walltime)
    });
    let reason = if reason.is_empty() { "without a reason" } else { reason };
    let what = match waited {
        Some(waited) => {
            format!(
                "The training did not start within {} hours: Slurm still says {reason}.",
                waited.as_secs() / 3600
            )
        }
        None => format!("The training can't start on this cluster: Slurm says {reason}."),
    };
    format!(
        "{what}{asked} Set \"CPUs\", \"Maximum memory (MB)\" or \"Maximum time (D-HH:MM)\" lower, or ask the operator of the cluster."
    )
}

fn near_the_limit(job: &JobInfo, asked_for: Option<&ResourceSettings>) -> bool {
    match (job.used_mb, asked_for) {
        // Slurm samples memory: a job that was killed for it was last seen a little below the limit.
        (Some(used), Some(asked)) => used * 100 >= asked.memory_mb * 95,
        _ => false,
    }
}

fn out_of_memory(job: &JobInfo, asked_for: Option<&ResourceSettings>) -> String {
    let used = job.used_mb.map_or_else(String::new, |mb| format!(", used {mb} MB"));
    match asked_for {
        Some(asked) => format!(
            "The training ran out of memory: asked for {0} MB{used}. Set \"Maximum memory (MB)\" to {1} or more.",
            asked.memory_mb,
            asked.memory_mb * 2
        ),
        None => format!("The training ran out of memory{used}. Set \"Maximum memory (MB)\" higher."),
    }
}

/// The error reply of a job that Slurm's warning reached before every layer had a usable model.
pub const SHORT_OF_TIME: &str = "the training ran out of time before every layer was done; set \"Maximum time (D-HH:MM)\" higher, or train with fewer samples or epochs";

/// The error reply of a job that `check cancel` has ended.
pub const CANCELLED_BY_OPERATOR: &str = "The training was cancelled by the operator of the HPC bridge. Ask the operator why before you run the workflow again.";

/// The error reply in place of one that is too large.
pub fn too_large(error: &PublishError) -> String {
    format!(
        "The models are trained but can't be sent: {error}. Train fewer layers at once, or ask the operator of RabbitMQ to raise max_message_size."
    )
}

/// The error reply for a job that Slurm no longer knows.
pub fn vanished(number: Option<domain::SlurmJobId>) -> String {
    let job = number.map_or_else(String::new, |n| format!(" (Slurm job {n})"));
    format!("The cluster no longer knows the training{job}, and it left no result. Run the workflow again.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SlurmJobId;

    fn job(state: &str, used_mb: Option<u64>) -> JobInfo {
        JobInfo {
            id: SlurmJobId(17),
            name: "hpct-a".into(),
            state: JobState::parse(state),
            reason: String::new(),
            elapsed: "06:00:12".into(),
            used_mb,
            exit_code: Some("1:0".into()),
        }
    }

    fn asked() -> ResourceSettings {
        ResourceSettings { cpus: 6, memory_mb: 2000, walltime: "0-06:00".parse().unwrap(), email: None }
    }

    #[test]
    fn each_end_says_what_to_change() {
        let sentence = |state, used| ended(&job(state, used), Some(&asked()));
        assert_eq!(
            sentence("OUT_OF_MEMORY", Some(1990)),
            "The training ran out of memory: asked for 2000 MB, used 1990 MB. Set \"Maximum memory (MB)\" to 4000 or more."
        );
        assert_eq!(sentence("FAILED", Some(1950)), sentence("OUT_OF_MEMORY", Some(1950)));
        assert!(sentence("FAILED", Some(700)).contains("without a result (FAILED, exit code 1:0)"));
        assert!(sentence("TIMEOUT", None).contains("(asked for 0-06:00:00) and was stopped after 06:00:12"));
        assert!(sentence("CANCELLED by 0", None).contains("was cancelled on the cluster"));
        assert!(sentence("NODE_FAIL", None).contains("failed after 06:00:12. Run the workflow again."));
        assert!(sentence("COMPLETED", None).contains("without a result (COMPLETED"));
        let cause = |state, used| super::cause(&job(state, used), Some(&asked()));
        assert_eq!(cause("OUT_OF_MEMORY", None), Cause::OutOfMemory);
        assert_eq!(cause("FAILED", Some(1950)), Cause::OutOfMemory);
        assert_eq!(cause("FAILED", Some(700)), Cause::Training);
        assert_eq!(cause("TIMEOUT", None), Cause::Time);
        assert_eq!(cause("CANCELLED by 0", None), Cause::Cancelled);
        assert_eq!(cause("NODE_FAIL", None), Cause::Node);
        let killed = JobInfo { exit_code: Some("0:9".into()), ..job("FAILED", None) };
        assert_eq!(super::cause(&killed, None), Cause::Killed);
        for elapsed in ["", "0:00", "00:00:00"] {
            let never_ran = JobInfo { elapsed: elapsed.into(), ..job("CANCELLED", None) };
            assert!(ended(&never_ran, None).contains("was cancelled on the cluster. Run"), "{elapsed}");
        }
    }
}
