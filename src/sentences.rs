//! What a person is told about a job that failed: one sentence or two, what happened and what to
//! change.
//!
//! Every sentence of a reply is here, with its advice, but for what is wrong with a message, a page
//! or a model: that is said by the error of whatever has found it. What a conversation says while
//! it goes on is in `bridge/converse.rs` and `worker/told.rs`. Whoever can help is always
//! [`OPERATOR`], or whom the site names instead.

use std::fmt::Display;

use crate::ledger::{Cause, Verdict};
use base::text::sentence;
use domain::SlurmJobId;
use domain::{Beyond, ResourceSettings};
use scheduler::Kind;

/// Who helps, where the site names nobody (`OPERATOR_CONTACT`).
pub const OPERATOR: &str = "the operator of the cluster";

/// The job that is told about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Slurm's number.
    pub slurm_id: Option<SlurmJobId>,
    /// What it asked for.
    pub asked: Option<&'a ResourceSettings>,
    /// Who helps.
    pub operator: &'a str,
    /// What ran it, or was to run it.
    pub scheduler: Kind,
}

/// What failures are counted by, and what the error reply says.
pub fn of_verdict(verdict: &Verdict, about: About<'_>) -> (Cause, String) {
    let About { slurm_id, asked, operator, scheduler } = about;
    let job_word = scheduler.job_word();
    let number = slurm_id.map_or_else(String::new, |id| format!(" ({job_word} {id})"));
    let after =
        |ran: &Option<String>| ran.as_ref().map_or_else(String::new, |ran| format!(" after {ran}"));
    match verdict {
        Verdict::NoJob { problem } => (Cause::Message, sentence(problem)),
        Verdict::RodanAway => (
            Cause::Rodan,
            format!(
                "The cluster could not reach Rodan to fetch the page. Run the workflow again, or \
                 ask {operator}."
            ),
        ),
        Verdict::RodanRefused => (
            Cause::Rodan,
            format!(
                "The cluster could not log in to Rodan to fetch the page. Ask {operator} to check \
                 the account that it has in Rodan."
            ),
        ),
        Verdict::Refused { words } => (
            Cause::Slurm,
            format!(
                "The cluster refuses the job: {}. Change \"CPUs\", \"Maximum memory (MB)\" or \
                 \"Maximum time (D-HH:MM)\", or ask {operator}.",
                words.trim_end_matches('.')
            ),
        ),
        Verdict::NotTaken => (
            Cause::Slurm,
            format!(
                "The cluster did not take the job in time. Run the workflow again, or ask \
                {operator}."
            ),
        ),
        Verdict::NotStarted { reason, waited_hours } => {
            let what = match (waited_hours, scheduler) {
                (Some(hours), Kind::Slurm) if reason.is_empty() => format!(
                    "The training did not start within {hours} hours: Slurm gives no reason."
                ),
                (Some(hours), Kind::Slurm) => {
                    format!(
                        "The training did not start within {hours} hours: Slurm still says \
                        {reason}."
                    )
                }
                // There, a job waits for nothing else.
                (Some(hours), Kind::Local { .. }) => format!(
                    "The training did not start within {hours} hours: other trainings were at work."
                ),
                (None, _) if reason.is_empty() => {
                    "The training can't start on this cluster: Slurm gives no reason.".to_owned()
                }
                (None, _) => {
                    format!("The training can't start on this cluster: Slurm says {reason}.")
                }
            };
            let asked = asked.map_or_else(String::new, |asked| {
                let ResourceSettings { cpus, memory_mb, walltime, instances, .. } = asked;
                let tasks = match instances {
                    0 | 1 => String::new(),
                    tasks => format!("{tasks} tasks with "),
                };
                format!(" It asked for {tasks}{cpus} CPUs, {memory_mb} MB and {walltime}.")
            });
            let advice = format!(
                "Set \"CPUs\", \"Maximum memory (MB)\" or \"Maximum time (D-HH:MM)\" lower, or ask \
                 {operator}."
            );
            (Cause::NotStarted, format!("{what}{asked} {advice}"))
        }
        Verdict::Cancelled => (
            Cause::Cancelled,
            format!(
                "The training was cancelled by {operator}. Ask there why before you run the \
                workflow again."
            ),
        ),
        Verdict::CancelledByAsker => {
            (Cause::Cancelled, "The training was cancelled, as was asked.".to_owned())
        }
        Verdict::Abandoned => {
            let what = "Nobody waits for the training any more: its reply queue is gone.";
            (Cause::Cancelled, what.to_owned())
        }
        Verdict::Vanished => (
            Cause::Unknown,
            format!(
                "The cluster no longer knows the training{number}, and it left no result. Run the \
                 workflow again."
            ),
        ),
        Verdict::OutOfTime { ran } => {
            let limit =
                asked.map_or_else(String::new, |asked| format!(" (asked for {})", asked.walltime));
            let what =
                format!("The training ran out of time{limit} and was stopped{}.", after(ran));
            (Cause::Time, format!("{what} {MORE_TIME}"))
        }
        Verdict::OutOfMemory { used_mb } => {
            let used = used_mb.map_or_else(String::new, |mb| format!(", used {mb} MB"));
            let text = match asked.map(|asked| asked.memory_mb) {
                Some(mb) => format!(
                    "The training ran out of memory: asked for {mb} MB{used}. Set \"Maximum memory \
                     (MB)\" to {} or more.",
                    mb * 2
                ),
                None => format!(
                    "The training ran out of memory{used}. Set \"Maximum memory (MB)\" higher."
                ),
            };
            (Cause::OutOfMemory, text)
        }
        Verdict::CancelledOnCluster { ran } => (
            Cause::Cancelled,
            format!(
                "The training{number} was cancelled on the cluster{}. Run the workflow again, or \
                 ask {operator} why.",
                after(ran)
            ),
        ),
        Verdict::NodeFailed { ran } => (
            Cause::Node,
            format!(
                "The cluster's node that ran the training{number} failed{}. Run the workflow \
                again.",
                after(ran)
            ),
        ),
        Verdict::TakenBack { ran } => (
            Cause::Node,
            format!(
                "The cluster took back the node from the training{number}{}. Run the workflow \
                again.",
                after(ran)
            ),
        ),
        Verdict::Killed { ran } => {
            let mb = asked.map(|asked| asked.memory_mb);
            let asked = mb.map_or_else(String::new, |mb| format!(": it asked for {mb} MB"));
            let more = mb.map_or_else(|| "higher".to_owned(), |mb| format!("to {}", mb * 2));
            let text = format!(
                "The training{number} was killed{} and nothing says why. Most often that is too \
                 little memory{asked}. Set \"Maximum memory (MB)\" {more}, and ask {operator} if \
                 it happens again.",
                after(ran)
            );
            (Cause::Killed, text)
        }
        Verdict::NoResult { ran, state, exit_code } => {
            let code =
                exit_code.as_ref().map_or_else(String::new, |code| format!(", exit code {code}"));
            let text = format!(
                "The training{number} ended{} without a result ({state}{code}). Ask {operator} to \
                 look into the job's log.",
                after(ran)
            );
            (Cause::Training, text)
        }
        Verdict::ReplyLost => (
            Cause::Reply,
            "The cluster lost the result of the training. Run the workflow again.".to_owned(),
        ),
        Verdict::ReplyTooLarge { problem } => (
            Cause::Reply,
            format!(
                "The models are trained but can't be sent: {problem}. Train fewer layers at once, \
                 or ask {operator} to raise RabbitMQ's max_message_size."
            ),
        ),
    }
}

/// What to do about a failure of this cause: one sentence for the person who asked, the `advice` of
/// a conversation's end. What was wrong with this one job is in its error.
pub fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::Message => {
            "Correct the settings and inputs that the error names, and run the workflow again."
        }
        Cause::Rodan => {
            "Make sure that the page and its layers are still there, and run the workflow again."
        }
        Cause::Slurm => {
            "Ask for fewer CPUs, less memory or less time, or leave these settings out."
        }
        Cause::NotStarted => {
            "Ask for fewer CPUs, less memory or less time, or run the workflow again later."
        }
        Cause::Input => {
            "Correct the page, the layer or the model that the error names, and run the workflow \
             again."
        }
        Cause::OutOfMemory => {
            "Set \"Maximum memory (MB)\" higher, or \"Batch Size\" or the patches smaller."
        }
        Cause::Time => MORE_TIME,
        Cause::Node => "Run the workflow again: the cluster had a fault.",
        Cause::Cancelled => "Run the workflow again if that was not meant.",
        Cause::Killed => "Set \"Maximum memory (MB)\" higher; most often too little of it is why.",
        Cause::Setup | Cause::Unknown => {
            "Run the workflow again; if it fails the same way, the log says what the cluster lacks."
        }
        Cause::Training => {
            "Look at the last lines of the log: they say where the training stopped."
        }
        Cause::Reply => {
            "Run the workflow again, with fewer layers where the models were too large."
        }
    }
}

const MORE_TIME: &str =
    "Set \"Maximum time (D-HH:MM)\" higher, or train with fewer samples or epochs.";

/// What is wrong with a job that asks for more than the site gives.
pub fn beyond_the_limits(exceeded: &[Beyond], operator: &str) -> String {
    let one = |beyond: &Beyond| {
        let Beyond { name, asked, most, variable } = beyond;
        format!(
            "the setting \"{name}\" is {asked}, and this cluster gives a job at most {most}: lower \
             it, or ask {operator} ({variable})"
        )
    };
    exceeded.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Slurm's warning came before every layer had a usable model.
pub fn short_of_time() -> String {
    format!("The training ran out of time before every layer was done. {MORE_TIME}")
}

/// A job that nobody looks after was told to end.
pub fn stopped() -> String {
    "The training was cancelled on the cluster before it had a result. Run the workflow again."
        .to_owned()
}

/// The trainer has no configuration on its node.
pub fn not_set_up(operator: &str) -> String {
    format!("The trainer is not set up on the compute node. Ask {operator}.")
}

/// The downloads can't be started.
pub fn no_downloads(error: &impl Display, operator: &str) -> String {
    format!("The downloads can't be started on the compute node ({error}). Ask {operator}.")
}

/// The downloads took too long; `error` says how long.
pub fn slow_downloads(error: &impl Display, operator: &str) -> String {
    format!("{} Run the workflow again, or ask {operator}.", sentence(&error.to_string()))
}

/// There is no room to work in.
pub fn no_scratch(error: &impl Display, operator: &str) -> String {
    format!("There is no scratch directory on the compute node ({error}). Ask {operator}.")
}

/// A fault of the trainer itself.
pub fn fault_of_the_trainer(operator: &str) -> String {
    format!(
        "The trainer stopped with a fault of its own. Ask {operator} to look into the job's log."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'_> = About {
        slurm_id: Some(SlurmJobId(17)),
        asked: None,
        operator: OPERATOR,
        scheduler: Kind::Slurm,
    };

    fn asked() -> ResourceSettings {
        ResourceSettings {
            cpus: 6,
            memory_mb: 2000,
            walltime: "0-06:00".parse().unwrap(),
            email: None,
            instances: 1,
        }
    }

    fn all() -> Vec<(Verdict, Cause)> {
        let ran = Some("06:00:12".to_owned());
        let not_started =
            |waited_hours| Verdict::NotStarted { reason: "Resources".into(), waited_hours };
        let no_reason = |waited_hours| Verdict::NotStarted { reason: String::new(), waited_hours };
        let code = Some("1:0".to_owned());
        vec![
            (Verdict::NoJob { problem: "the setting \"Seed\" is odd".into() }, Cause::Message),
            (Verdict::RodanAway, Cause::Rodan),
            (Verdict::RodanRefused, Cause::Rodan),
            (Verdict::Refused { words: "Invalid account.".into() }, Cause::Slurm),
            (Verdict::NotTaken, Cause::Slurm),
            (not_started(None), Cause::NotStarted),
            (not_started(Some(72)), Cause::NotStarted),
            (no_reason(None), Cause::NotStarted),
            (no_reason(Some(72)), Cause::NotStarted),
            (Verdict::Cancelled, Cause::Cancelled),
            (Verdict::CancelledByAsker, Cause::Cancelled),
            (Verdict::Abandoned, Cause::Cancelled),
            (Verdict::Vanished, Cause::Unknown),
            (Verdict::OutOfTime { ran: ran.clone() }, Cause::Time),
            (Verdict::OutOfMemory { used_mb: None }, Cause::OutOfMemory),
            (Verdict::OutOfMemory { used_mb: Some(1990) }, Cause::OutOfMemory),
            (Verdict::CancelledOnCluster { ran: ran.clone() }, Cause::Cancelled),
            (Verdict::NodeFailed { ran: ran.clone() }, Cause::Node),
            (Verdict::TakenBack { ran: ran.clone() }, Cause::Node),
            (Verdict::Killed { ran: ran.clone() }, Cause::Killed),
            (Verdict::NoResult { ran, state: "FAILED".into(), exit_code: code }, Cause::Training),
            (Verdict::ReplyLost, Cause::Reply),
            (Verdict::ReplyTooLarge { problem: "17 bytes, more than 16".into() }, Cause::Reply),
        ]
    }

    #[test]
    fn every_verdict_has_its_cause_and_whole_sentences() {
        let asked = asked();
        for (verdict, cause) in all() {
            for asked in [None, Some(&asked)] {
                for operator in [OPERATOR, "Ada <ada@example.org>"] {
                    let (found, text) = of_verdict(&verdict, About { asked, operator, ..ABOUT });
                    assert_eq!(found, cause, "{verdict:?}");
                    let is_whole = text.starts_with(char::is_uppercase) && text.ends_with('.');
                    assert!(is_whole && !text.contains("  ") && !text.contains(".."), "{text}");
                    assert!(operator == OPERATOR || !text.contains("operator"), "{text}");
                }
            }
            let kept = serde_json::to_string(&verdict).unwrap();
            assert_eq!(serde_json::from_str::<Verdict>(&kept).unwrap(), verdict);
        }
    }

    #[test]
    fn each_cause_has_an_advice_in_one_sentence() {
        for cause in Cause::ALL {
            let advice = advice(cause);
            assert!(advice.ends_with('.') && advice.len() < 120, "{advice}");
            assert_eq!(advice.matches(". ").count(), 0, "{advice}");
        }
    }

    #[test]
    fn each_end_says_what_to_change() {
        let asked = asked();
        let says =
            |verdict: Verdict| of_verdict(&verdict, About { asked: Some(&asked), ..ABOUT }).1;
        assert_eq!(
            says(Verdict::OutOfMemory { used_mb: Some(1990) }),
            "The training ran out of memory: asked for 2000 MB, used 1990 MB. Set \"Maximum memory \
            (MB)\" to 4000 or more."
        );
        assert_eq!(
            says(Verdict::OutOfTime { ran: Some("06:00:12".into()) }),
            "The training ran out of time (asked for 0-06:00:00) and was stopped after 06:00:12. \
            Set \"Maximum time (D-HH:MM)\" higher, or train with fewer samples or epochs."
        );
        assert_eq!(
            says(Verdict::NotStarted { reason: "PartitionTimeLimit".into(), waited_hours: None }),
            "The training can't start on this cluster: Slurm says PartitionTimeLimit. It asked for \
            6 CPUs, 2000 MB and 0-06:00:00. Set \"CPUs\", \"Maximum memory (MB)\" or \"Maximum \
            time (D-HH:MM)\" lower, or ask the operator of the cluster."
        );
        for waited_hours in [None, Some(72)] {
            let text = says(Verdict::NotStarted { reason: String::new(), waited_hours });
            assert!(text.contains(": Slurm gives no reason. It asked for 6 CPUs"), "{text}");
        }
        assert_eq!(
            says(Verdict::CancelledOnCluster { ran: None }),
            "The training (Slurm job 17) was cancelled on the cluster. Run the workflow again, or \
            ask the operator of the cluster why."
        );
    }
}
