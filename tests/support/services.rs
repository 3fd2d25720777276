//! The real services: those that `./run_tests` has started for the whole run, or private ones of a
//! single test.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::broker::Vhost;
use super::slurm::Cluster;

/// Where the scripts and the other files of the repository are.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A running broker and cluster, by the variables of their `env.sh`.
pub(crate) struct Services {
    variables: HashMap<String, String>,
    /// The services that are the test's own.
    own: Vec<OwnServices>,
}

impl Services {
    /// The services of this test run.
    ///
    /// # Panics
    ///
    /// When there are none: a test that needs them must not pass without them.
    pub(crate) fn shared() -> Self {
        let variables: HashMap<String, String> =
            std::env::vars().filter(|(name, _)| is_ours(name)).collect();
        assert!(
            variables.contains_key("HPC_TRAINER_TEST_SERVICES"),
            "no test services: use ./run_tests, or start them with  eval \"$(./run_tests \
            services)\""
        );
        Self { variables, own: Vec::new() }
    }

    /// Services of this test's own, for settings that the shared ones don't have: see the top of
    /// `slurm/test-cluster/up`. They take some seconds to start, and end when this value is
    /// dropped.
    pub(crate) fn private(settings: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = PathBuf::from(format!("/tmp/hpct.{}.{number}", std::process::id()));
        let own = OwnServices(directory);
        script("up", &[], &own.0, settings).unwrap_or_else(|error| panic!("{error}"));
        let text = std::fs::read_to_string(own.0.join("env.sh")).expect("up wrote env.sh");
        let variables = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        Self { variables, own: vec![own] }
    }

    /// The same services for a desk of several that use them; they end with `self`.
    pub(crate) fn lent(&self) -> Self {
        Self { variables: self.variables.clone(), own: Vec::new() }
    }

    /// Whether a private cluster can keep jobs within their memory: this needs root, and a machine
    /// with cgroups of version 1, which Slurm 22.05 wants.
    pub(crate) fn can_have_cgroups() -> bool {
        let access = rustix::fs::access("/sys/fs/cgroup/memory", rustix::fs::Access::WRITE_OK);
        access.is_ok() && rustix::process::geteuid().is_root()
    }

    /// These services with the cluster of `other`: for example a shared broker and a private Slurm.
    pub(crate) fn with_cluster_of(mut self, other: Self) -> Self {
        let of_cluster = [
            "SLURM_CONF",
            "HPC_TRAINER_TEST_NODES",
            "HPC_TRAINER_TEST_ACCOUNTING",
            "HPC_TRAINER_TEST_CGROUP",
        ];
        for name in of_cluster {
            self.variables.insert(name.to_owned(), other.variable(name).to_owned());
        }
        self.own.extend(other.own);
        self
    }

    /// A value of `env.sh`.
    #[track_caller]
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).unwrap_or_else(|| panic!("the services export no {name}"))
    }

    /// The directory of the services: short, private, and gone after the run.
    pub(crate) fn directory(&self) -> &Path {
        Path::new(self.variable("HPC_TRAINER_TEST_SERVICES"))
    }

    /// The certificate authority of the broker's TLS port, as a PEM file for `SSL_CERT_FILE`.
    pub(crate) fn ca_file(&self) -> &Path {
        Path::new(self.variable("HPC_TRAINER_TEST_CA"))
    }

    /// A vhost for this test alone, so that it has its own `hpc-jobs` and `hpc-results`.
    pub(crate) fn vhost(&self) -> Vhost {
        Vhost::lease(self)
    }

    /// The Slurm cluster.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(self.variable("SLURM_CONF"))
    }

    /// Does something to one daemon of private services: see the top of
    /// `slurm/test-cluster/service`.
    ///
    /// # Panics
    ///
    /// When these services are not the test's own, or it does not succeed.
    pub(crate) fn service(&self, action: &str, daemon: &str) {
        let directory = match daemon {
            "broker" => self.directory(),
            _ => self.cluster_directory(),
        };
        assert!(self.own.iter().any(|own| own.0 == directory), "{daemon} is not this test's own");
        script("service", &[action, daemon], directory, &[])
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// A controller that accepts connections and says nothing, until the value is dropped.
    pub(crate) fn pause_slurmctld(&self) -> Paused<'_> {
        self.service("pause", "slurmctld");
        Paused(self)
    }

    /// The directory of the services that the cluster belongs to.
    fn cluster_directory(&self) -> &Path {
        let conf = Path::new(self.variable("SLURM_CONF"));
        conf.ancestors().nth(2).expect("slurm.conf lies in DIR/slurm")
    }
}

/// A controller that is stopped.
pub(crate) struct Paused<'a>(&'a Services);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.service("continue", "slurmctld");
    }
}

/// Services that end with the test, also when `up` or the test panics.
struct OwnServices(PathBuf);

impl Drop for OwnServices {
    fn drop(&mut self) {
        if let Err(error) = script("down", &[], &self.0, &[]) {
            eprintln!("{error}");
        }
    }
}

fn is_ours(name: &str) -> bool {
    name == "SLURM_CONF" || name.starts_with("HPC_TRAINER_TEST_")
}

fn script(
    name: &str,
    arguments: &[&str],
    directory: &Path,
    settings: &[(&str, &str)],
) -> Result<(), String> {
    let mut command =
        std::process::Command::new(repository().join("slurm/test-cluster").join(name));
    let output = command
        .args(arguments)
        .arg(directory)
        .envs(settings.iter().copied())
        .output()
        .expect("the script starts");
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{name} {arguments:?} {} failed: {}",
        directory.display(),
        String::from_utf8_lossy(&output.stderr)
    ))
}
