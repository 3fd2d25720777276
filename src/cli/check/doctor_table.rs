//! The doctor's report, for a terminal of 80 columns.

use std::fmt::Write as _;

use super::table::wrap;
use crate::bridge::doctor::{Report, Verdict};

/// Width of the names, and where what was seen begins.
const NAME: usize = 17;
const SEEN: usize = 2 + 4 + 2 + NAME + 1;
/// Where the advice begins.
const ADVICE: usize = 8;

/// A line for each row, what to do below those that need it, and a sum.
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
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
            Verdict::Skipped => "skip",
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
        count(Verdict::Pass, "passed", "passed"),
        count(Verdict::Warn, "warning", "warnings"),
        count(Verdict::Fail, "failed", "failed"),
        count(Verdict::Skipped, "skipped", "skipped"),
    );
    text
}
