//! The one list of every variable that the programs read.

/// One variable of `credentials.env` or the process environment.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is for: completes the sentence "NAME is ...".
    pub purpose: &'static str,
    /// The value used when it is not set; `None` where it must be set or may be left out.
    pub default: Option<&'static str>,
}

const fn variable(name: &'static str, default: Option<&'static str>, purpose: &'static str) -> Variable {
    Variable { name, purpose, default }
}

/// Every variable, in the order of `credentials.env.example`.
pub const VARIABLES: &[Variable] = &[
    variable("RABBITMQ_USER", None, "the user name for RabbitMQ"),
    variable("RABBITMQ_PASSWORD", None, "the password for RabbitMQ"),
    variable(
        "RABBITMQ_HOST",
        None,
        "RabbitMQ's address: host, host:port, or an amqp:// or amqps:// URL, with the vhost as its path",
    ),
    variable("RODAN_USER", None, "the user name (or e-mail address) for Rodan"),
    variable("RODAN_PASSWORD", None, "the password for Rodan"),
    variable("RODAN_HOST", None, "Rodan's address: host, or an http:// or https:// URL"),
    variable("REQUIRE_TLS", None, "1 when RABBITMQ_HOST and RODAN_HOST without TLS are refused"),
    variable(
        "RABBITMQ_CLIENT_CERT",
        None,
        "the file (PEM) with the client certificate for a RabbitMQ that asks for one",
    ),
    variable("RABBITMQ_CLIENT_KEY", None, "the file (PEM, mode 0600) with the key of RABBITMQ_CLIENT_CERT"),
    variable(
        "RODAN_CLIENT_CERT",
        None,
        "the file (PEM) with the client certificate for a Rodan that asks for one",
    ),
    variable("RODAN_CLIENT_KEY", None, "the file (PEM, mode 0600) with the key of RODAN_CLIENT_CERT"),
    variable("SPOOL_DIR", Some("spool"), "the directory for job records, on the shared filesystem"),
    variable("LOG_DIR", Some("logs"), "the directory for the Slurm logs, on the shared filesystem"),
    variable("BATCH_SCRIPT", Some("hpc_training.sh"), "the script that sbatch runs"),
    variable(
        "TENSORBOARD_DIR",
        None,
        "the directory for TensorBoard's event files, with a directory for each job; without it none are written",
    ),
    variable(
        "METRICS_FILE",
        None,
        "the file, ending in .prom, that each pass of check writes its metrics to; without it none is written",
    ),
    variable("SITE_ACCOUNT", None, "the Slurm account that jobs are charged to"),
    variable("SITE_PARTITION", None, "the Slurm partition (or partitions, comma-separated)"),
    variable("SITE_QOS", None, "the Slurm quality of service"),
    variable("SITE_CONSTRAINT", None, "the Slurm node features that jobs need"),
    variable(
        "SITE_GRES",
        Some("gpu:1"),
        "the Slurm generic resource a job asks for; 'none' for a CPU-only site",
    ),
    variable(
        "SITE_GRES_TABLE",
        None,
        "which generic resource and partition a job gets for its memory in MB, such as '64000=gpu:p100l:1, *=gpu:v100l:1@long'",
    ),
    variable(
        "SITE_SIGNAL_SECONDS",
        Some("120"),
        "how long before the time limit Slurm warns the trainer, in seconds",
    ),
    variable(
        "SITE_SLURM_BIN",
        None,
        "the directory of sbatch, squeue and sacct, where PATH lacks it (cron's does)",
    ),
    variable(
        "REPLY_QUEUE_DURABLE",
        Some("0"),
        "1 when an absent reply queue is to be made durable (RabbitMQ 4.3 refuses others)",
    ),
    variable(
        "REPLY_TTL_HOURS",
        Some("168"),
        "how long a reply that nobody fetches stays in its queue, in hours",
    ),
    variable(
        "MAX_REPLY_BYTES",
        None,
        "the largest message the broker takes, in bytes; by default the broker itself says so (128 MiB, 16 MiB from 4.0)",
    ),
    variable(
        "MAX_DOWNLOAD_BYTES",
        Some("1073741824"),
        "the largest file that is downloaded from Rodan, in bytes",
    ),
    variable(
        "DOWNLOAD_SECONDS",
        Some("1800"),
        "how long all downloads of a job may take together, with every new attempt, in seconds",
    ),
    variable(
        "GRACE_SECONDS",
        Some("600"),
        "how long a job that Slurm does not know, or is requeueing, counts as alive, in seconds",
    ),
    variable("SLURM_TIMEOUT_SECONDS", Some("60"), "how long one of Slurm's commands may take, in seconds"),
    variable(
        "GIVE_UP_HOURS",
        Some("6"),
        "how long a job waits for Rodan or Slurm to come back before it is answered with an error, in hours",
    ),
    variable(
        "MAX_PENDING_HOURS",
        Some("168"),
        "how long a job may wait in Slurm's queue before it is taken out and answered with an error, in hours",
    ),
    variable("MAX_CPUS", None, "the most cores that a job may ask for"),
    variable("MAX_MEMORY_MB", None, "the most memory that a job may ask for, in MB"),
    variable("MAX_TIME", None, "the longest time that a job may ask for, as D-HH:MM"),
    variable("MAX_EPOCHS", None, "the most epochs that a job may ask for"),
    variable("MAX_SAMPLES", None, "the most samples a layer that a job may ask for"),
    variable("DEFAULT_CPUS", Some("6"), "how many cores a job gets that names none"),
    variable(
        "DEFAULT_TIME",
        Some("0-06:00"),
        "the time limit, as D-HH:MM, of a job that names none, until finished jobs of this site tell a better one",
    ),
    variable(
        "MAX_OPEN_JOBS",
        Some("100"),
        "how many jobs may be open at a time; the others stay in RabbitMQ",
    ),
    variable(
        "WATCHER",
        Some("1"),
        "1 when each job gets a second, tiny one that reports its failure at once",
    ),
    variable("WATCHER_PARTITION", None, "the Slurm partition of the watcher, where it is not the job's"),
    variable(
        "REQUEUE",
        Some("1"),
        "1 when a job may go back into Slurm's queue and be resumed there (failed node, preemption, out of time)",
    ),
    variable(
        "ON_TIME_LIMIT",
        Some("reply"),
        "what happens short of the time limit: 'reply' with the best so far where every layer has an epoch, or 'requeue'",
    ),
    variable("MAX_REQUEUES", Some("10"), "how often a job may requeue itself for more time"),
    variable(
        "CHECKPOINT_SECONDS",
        Some("300"),
        "how much training, in seconds, may be lost when a node fails; a checkpoint has about 25 MB",
    ),
];

/// The purpose of a variable in [`VARIABLES`].
pub(crate) fn purpose(name: &str) -> &'static str {
    VARIABLES.iter().find(|v| v.name == name).map_or("", |v| v.purpose)
}

/// The default of a variable in [`VARIABLES`].
pub(crate) fn default(name: &str) -> Option<&'static str> {
    VARIABLES.iter().find(|v| v.name == name).and_then(|v| v.default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_shows_every_variable_with_its_default_and_no_other() {
        let example = include_str!("../../credentials.env.example");
        let line =
            |l: &'static str| l.trim_start_matches('#').split_once('=').filter(|(name, _)| is_name(name));
        let shown: Vec<(&str, &str)> = example.lines().filter_map(line).collect();
        let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, VARIABLES.iter().map(|v| v.name).collect::<Vec<_>>());
        for (variable, (_, value)) in VARIABLES.iter().zip(&shown) {
            if let Some(default) = variable.default {
                assert_eq!(*value, default, "{}", variable.name);
            }
        }
    }

    fn is_name(text: &str) -> bool {
        text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    }
}
