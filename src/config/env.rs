//! The one table of every variable that the programs read.
//!
//! A row makes a constant in [`var`], by which `load.rs` reads the variable: a mistyped name does
//! not compile, and neither does a number that is read as a flag. `credentials.env.example` and
//! `docs/variables.md` are made from the table ([`example`], [`markdown`]).

use std::fmt::Write as _;

/// One variable of `credentials.env` or the process environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Its purpose: completes the sentence "NAME is ...".
    pub purpose: &'static str,
    /// More about it, in whole sentences, or nothing.
    pub more: &'static str,
    /// Whether it must be set, and the value if it is not.
    pub need: Need,
    /// The value in `credentials.env.example`, where that is not the default.
    pub shown: &'static str,
    /// What it may be set to.
    pub values: Values,
}

/// The value of a variable that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must be set.
    Must,
    /// It may be left out; this stands in its place.
    Default(&'static str),
    /// It may be left out, and nothing stands in its place.
    May,
}

/// What a variable may be set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Any text that its own reader understands.
    Text,
    /// A password, which is taken to its last blank.
    Password,
    /// 1 or 0.
    Flag,
    /// A whole number from the first to the second.
    Number(u64, u64),
    /// One word that becomes an option of sbatch.
    Word,
    /// A file or directory; a relative one starts from the directory of the installation.
    Path,
}

impl Variable {
    /// The value where it is not set.
    pub fn default(&self) -> Option<&'static str> {
        match self.need {
            Need::Default(value) => Some(value),
            Need::Must | Need::May => None,
        }
    }
}

/// Makes a type for the constants of one kind of variable.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($($argument:ident: $of:ty),*) = $values:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $kind(pub(crate) Variable);

        impl $kind {
            const fn new(variable: Variable $(, $argument: $of)*) -> Self {
                Self(Variable { values: $values, ..variable })
            }
        }
    )*};
}

kinds! {
    /// A variable with a form of its own.
    Text() = Values::Text;
    /// A password.
    Password() = Values::Password;
    /// A variable that is 1 or 0.
    Flag() = Values::Flag;
    /// A whole number within a range.
    Number(low: u64, high: u64) = Values::Number(low, high);
    /// One word for sbatch.
    Word() = Values::Word;
    /// A file or directory.
    Place() = Values::Path;
}

impl Number {
    /// The numbers that it may be.
    pub(crate) fn range(&self) -> std::ops::RangeInclusive<u64> {
        match self.0.values {
            Values::Number(low, high) => low..=high,
            _ => 0..=u64::MAX,
        }
    }

    /// What it must be: completes the sentence "NAME ...".
    pub(crate) fn in_words(&self) -> String {
        let (low, high) = self.range().into_inner();
        match high {
            u64::MAX => format!("must be a whole number from {low}"),
            high => format!("must be a whole number from {low} to {high}"),
        }
    }
}

/// Variables that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Their subject.
    pub title: &'static str,
    /// What holds for all of them, or nothing.
    pub intro: &'static str,
    /// In the order of `credentials.env.example`.
    pub variables: &'static [Variable],
}

/// A row: `NAME: Kind(range), need, "value in the example", "purpose", "more";`.
macro_rules! variables {
    ($($title:literal, $intro:literal {
        $($name:ident: $kind:ident($($argument:expr),*), $need:expr, $shown:literal,
            $purpose:literal, $more:literal;)*
    })*) => {
        /// A constant for each variable.
        pub(crate) mod var {
            #[allow(clippy::wildcard_imports, reason = "the kinds and needs of the table")]
            use super::*;

            $($(
                #[doc = $purpose]
                pub(crate) const $name: $kind = $kind::new(
                    Variable {
                        name: stringify!($name),
                        purpose: $purpose,
                        more: $more,
                        need: $need,
                        shown: $shown,
                        values: Values::Text,
                    }
                    $(, $argument)*
                );
            )*)*
        }

        /// Every variable, in the order of `credentials.env.example`.
        pub const SECTIONS: &[Section] = &[
            $(Section { title: $title, intro: $intro, variables: &[$(var::$name.0),*] }),*
        ];
    };
}

const MUST: Need = Need::Must;
const MAY: Need = Need::May;

const fn or(value: &'static str) -> Need {
    Need::Default(value)
}

variables! {
    "RabbitMQ and Rodan: must be set", "" {
        RABBITMQ_USER: Text(), MUST, "", "the user name for RabbitMQ", "";
        RABBITMQ_PASSWORD: Password(), MUST, "", "the password for RabbitMQ", "";
        RABBITMQ_HOST: Text(), MUST, "amqps://rabbit.example.org",
            "RabbitMQ's address: host, host:port, or an amqp:// or amqps:// URL, with the vhost as \
            its path",
            "A host alone is port 5672 without TLS; amqps:// is port 5671 with TLS. Without a path \
            the vhost is \"/\".";
        RODAN_USER: Text(), MUST, "", "the user name (or e-mail address) for Rodan",
            "An old Rodan wants a user name, a current one an e-mail address: it is sent as both.";
        RODAN_PASSWORD: Password(), MUST, "", "the password for Rodan", "";
        RODAN_HOST: Text(), MUST, "https://rodan.example.org",
            "Rodan's address: host, or an http:// or https:// URL",
            "A host alone is port 80 without TLS.";
    }
    "TLS", "A private certificate authority is named by SSL_CERT_FILE, for RabbitMQ and Rodan \
            alike. Cron does not hand \
            it on, so it stands in the crontab line or in run_check's environment: \
            SSL_CERT_FILE=/path/to/ca.pem" {
        REQUIRE_TLS: Flag(), or("0"), "1", "1 when RABBITMQ_HOST and RODAN_HOST without TLS are \
            refused",
            "With 0 it only makes check warn.";
        RABBITMQ_CLIENT_CERT: Place(), MAY, "rabbitmq-client.pem",
            "the file (PEM) with the client certificate for a RabbitMQ that asks for one",
            "Compute nodes read it too.";
        RABBITMQ_CLIENT_KEY: Place(), MAY, "rabbitmq-client.key",
            "the file (PEM, mode 0600, without a passphrase) with the key of \
            RABBITMQ_CLIENT_CERT", "";
        RODAN_CLIENT_CERT: Place(), MAY, "rodan-client.pem",
            "the file (PEM) with the client certificate for a Rodan that asks for one",
            "Compute nodes read it too.";
        RODAN_CLIENT_KEY: Place(), MAY, "rodan-client.key",
            "the file (PEM, mode 0600, without a passphrase) with the key of RODAN_CLIENT_CERT", "";
    }
    "Directories", "On the filesystem that login node and compute nodes share." {
        SPOOL_DIR: Place(), or("spool"), "", "the directory for job records (mode 0700)",
            "Its filesystem must know hard links.";
        LOG_DIR: Place(), or("logs"), "", "the directory for the Slurm logs", "";
        BATCH_SCRIPT: Place(), or("hpc_training.sh"), "", "the script that sbatch runs", "";
        TENSORBOARD_DIR: Place(), MAY, "tensorboard",
            "the directory for TensorBoard's event files, with a directory for each job, named \
            like the job",
            "Without it none are written. Nothing removes them. To look at them: tensorboard \
            --logdir DIRECTORY";
        METRICS_FILE: Place(), MAY, "/var/lib/prometheus/hpc-trainer/hpc_trainer.prom",
            "the file, ending in .prom, that each pass of check writes its metrics to, for \
            Prometheus",
            "Without it none is written. Its directory is the one that node_exporter's textfile \
             collector reads. Everybody may read the file; it holds numbers only \
             (docs/monitoring.md).";
    }
    "What runs the jobs", "" {
        SCHEDULER: Text(), or("slurm"), "", "what runs the jobs: slurm, or local for this host",
            "With local the jobs run on the host of check (docs/lab-host.md).";
        LOCAL_JOBS: Number(1, 1024), or("1"), "",
            "how many jobs may run at a time with SCHEDULER=local",
            "The others wait, the oldest first. Each gets a GPU of its own, where there are any.";
    }
    "Slurm at this site", "" {
        SITE_ACCOUNT: Word(), MAY, "def-professor", "the Slurm account that jobs are charged \
            to", "";
        SITE_PARTITION: Word(), MAY, "gpu", "the Slurm partition (or partitions, \
            comma-separated)", "";
        SITE_QOS: Word(), MAY, "normal", "the Slurm quality of service", "";
        SITE_CONSTRAINT: Word(), MAY, "cascade", "the Slurm node features that jobs need", "";
        SITE_GRES: Word(), or("gpu:1"), "",
            "the Slurm generic resource a job asks for; none for a CPU-only site", "";
        SITE_GRES_TABLE: Text(), MAY, "128000=gpu:p100l:1, *=gpu:v100l:1@long",
            "which generic resource and partition a job gets for its memory: rows of \
            MEMORY_MB=GRES or MEMORY_MB=GRES@PARTITION",
            "The smallest row that suffices is taken; * suffices for every job; where no row \
             suffices SITE_GRES and \
             SITE_PARTITION count.";
        SITE_TASKS_PER_NODE: Number(1, 64), or("1"), "",
            "how many tasks of a job with \"Parallel instances\" share a node",
            "On nodes with four GPUs, 4: then such a job asks for nodes with as many GPUs as \
            tasks on them. With 1 each task may be on another node.";
        SITE_SRUN_OPTIONS: Text(), MAY, "--mpi=none",
            "more options of the srun that starts each of several tasks, separated by blanks",
            "Each begins with a dash; a value follows after =.";
        SITE_SIGNAL_SECONDS: Number(0, 65_535), or("120"), "",
            "how long before the time limit Slurm warns the trainer, in seconds",
            "A short job is warned a tenth of its limit ahead, but at least 10 seconds. 0: no \
            warning.";
        SITE_SLURM_BIN: Place(), MAY, "/opt/software/slurm/bin",
            "the directory of sbatch, squeue and sacct, where PATH lacks it (cron's does)", "";
    }
    "Replies, limits, patience", "" {
        REPLY_QUEUE_DURABLE: Flag(), or("0"), "",
            "1 when an absent reply queue is to be made durable (RabbitMQ 4.3 refuses others)",
            "Rodan's own are not durable.";
        REPLY_TTL_HOURS: Number(1, 1000), or("168"), "",
            "how long a reply that nobody fetches stays in its queue, in hours", "";
        MAX_REPLY_BYTES: Number(1024, u32::MAX as u64), MAY, "16777216",
            "the largest message the broker takes, in bytes",
            "By default the broker itself says so (128 MiB, 16 MiB from RabbitMQ 4.0).";
        MAX_DOWNLOAD_BYTES: Number(1, u64::MAX), or("1073741824"), "",
            "the largest file that is downloaded from Rodan, in bytes",
            "All files of a job together may have four times as many.";
        DOWNLOAD_SECONDS: Number(1, 86_400), or("1800"), "",
            "how long all downloads of a job may take together, retries included, in seconds", "";
        GRACE_SECONDS: Number(0, 86_400), or("600"), "",
            "how long a job that Slurm does not know, or is requeueing, counts as alive, in \
            seconds", "";
        SLURM_TIMEOUT_SECONDS: Number(1, 3600), or("60"), "",
            "how long one of Slurm's commands may take, in seconds", "";
        GIVE_UP_HOURS: Number(0, 8760), or("6"), "",
            "how long a job waits for Rodan or Slurm to come back before it is answered with an \
            error, in hours", "";
        MAX_PENDING_HOURS: Number(1, 8760), or("168"), "",
            "how long a job may wait in Slurm's queue before it is taken out and answered with an \
            error, in hours", "";
        OPERATOR_CONTACT: Text(), or("the operator of the cluster"), "",
            "whom a musicologist is to ask, as error replies and reports name it",
            "A name, an address or both, in at most 200 characters.";
    }
    "What a job may ask for", "A job from the queue that asks for more is answered with an error. \
            What is not set has no \
            limit but Slurm's. A job that you start by hand with sbatch is not bound by these." {
        MAX_CPUS: Number(1, u32::MAX as u64), MAY, "16", "the most cores that a job may ask \
            for", "";
        MAX_MEMORY_MB: Number(1, u32::MAX as u64), MAY, "64000",
            "the most memory that a job may ask for, in MB", "";
        MAX_TIME: Text(), MAY, "1-00:00", "the longest time that a job may ask for, as D-HH:MM", "";
        MAX_EPOCHS: Number(1, u32::MAX as u64), MAY, "100", "the most epochs that a job may ask \
            for", "";
        MAX_SAMPLES: Number(1, u32::MAX as u64), MAY, "20000",
            "the most samples a layer that a job may ask for", "";
        MAX_INSTANCES: Number(1, 64), MAY, "4",
            "the most tasks that a job may have at a time (\"Parallel instances\")",
            "Each has the cores, the memory and the GPU of a job; MAX_CPUS and MAX_MEMORY_MB are \
            those of one.";
        DEFAULT_CPUS: Number(1, 4096), or("6"), "",
            "how many cores a job gets that names none",
            "Its memory follows from its settings.";
        DEFAULT_TIME: Text(), or("0-06:00"), "",
            "the time limit, as D-HH:MM, of a job that names none",
            "Once three jobs like it have finished, their pace decides instead.";
        MAX_OPEN_JOBS: Number(1, 100_000), or("100"), "",
            "how many jobs may be open at a time",
            "The others stay in RabbitMQ until one is answered.";
    }
    "When a job fails, or its time runs out", "" {
        WATCHER: Flag(), or("1"), "",
            "1 when each job gets a second, tiny one (a core, 200 MB, no GPU) that reports its \
            failure at once",
            "With 0 only the next check reports it.";
        WATCHER_PARTITION: Word(), MAY, "short",
            "the Slurm partition of the watcher, where it is not the job's: one that starts small \
            jobs at once", "";
        REQUEUE: Flag(), or("1"), "",
            "1 when a job may go back into Slurm's queue and be resumed there (failed node, \
            preemption, out of time)",
            "It then goes on where it was.";
        ON_TIME_LIMIT: Text(), or("reply"), "",
            "what happens short of the time limit: reply, or requeue",
            "With reply the best so far is sent where every layer has an epoch; else the job is \
             requeued (REQUEUE=1) or answered with an error. With requeue, and for each job whose \
             time limit check has chosen, it goes on in any case until all epochs are done.";
        MAX_REQUEUES: Number(0, 10_000), or("10"), "",
            "how often a job may requeue itself for more time", "";
        CHECKPOINT_SECONDS: Number(0, 86_400), or("300"), "",
            "how much training, in seconds, may be lost when a node fails",
            "A checkpoint has about 25 MB.";
    }
    "The gateway alone", "What gateway reads beside RabbitMQ's variables (docs/gateway.md); check \
            and run_trainer pass it over." {
        GATEWAY_OBJECTS: Text(), MAY, "s3://my-bucket/gateway",
            "the bucket of S3 that keeps pages and models: s3://BUCKET or s3://BUCKET/FOLDER",
            "Without it they lie in the data folder.";
        AWS_ENDPOINT_URL: Text(), MAY, "https://minio.example.org",
            "the address of the S3 server, where that is not Amazon's", "";
        AWS_REGION: Text(), or("us-east-1"), "", "the region of the bucket", "";
        AWS_ACCESS_KEY_ID: Text(), MAY, "gateway", "the name of the key for the bucket", "";
        AWS_SECRET_ACCESS_KEY: Password(), MAY, "", "the key for the bucket", "";
        AWS_SESSION_TOKEN: Password(), MAY, "", "the token that belongs to a temporary key", "";
        MLFLOW_TRACKING_URI: Text(), MAY, "https://mlflow.example.org",
            "the address of the MLflow server at which runs are logged, too", "";
        MLFLOW_EXPERIMENT_NAME: Text(), or("hpc-trainer"), "",
            "the experiment in MLflow that the runs belong to", "";
        MLFLOW_TRACKING_USERNAME: Text(), MAY, "gateway", "the user name for MLflow", "";
        MLFLOW_TRACKING_PASSWORD: Password(), MAY, "", "the password for MLflow", "";
        MLFLOW_TRACKING_TOKEN: Password(), MAY, "",
            "the token for MLflow, in place of a user and a password", "";
        ALLOWED_IIIF_HOSTS: Text(), MAY, "iiif.example.org, images.example.org:8443",
            "the image servers that pages may come from", "There are none unless they are named.";
    }
}

/// Every variable, in the order of `credentials.env.example`.
pub fn variables() -> impl Iterator<Item = &'static Variable> {
    SECTIONS.iter().flat_map(|section| section.variables)
}

/// The variables that the gateway alone reads.
pub(super) fn of_gateway() -> impl Iterator<Item = &'static Variable> {
    variables().skip_while(|variable| variable.name != var::GATEWAY_OBJECTS.0.name)
}

/// The variable of this name.
pub fn variable(name: &str) -> Option<&'static Variable> {
    variables().find(|variable| variable.name == name)
}

/// How wide the lines of the example are.
const WIDTH: usize = 98;

/// The command that writes `credentials.env.example` and the pages of `docs/` anew that are made
/// from the programs.
pub const UPDATE: &str = "cargo run --locked --example reference";

/// `credentials.env.example`.
pub fn example() -> String {
    let mut text = "\
# The configuration of check, run_trainer and gateway. Copy it, fill it in, keep it to yourself:
#
#   cp credentials.env.example credentials.env && chmod 600 credentials.env
#
# One NAME=value a line, with or without \"export\". A value with spaces, quotes, # or $ goes into
# single quotes. A relative path starts from the directory of run_check. The process environment
# wins over this file, but it stays on the login node: a job and its watcher read this file alone.
# Whatever they are to know, both logins included, must stand here.
"
    .to_owned();
    for section in SECTIONS {
        let line = "─".repeat(WIDTH - 6 - section.title.chars().count());
        // Writing to a String can't fail.
        let _ = writeln!(text, "\n# ── {} {line}\n", section.title);
        if !section.intro.is_empty() {
            comment(&mut text, section.intro);
            text.push('\n');
        }
        for variable in section.variables {
            let mut sentence = capitalised(variable.purpose);
            sentence.push('.');
            if !variable.more.is_empty() {
                sentence.push(' ');
                sentence.push_str(variable.more);
            }
            comment(&mut text, &sentence);
            let value = if variable.shown.is_empty() {
                variable.default().unwrap_or("")
            } else {
                variable.shown
            };
            let quote = if value.contains([' ', '#', '$']) { "'" } else { "" };
            // What is to be thought about stands without #.
            let is_live = variable.need == MUST || variable.name == var::REQUIRE_TLS.0.name;
            let _ = writeln!(
                text,
                "{}{}={quote}{value}{quote}",
                if is_live { "" } else { "#" },
                variable.name
            );
        }
    }
    text
}

fn comment(text: &mut String, sentence: &str) {
    let mut column = 0;
    for word in sentence.split_whitespace() {
        let width = word.chars().count();
        let (before, start) = match column {
            0 => ("# ", 2),
            column if column + 1 + width > WIDTH => ("\n# ", 2),
            column => (" ", column + 1),
        };
        text.push_str(before);
        text.push_str(word);
        column = start + width;
    }
    text.push('\n');
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What is read from the environment alone, in Markdown: by the scripts, by libraries, and by the
/// trainer before it has a configuration.
const OF_ENVIRONMENT: &[(&str, &str)] = &[
    (
        "`HPC_TRAINER_HOME`",
        "the directory of `run_check`, with `credentials.env`; the scripts set it",
    ),
    (
        "`HPC_TRAINER_ENV_FILE`",
        "the configuration file, where it is another than `credentials.env` in that directory",
    ),
    ("`HPC_TRAINER_DEVICE`", "`cpu`: use no GPU even where there is one"),
    (
        "`HPC_TRAINER_CPU_PRECISION`",
        "`f32`, or `bf16` where the processor has AVX-512 BF16 \
        ([Performance](performance.md#bf16))",
    ),
    ("`HPC_TRAINER_GPU_PRECISION`", "`bf16`, `tf32` or `f32` ([On a GPU](gpu.md#precision))"),
    (
        "`HPC_TRAINER_IMAGE`, `HPC_TRAINER_BIND`",
        "the trainer in a container, and more directories inside it ([On a \
        GPU](gpu.md#in-a-container))",
    ),
    (
        "`HPC_TRAINER_DEBUG_WAIT`",
        "`1`: a job waits for a debugger before its first step ([A debugger in a \
        job](debugging.md))",
    ),
    ("`HPC_TRAINER_SIMD`", "`avx2` or `portable`: use less than the processor has"),
    ("`SSL_CERT_FILE`, `SSL_CERT_DIR`", "a private certificate authority"),
    (
        "`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`",
        "a proxy for Rodan ([Clusters](sites.md#what-each-link-needs))",
    ),
    ("`CUDA_VISIBLE_DEVICES`", "which GPU is used; Slurm sets it"),
    (
        "`RAYON_NUM_THREADS`",
        "how many threads compute; by default all of the system's cores, or those that Slurm gave. \
        `hpc_training.sh` sets it to these",
    ),
    (
        "`SLURM_TMPDIR`, `TMPDIR`",
        "the directory of a job's downloads, by default `/tmp`; the first wins where it is there",
    ),
    (
        "`HPC_TRAINER_NOTEBOOK`",
        "the folder of `slurm/notebook.sh`, by default `~/.hpc-trainer/notebook` ([A \
        notebook](notebook.md))",
    ),
];

/// `docs/variables.md`.
pub fn markdown() -> String {
    let mut text = format!(
        "# Variables\n\nMade by `{UPDATE}` from the table in `src/config/env.rs`; a test \
         compares.\n\n\
         The configuration of a site. `check`, `run_trainer` and `gateway` read these variables\n\
         from `credentials.env` and from the environment; the environment wins.\n\
         `credentials.env.example` in the directory of `run_check` shows all of them with\n\
         examples, and `./run_check init` writes the file.\n\n\
         The environment stays on the login node: of the variables on this page, `sbatch` gets\n\
         `HPC_TRAINER_HOME`, `HPC_TRAINER_ENV_FILE`, `SPOOL_DIR`, `SSL_CERT_FILE`,\n\
         `SSL_CERT_DIR` and `TMPDIR` only. A job and its watcher read the others from\n\
         `credentials.env`: whatever they are to know, both logins included, must stand there.\n\
         A relative path starts from the directory of `run_check`.\n"
    );
    for section in SECTIONS {
        // Writing to a String can't fail.
        let _ = write!(text, "\n## {}\n\n", section.title);
        if !section.intro.is_empty() {
            let _ = write!(text, "{}\n\n", section.intro);
        }
        text.push_str("| variable | default | values | what it is |\n|---|---|---|---|\n");
        for Variable { name, purpose, more, need, values, .. } in section.variables {
            let default = match need {
                Need::Must => "must be set".to_owned(),
                Need::Default(value) => format!("`{value}`"),
                Need::May => "none".to_owned(),
            };
            let values = match values {
                Values::Text => "text".to_owned(),
                Values::Password => "text, to its last blank".to_owned(),
                Values::Flag => "1 or 0".to_owned(),
                Values::Number(low, u64::MAX) => format!("a number from {low}"),
                Values::Number(low, high) => format!("{low} to {high}"),
                Values::Word => "one word".to_owned(),
                Values::Path => "path".to_owned(),
            };
            let dot = if more.is_empty() { "" } else { ". " };
            let what = format!("{}{dot}{more}", capitalised(purpose)).replace('|', "\\|");
            let _ = writeln!(text, "| `{name}` | {default} | {values} | {what} |");
        }
    }
    text.push_str(
        "\n## Variables of the environment only\n\nThese are set in `site.sh`, in the crontab line \
         or at a shell, not in \
         `credentials.env`.\n\n| variable | what it is |\n|---|---|\n",
    );
    for (names, what) in OF_ENVIRONMENT {
        let _ = writeln!(text, "| {names} | {what} |"); // writing to a String can't fail
    }
    text
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
