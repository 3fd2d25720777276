//! Reads `credentials.env` and the process environment, and makes of them what the programs need.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::env::{
    Flag, Number, Password, Place, Text, Variable, Word, of_gateway, var, variable, variables,
};
use super::error::{ConfigError, Problem};
use super::file::read_file;
use super::resolved::{Config, OnTimeLimit, RodanConfig, TrainerConfig};
use base::address::{BrokerAddress, RodanAddress};
use base::secret::Secret;
use base::text::acts_on_terminal;
use contract::broker::BrokerConfig;
use domain::{Host, SiteChoice, SiteLimits, Walltime};
use scheduler::{GresTable, Kind, SiteConfig, local};

/// How long the name of the operator may be, in characters.
const MOST_OF_OPERATOR: usize = 200;

/// Collects values and problems, so that all problems are reported at once.
pub(super) struct Reader {
    values: HashMap<String, String>,
    pub(super) problems: Vec<Problem>,
    pub(super) home: PathBuf,
}

/// The values of the variables, as far as they are usable.
pub(super) struct Resolved {
    pub(super) broker: Option<BrokerConfig>,
    pub(super) rodan: Option<RodanConfig>,
    pub(super) site: SiteConfig,
    pub(super) trainer: TrainerOnly,
}

/// What only the trainer uses. `check` reads it too, so that a mistake shows on the login node.
pub(super) struct TrainerOnly {
    pub(super) max_download: u64,
    download_deadline: Duration,
    on_time_limit: OnTimeLimit,
    max_requeues: u64,
    checkpoint_every: Duration,
    srun_options: Vec<String>,
}

impl Reader {
    pub(super) fn new(values: HashMap<String, String>, home: PathBuf) -> Self {
        Self { values, problems: Vec::new(), home }
    }

    /// Everything that `check` needs; what is wrong is in `problems`.
    pub(super) fn resolve(&mut self, file: Option<&Path>, spool: Option<&Path>) -> Resolved {
        let require_tls = self.flag(&var::REQUIRE_TLS);
        let broker = self.broker(require_tls);
        let user = self.required(&var::RODAN_USER.0);
        let password = self.password(&var::RODAN_PASSWORD);
        let address = self.rodan_address(require_tls);
        let identity = self.rodan_identity(address.as_ref());
        let rodan = address.map(|address| RodanConfig { address, user, password, identity });
        let site = self.site(file, spool.map(absolute).as_deref());
        let trainer = self.trainer_only();
        Resolved { broker, rodan, site, trainer }
    }

    /// The value of a variable, or its default.
    fn get(&self, variable: &Variable) -> Option<&str> {
        self.values
            .get(variable.name)
            .map(String::as_str)
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .or_else(|| variable.default())
    }

    fn required(&mut self, variable: &Variable) -> String {
        self.get(variable).map(str::to_owned).unwrap_or_else(|| {
            self.problems.push(Problem::new(variable, None));
            String::new()
        })
    }

    /// A password, to the last blank as it was given.
    fn password(&mut self, variable: &Password) -> Secret {
        match self.values.get(variable.0.name).filter(|value| !value.is_empty()) {
            Some(value) => Secret::new(value.as_str()),
            None => Secret::new(self.required(&variable.0)),
        }
    }

    /// A file or directory; a relative one lies in the directory of the installation.
    pub(super) fn path(&self, place: &Place) -> Option<PathBuf> {
        self.get(&place.0).map(|path| self.home.join(path))
    }

    pub(super) fn is_wrong(&mut self, variable: &Variable, what: impl Into<String>) {
        self.problems.push(Problem::new(variable, Some(what.into())));
    }

    fn text<T, E: std::fmt::Display>(
        &mut self,
        variable: &Text,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.parsed(&variable.0, parse)
    }

    fn parsed<T, E: std::fmt::Display>(
        &mut self,
        variable: &Variable,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.get(variable)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.is_wrong(variable, error.to_string());
                None
            }
        }
    }

    /// A whole number within the variable's range, or nothing where it is not set.
    fn limit(&mut self, number: &Number) -> Option<u64> {
        self.parsed(&number.0, |text| match u64::from_str(text) {
            Ok(n) if number.range().contains(&n) => Ok(n),
            _ => Err(number.in_words()),
        })
    }

    /// A whole number of a variable that has a default; the lowest where the value is wrong.
    fn number(&mut self, number: &Number) -> u64 {
        self.limit(number).unwrap_or(*number.range().start())
    }

    fn seconds(&mut self, number: &Number) -> Duration {
        Duration::from_secs(self.number(number))
    }

    fn hours(&mut self, number: &Number) -> Duration {
        Duration::from_secs(3600 * self.number(number))
    }

    fn flag(&mut self, flag: &Flag) -> bool {
        self.parsed(&flag.0, |text| match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err("must be 1 or 0"),
        })
        .unwrap_or_default()
    }

    /// The value of an sbatch option: one word, so that nothing else can be added to it.
    fn word(&mut self, word: &Word) -> Option<String> {
        self.parsed(&word.0, |text| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_-:.=,/&|[]*".contains(c);
            if text.starts_with('-') || !text.chars().all(fits) {
                return Err("must be one word of letters, digits and _-:.=,/&|[]*");
            }
            Ok(text.to_owned())
        })
    }

    fn broker(&mut self, require_tls: bool) -> Option<BrokerConfig> {
        let user = self.required(&var::RABBITMQ_USER.0);
        let password = self.password(&var::RABBITMQ_PASSWORD);
        self.required(&var::RABBITMQ_HOST.0);
        let address = self.text(&var::RABBITMQ_HOST, |text| {
            let address = BrokerAddress::parse(text)?;
            if require_tls { address.require_tls() } else { Ok(address) }
        });
        let tls = address.as_ref().is_some_and(|address| address.tls);
        let identity = self.identity(&var::RABBITMQ_CLIENT_CERT, &var::RABBITMQ_CLIENT_KEY, tls);
        let reply_queue_durable = self.flag(&var::REPLY_QUEUE_DURABLE);
        let reply_ttl = self.hours(&var::REPLY_TTL_HOURS);
        let max_reply_bytes = self.limit(&var::MAX_REPLY_BYTES);
        Some(BrokerConfig {
            address: address?,
            user,
            password,
            identity,
            reply_queue_durable,
            reply_ttl,
            max_reply_bytes,
        })
    }

    fn trainer_only(&mut self) -> TrainerOnly {
        let on_time_limit = self.text(&var::ON_TIME_LIMIT, |text| match text {
            "reply" => Ok(OnTimeLimit::Reply),
            "requeue" => Ok(OnTimeLimit::Requeue),
            _ => Err("must be reply or requeue"),
        });
        TrainerOnly {
            max_download: self.number(&var::MAX_DOWNLOAD_BYTES),
            download_deadline: self.seconds(&var::DOWNLOAD_SECONDS),
            on_time_limit: on_time_limit.unwrap_or(OnTimeLimit::Reply),
            max_requeues: self.number(&var::MAX_REQUEUES),
            checkpoint_every: self.seconds(&var::CHECKPOINT_SECONDS),
            srun_options: self.srun_options(),
        }
    }

    /// Options alone: a word without a dash would be taken for the program that srun starts.
    fn srun_options(&mut self) -> Vec<String> {
        let options = self.text(&var::SITE_SRUN_OPTIONS, |text| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let fit = |word: &String| word.starts_with('-') && word != "--";
            if words.iter().all(fit) && !text.chars().any(acts_on_terminal) {
                Ok(words)
            } else {
                Err("must be options that begin with a dash, such as --mpi=none")
            }
        });
        options.unwrap_or_default()
    }

    /// A name, an address or both, which sentences in replies and reports hold.
    fn operator(&mut self) -> String {
        let operator = self.text(&var::OPERATOR_CONTACT, |text| {
            let fits =
                text.chars().count() <= MOST_OF_OPERATOR && !text.chars().any(acts_on_terminal);
            if fits {
                Ok(text.to_owned())
            } else {
                Err("must be one line of at most 200 characters")
            }
        });
        operator.unwrap_or_default()
    }

    /// What runs the jobs.
    fn scheduler(&mut self) -> Kind {
        let jobs = u32::try_from(self.number(&var::LOCAL_JOBS)).unwrap_or(1);
        let kind = self.text(&var::SCHEDULER, |text| match text {
            "slurm" => Ok(Kind::Slurm),
            "local" => Ok(Kind::Local { jobs }),
            _ => Err("must be slurm or local"),
        });
        kind.unwrap_or_default()
    }

    /// The directory of Slurm's commands, and how long one may take.
    fn slurm(&mut self) -> (Option<PathBuf>, Duration) {
        (self.path(&var::SITE_SLURM_BIN), self.seconds(&var::SLURM_TIMEOUT_SECONDS))
    }

    fn rodan_address(&mut self, require_tls: bool) -> Option<RodanAddress> {
        self.required(&var::RODAN_HOST.0);
        self.text(&var::RODAN_HOST, |text| {
            let address = RodanAddress::parse(text)?;
            if require_tls { address.require_tls() } else { Ok(address) }
        })
    }

    /// What one job may ask for; what is not set has no limit here.
    fn limits(&mut self) -> SiteLimits {
        let mut small = |number| self.limit(number).and_then(|n| u32::try_from(n).ok());
        SiteLimits {
            cpus: small(&var::MAX_CPUS),
            epochs: small(&var::MAX_EPOCHS),
            samples: small(&var::MAX_SAMPLES),
            instances: small(&var::MAX_INSTANCES),
            memory_mb: self.limit(&var::MAX_MEMORY_MB),
            walltime: self.text(&var::MAX_TIME, Walltime::from_str),
        }
    }

    /// What a job gets if its message names nothing.
    fn choice(&mut self, limits: SiteLimits, gpu: bool) -> SiteChoice {
        let cpus = u32::try_from(self.number(&var::DEFAULT_CPUS)).unwrap_or(1);
        let walltime =
            self.text(&var::DEFAULT_TIME, Walltime::from_str).unwrap_or(Walltime::MINUTE);
        SiteChoice { cpus, walltime, gpu, host: None, limits }
    }

    /// node_exporter reads no other file names.
    fn metrics_file(&mut self) -> Option<PathBuf> {
        let home = self.home.clone();
        self.parsed(&var::METRICS_FILE.0, |text| match Path::new(text).extension() {
            Some(extension) if extension == "prom" => Ok(home.join(text)),
            _ => Err("must end in .prom"),
        })
    }

    fn site(&mut self, env_file: Option<&Path>, spool: Option<&Path>) -> SiteConfig {
        // All variables that are read this way have a default.
        let path = |reader: &Self, place| reader.path(place).unwrap_or_else(|| reader.home.clone());
        let (slurm_bin, slurm_timeout) = self.slurm();
        let scheduler = self.scheduler();
        // A host without a GPU gives none, whatever is asked for.
        let has_gpu = || scheduler == Kind::Slurm || !local::gpus().is_empty();
        let gres = self.word(&var::SITE_GRES).filter(|g| g != "none" && has_gpu());
        let gres_table = self.text(&var::SITE_GRES_TABLE, GresTable::from_str).unwrap_or_default();
        let limits = self.limits();
        let mut choice = self.choice(limits, gres.is_some());
        if scheduler != Kind::Slurm {
            // A job that names nothing is not to be refused for what this host does not have.
            let cpus = u32::try_from(local::cpus()).unwrap_or(u32::MAX);
            choice.cpus = choice.cpus.min(cpus);
            choice.host = Some(Host { cpus, memory_mb: local::memory_mb() });
        }
        SiteConfig {
            scheduler,
            spool: spool.map_or_else(|| path(self, &var::SPOOL_DIR), Path::to_path_buf),
            logs: path(self, &var::LOG_DIR),
            metrics_file: self.metrics_file(),
            batch_script: path(self, &var::BATCH_SCRIPT),
            account: self.word(&var::SITE_ACCOUNT),
            partition: self.word(&var::SITE_PARTITION),
            qos: self.word(&var::SITE_QOS),
            constraint: self.word(&var::SITE_CONSTRAINT),
            choice,
            gres,
            gres_table,
            tasks_per_node: u32::try_from(self.number(&var::SITE_TASKS_PER_NODE)).unwrap_or(1),
            signal_seconds: self.number(&var::SITE_SIGNAL_SECONDS),
            slurm_bin,
            give_up: self.hours(&var::GIVE_UP_HOURS),
            grace: self.seconds(&var::GRACE_SECONDS),
            slurm_timeout,
            max_pending: self.hours(&var::MAX_PENDING_HOURS),
            limits,
            max_open_jobs: usize::try_from(self.number(&var::MAX_OPEN_JOBS)).unwrap_or(usize::MAX),
            watcher: self.flag(&var::WATCHER),
            watcher_partition: self.word(&var::WATCHER_PARTITION),
            requeue: self.flag(&var::REQUEUE),
            operator: self.operator(),
            home: self.home.clone(),
            env_file: env_file.map(Path::to_path_buf),
        }
    }
}

/// The files and variables that the configuration comes from.
pub struct Sources<'a> {
    /// `--env-file`; by default `credentials.env` in the home directory, if it exists.
    pub env_file: Option<&'a Path>,
    /// The process environment, which wins over the file.
    pub environment: BTreeMap<String, String>,
    /// Variables of the environment whose value is not UTF-8.
    pub unreadable: Vec<&'static Variable>,
}

impl Sources<'_> {
    /// `--env-file` and the environment of this process.
    pub fn of_process(env_file: Option<&Path>) -> Sources<'_> {
        let pair = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        let is_unreadable = |variable: &&Variable| {
            std::env::var_os(variable.name).is_some_and(|value| value.to_str().is_none())
        };
        Sources {
            env_file,
            environment: std::env::vars_os().filter_map(pair).collect(),
            unreadable: variables().filter(is_unreadable).collect(),
        }
    }

    /// Directory of the installation: `HPC_TRAINER_HOME`, else the directory of the env file, else
    /// the current one.
    pub fn home(&self) -> PathBuf {
        let of_file = || Some(absolute(self.env_file?).parent()?.to_path_buf());
        match self.environment.get("HPC_TRAINER_HOME").filter(|h| !h.is_empty()) {
            Some(home) => absolute(Path::new(home)),
            None => of_file().unwrap_or_else(|| absolute(Path::new("."))),
        }
    }

    /// The file that `check init` writes: the one that is asked for, else `credentials.env` in the
    /// home directory.
    pub fn new_file(&self) -> PathBuf {
        self.file().unwrap_or_else(|| self.home().join("credentials.env"))
    }

    /// The file to read: the one that was asked for, or `credentials.env` where there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match (
            self.env_file,
            self.environment.get("HPC_TRAINER_ENV_FILE").filter(|f| !f.is_empty()),
        ) {
            (Some(file), _) => Some(absolute(file)),
            (None, Some(file)) => Some(absolute(Path::new(file))),
            (None, None) => Some(self.home().join("credentials.env")).filter(|f| f.exists()),
        }
    }

    /// A reader of the file's variables and of the environment's, which win.
    pub(super) fn reader(&self, mut values: HashMap<String, String>) -> Reader {
        values.extend(self.environment.iter().map(|(k, v)| (k.clone(), v.clone())));
        let mut reader = Reader::new(values, self.home());
        for variable in &self.unreadable {
            // Otherwise the file's value, or none, would be used in its place.
            reader.is_wrong(variable, "is not UTF-8 in the environment");
        }
        reader
    }

    fn read(&self) -> Result<(Reader, Option<PathBuf>), ConfigError> {
        let file = self.file();
        let values = match &file {
            Some(file) => read_file(file, &self.environment)?,
            None => HashMap::new(),
        };
        Ok((self.reader(values), file))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

impl Config {
    /// Reads everything `check` needs. `spool` (`--spool`) wins over `SPOOL_DIR`.
    ///
    /// # Errors
    /// When the file can't be read or is open to others, or variables are missing or wrong: all of
    /// them at once.
    pub fn load(sources: &Sources<'_>, spool: Option<&Path>) -> Result<Self, ConfigError> {
        let (mut reader, file) = sources.read()?;
        let Resolved { broker, rodan, site, .. } = reader.resolve(file.as_deref(), spool);
        match (broker, rodan) {
            (Some(broker), Some(rodan)) if reader.problems.is_empty() => {
                Ok(Self { broker, rodan, site })
            }
            _ => Err(ConfigError::Variables(reader.problems)),
        }
    }
}

/// Reads how RabbitMQ is reached, and nothing else: what the gateway needs. An `address` that is
/// given wins over `RABBITMQ_HOST`.
///
/// # Errors
/// As [`Config::load`].
pub fn broker(sources: &Sources<'_>, address: Option<&str>) -> Result<BrokerConfig, ConfigError> {
    let (mut reader, _) = sources.read()?;
    if let Some(address) = address {
        reader.values.insert(var::RABBITMQ_HOST.0.name.to_owned(), address.to_owned());
    }
    let require_tls = reader.flag(&var::REQUIRE_TLS);
    match reader.broker(require_tls) {
        Some(broker) if reader.problems.is_empty() => Ok(broker),
        _ => Err(ConfigError::Variables(reader.problems)),
    }
}

/// The variables that the gateway alone reads, as they were given.
pub struct GatewayVariables(HashMap<&'static str, String>);

impl GatewayVariables {
    /// Reads them, and nothing else.
    ///
    /// # Errors
    /// When the file can't be read or is open to others, or a variable is no text.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let (mut reader, _) = sources.read()?;
        if !reader.problems.is_empty() {
            return Err(ConfigError::Variables(reader.problems));
        }
        let own = |variable: &Variable| Some((variable.name, reader.values.remove(variable.name)?));
        Ok(Self(of_gateway().filter_map(own).collect()))
    }

    /// The value of the variable of this name, or its default.
    pub fn get(&self, name: &str) -> Option<String> {
        let default = || variable(name)?.default().map(str::to_owned);
        self.0.get(name).cloned().or_else(default)
    }
}

/// Some of the values are secret.
impl fmt::Debug for GatewayVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GatewayVariables").field(&self.0.keys()).finish()
    }
}

impl TrainerConfig {
    /// Reads what `run_trainer` needs.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let (mut reader, _) = sources.read()?;
        let require_tls = reader.flag(&var::REQUIRE_TLS);
        let broker = reader.broker(require_tls);
        let tensorboard = reader.path(&var::TENSORBOARD_DIR);
        let rodan = reader.rodan_address(require_tls);
        let rodan_identity = reader.rodan_identity(rodan.as_ref());
        let requeue = reader.flag(&var::REQUEUE);
        let trainer = reader.trainer_only();
        let (slurm_bin, slurm_timeout) = reader.slurm();
        let scheduler = reader.scheduler();
        let spool = reader.path(&var::SPOOL_DIR).unwrap_or_else(|| reader.home.clone());
        let batch_script = reader.path(&var::BATCH_SCRIPT).unwrap_or_else(|| reader.home.clone());
        let operator = reader.operator();
        match (broker, rodan) {
            (Some(broker), Some(rodan)) if reader.problems.is_empty() => Ok(Self {
                broker,
                rodan,
                rodan_identity,
                max_download: trainer.max_download,
                download_deadline: trainer.download_deadline,
                requeue,
                on_time_limit: trainer.on_time_limit,
                max_requeues: trainer.max_requeues,
                checkpoint_every: trainer.checkpoint_every,
                srun_options: trainer.srun_options,
                batch_script,
                tensorboard,
                scheduler,
                spool,
                slurm_bin,
                slurm_timeout,
                operator,
            }),
            _ => Err(ConfigError::Variables(reader.problems)),
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
