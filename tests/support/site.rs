//! A directory like an operator's: `run_check`, `hpc_training.sh`, `credentials.env`, the programs,
//! spool and logs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::broker::Vhost;
use super::program::{self, Program};
use super::services::repository;
use super::slurm::Cluster;

/// The site's directory; removed when dropped.
pub(crate) struct Site {
    home: TempDir,
    settings: Vec<(String, String)>,
}

impl Site {
    /// A site with the scripts of the repository, links to the programs of this build, an empty
    /// spool and logs.
    pub(crate) fn new() -> Self {
        let site = Self { home: new_directory(), settings: Vec::new() };
        fs::create_dir(site.path().join("slurm")).expect("a directory");
        for script in
            ["run_check", "hpc_training.sh", "slurm/handle_failure.sh", "slurm/check_node.sh"]
        {
            fs::copy(repository().join(script), site.path().join(script))
                .expect("the scripts can be copied");
        }
        symlink(program::check(), site.path().join("check")).expect("a link to check");
        if let Some(trainer) = program::run_trainer() {
            symlink(trainer, site.path().join("run_trainer")).expect("a link to run_trainer");
        }
        for private in [site.spool(), site.logs()] {
            fs::create_dir(&private).expect("a directory");
            fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("its mode");
        }
        site
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.path().join("spool")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.path().join("credentials.env")
    }

    /// Sets a variable of `credentials.env` and writes the file anew, mode 0600.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.into()));
        self.write_credentials();
        self
    }

    /// Takes a variable out of `credentials.env`.
    pub(crate) fn unset(&mut self, name: &str) -> &mut Self {
        self.settings.retain(|(known, _)| known != name);
        self.write_credentials();
        self
    }

    /// The three variables of the broker, for a vhost's plain port.
    pub(crate) fn use_broker(&mut self, vhost: &Vhost) -> &mut Self {
        self.set("RABBITMQ_HOST", vhost.url())
            .set("RABBITMQ_USER", vhost.user())
            .set("RABBITMQ_PASSWORD", vhost.password())
    }

    /// The three variables of Rodan.
    pub(crate) fn use_rodan(&mut self, url: &str, user: &str, password: &str) -> &mut Self {
        self.set("RODAN_HOST", url).set("RODAN_USER", user).set("RODAN_PASSWORD", password)
    }

    /// `run_check` as cron starts it: from the home directory, with hardly anything in the
    /// environment. `SLURM_CONF` leads to the test cluster; on a real machine the default path is
    /// used.
    pub(crate) fn run_check(&self, cluster: &Cluster) -> Program {
        Program::new(self.path().join("run_check"))
            .env("SLURM_CONF", cluster.conf())
            .env("HOME", "/tmp")
            .env("LOGNAME", "tester")
            .env("SHELL", "/bin/sh")
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
    }

    /// Every file below a directory of the site, for assertions about what a run leaves.
    pub(crate) fn files_below(&self, directory: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![directory.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(&next).expect("a directory that can be read").flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    open.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    fn write_credentials(&self) {
        let mut text = String::new();
        for (name, value) in &self.settings {
            writeln!(text, "{name}='{value}'").expect("a String takes everything");
        }
        fs::write(self.credentials(), text).expect("credentials.env can be written");
        fs::set_permissions(self.credentials(), fs::Permissions::from_mode(0o600))
            .expect("its mode");
    }
}

/// A short name, as Slurm needs it, right below /tmp, which the compute nodes of the test cluster
/// share with us.
fn new_directory() -> TempDir {
    tempfile::Builder::new().prefix("site.").tempdir_in("/tmp").expect("a directory in /tmp")
}
