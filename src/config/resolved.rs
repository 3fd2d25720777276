//! The configuration as the programs use it: typed, complete, read once.

use std::path::PathBuf;
use std::time::Duration;

use super::address::{BrokerAddress, RodanAddress};
use super::gres::{Gres, GresTable};
use crate::secret::Secret;
use crate::tls::Identity;
use crate::wire::{SiteChoice, SiteLimits};

/// How to reach RabbitMQ and how replies are published there.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where it listens.
    pub address: BrokerAddress,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// What is shown to a broker that asks for a client certificate.
    pub identity: Option<Identity>,
    /// Whether an absent reply queue is declared durable.
    pub reply_queue_durable: bool,
    /// How long a reply stays in its queue.
    pub reply_ttl: Duration,
    /// Largest message, bytes; `None`: publish and let the broker refuse.
    pub max_reply_bytes: Option<u64>,
}

/// How to reach Rodan.
#[derive(Clone, Debug)]
pub struct RodanConfig {
    /// Where it is.
    pub address: RodanAddress,
    /// User name, also sent as e-mail address.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// What is shown to a server that asks for a client certificate.
    pub identity: Option<Identity>,
}

/// What the site wants: directories and Slurm options.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// Directory of the installation: of `run_check`, `hpc_training.sh` and `credentials.env`.
    pub home: PathBuf,
    /// The file that the configuration was read from, handed on to the trainer.
    pub env_file: Option<PathBuf>,
    /// Directory of the job records.
    pub spool: PathBuf,
    /// Directory of the Slurm logs.
    pub logs: PathBuf,
    /// Where the metrics go, where they are wanted.
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
    /// `--gres` where the table has no row; `None` asks for none.
    pub gres: Option<String>,
    /// Memory to gres and partition.
    pub gres_table: GresTable,
    /// Seconds before the time limit at which Slurm warns the trainer.
    pub signal_seconds: u64,
    /// Directory of Slurm's commands, where `PATH` does not hold it.
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
}

impl SiteConfig {
    /// The script of the watcher, part of the installation.
    pub fn watcher_script(&self) -> PathBuf {
        self.home.join("slurm/handle_failure.sh")
    }

    /// The generic resource and the partition for a job of this memory.
    pub fn gres_for(&self, memory_mb: u64) -> Gres {
        let row = self.gres_table.get(memory_mb).cloned();
        let default = || Gres { gres: self.gres.clone(), partition: None };
        let mut gres = row.unwrap_or_else(default);
        gres.partition = gres.partition.or_else(|| self.partition.clone());
        gres
    }
}

/// Everything `check` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// Rodan.
    pub rodan: RodanConfig,
    /// The site.
    pub site: SiteConfig,
}

impl Config {
    /// A sentence for each address whose password would cross a network in the clear.
    pub fn plain_connections(&self) -> Vec<String> {
        let sentence = |name, address: String| {
            format!("{name} has no TLS: its password crosses the network in the clear; write {address}")
        };
        let (broker, rodan) = (&self.broker.address, &self.rodan.address);
        let broker = broker.is_exposed().then(|| sentence("RABBITMQ_HOST", broker.with_tls()));
        let rodan = rodan.is_exposed().then(|| sentence("RODAN_HOST", rodan.with_tls()));
        broker.into_iter().chain(rodan).collect()
    }
}

/// What `run_trainer` needs: no Rodan password (the job file holds a token) and no Slurm options.
#[derive(Clone, Debug)]
pub struct TrainerConfig {
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// Where Rodan is.
    pub rodan: RodanAddress,
    /// What is shown to a Rodan that asks for a client certificate.
    pub rodan_identity: Option<Identity>,
    /// Largest download, bytes.
    pub max_download: u64,
    /// How long all downloads of a job may take together.
    pub download_deadline: Duration,
    /// Whether the job may requeue itself.
    pub requeue: bool,
    /// What happens short of the time limit.
    pub on_time_limit: OnTimeLimit,
    /// How often a job may requeue itself.
    pub max_requeues: u64,
    /// How much training may be lost.
    pub checkpoint_every: Duration,
    /// Directory of TensorBoard's event files, where they are wanted.
    pub tensorboard: Option<PathBuf>,
    /// Directory of Slurm's commands, where `PATH` does not hold it.
    pub slurm_bin: Option<PathBuf>,
    /// How long one of Slurm's commands may take.
    pub slurm_timeout: Duration,
}

impl TrainerConfig {
    /// Forgets what only the broker needs, until the configuration is read again, and gives away what only the downloads
    /// need: while a stranger's files are decoded nothing of it is there to be found.
    pub fn forget_credentials(&mut self) -> Option<Identity> {
        self.broker.password = Secret::new("");
        self.broker.identity = None;
        self.rodan_identity.take()
    }
}

/// What the trainer does when Slurm warns it of the time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeLimit {
    /// Replies with the best so far where every layer has an epoch; else requeues, or replies with an error.
    Reply,
    /// Requeues in any case.
    Requeue,
}
