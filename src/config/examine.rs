//! The configuration with everything that is wrong in it, for `check doctor`, which continues with
//! the rest.

use std::path::{Path, PathBuf};

use super::env::variable;
use super::error::{ConfigError, Problem};
use super::file::examine_file;
use super::load::{Resolved, Sources};
use super::resolved::RodanConfig;
use contract::broker::BrokerConfig;
use scheduler::SiteConfig;

/// What the sources say, and what is wrong with them.
#[derive(Debug)]
pub struct Examined {
    /// Directory of the installation.
    pub home: PathBuf,
    /// The file, if there is one or one was asked for.
    pub file: Option<PathBuf>,
    /// Its permission bits, if it is there.
    pub mode: Option<u32>,
    /// What is wrong with the file.
    pub faults: Vec<ConfigError>,
    /// What is wrong with the variables.
    pub problems: Vec<Problem>,
    /// Names in the file that have no meaning.
    pub unknown: Vec<String>,
    /// RabbitMQ, if its address can be used; user and password are empty if they are not set.
    pub broker: Option<BrokerConfig>,
    /// Rodan, likewise.
    pub rodan: Option<RodanConfig>,
    /// The site, with the defaults in place of wrong values.
    pub site: SiteConfig,
    /// Largest download, bytes.
    pub max_download: u64,
}

impl Examined {
    /// Reads everything that can be read. `spool` (`--spool`) wins over `SPOOL_DIR`.
    pub fn new(sources: &Sources<'_>, spool: Option<&Path>) -> Self {
        let file = sources.file();
        let found = file.as_deref().map(|file| examine_file(file, &sources.environment));
        let (values, faults, mode) =
            found.map_or_else(Default::default, |f| (f.values, f.faults, f.mode));
        let mut unknown: Vec<String> =
            values.keys().filter(|name| variable(name).is_none()).cloned().collect();
        unknown.sort();
        let mut reader = sources.reader(values);
        let Resolved { broker, rodan, site, trainer } = reader.resolve(file.as_deref(), spool);
        Self {
            home: reader.home,
            file,
            mode,
            faults,
            problems: reader.problems,
            unknown,
            broker,
            rodan,
            site,
            max_download: trainer.max_download,
        }
    }
}
