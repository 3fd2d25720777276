//! What a site wants of its scheduler: directories, options and limits.

use std::path::PathBuf;
use std::time::Duration;

use domain::{SiteChoice, SiteLimits};

use crate::gres::GresTable;

/// The directory of the jobs of a host, in the spool.
pub(crate) const LOCAL: &str = "local";

/// What runs the jobs (`SCHEDULER`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Slurm.
    #[default]
    Slurm,
    /// This host.
    Local {
        /// How many jobs may run at a time (`LOCAL_JOBS`).
        jobs: u32,
    },
}

impl Kind {
    /// What a job is called beside its number.
    pub fn job_word(self) -> &'static str {
        match self {
            Self::Slurm => "Slurm job",
            Self::Local { .. } => "job",
        }
    }

    /// Who is asked about jobs, as the subject of a sentence.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Slurm => "Slurm",
            Self::Local { .. } => "the queue of this host",
        }
    }

    /// Where a job is that was submitted, after "it is".
    pub fn place(self) -> &'static str {
        match self {
            Self::Slurm => "with Slurm",
            Self::Local { .. } => "in the queue of this host",
        }
    }
}

/// What the site wants: directories and Slurm options.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// What runs the jobs.
    pub scheduler: Kind,
    /// Directory of the installation: of `run_check`, `hpc_training.sh` and `credentials.env`.
    pub home: PathBuf,
    /// The file that the configuration was read from; it is passed on to the trainer.
    pub env_file: Option<PathBuf>,
    /// Directory of the job records.
    pub spool: PathBuf,
    /// Directory of the Slurm logs.
    pub logs: PathBuf,
    /// The file for the metrics, if they are wanted.
    pub metrics_file: Option<PathBuf>,
    /// Script that sbatch runs.
    pub batch_script: PathBuf,
    /// `--account`.
    pub account: Option<String>,
    /// `--partition`.
    pub partition: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--gres` if the table has no row; `None` asks for none.
    pub gres: Option<String>,
    /// Memory to gres and partition.
    pub gres_table: GresTable,
    /// How many tasks of a job with several share a node.
    pub tasks_per_node: u32,
    /// Seconds before the time limit at which Slurm warns the trainer.
    pub signal_seconds: u64,
    /// Directory of Slurm's commands, if `PATH` lacks it.
    pub slurm_bin: Option<PathBuf>,
    /// How long a job waits for a service to come back.
    pub give_up: Duration,
    /// How long a job that Slurm does not know counts as alive.
    pub grace: Duration,
    /// How long one of Slurm's commands may take.
    pub slurm_timeout: Duration,
    /// How long a job may wait in Slurm's queue.
    pub max_pending: Duration,
    /// What one job may ask for.
    pub limits: SiteLimits,
    /// What a job gets that names nothing.
    pub choice: SiteChoice,
    /// How many jobs may be open at a time.
    pub max_open_jobs: usize,
    /// Whether each job gets a watcher.
    pub watcher: bool,
    /// `--partition` of the watcher.
    pub watcher_partition: Option<String>,
    /// Whether Slurm may put a job back into its queue.
    pub requeue: bool,
    /// Whom a musicologist is to ask: stands in a sentence, such as "ask the operator of the
    /// cluster".
    pub operator: String,
}

impl SiteConfig {
    /// The script of the watcher, part of the installation.
    pub fn watcher_script(&self) -> PathBuf {
        self.home.join("slurm/handle_failure.sh")
    }

    /// The directory of the jobs of this host, where there is no Slurm.
    pub fn local_jobs(&self) -> PathBuf {
        self.spool.join(LOCAL)
    }
}
