//! What can be wrong with the configuration.

use std::fmt::{self, Write as _};
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::env::Variable;
use super::lines::LineFault;

/// A configuration that can't be used. Its text names every problem at once, and no secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file that was asked for can't be read.
    #[error("can't read {}: {source}; {}", path.display(), advice_for(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not text, or in an encoding of two bytes a character.
    #[error("{} is no text in UTF-8; save a copy as UTF-8 in an editor, and use that one", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
    },
    /// The file is open to others.
    #[error(
        "{} holds passwords but others may read it (mode {mode:04o}); run: chmod 600 {}",
        path.display(),
        path.display()
    )]
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
    /// A line of the file can't be used.
    #[error("{} line {line} {fault}; {}", path.display(), fault.advice())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with the line.
        fault: LineFault,
    },
    /// Variables are missing or wrong.
    #[error("{}", list(.0))]
    Variables(Vec<Problem>),
}

/// What to do about a file that can't be read. The example is only for whoever has no file yet:
/// copied over one, it would take the passwords away.
pub(crate) fn advice_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "copy credentials.env.example to it and fill it in",
        io::ErrorKind::PermissionDenied => {
            "it and its directories must be readable for the account that runs this"
        }
        _ => "it must be a text file like credentials.env.example",
    }
}

/// A variable that is missing or wrong. Its text never repeats the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable.
    pub name: &'static str,
    /// What it is for: completes the sentence "it is ...".
    pub purpose: &'static str,
    /// What is wrong with it; `None` where it is not set.
    pub what: Option<String>,
}

impl Problem {
    pub(super) fn new(variable: &Variable, what: Option<String>) -> Self {
        Self { name: variable.name, purpose: variable.purpose, what }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, purpose) = (self.name, self.purpose);
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
