//! The line that starts `check` every five minutes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(30);

/// Shows the line, or puts it into this account's crontab. Returns whole lines that say what was
/// done.
pub(super) async fn offer(home: &Path, install: bool) -> String {
    let script = home.join("run_check");
    let line = line(&script, std::env::var("SSL_CERT_FILE").ok().as_deref());
    let by_hand =
        format!("Add this line with crontab -e (or scrontab -e, where the site has it):\n  {line}\n");
    if !install {
        return by_hand;
    }
    match add(&line, &script).await {
        Ok(true) => format!("The crontab starts it every five minutes now:\n  {line}\n"),
        Ok(false) => "The crontab starts it already.\n".to_owned(),
        Err(error) => format!("The crontab can't be changed: {error}\n{by_hand}"),
    }
}

/// The line of the crontab. A percent sign would end its command.
fn line(script: &Path, certificates: Option<&str>) -> String {
    let word = |text: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
        let quoted = if text.chars().all(plain) {
            text.to_owned()
        } else {
            format!("'{}'", text.replace('\'', r"'\''"))
        };
        quoted.replace('%', r"\%")
    };
    // Cron does not pass it on.
    let authority = certificates.filter(|file| !file.is_empty());
    let authority = authority.map_or_else(String::new, |file| format!("SSL_CERT_FILE={} ", word(file)));
    format!("*/5 * * * * {authority}{}", word(&script.to_string_lossy()))
}

/// True when the line was added, false when the crontab already has one for this script.
async fn add(line: &str, script: &Path) -> Result<bool, String> {
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
    let script = script.to_string_lossy();
    if text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(&*script)) {
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
        let environment = passed_on.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        command.args(arguments).env_clear().envs(environment).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("crontab can't be run: {error}"))?;
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
        assert_eq!(line(Path::new("/home/me/run_check"), None), "*/5 * * * * /home/me/run_check");
        assert_eq!(
            line(Path::new("/my site/100%/run_check"), Some("/ca.pem")),
            r"*/5 * * * * SSL_CERT_FILE=/ca.pem '/my site/100\%/run_check'"
        );
    }
}
