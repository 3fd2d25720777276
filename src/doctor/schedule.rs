//! Is `check` started by cron, and when did it last run?

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::row::{Row, Rows};
use super::trainer::output;
use crate::config::crontab::line;
use base::text::span;
use scheduler::{Kind, SiteConfig};

/// After this long without a pass, nobody gets an answer.
const LONG: Duration = Duration::from_secs(2 * 3600);
const SCRIPT: &str = "run_check";
/// The unit of `check --stay`, in `packaging/`.
const SERVICE: &str = "hpc-trainer-check";

/// True when systemd runs `check --stay` for this account.
async fn is_a_service() -> bool {
    let asked = Path::new("systemctl");
    output(asked, &["--user", "is-active", SERVICE]).await.is_ok_and(|said| said.trim() == "active")
}

pub(super) async fn rows(site: &SiteConfig, last_pass: Option<SystemTime>) -> Vec<Row> {
    let mut rows = Rows::new("schedule");
    let (cron, scron, service) = tokio::join!(
        output(Path::new("crontab"), &["-l"]),
        output(Path::new("scrontab"), &["-l"]),
        is_a_service(),
    );
    let found = [("crontab", cron), ("scrontab", scron)]
        .into_iter()
        .find_map(|(name, text)| Some((name, entry(&text.ok()?)?)));
    let env_file =
        site.env_file.as_deref().filter(|file| **file != *site.home.join("credentials.env"));
    let certificates = std::env::var("SSL_CERT_FILE").ok();
    let line = line(&site.home.join(SCRIPT), env_file, certificates.as_deref());
    let advice = format!("crontab -e, and add: {line}");
    match found {
        None if service => rows.pass("service", format!("{SERVICE} of this account is active")),
        None if site.scheduler != Kind::Slurm => rows.warn(
            "service",
            format!("no {SERVICE} of this account is active, and no crontab mentions {SCRIPT}"),
            format!(
                "systemctl --user enable --now {SERVICE} (docs/lab-host.md, As a service); or \
                {advice}"
            ),
        ),
        // The rest of the line may set variables, passwords among them.
        Some((name, when)) => rows.pass("cron", format!("{name} starts {SCRIPT}: {when}")),
        None => rows.warn(
            "cron",
            format!(
                "neither crontab nor scrontab of this account on this machine mentions {SCRIPT}"
            ),
            advice,
        ),
    }
    match last_pass.and_then(|at| at.elapsed().ok()) {
        Some(age) if age > LONG => rows.warn(
            "last pass",
            format!("{} ago", span(age)),
            if service {
                format!("journalctl --user -u {SERVICE} says why")
            } else {
                format!("look for cron's mail to this account, and run {SCRIPT} -v by hand")
            },
        ),
        Some(age) => rows.pass("last pass", format!("{} ago", span(age))),
        None => rows.skip("last pass", "there was none yet"),
    }
    rows.done()
}

/// When the script is started: the first five words of its line, or one that begins with @.
fn entry(crontab: &str) -> Option<String> {
    let mut lines = crontab.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| line.contains(SCRIPT))?;
    let words = if line.starts_with('@') { 1 } else { 5 };
    Some(line.split_whitespace().take(words).collect::<Vec<_>>().join(" "))
}

/// When the spool's lock was last taken, by a pass or by a command of the operator: whoever holds
/// it makes a file beside it, which changes the time of the directory. To be asked before anything
/// else is made there.
pub(super) fn last_pass(spool: &Path) -> Option<SystemTime> {
    spool.join("lock").exists().then(|| std::fs::metadata(spool).ok()?.modified().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_found_and_nothing_but_its_times_shown() {
        let text = "# */7 * * * * /old/run_check\nMAILTO=me\n*/5 * * * * RABBITMQ_PASSWORD=x \
            /home/me/run_check\n";
        assert_eq!(entry(text).as_deref(), Some("*/5 * * * *"));
        assert_eq!(entry("@hourly /home/me/run_check\n").as_deref(), Some("@hourly"));
        assert_eq!(entry("# run_check\n"), None);
    }
}
