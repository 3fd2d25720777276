//! The doctor's report, for a terminal of 80 columns.

use std::fmt::Write as _;

use crate::doctor::{Grade, Report};
use base::text::wrap;

/// Width of the names; after them stands what was seen.
const NAME: usize = 17;
const SEEN: usize = 2 + 4 + 2 + NAME + 1;
/// The column in which the advice begins.
const ADVICE: usize = 8;

/// A line for each row, what to do below those that need it, and a summary.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut group = "";
    // Writing to a String can't fail.
    for row in &report.checks {
        if row.group != group {
            group = &row.group;
            let _ = writeln!(text, "{group}");
        }
        let verdict = match row.verdict {
            Grade::Pass => "pass",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
            Grade::Skipped => "skip",
        };
        let _ = write!(text, "  {verdict}  {:NAME$} ", row.name);
        let is_long = row.name.chars().count() > NAME;
        if is_long {
            let _ = write!(text, "\n{:SEEN$}", "");
        }
        wrap(&mut text, &row.seen, SEEN);
        if let Some(advice) = &row.advice {
            let _ = write!(text, "{:ADVICE$}", "      → ");
            wrap(&mut text, advice, ADVICE);
        }
    }
    let count = |verdict, one: &str, many: &str| match report.count(verdict) {
        1 => format!("1 {one}"),
        n => format!("{n} {many}"),
    };
    let _ = writeln!(
        text,
        "\n{}, {}, {}, {}.",
        count(Grade::Pass, "passed", "passed"),
        count(Grade::Warn, "warning", "warnings"),
        count(Grade::Fail, "failed", "failed"),
        count(Grade::Skipped, "skipped", "skipped"),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Row;

    #[test]
    fn the_report_as_a_table_and_as_json() {
        let row = |group: &str, name: &str, verdict, seen: &str, advice: Option<&str>| Row {
            group: group.into(),
            name: name.into(),
            verdict,
            seen: seen.into(),
            advice: advice.map(str::to_owned),
        };
        let wrong = "6 CPUs, 6000 MB, 0-06:00:00 (as the last job): Slurm would refuse it: invalid \
            partition specified: gqu";
        let checks = vec![
            row("RabbitMQ", "DNS", Grade::Pass, "rabbit.example.org is 192.0.2.7", None),
            row(
                "RabbitMQ",
                "TLS",
                Grade::Warn,
                "TLS 1.3, certificate good for 9 days, until 2026-12-01",
                Some("have the certificate of rabbit.example.org renewed"),
            ),
            row(
                "Slurm",
                "sbatch 128000 MB long",
                Grade::Fail,
                wrong,
                Some(
                    "check SITE_ACCOUNT, SITE_PARTITION, SITE_QOS, SITE_CONSTRAINT, SITE_GRES and \
                    SITE_GRES_TABLE",
                ),
            ),
            row("Slurm", "download", Grade::Skipped, "--no-download", None),
        ];
        let mut report = Report::new(checks);
        "login1".clone_into(&mut report.host);
        let text = render(&report);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!("table", text);
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&report).unwrap());
    }
}
