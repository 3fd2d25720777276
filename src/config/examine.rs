//! The configuration with everything that is wrong with it, for `check doctor`, which goes on with what is left.

use std::path::{Path, PathBuf};

use super::env::{VARIABLES, purpose};
use super::file::examine_file;
use super::load::{ConfigError, Read, Sources};
use super::resolved::{BrokerConfig, RodanConfig, SiteConfig};

/// Variables that a file may hold beside [`VARIABLES`]: the scripts' own.
const OTHERS: [&str; 2] = ["HPC_TRAINER_HOME", "HPC_TRAINER_ENV_FILE"];

/// A variable that is missing or wrong. Its text never repeats the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: String,
    /// What is wrong with it.
    pub what: String,
    /// What it is for: completes the sentence "it is ...".
    pub purpose: &'static str,
}

impl Problem {
    /// Takes the sentence of a [`ConfigError`] apart: it begins with the variable and often ends with its purpose.
    fn new(sentence: &str) -> Self {
        let (name, what) = sentence.split_once(' ').unwrap_or((sentence, ""));
        let name = name.trim_end_matches(':');
        let purpose = purpose(name);
        let what = what.strip_suffix(purpose).filter(|_| !purpose.is_empty()).unwrap_or(what);
        let what = what.trim_end_matches(" it is ").trim_end_matches([';', ':']);
        Self { name: name.to_owned(), what: what.to_owned(), purpose }
    }
}

/// What the sources say, and what is wrong with them.
#[derive(Debug)]
pub struct Examined {
    /// Directory of the installation.
    pub home: PathBuf,
    /// The file, where there is one or one was asked for.
    pub file: Option<PathBuf>,
    /// Its permission bits, where it is there.
    pub mode: Option<u32>,
    /// What is wrong with the file.
    pub faults: Vec<ConfigError>,
    /// What is wrong with the variables.
    pub problems: Vec<Problem>,
    /// Names in the file that mean nothing.
    pub unknown: Vec<String>,
    /// RabbitMQ, where its address can be used; user and password are empty where they are not set.
    pub broker: Option<BrokerConfig>,
    /// Rodan, likewise.
    pub rodan: Option<RodanConfig>,
    /// The site, with the defaults in place of what is wrong.
    pub site: SiteConfig,
    /// Largest download, bytes.
    pub max_download: u64,
}

impl Examined {
    /// Reads everything that can be read. `spool` (`--spool`) wins over `SPOOL_DIR`.
    pub fn new(sources: &Sources<'_>, spool: Option<&Path>) -> Self {
        let (home, file) = (sources.home(), sources.file());
        let found = file.as_deref().map(examine_file);
        let (values, faults, mode) = found.map_or_else(Default::default, |f| (f.values, f.faults, f.mode));
        let is_known =
            |name: &str| VARIABLES.iter().any(|variable| variable.name == name) || OTHERS.contains(&name);
        let mut unknown: Vec<String> = values.keys().filter(|name| !is_known(name)).cloned().collect();
        unknown.sort();
        let mut reader = sources.reader(values);
        let Read { broker, rodan, site, max_download } = reader.read(&home, file.as_deref(), spool);
        Self {
            home,
            file,
            mode,
            faults,
            problems: reader.problems.iter().map(|text| Problem::new(text)).collect(),
            unknown,
            broker,
            rodan,
            site,
            max_download,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_from_the_purpose_of_its_variable() {
        let problem = |what: &str, purpose| Problem { name: "MAX_CPUS".into(), what: what.into(), purpose };
        let purpose = "the most cores that a job may ask for";
        let sentences = [
            ("MAX_CPUS is not set: it is the most cores that a job may ask for", "is not set"),
            ("MAX_CPUS must be 1; it is the most cores that a job may ask for", "must be 1"),
            ("MAX_CPUS: can't be read", "can't be read"),
        ];
        for (sentence, what) in sentences {
            assert_eq!(Problem::new(sentence), problem(what, purpose));
        }
    }
}
