//! `check purge`: room on the disk.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::caller::Caller;
use super::fail::fail;
use crate::bridge::operator::{self, Item, Purged};
use base::exit_code::ExitCode;
use base::text::{file_size, printable, span};
use scheduler::SiteConfig;
use terminal::print;

/// The least age. A message that RabbitMQ delivers again is recognised by its record, so young
/// records must stay.
const LEAST: Duration = Duration::from_secs(3600);

/// Remove what is left of answered jobs, with their logs, and old rejected messages
///
/// Open jobs and unknown files stay.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How long ago they were answered or rejected at least: 30d, 12h; one hour is the least
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Duration,
    /// Show what would be removed; remove nothing
    #[arg(long)]
    dry_run: bool,
}

fn age(text: &str) -> Result<Duration, String> {
    let number = |unit: char| text.strip_suffix(unit)?.parse::<u32>().ok().map(u64::from);
    let seconds =
        number('d').map(|days| days * 86_400).or_else(|| number('h').map(|hours| hours * 3600));
    let age = seconds.map(Duration::from_secs).ok_or("give days or hours, as in 30d or 12h")?;
    if age < LEAST {
        return Err("one hour (1h) is the least".to_owned());
    }
    Ok(age)
}

pub(super) async fn run(arguments: &Arguments, caller: &Caller<'_>) -> ExitCode {
    let config = match caller.config() {
        Ok(config) => config,
        Err(code) => return code,
    };
    match operator::purge(&config, arguments.older, arguments.dry_run).await {
        Ok(Purged::Items(items)) => {
            let failed = items.iter().any(|item| item.error.is_some());
            let code = if failed { ExitCode::Spool } else { ExitCode::Success };
            let printed = print(&render(&items, &config.site, arguments.dry_run));
            // What is removed is removed; what would be is all that was asked for.
            if arguments.dry_run { printed.or(code) } else { code }
        }
        Ok(Purged::Busy(who)) => {
            fail(ExitCode::Spool, &format!("another check is at work ({who}); nothing done"))
        }
        Err(error) => fail(error.exit_code(), &error),
    }
}

fn render(items: &[Item], site: &SiteConfig, dry_run: bool) -> String {
    if items.is_empty() {
        return "There is nothing that old.\n".to_owned();
    }
    let mut text = String::new();
    for item in items {
        let name = printable(&relative(&item.path, site).to_string_lossy(), 300);
        let error = item.error.as_ref().map_or_else(String::new, |e| format!("  not removed: {e}"));
        // Writing to a String can't fail.
        let _ =
            writeln!(text, "{:>9}  {:>5}  {name}{error}", file_size(item.bytes), span(item.age));
    }
    let removed = items.iter().filter(|item| item.error.is_none());
    let bytes = removed.clone().map(|item| item.bytes).sum();
    let what = if dry_run { "would be removed" } else { "removed" };
    let _ = writeln!(
        text,
        "{:>9}  {what} in all ({} of {})",
        file_size(bytes),
        removed.count(),
        items.len()
    );
    text
}

/// The path, relative to the spool or to the directory of the logs.
fn relative<'a>(path: &'a Path, site: &SiteConfig) -> &'a Path {
    path.strip_prefix(&site.spool).or_else(|_| path.strip_prefix(&site.logs)).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_days_or_hours() {
        let seconds = |text: &str| age(text).map(|age| age.as_secs());
        assert_eq!((seconds("30d"), seconds("1h")), (Ok(2_592_000), Ok(3600)));
        for wrong in ["", "30", "d", "0h", "0d", "-1d", "1.5d", "30m", "99999999999d", "1 d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
