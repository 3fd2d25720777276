//! The line that starts `check` every five minutes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::config::crontab::{ENV_FILE, line, word};

const DEADLINE: Duration = Duration::from_secs(30);

/// Shows the line, or puts it into this account's crontab. `env_file` is the configuration where it
/// is another than `credentials.env` in `home`. Returns whole lines that say what was done.
pub(super) async fn offer(home: &Path, env_file: Option<&Path>, install: bool) -> String {
    let script = home.join("run_check");
    let line = line(&script, env_file, std::env::var("SSL_CERT_FILE").ok().as_deref());
    let by_hand = format!(
        "Add this line with crontab -e (or scrontab -e, where the site has it):\n  {line}\n"
    );
    if !install {
        return by_hand;
    }
    match add(&line, &script, env_file).await {
        Ok(true) => format!("The crontab starts it every five minutes now:\n  {line}\n"),
        Ok(false) => "The crontab starts it already.\n".to_owned(),
        Err(error) => format!("The crontab can't be changed: {error}\n{by_hand}"),
    }
}

/// Whether a crontab starts this script with this configuration.
fn starts(crontab: &str, script: &Path, env_file: Option<&Path>) -> bool {
    let (quoted, plain) = (word(script), script.to_string_lossy());
    let setting = env_file.map(|file| format!("{ENV_FILE}={} ", word(file)));
    crontab.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| {
        let has_file = match &setting {
            Some(setting) => line.contains(setting),
            None => !line.contains(ENV_FILE),
        };
        has_file && (line.contains(&quoted) || line.contains(&*plain))
    })
}

/// True when the line was added, false when the crontab already has one for this script and this
/// configuration.
async fn add(line: &str, script: &Path, env_file: Option<&Path>) -> Result<bool, String> {
    let listed = call(&["-l"], None).await?;
    // Without a crontab it fails, and says so in its own words.
    let mut text = if listed.status.success() {
        String::from_utf8(listed.stdout).map_err(|_| "it is not UTF-8".to_owned())?
    } else {
        let says = String::from_utf8_lossy(&listed.stderr).into_owned();
        if !says.contains("no crontab") {
            return Err(base::text::printable(&says, 200));
        }
        String::new()
    };
    if starts(&text, script, env_file) {
        return Ok(false);
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    let written = call(&["-"], Some(text)).await?;
    match written.status.success() {
        true => Ok(true),
        false => Err(base::text::printable(&String::from_utf8_lossy(&written.stderr), 200)),
    }
}

async fn call(arguments: &[&str], input: Option<String>) -> Result<std::process::Output, String> {
    let run = async {
        let mut command = Command::new("crontab");
        // It gets no password from the environment.
        let passed_on = ["PATH", "HOME", "USER", "LOGNAME"];
        let environment =
            passed_on.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        command.args(arguments).env_clear().envs(environment).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("crontab can't be run: {error}"))?;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).await.map_err(|error| error.to_string())?;
        }
        child.wait_with_output().await.map_err(|error| error.to_string())
    };
    tokio::time::timeout(DEADLINE, run).await.map_err(|_| "crontab does not answer".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_the_crontab() {
        for (script, env_file, certificates, expected) in [
            ("/home/me/run_check", None, None, "*/5 * * * * /home/me/run_check"),
            (
                "/my site/100%/run_check",
                None,
                Some("/ca.pem"),
                r"*/5 * * * * SSL_CERT_FILE=/ca.pem '/my site/100\%/run_check'",
            ),
            (
                "/home/me/run_check",
                Some("/etc/its own.env"),
                Some(""),
                "*/5 * * * * HPC_TRAINER_ENV_FILE='/etc/its own.env' /home/me/run_check",
            ),
        ] {
            let (script, env_file) = (Path::new(script), env_file.map(Path::new));
            let line = line(script, env_file, certificates);
            assert_eq!(line, expected);
            assert!(starts(&format!("@daily other\n{line}\n"), script, env_file), "{line}");
            assert!(!starts(&format!("# {line}\n"), script, env_file), "a comment starts nothing");
            assert!(!starts(&line, Path::new("/another/run_check"), env_file), "{line}");
            assert!(!starts(&line, script, Some(Path::new("/etc/another.env"))), "{line}");
        }
    }
}
