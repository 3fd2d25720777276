//! The configuration as the programs use it: typed, complete, read once.

use std::path::PathBuf;
use std::time::Duration;

use base::address::RodanAddress;
use base::secret::Secret;
use base::tls::Identity;
use contract::broker::BrokerConfig;
use scheduler::{Kind, SiteConfig};

/// How to reach Rodan.
#[derive(Clone, Debug)]
pub struct RodanConfig {
    /// Where it is.
    pub address: RodanAddress,
    /// User name, also sent as e-mail address.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// The certificate for a server that asks for one.
    pub identity: Option<Identity>,
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
    /// A warning for each address whose password would cross a network unencrypted.
    pub fn plain_connections(&self) -> Vec<String> {
        let sentence = |name, address: String| {
            format!(
                "{name} has no TLS: its password crosses the network in the clear; write {address}"
            )
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
    /// The certificate for a Rodan that asks for one.
    pub rodan_identity: Option<Identity>,
    /// Largest download, bytes.
    pub max_download: u64,
    /// How long all downloads of a job may take together.
    pub download_deadline: Duration,
    /// Whether the job may requeue itself.
    pub requeue: bool,
    /// What happens shortly before the time limit.
    pub on_time_limit: OnTimeLimit,
    /// How often a job may requeue itself.
    pub max_requeues: u64,
    /// How much training may be lost.
    pub checkpoint_every: Duration,
    /// More options of srun, for the tasks of a job.
    pub srun_options: Vec<String>,
    /// The script that sbatch runs, and each of several tasks.
    pub batch_script: PathBuf,
    /// Directory of TensorBoard's event files, if they are wanted.
    pub tensorboard: Option<PathBuf>,
    /// What runs the jobs.
    pub scheduler: Kind,
    /// Directory of the job records.
    pub spool: PathBuf,
    /// Directory of Slurm's commands, if `PATH` lacks it.
    pub slurm_bin: Option<PathBuf>,
    /// How long one of Slurm's commands may take.
    pub slurm_timeout: Duration,
    /// Whom a musicologist is to ask, as in [`SiteConfig::operator`].
    pub operator: String,
}

impl TrainerConfig {
    /// Forgets what only the broker needs, until the configuration is read again, and returns what
    /// only the downloads need. So neither is in memory while a stranger's files are decoded.
    pub fn forget_credentials(&mut self) -> Option<Identity> {
        self.broker.password = Secret::new("");
        self.broker.identity = None;
        self.rodan_identity.take()
    }
}

/// What the trainer does when Slurm warns it of the time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeLimit {
    /// Sends the best models so far if every layer has an epoch; otherwise requeues the job, or
    /// sends an error.
    Reply,
    /// Requeues the job in any case.
    Requeue,
}
