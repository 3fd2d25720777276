//! Reads `credentials.env` and the process environment, and resolves them into what the programs need.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::env::{default, purpose};
use super::file::read_file;
use super::resolved::{Config, OnTimeLimit, RodanConfig, TrainerConfig};
use base::address::{BrokerAddress, RodanAddress};
use base::secret::Secret;
use contract::broker::BrokerConfig;
use domain::{SiteChoice, SiteLimits, Walltime};
use scheduler::GresTable;
use scheduler::SiteConfig;

/// A configuration that can't be used. Its text names every problem at once and no secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file that was asked for can't be read.
    #[error("can't read {}: {source}; copy credentials.env.example to it and fill it in", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is open to others.
    #[error("{} holds passwords but others may read it (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is another account's.
    #[error(
        "{} belongs to user {owner}, who could change it; run as root: chown {own} {}",
        path.display(),
        path.display()
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// This account's number.
        own: u32,
    },
    /// A line of the file is not `NAME=value`.
    #[error(
        "{} line {line} is not NAME=value; put a value that holds spaces, quotes, # or $ in single quotes",
        path.display()
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// Variables are missing or wrong.
    #[error("{}", list(.0))]
    Variables(Vec<Problem>),
}

/// A variable that is missing or wrong. Its text never repeats the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: &'static str,
    /// What is wrong with it; `None` where it is not set.
    pub what: Option<String>,
}

impl Problem {
    /// What the variable is for: completes the sentence "it is ...".
    pub fn purpose(&self) -> &'static str {
        purpose(self.name)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, purpose) = (self.name, self.purpose());
        match &self.what {
            Some(what) => write!(f, "{name} {what}; it is {purpose}"),
            None => write!(f, "{name} is not set: it is {purpose}"),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "the configuration has 1 problem:".to_owned(),
        n => format!("the configuration has {n} problems:"),
    };
    for problem in problems {
        let _ = write!(text, "\n  {problem}"); // writing to a String can't fail
    }
    text
}

/// Collects values and problems, so that every problem is reported at once.
pub(super) struct Reader {
    values: HashMap<String, String>,
    pub(super) problems: Vec<Problem>,
    pub(super) home: PathBuf,
}

/// What the variables say, as far as they say it.
pub(super) struct Read {
    pub(super) broker: Option<BrokerConfig>,
    pub(super) rodan: Option<RodanConfig>,
    pub(super) site: SiteConfig,
    pub(super) max_download: u64,
}

impl Reader {
    pub(super) fn new(values: HashMap<String, String>, home: PathBuf) -> Self {
        Self { values, problems: Vec::new(), home }
    }

    /// Everything that `check` needs; what is wrong is in `problems`.
    pub(super) fn read(&mut self, home: &Path, file: Option<&Path>, spool: Option<&Path>) -> Read {
        let broker = self.broker();
        let user = self.required("RODAN_USER");
        let password = Secret::new(self.required("RODAN_PASSWORD"));
        let address = self.rodan_address();
        let identity = self.rodan_identity(address.as_ref());
        let rodan = address.map(|address| RodanConfig { address, user, password, identity });
        let site = self.site(home, file, spool.map(absolute).as_deref());
        // The trainer's, but what is wrong there is better known here.
        let max_download = self.number("MAX_DOWNLOAD_BYTES", 1..=u64::MAX);
        self.number("DOWNLOAD_SECONDS", 1..=86_400);
        self.time_limit();
        Read { broker, rodan, site, max_download }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .or_else(|| default(name))
    }

    fn optional(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    fn required(&mut self, name: &'static str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.problems.push(Problem { name, what: None });
            String::new()
        })
    }

    fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.get(name)?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(Problem { name, what: Some(error.to_string()) });
                None
            }
        }
    }

    /// A whole number within `range`; the variable has a default.
    fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        self.parsed(name, |text| match u64::from_str(text) {
            Ok(n) if range.contains(&n) => Ok(n),
            _ => Err(format!("must be a whole number from {low} to {high}")),
        })
        .unwrap_or(low)
    }

    fn flag(&mut self, name: &'static str) -> bool {
        self.parsed(name, |text| match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err("must be 1 or 0"),
        })
        .unwrap_or_default()
    }

    /// The value of an sbatch option: one word, so that nothing else can be smuggled in with it.
    fn word(&mut self, name: &'static str) -> Option<String> {
        self.parsed(name, |text| {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_-:.=,/&|[]*".contains(c);
            if text.starts_with('-') || !text.chars().all(fits) {
                return Err("must be one word of letters, digits and _-:.=,/&|[]*");
            }
            Ok(text.to_owned())
        })
    }

    /// Asked for each of the two addresses; a value that is no flag is reported once.
    fn required_tls(&mut self) -> bool {
        let before = self.problems.len();
        let tls = self.flag("REQUIRE_TLS");
        if self.problems.len() > before && self.problems[..before].contains(&self.problems[before]) {
            self.problems.truncate(before);
        }
        tls
    }

    fn broker(&mut self) -> Option<BrokerConfig> {
        let user = self.required("RABBITMQ_USER");
        let password = Secret::new(self.required("RABBITMQ_PASSWORD"));
        self.required("RABBITMQ_HOST");
        let tls = self.required_tls();
        let address = self.parsed("RABBITMQ_HOST", |text| {
            let address = BrokerAddress::parse(text)?;
            if tls { address.require_tls() } else { Ok(address) }
        });
        let tls = address.as_ref().is_some_and(|address| address.tls);
        let identity = self.identity("RABBITMQ_CLIENT_CERT", "RABBITMQ_CLIENT_KEY", tls);
        let reply_queue_durable = self.flag("REPLY_QUEUE_DURABLE");
        // 1,000 hours: RabbitMQ takes an expiration of up to 2^32 ms, which is 1,193 hours.
        let reply_ttl = Duration::from_secs(3600 * self.number("REPLY_TTL_HOURS", 1..=1000));
        let is_limited = self.get("MAX_REPLY_BYTES").is_some();
        let max_reply_bytes = is_limited.then(|| self.number("MAX_REPLY_BYTES", 1024..=u64::from(u32::MAX)));
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

    fn time_limit(&mut self) -> (OnTimeLimit, u64, Duration) {
        let on_time_limit = self.parsed("ON_TIME_LIMIT", |text| match text {
            "reply" => Ok(OnTimeLimit::Reply),
            "requeue" => Ok(OnTimeLimit::Requeue),
            _ => Err("must be reply or requeue"),
        });
        (
            on_time_limit.unwrap_or(OnTimeLimit::Reply),
            self.number("MAX_REQUEUES", 0..=10_000),
            Duration::from_secs(self.number("CHECKPOINT_SECONDS", 0..=86_400)),
        )
    }

    /// The directory of Slurm's commands, and how long one may take.
    fn slurm(&mut self) -> (Option<PathBuf>, Duration) {
        let directory = self.get("SITE_SLURM_BIN").map(PathBuf::from);
        (directory, Duration::from_secs(self.number("SLURM_TIMEOUT_SECONDS", 1..=3600)))
    }

    fn rodan_address(&mut self) -> Option<RodanAddress> {
        self.required("RODAN_HOST");
        let tls = self.required_tls();
        self.parsed("RODAN_HOST", |text| {
            let address = RodanAddress::parse(text)?;
            if tls { address.require_tls() } else { Ok(address) }
        })
    }

    /// What one job may ask for; what is not set has no limit here.
    fn limits(&mut self) -> SiteLimits {
        let small = |text: &str| match u32::from_str(text) {
            Ok(n) if n > 0 => Ok(n),
            _ => Err("must be a whole number from 1"),
        };
        SiteLimits {
            cpus: self.parsed("MAX_CPUS", small),
            memory_mb: self.parsed("MAX_MEMORY_MB", small).map(u64::from),
            walltime: self.parsed("MAX_TIME", Walltime::from_str),
            epochs: self.parsed("MAX_EPOCHS", small),
            samples: self.parsed("MAX_SAMPLES", small),
        }
    }

    /// What a job gets that names nothing.
    fn choice(&mut self, limits: SiteLimits, gpu: bool) -> SiteChoice {
        let cpus = u32::try_from(self.number("DEFAULT_CPUS", 1..=4096)).unwrap_or(1);
        let walltime = self.parsed("DEFAULT_TIME", Walltime::from_str).unwrap_or(Walltime::MINUTE);
        SiteChoice { cpus, walltime, gpu, limits }
    }

    /// node_exporter reads no other names.
    fn metrics_file(&mut self, home: &Path) -> Option<PathBuf> {
        self.parsed("METRICS_FILE", |text| match Path::new(text).extension() {
            Some(extension) if extension == "prom" => Ok(home.join(text)),
            _ => Err("must end in .prom"),
        })
    }

    fn site(&mut self, home: &Path, env_file: Option<&Path>, spool: Option<&Path>) -> SiteConfig {
        let path = |reader: &Self, name| home.join(reader.get(name).unwrap_or_default());
        let (slurm_bin, slurm_timeout) = self.slurm();
        let gres = self.word("SITE_GRES").filter(|g| g != "none");
        let gres_table = self.parsed("SITE_GRES_TABLE", GresTable::from_str).unwrap_or_default();
        let limits = self.limits();
        SiteConfig {
            spool: spool.map_or_else(|| path(self, "SPOOL_DIR"), Path::to_path_buf),
            logs: path(self, "LOG_DIR"),
            metrics_file: self.metrics_file(home),
            batch_script: path(self, "BATCH_SCRIPT"),
            account: self.word("SITE_ACCOUNT"),
            partition: self.word("SITE_PARTITION"),
            qos: self.word("SITE_QOS"),
            constraint: self.word("SITE_CONSTRAINT"),
            choice: self.choice(limits, gres.is_some()),
            gres,
            gres_table,
            signal_seconds: self.number("SITE_SIGNAL_SECONDS", 0..=65535),
            slurm_bin,
            give_up: Duration::from_secs(3600 * self.number("GIVE_UP_HOURS", 0..=8760)),
            grace: Duration::from_secs(self.number("GRACE_SECONDS", 0..=86_400)),
            slurm_timeout,
            max_pending: Duration::from_secs(3600 * self.number("MAX_PENDING_HOURS", 1..=8760)),
            limits,
            max_open_jobs: usize::try_from(self.number("MAX_OPEN_JOBS", 1..=100_000)).unwrap_or(usize::MAX),
            watcher: self.flag("WATCHER"),
            watcher_partition: self.word("WATCHER_PARTITION"),
            requeue: self.flag("REQUEUE"),
            home: home.to_path_buf(),
            env_file: env_file.map(Path::to_path_buf),
        }
    }
}

/// The files and variables that configuration comes from.
pub struct Sources<'a> {
    /// `--env-file`; by default `credentials.env` in the home directory, if it exists.
    pub env_file: Option<&'a Path>,
    /// The process environment, which wins over the file.
    pub environment: BTreeMap<String, String>,
}

impl Sources<'_> {
    /// `--env-file` and the environment of this process; values that are not UTF-8 are left out.
    pub fn of_process(env_file: Option<&Path>) -> Sources<'_> {
        let pair = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        Sources { env_file, environment: std::env::vars_os().filter_map(pair).collect() }
    }

    /// Directory of the installation: `HPC_TRAINER_HOME`, else the directory of the env file, else the current one.
    pub(super) fn home(&self) -> PathBuf {
        let of_file = || Some(absolute(self.env_file?).parent()?.to_path_buf());
        match self.environment.get("HPC_TRAINER_HOME").filter(|h| !h.is_empty()) {
            Some(home) => absolute(Path::new(home)),
            None => of_file().unwrap_or_else(|| absolute(Path::new("."))),
        }
    }

    /// The file that `check init` writes: the one that is asked for, else `credentials.env` in the home directory.
    pub fn new_file(&self) -> PathBuf {
        self.file().unwrap_or_else(|| self.home().join("credentials.env"))
    }

    /// The file to read: the one that was asked for, or `credentials.env` where there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match (self.env_file, self.environment.get("HPC_TRAINER_ENV_FILE").filter(|f| !f.is_empty())) {
            (Some(file), _) => Some(absolute(file)),
            (None, Some(file)) => Some(absolute(Path::new(file))),
            (None, None) => Some(self.home().join("credentials.env")).filter(|f| f.exists()),
        }
    }

    /// A reader of the file's variables and of the environment's, which win.
    pub(super) fn reader(&self, mut values: HashMap<String, String>) -> Reader {
        values.extend(self.environment.iter().map(|(k, v)| (k.clone(), v.clone())));
        Reader::new(values, self.home())
    }

    fn read(&self) -> Result<(Reader, PathBuf, Option<PathBuf>), ConfigError> {
        let file = self.file();
        let values = match &file {
            Some(file) => read_file(file)?,
            None => HashMap::new(),
        };
        Ok((self.reader(values), self.home(), file))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

impl Config {
    /// Reads everything `check` needs. `spool` (`--spool`) wins over `SPOOL_DIR`.
    ///
    /// # Errors
    /// When the file can't be read or is open to others, or variables are missing or wrong: all of them at once.
    pub fn load(sources: &Sources<'_>, spool: Option<&Path>) -> Result<Self, ConfigError> {
        let (mut reader, home, file) = sources.read()?;
        let Read { broker, rodan, site, .. } = reader.read(&home, file.as_deref(), spool);
        match (broker, rodan) {
            (Some(broker), Some(rodan)) if reader.problems.is_empty() => Ok(Self { broker, rodan, site }),
            _ => Err(ConfigError::Variables(reader.problems)),
        }
    }
}

impl TrainerConfig {
    /// Reads what `run_trainer` needs.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let (mut reader, home, _) = sources.read()?;
        let broker = reader.broker();
        let tensorboard = reader.get("TENSORBOARD_DIR").map(|directory| home.join(directory));
        let rodan = reader.rodan_address();
        let rodan_identity = reader.rodan_identity(rodan.as_ref());
        let max_download = reader.number("MAX_DOWNLOAD_BYTES", 1..=u64::MAX);
        let download_deadline = Duration::from_secs(reader.number("DOWNLOAD_SECONDS", 1..=86_400));
        let requeue = reader.flag("REQUEUE");
        let (on_time_limit, max_requeues, checkpoint_every) = reader.time_limit();
        let (slurm_bin, slurm_timeout) = reader.slurm();
        match (broker, rodan) {
            (Some(broker), Some(rodan)) if reader.problems.is_empty() => Ok(Self {
                broker,
                rodan,
                rodan_identity,
                max_download,
                download_deadline,
                requeue,
                on_time_limit,
                max_requeues,
                checkpoint_every,
                tensorboard,
                slurm_bin,
                slurm_timeout,
            }),
            _ => Err(ConfigError::Variables(reader.problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use scheduler::Gres;

    const SIX: &str = "export RABBITMQ_USER=tester\nRABBITMQ_PASSWORD='s3$cret#'\nRABBITMQ_HOST=rabbit\n\
                       # a comment\nexport RODAN_USER=me@example.org\nRODAN_PASSWORD=\"pass word\"\nRODAN_HOST=rodan\n";

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials.env");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let (_dir, path) = file(text, 0o600);
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&Sources { env_file: Some(&path), environment }, None)
    }

    #[test]
    fn the_six_variables_suffice_with_and_without_export() {
        let config = load(SIX, &[]).unwrap();
        assert_eq!(config.broker.password.expose(), "s3$cret#");
        assert_eq!(config.rodan.password.expose(), "pass word");
        assert_eq!(config.rodan.user, "me@example.org");
        assert!(config.site.spool.ends_with("spool"));
        assert_eq!(config.site.gres_for(1000), Gres { gres: Some("gpu:1".into()), partition: None });
        let shown = format!("{config:?}");
        assert!(!shown.contains("s3$cret") && !shown.contains("pass word"), "{shown}");
    }

    #[test]
    fn the_process_environment_wins() {
        let config = load(SIX, &[("RABBITMQ_HOST", "amqps://other/v"), ("SITE_PARTITION", "gpu")]).unwrap();
        assert_eq!(config.broker.address.host, "other");
        assert_eq!(config.site.gres_for(1).partition.as_deref(), Some("gpu"));
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_purpose() {
        let text = "RABBITMQ_USER=u\nRABBITMQ_HOST=http://x\nRODAN_USER=\nREPLY_QUEUE_DURABLE=maybe\nSITE_ACCOUNT='--wrap x'\nGIVE_UP_HOURS=-1\nMAX_TIME=long\nMAX_CPUS=0\nMETRICS_FILE=/tmp/metrics.txt\n";
        let error = load(text, &[]).unwrap_err().to_string();
        for part in [
            "11 problems",
            "METRICS_FILE must end in .prom",
            "RABBITMQ_PASSWORD is not set: it is the password for RabbitMQ",
            "RABBITMQ_HOST must begin with amqp://",
            "REPLY_QUEUE_DURABLE must be 1 or 0",
            "RODAN_USER is not set",
            "RODAN_PASSWORD is not set",
            "RODAN_HOST is not set",
            "SITE_ACCOUNT must be one word",
            "GIVE_UP_HOURS must be a whole number",
            "MAX_TIME is not a time; write D-HH:MM",
            "MAX_CPUS must be a whole number from 1",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }

    #[test]
    fn require_tls_refuses_plain_hosts_and_says_what_to_write() {
        let error = load(SIX, &[("REQUIRE_TLS", "1")]).unwrap_err().to_string();
        assert!(error.contains("2 problems"), "{error}");
        for (name, instead) in [("RABBITMQ_HOST", "amqps://rabbit;"), ("RODAN_HOST", "https://rodan;")] {
            let sentence = format!("{name} has no TLS, which REQUIRE_TLS=1 asks for; write {instead}");
            assert!(error.contains(&sentence), "{error}");
        }
        let tls = [("REQUIRE_TLS", "1"), ("RABBITMQ_HOST", "amqps://a"), ("RODAN_HOST", "https://b")];
        assert!(load(SIX, &tls).unwrap().plain_connections().is_empty());
        assert_eq!(load(SIX, &[("REQUIRE_TLS", "0")]).unwrap().plain_connections().len(), 2);
        let error = load(SIX, &[("REQUIRE_TLS", "perhaps")]).unwrap_err().to_string();
        assert!(error.contains("1 problem:") && error.contains("REQUIRE_TLS must be 1 or 0"), "{error}");
        let (_dir, path) = file(SIX, 0o600);
        let environment = BTreeMap::from([("REQUIRE_TLS".to_owned(), "1".to_owned())]);
        assert!(TrainerConfig::load(&Sources { env_file: Some(&path), environment }).is_err());
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_not_shown() {
        let error = load("RODAN_USER=x\nRODAN_PASSWORD=top 'secret\n", &[]).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("secret"));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_dir, path) = file(SIX, 0o640);
        let sources = Sources { env_file: Some(&path), environment: BTreeMap::new() };
        let error = Config::load(&sources, None).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn the_trainer_needs_no_rodan_password() {
        let (_dir, path) =
            file("RABBITMQ_USER=u\nRABBITMQ_PASSWORD=p\nRABBITMQ_HOST=h\nRODAN_HOST=r\n", 0o600);
        let sources = Sources { env_file: Some(&path), environment: BTreeMap::new() };
        assert_eq!(TrainerConfig::load(&sources).unwrap().max_download, 1 << 30);
    }
}
