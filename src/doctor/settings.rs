//! The configuration: its file and its variables.

use std::io;
use std::path::Path;

use super::row::{Row, Rows};
use crate::config::{ConfigError, Examined, advice_for};

pub(super) fn rows(found: &Examined) -> Vec<Row> {
    let mut rows = Rows::new("configuration");
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match (&found.file, found.mode) {
        (None, _) => rows.warn(
            "credentials.env",
            format!(
                "there is none in {}: everything comes from the environment",
                found.home.display()
            ),
            "make one with: check init; jobs on compute nodes read nothing else",
        ),
        (Some(file), Some(mode)) if found.faults.is_empty() => {
            rows.pass(&name(file), format!("mode {mode:04o}, nobody else's: {}", file.display()));
        }
        (Some(file), _) => {
            for fault in &found.faults {
                file_fault(&mut rows, &name(file), fault);
            }
        }
    }
    for problem in &found.problems {
        let place = found.file.as_ref().map_or_else(|| "the environment".into(), |file| name(file));
        let seen = problem.what.clone().unwrap_or_else(|| "is not set".to_owned());
        rows.fail(problem.name, seen, format!("set it in {place}: it is {}", problem.purpose));
    }
    for name in &found.unknown {
        rows.warn(name, "is in the file and means nothing to these programs", place_of(name));
    }
    if found.problems.is_empty() {
        rows.pass("variables", "all six that must be set are, and none has a wrong value");
    }
    rows.done()
}

/// What to do with a variable that means nothing in the file.
fn place_of(name: &str) -> &'static str {
    match name {
        "HPC_TRAINER_HOME" | "HPC_TRAINER_ENV_FILE" | "SSL_CERT_FILE" | "SSL_CERT_DIR" => {
            "put it into the crontab line or run_check's environment: here nobody reads it"
        }
        name if name.starts_with("HPC_TRAINER_") => {
            "put it into site.sh beside hpc_training.sh: here nobody reads it"
        }
        _ => "compare its spelling with credentials.env.example",
    }
}

fn file_fault(rows: &mut Rows, name: &str, fault: &ConfigError) {
    match fault {
        ConfigError::Read { path, source } => {
            let advice = match source.kind() {
                io::ErrorKind::NotFound => {
                    "make it with: check init, or copy credentials.env.example and fill it in"
                }
                _ => advice_for(source),
            };
            rows.fail(name, format!("{} can't be read: {source}", path.display()), advice);
        }
        ConfigError::Permissions { path, mode } => {
            let seen = match mode & 0o022 {
                0 => format!("others may read the passwords in it (mode {mode:04o})"),
                _ => format!("others may write it (mode {mode:04o}); it is not read"),
            };
            rows.fail(
                name,
                seen,
                format!("chmod 600 {}; then change the passwords", path.display()),
            );
        }
        ConfigError::Owner { path, owner, own } => rows.fail(
            name,
            format!("it belongs to user {owner}, who could change it; it is not read"),
            format!("run as root: chown {own} {}", path.display()),
        ),
        ConfigError::Encoding { path } => rows.fail(
            name,
            format!("{} is no text in UTF-8; it is not read", path.display()),
            "save a copy as UTF-8 in an editor, and use that one",
        ),
        ConfigError::Syntax { line, fault, .. } => {
            rows.fail(name, format!("line {line} {fault}; it is left out"), fault.advice());
        }
        ConfigError::Variables(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_in_the_file_is_told_where_it_belongs() {
        for (name, place) in [
            ("SSL_CERT_FILE", "the crontab line"),
            ("HPC_TRAINER_HOME", "the crontab line"),
            ("HPC_TRAINER_ENV_FILE", "the crontab line"),
            ("HPC_TRAINER_SIMD", "site.sh"),
            ("HPC_TRAINER_CPU_PRECISION", "site.sh"),
            ("SITE_PARTITON", "spelling"),
        ] {
            assert!(place_of(name).contains(place), "{name}: {}", place_of(name));
        }
    }
}
