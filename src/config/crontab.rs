//! The line of a crontab that starts `check`.

use std::path::Path;

use base::text::crontab_word;

/// The variable that names another configuration than `credentials.env` beside the script.
pub(crate) const ENV_FILE: &str = "HPC_TRAINER_ENV_FILE";

/// A path as a word of the crontab.
pub(crate) fn word(path: &Path) -> String {
    crontab_word(&path.to_string_lossy())
}

/// The line that starts `script` every five minutes. `env_file` is the configuration where it is
/// another than `credentials.env` beside the script, `certificates` what `SSL_CERT_FILE` is: cron
/// does not pass them on.
pub(crate) fn line(script: &Path, env_file: Option<&Path>, certificates: Option<&str>) -> String {
    let certificates = certificates.filter(|file| !file.is_empty());
    let variables =
        [(ENV_FILE, env_file.map(word)), ("SSL_CERT_FILE", certificates.map(crontab_word))];
    let set = variables.into_iter().filter_map(|(name, value)| Some(format!("{name}={} ", value?)));
    format!("*/5 * * * * {}{}", set.collect::<String>(), word(script))
}
