//! Why a job waits, in words for people who don't know Slurm's.

/// From `man squeue`, "JOB REASON CODES".
const WORDS: [(&str, &str); 24] = [
    ("AccountNotAllowed", "the account may not use its partition"),
    ("BadConstraints", "no node has what it asks for"),
    ("BeginTime", "its time to start has not come"),
    ("Cleaning", "its last run is still being cleared away"),
    ("Dependency", "another job has to end first"),
    ("DependencyNeverSatisfied", "it waits for a job that ended otherwise"),
    ("InvalidAccount", "its account does not exist"),
    ("InvalidQOS", "its QOS does not exist"),
    ("JobHeldAdmin", "an administrator holds it back"),
    ("JobHeldUser", "it was held back by its own account"),
    ("JobHoldMaxRequeue", "it was put back too often"),
    ("Licenses", "a licence is in use"),
    ("MaxMemPerLimit", "it asks for more memory than allowed"),
    ("NodeDown", "its node is down"),
    ("PartitionConfig", "it asks for more than its partition allows"),
    ("PartitionDown", "its partition is closed"),
    ("PartitionInactive", "its partition is closed"),
    ("PartitionNodeLimit", "it asks for more nodes than its partition has"),
    ("PartitionTimeLimit", "it asks for more time than its partition allows"),
    ("Priority", "other jobs go first"),
    ("QOSNotAllowed", "the account may not use its QOS"),
    ("Reservation", "its reservation has not begun"),
    ("Resources", "nodes are busy"),
    ("SystemFailure", "Slurm itself has failed"),
];

/// A reason of Slurm in words; `None` if there are no words for it.
pub fn in_words(reason: &str) -> Option<&'static str> {
    if let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == reason) {
        return Some(words);
    }
    let lower = reason.to_ascii_lowercase();
    let limit = lower.trim_end_matches("limit");
    if limit.ends_with("perjob") || limit.ends_with("pernode") {
        return Some("it asks for more than one job may have");
    }
    let of_many = ["qosgrp", "assocgrp", "qosmax", "assocmax"];
    if of_many.iter().any(|start| lower.starts_with(start)) {
        return Some("the account has as much as it may have");
    }
    // Names of nodes may follow.
    let starts = [
        ("reqnodenotavail", "the nodes for it are down or reserved"),
        ("nodes required for job are down", "the nodes for it are down or reserved"),
        ("launch failed", "it could not be started and is held back"),
        ("launch_failed", "it could not be started and is held back"),
    ];
    starts
        .iter()
        .find(|(start, _)| lower.trim_start_matches('(').starts_with(start))
        .map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_words() {
        for (reason, part) in [
            ("Resources", "busy"),
            ("QOSMaxMemoryPerJob", "one job may have"),
            ("AssocMaxJobsLimit", "as much as it may"),
            ("QOSGrpCpuLimit", "as much as it may"),
            ("ReqNodeNotAvail, UnavailableNodes:node[1-4]", "down or reserved"),
            ("launch failed requeued held", "held back"),
        ] {
            assert!(in_words(reason).is_some_and(|words| words.contains(part)), "{reason}");
        }
        assert_eq!((in_words(""), in_words("SomethingNew")), (None, None));
        for (_, words) in WORDS {
            assert!(words.len() <= 50, "{words}");
        }
    }
}
