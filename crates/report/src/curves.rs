//! The curves of a layer as SVG inside the page: one chart for the losses, one for accuracy and F1.

use std::fmt::Write as _;

use domain::EpochReport;

use crate::escape::escape;
use crate::scale::Scale;

/// Size of a chart in its own units, which are pixels where it is not scaled.
const WIDTH: f64 = 380.0;
const HEIGHT: f64 = 230.0;
/// Where the plot begins and ends.
const LEFT: f64 = 46.0;
const RIGHT: f64 = 370.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 186.0;
/// With more epochs than this, their points would merge into one thick line.
const MOST_POINTS: usize = 60;

/// One curve.
struct Curve {
    name: &'static str,
    /// Which of the two styles of the page it has.
    class: &'static str,
    value: fn(&EpochReport) -> Option<f64>,
}

/// Both charts of a layer that the user calls `name`, as two `<svg>` elements: its losses, and what
/// its validation came to, epoch by epoch. `kept` is the epoch that was kept, or the best so far.
pub fn charts(name: &str, history: &[EpochReport], kept: usize) -> String {
    let losses = [
        Curve { name: "training", class: "a", value: |report| Some(report.training_loss) },
        Curve { name: "validation", class: "b", value: |report| report.validation.map(|m| m.loss) },
    ];
    let shares = [
        Curve {
            name: "accuracy",
            class: "a",
            value: |report| report.validation.map(|m| m.accuracy),
        },
        Curve { name: "F1", class: "b", value: |report| report.validation.map(|m| m.f1) },
    ];
    chart(name, "loss", &losses, history, kept) + &chart(name, "validation", &shares, history, kept)
}

fn chart(
    layer: &str,
    what: &str,
    curves: &[Curve],
    history: &[EpochReport],
    kept: usize,
) -> String {
    let mut svg = String::new();
    // Writing to a String can't fail.
    draw(&mut svg, layer, what, curves, history, kept).unwrap_or_default();
    svg
}

fn draw(
    svg: &mut String,
    layer: &str,
    what: &str,
    curves: &[Curve],
    history: &[EpochReport],
    kept: usize,
) -> std::fmt::Result {
    let values =
        history.iter().flat_map(|report| curves.iter().filter_map(|curve| (curve.value)(report)));
    let vertical = Scale::around(values, 4);
    // While a training goes on, not every epoch may be known.
    let last = history.iter().map(|report| report.epoch).max().unwrap_or_default();
    let horizontal = Scale::counting(last.max(history.len()), 6);
    let x = |epoch: f64| LEFT + (RIGHT - LEFT) * horizontal.part(epoch);
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * vertical.part(value);
    let names: Vec<_> = curves.iter().map(|curve| curve.name).collect();
    let title = format!("{layer}: {what} ({}) by epoch; epoch {kept} was kept", names.join(", "));
    let title = escape(&title);
    writeln!(
        svg,
        "<svg role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
        aria-label=\"{title}\"><title>{title}</title>"
    )?;
    for tick in &vertical.ticks {
        let (at, decimals) = (y(*tick), vertical.decimals);
        write!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>")?;
        writeln!(
            svg,
            "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{tick:.decimals$}</text>",
            LEFT - 6.0,
            at + 4.0
        )?;
    }
    for tick in &horizontal.ticks {
        writeln!(
            svg,
            "<text class=\"mid\" x=\"{:.1}\" y=\"{:.1}\">{tick}</text>",
            x(*tick),
            BOTTOM + 16.0
        )?;
    }
    writeln!(
        svg,
        "<text class=\"mid\" x=\"{:.1}\" y=\"{:.1}\">epoch</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 8.0
    )?;
    let at = x(kept as f64);
    writeln!(
        svg,
        "<path class=\"kept\" d=\"M{at:.1} {TOP}V{BOTTOM}\"><title>epoch {kept}, \
        kept</title></path>"
    )?;
    let mut legend = LEFT;
    writeln!(svg, "<text x=\"{legend}\" y=\"16\" class=\"what\">{what}</text>")?;
    legend += 76.0;
    for curve in curves {
        draw_curve(svg, curve, history, &x, &y)?;
        write!(svg, "<path class=\"{}\" d=\"M{legend:.0} 12h22\"/>", curve.class)?;
        writeln!(svg, "<text x=\"{:.0}\" y=\"16\">{}</text>", legend + 27.0, curve.name)?;
        // "validation" is the longest name.
        legend += 98.0;
    }
    write!(svg, "<path class=\"kept\" d=\"M{legend:.0} 5v14\"/>")?;
    writeln!(svg, "<text x=\"{:.0}\" y=\"16\">kept</text></svg>", legend + 6.0)
}

fn draw_curve(
    svg: &mut String,
    curve: &Curve,
    history: &[EpochReport],
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) -> std::fmt::Result {
    let points: Vec<(usize, f64)> = history
        .iter()
        .filter_map(|report| Some((report.epoch, (curve.value)(report).filter(|v| v.is_finite())?)))
        .collect();
    if points.len() > 1 {
        write!(svg, "<path class=\"{}\" d=\"", curve.class)?;
        for (index, (epoch, value)) in points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            write!(svg, "{command}{:.1} {:.1}", x(*epoch as f64), y(*value))?;
        }
        writeln!(svg, "\"/>")?;
    }
    for (epoch, value) in points.iter().filter(|_| points.len() <= MOST_POINTS) {
        writeln!(
            svg,
            "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"><title>epoch {epoch}: {} \
            {value:.4}</title></circle>",
            curve.class,
            x(*epoch as f64),
            y(*value),
            curve.name
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Metrics;

    fn report(epoch: usize, loss: f64, validation: Option<f64>) -> EpochReport {
        let metrics = |f1| Metrics { loss: 0.5, accuracy: 0.75, precision: f1, recall: f1, f1 };
        let validation = validation.map(metrics);
        EpochReport { epoch, training_loss: loss, validation, best: epoch == 2, seconds: 1.0 }
    }

    #[test]
    fn every_epoch_is_a_point_at_its_place() {
        let history =
            [report(1, 1.0, Some(0.0)), report(2, 0.0, Some(0.5)), report(3, 0.5, Some(1.0))];
        let svg = charts("Layer <0>", &history, 2);
        assert_eq!(svg.matches("<svg").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 12);
        assert!(
            svg.contains("Layer &lt;0&gt;: loss (training, validation) by epoch; epoch 2 was kept")
        );
        // The losses 1, 0, 0.5 on a scale from 0 to 1: top, bottom, middle.
        assert!(svg.contains("class=\"a\" d=\"M46.0 30.0L208.0 186.0L370.0 108.0\""), "{svg}");
        assert!(svg.contains("<title>epoch 3: F1 1.0000</title>"), "{svg}");
        assert!(svg.contains("class=\"kept\" d=\"M208.0 30V186\""), "{svg}");
    }

    #[test]
    fn an_epoch_that_is_not_known_leaves_its_place_free() {
        let history = [report(1, 1.0, None), report(2, 0.0, None), report(5, 0.5, None)];
        let svg = charts("Layer", &history, 2);
        assert!(svg.contains("class=\"a\" d=\"M46.0 30.0L127.0 186.0L370.0 108.0\""), "{svg}");
    }

    #[test]
    fn odd_histories_make_charts_too() {
        let unvalidated = [report(1, 0.5, None)];
        let svg = charts("Background", &unvalidated, 1);
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
        let infinite = [report(1, f64::INFINITY, None), report(2, f64::NAN, Some(0.5))];
        assert_eq!(charts("Background", &[], 0).matches("</svg>").count(), 2);
        let long: Vec<_> = (1..=5000).map(|n| report(n, 1.0 / n as f64, Some(0.5))).collect();
        let texts = [svg, charts("Background", &infinite, 2), charts("Background", &long, 9)];
        for svg in texts {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
