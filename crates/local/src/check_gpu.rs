//! `--check-gpu`: does the GPU compute what the CPU computes, and how fast is it?

use std::fmt::Write as _;

use base::exit_code::ExitCode;
use page_layers::{Card, Finding, GpuError, NetworkError, Precision, StepTime, open_card};
use terminal::{Printed, complain, fail, print};

/// Samples in a measured step, their side in pixels, and the number of steps.
const MEASURED: (usize, usize, usize) = (16, 256, 50);

/// The results of one precision.
struct Row {
    precision: Precision,
    name: String,
    findings: Vec<Finding>,
    time: StepTime,
}

/// Compares and measures in every precision. Prints each result at once: a GPU that hangs leaves
/// those before it.
pub(crate) fn run(program: &str) -> ExitCode {
    let (images, side, _) = MEASURED;
    let mut good = true;
    let mut shown = false;
    let mut printed = Printed::Whole;
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        match Card::first_use(|| row(precision)).unwrap_or_else(|error| Err(error.into())) {
            // The GPU can't do what was asked for, and has said so.
            Ok(row) if row.precision != precision => {}
            Ok(row) => {
                let mut text = String::new();
                if !shown {
                    let name = &row.name;
                    let heading = heading();
                    text =
                        format!("{name}, steps of {images} patches of {side}x{side}\n{heading}\n");
                    shown = true;
                }
                good &= row.findings.iter().all(Finding::is_good);
                text.push_str(&table_row(&row));
                printed = match print(&text) {
                    Printed::Lost => Printed::Lost,
                    _ => printed,
                };
            }
            // This is the same in every precision.
            Err(NetworkError::Gpu(error @ (GpuError::Library(_) | GpuError::Version(_)))) => {
                return fail(program, ExitCode::Training, &format_args!("no usable GPU: {error}"));
            }
            Err(error) => {
                complain(&format_args!("{program}: {}: {error}", precision.name()));
                good = false;
            }
        }
    }
    printed.or(if good { ExitCode::Success } else { ExitCode::Training })
}

fn row(precision: Precision) -> Result<Row, NetworkError> {
    let card = open_card(Some(precision))?;
    let findings = card.compare()?;
    let (images, side, steps) = MEASURED;
    let time = card.measure(images, side, steps)?;
    Ok(Row { precision: card.precision(), name: card.name(), findings, time })
}

fn heading() -> &'static str {
    "        differs from the CPU by     ms a  ms a vali-  MB on  s to\nnumbers \
    gradients     Adam  good?   step  dation batch GPU   start"
}

/// The largest difference of each kind; below the row, whatever is too large.
fn table_row(row: &Row) -> String {
    let worst = |kind: &str| {
        let of_kind = row.findings.iter().filter(|finding| finding.what.contains(kind));
        of_kind.map(|finding| finding.error).fold(0.0, f64::max)
    };
    let bad: Vec<_> = row.findings.iter().filter(|finding| !finding.is_good()).collect();
    let mut text = format!(
        "{:<7} {:>9.1e} {:>8.1e}  {:<5} {:>6.2} {:>13.2} {:>5} {:>6.1}\n",
        row.precision.name(),
        worst("kernel").max(worst("bias")),
        worst("Adam"),
        if bad.is_empty() { "yes" } else { "NO" },
        1e3 * row.time.step,
        1e3 * row.time.validation,
        row.time.memory >> 20,
        row.time.start,
    );
    for Finding { what, error, bound } in bad {
        // Writing to a String can't fail.
        let _ = writeln!(text, "        {what}: {error:.1e}, {bound:.0e} is allowed");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_is_too_large_is_named_below_its_row() {
        let finding = |what: &str, error| Finding { what: what.into(), error, bound: 1e-3 };
        let time = StepTime { step: 0.00567, validation: 0.0012, memory: 3 << 30, start: 2.34 };
        let mut row = Row {
            precision: Precision::Bf16,
            name: "a card".into(),
            findings: vec![
                finding("conv2d_3 kernel", 2e-4),
                finding("Adam, change in 5 steps", 1e-5),
            ],
            time,
        };
        let text = table_row(&row);
        assert_eq!(text, "bf16       2.0e-4   1.0e-5  yes     5.67          1.20  3072    2.3\n");
        row.findings.push(finding("conv2d_4 bias", f64::NAN));
        let text = table_row(&row);
        assert!(
            text.contains("  NO ") && text.contains("conv2d_4 bias: NaN, 1e-3 is allowed"),
            "{text}"
        );
        assert!(heading().lines().chain(text.lines()).all(|line| line.len() <= 80));
    }
}
