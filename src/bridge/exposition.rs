//! Prometheus' text format, version 0.0.4, which node_exporter's textfile collector reads. (The
//! official crate writes OpenMetrics, where the head lines name counters differently.)

use std::fmt::{Display, Write as _};

use crate::ledger::Histogram;

/// Metrics as text, one family after the other.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family: its samples follow its head.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// A family of values that go up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// A family of values that only grow; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// A histogram of seconds; its name ends in `_seconds`.
    pub(super) fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        let family = self.family(name, "histogram", help);
        let text = family.text;
        // Writing to a String can't fail, here and below.
        for (bound, count) in histogram.cumulative() {
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let count = histogram.count();
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum {}\n{name}_count {count}", histogram.sum_seconds());
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// The family's only sample.
    pub(super) fn value(self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }

    /// One of several samples, told from the others by a label.
    pub(super) fn labelled(self, label: &str, of: &str, value: impl Display) -> Self {
        let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = writeln!(self.text, "{}{{{label}=\"{of}\"}} {value}", self.name);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_samples_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.gauge("a", "b\\c\nd").labelled("l", "q\"b\\n\n", 1).labelled("l", "", 2.5);
        exposition.counter("c_total", "e").value(3);
        let text = "# HELP a b\\\\c\\nd\n# TYPE a gauge\na{l=\"q\\\"b\\\\n\\n\"} 1\na{l=\"\"} 2.5\n\
                    # HELP c_total e\n# TYPE c_total counter\nc_total 3\n";
        assert_eq!(exposition.finish(), text);
    }
}
