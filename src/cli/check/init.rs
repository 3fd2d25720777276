//! `check init`: the configuration, by question and answer or by flags.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use thiserror::Error;

use super::caller::Caller;
use super::crontab;
use super::doctor;
use super::fail::fail;
use crate::config::{self, Problem, Sources, credentials_text, problems, variable};
use base::address::{BrokerAddress, RodanAddress};
use base::exit_code::ExitCode;
use base::files::{create_atomic, write_atomic};
use base::secret::Secret;
use terminal::{complain, print, say};

/// Write credentials.env, show the crontab line, and try everything out
///
/// Asks for what no option and no environment variable gives. Passwords are never options: they
/// come from a prompt, from RABBITMQ_PASSWORD and RODAN_PASSWORD in the environment, or from
/// standard input. Ends with the doctor, and its exit code.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// RabbitMQ's address: amqps://HOST or amqps://HOST:PORT/VHOST
    #[arg(long, value_name = "ADDRESS")]
    rabbitmq_host: Option<String>,
    /// User name for RabbitMQ
    #[arg(long, value_name = "NAME")]
    rabbitmq_user: Option<String>,
    /// Rodan's address: https://HOST
    #[arg(long, value_name = "ADDRESS")]
    rodan_host: Option<String>,
    /// User name (or e-mail address) for Rodan
    #[arg(long, value_name = "NAME")]
    rodan_user: Option<String>,
    /// Another variable, such as SITE_PARTITION=gpu; may be given more than once
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Read the passwords from standard input: RabbitMQ's on the first line, Rodan's on the second
    #[arg(long)]
    passwords_stdin: bool,
    /// Replace a credentials.env that is there
    #[arg(long)]
    force: bool,
    /// Put the line into this account's crontab instead of showing it
    #[arg(long)]
    crontab: bool,
    /// Don't try everything out at the end
    #[arg(long)]
    no_doctor: bool,
}

/// Why no configuration was written.
#[derive(Debug, Error)]
enum InitError {
    /// There is one.
    #[error("{} is there already; look at it with: check doctor, or replace it with \
        --force", .0.display())]
    Exists(PathBuf),
    /// There is nobody to ask.
    #[error("standard input is no terminal to ask at, and these are \
        missing:\n  {}", .0.join("\n  "))]
    Missing(Vec<String>),
    /// An option can't be understood.
    #[error("{0}")]
    Usage(String),
    /// The programs would refuse these values.
    #[error("these values can't be used:\n  {}", shown(.0))]
    Values(Vec<Problem>),
    /// A password that the file can't hold.
    #[error(
        "the value of {0} can't be written into the file: it has a line break or another control \
        character"
    )]
    Unwritable(String),
    /// No answer.
    #[error("no answer: {0}")]
    Input(#[from] io::Error),
    /// The file can't be written.
    #[error("{} can't be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl InitError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Exists(_) | Self::Missing(_) | Self::Usage(_) => ExitCode::Usage,
            Self::Values(_) | Self::Unwritable(_) | Self::Write { .. } => ExitCode::Config,
            Self::Input(_) => ExitCode::Stopped,
        }
    }
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

/// The values by the names of their variables.
type Values = BTreeMap<String, Secret>;

pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let sources = &caller.sources;
    let path = sources.new_file();
    match write(arguments, sources, &path) {
        Ok(()) => {}
        Err(error) => return fail(error.exit_code(), &error),
    }
    say(&format_args!("{} is written (mode 0600).", path.display()));
    let home = sources.home();
    let env_file = Some(path.as_path()).filter(|path| **path != *home.join("credentials.env"));
    let printed = print(&crontab::offer(&home, env_file, arguments.crontab).await);
    if arguments.no_doctor {
        // The line is asked for, unless it stands in the crontab now.
        return if arguments.crontab { ExitCode::Success } else { printed.or(ExitCode::Success) };
    }
    say(&"");
    let sources = Sources {
        env_file: sources.env_file,
        environment: sources.environment.clone(),
        unreadable: sources.unreadable.clone(),
    };
    let caller = Caller { sources, spool: None, verbosity: caller.verbosity };
    doctor::run(&doctor::Arguments::default(), &caller).await
}

fn write(arguments: &Arguments, sources: &Sources<'_>, path: &Path) -> Result<(), InitError> {
    // This is checked before anything is asked.
    if !arguments.force && path.symlink_metadata().is_ok() {
        return Err(InitError::Exists(path.to_path_buf()));
    }
    let mut values = Values::new();
    for text in &arguments.set {
        let (name, value) = setting(text)?;
        values.insert(name, Secret::new(value));
    }
    ask_all(arguments, sources, &mut values)?;
    if has_no_tls(&values) && !values.contains_key("REQUIRE_TLS") {
        complain(
            &"check: an address has no TLS, so REQUIRE_TLS=0 is written: passwords can be read on \
                the way",
        );
        values.insert("REQUIRE_TLS".to_owned(), Secret::new("0"));
    }
    let found = problems(
        &sources.home(),
        values.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())),
    );
    if !found.is_empty() {
        return Err(InitError::Values(found));
    }
    let text = credentials_text(&values).map_err(InitError::Unwritable)?;
    let written = match arguments.force {
        true => write_atomic(path, text.expose().as_bytes()).map(|()| true),
        false => create_atomic(path, text.expose().as_bytes()),
    };
    match written {
        Ok(true) => Ok(()),
        Ok(false) => Err(InitError::Exists(path.to_path_buf())),
        Err(source) => Err(InitError::Write { path: path.to_path_buf(), source }),
    }
}

/// Whether an address that can be read has no TLS.
fn has_no_tls(values: &Values) -> bool {
    let address = |name: &str| values.get(name).map(Secret::expose);
    let broker = address("RABBITMQ_HOST").and_then(|text| BrokerAddress::parse(text).ok());
    let rodan = address("RODAN_HOST").and_then(|text| RodanAddress::parse(text).ok());
    broker.is_some_and(|address| !address.tls)
        || rodan.is_some_and(|address| address.url().scheme() != "https")
}

/// `NAME=VALUE`, where the name is a variable of these programs and no password.
fn setting(text: &str) -> Result<(String, String), InitError> {
    let (name, value) = text.split_once('=').ok_or_else(|| {
        InitError::Usage(format!("--set {text}: give NAME=VALUE, such as SITE_PARTITION=gpu"))
    })?;
    let Some(variable) = variable(name) else {
        let sentence = format!(
            "--set {name}: there is no such variable; credentials.env.example has all of them"
        );
        return Err(InitError::Usage(sentence));
    };
    if variable.values == config::Values::Password {
        let instead = match name {
            "RABBITMQ_PASSWORD" | "RODAN_PASSWORD" => {
                "give it in the environment, or answer the question"
            }
            _ => "write it into the file by hand",
        };
        let sentence = format!("--set {name}: others can read a command line; {instead}");
        return Err(InitError::Usage(sentence));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// One value to ask for.
struct Question<'a> {
    name: &'static str,
    option: &'static str,
    given: Option<&'a str>,
    text: &'static str,
}

fn ask_all(
    arguments: &Arguments,
    sources: &Sources<'_>,
    values: &mut Values,
) -> Result<(), InitError> {
    let mut passwords = arguments.passwords_stdin.then(|| io::stdin().lines());
    let can_ask = !arguments.passwords_stdin && io::stdin().is_terminal();
    let asked = [
        (
            "RABBITMQ_HOST",
            "--rabbitmq-host",
            "RabbitMQ's address (amqps://HOST or amqps://HOST/VHOST)",
        ),
        ("RABBITMQ_USER", "--rabbitmq-user", "User name for RabbitMQ"),
        ("RABBITMQ_PASSWORD", "", "Password for RabbitMQ (not shown)"),
        ("RODAN_HOST", "--rodan-host", "Rodan's address (https://HOST)"),
        ("RODAN_USER", "--rodan-user", "User name or e-mail address for Rodan"),
        ("RODAN_PASSWORD", "", "Password for Rodan (not shown)"),
    ];
    let flag = |name: &str| match name {
        "RABBITMQ_HOST" => arguments.rabbitmq_host.as_deref(),
        "RABBITMQ_USER" => arguments.rabbitmq_user.as_deref(),
        "RODAN_HOST" => arguments.rodan_host.as_deref(),
        "RODAN_USER" => arguments.rodan_user.as_deref(),
        _ => None,
    };
    let mut missing = Vec::new();
    for (name, option, text) in asked {
        let is_password = option.is_empty();
        let question = Question { name, option, given: flag(name), text };
        let from_lines = match &mut passwords {
            Some(lines) if is_password => lines.next().transpose()?.map(Secret::new),
            _ => None,
        };
        let of_environment =
            || sources.environment.get(name).map(|value| Secret::new(value.as_str()));
        let known = from_lines
            .or_else(|| values.remove(name))
            .or_else(|| question.given.map(Secret::new))
            .or_else(of_environment)
            .filter(|value| !value.expose().trim().is_empty());
        match known {
            Some(value) => {
                values.insert(name.to_owned(), value);
            }
            None if can_ask => {
                values.insert(name.to_owned(), question.ask()?);
            }
            None if is_password => {
                missing.push(format!("{name} in the environment, or --passwords-stdin"))
            }
            None => missing.push(format!("{} ({name})", question.option)),
        }
    }
    if !missing.is_empty() {
        return Err(InitError::Missing(missing));
    }
    if can_ask {
        let optional = [
            ("SITE_ACCOUNT", "Slurm account (empty: none)"),
            ("SITE_PARTITION", "Slurm partition (empty: the default one)"),
            ("SITE_GRES", "What a job asks for to get a GPU (empty: gpu:1; none: train on CPUs)"),
        ];
        for (name, text) in optional {
            if !values.contains_key(name) && !sources.environment.contains_key(name) {
                let answer = prompt(text)?;
                if !answer.is_empty() {
                    values.insert(name.to_owned(), Secret::new(answer));
                }
            }
        }
    }
    Ok(())
}

impl Question<'_> {
    /// Asks until the answer can be used.
    fn ask(&self) -> Result<Secret, InitError> {
        loop {
            let answer = match self.name.ends_with("_PASSWORD") {
                true => Secret::new(rpassword::prompt_password(format!("{}: ", self.text))?),
                false => Secret::new(prompt(self.text)?),
            };
            let text = answer.expose().trim();
            let wrong = match self.name {
                _ if text.is_empty() => Some("it must be given".to_owned()),
                "RABBITMQ_HOST" => {
                    BrokerAddress::parse(text).err().map(|error| format!("it {error}"))
                }
                "RODAN_HOST" => RodanAddress::parse(text).err().map(|error| format!("it {error}")),
                _ => None,
            };
            match wrong {
                None => return Ok(answer),
                Some(wrong) => complain(&format_args!("  {wrong}; once more, please")),
            }
        }
    }
}

fn prompt(text: &str) -> Result<String, InitError> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "{text}: ").and_then(|()| stderr.flush())?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::variables;

    #[test]
    fn no_password_comes_from_the_command_line() {
        let mut passwords = 0;
        for variable in variables() {
            let set = setting(&format!("{}=hunter2", variable.name));
            if variable.values == config::Values::Password {
                passwords += 1;
                let error = set.unwrap_err();
                assert_eq!(error.exit_code(), ExitCode::Usage);
                let error = error.to_string();
                assert!(error.contains(variable.name) && !error.contains("hunter2"), "{error}");
            } else {
                assert_eq!(set.unwrap(), (variable.name.to_owned(), "hunter2".to_owned()));
            }
        }
        assert!(passwords > 2, "the gateway's are among them");
    }

    #[test]
    fn an_address_has_tls_however_its_scheme_is_written() {
        for (broker, rodan, expected) in [
            ("amqps://rabbit", "https://rodan", false),
            ("AMQPS://rabbit", " HTTPS://rodan ", false),
            ("rabbit", "https://rodan", true),
            ("amqp://rabbit", "https://rodan", true),
            ("amqps://rabbit", "rodan:8000", true),
            // What can't be read is refused elsewhere.
            ("http://rabbit", "ftp://rodan", false),
        ] {
            let values = [("RABBITMQ_HOST", broker), ("RODAN_HOST", rodan)];
            let values = values.map(|(name, value)| (name.to_owned(), Secret::new(value)));
            assert_eq!(has_no_tls(&Values::from(values)), expected, "{broker} {rodan}");
        }
    }
}
