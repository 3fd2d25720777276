//! The scale of an axis: round numbers around the values to be shown.

/// An axis from `low` to `high` with a mark at each of `ticks`.
#[derive(Debug, PartialEq)]
pub(crate) struct Scale {
    /// Its lower end.
    pub(crate) low: f64,
    /// Its upper end, greater than `low`.
    pub(crate) high: f64,
    /// The marks, from low to high.
    pub(crate) ticks: Vec<f64>,
    /// Number of decimals that tells the marks apart.
    pub(crate) decimals: usize,
}

impl Scale {
    /// A scale around `values` with about `count` marks, from round number to round number. Values
    /// that are not finite are ignored.
    pub(crate) fn around(values: impl Iterator<Item = f64>, count: usize) -> Self {
        let finite = values.filter(|v| v.is_finite());
        let (low, high) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        // If all values are the same, some room is added above and below.
        let span = if high - low > 1e-9 * high.abs().max(1e-3) { high - low } else { high.abs().max(1e-3) };
        let step = round_step(span / count.max(1) as f64);
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let last = last.max(first + 1);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        Self {
            low: first as f64 * step,
            high: last as f64 * step,
            ticks: (first..=last).map(|n| n as f64 * step).collect(),
            decimals,
        }
    }

    /// A scale of whole numbers from 1 to `last`, with about `count` marks; both ends are marked.
    pub(crate) fn counting(last: usize, count: usize) -> Self {
        let last = last.max(1);
        let step = (round_step(last as f64 / count.max(1) as f64).ceil() as usize).max(1);
        let mut ticks = vec![1];
        ticks.extend((1..).map(|n| n * step).take_while(|n| *n < last).filter(|n| *n > step / 2 + 1));
        // The mark before the last would overlap it.
        if ticks.len() > 1 && ticks.last().is_some_and(|n| 2 * (last - n) < step) {
            ticks.pop();
        }
        ticks.push(last);
        ticks.dedup();
        let ticks: Vec<f64> = ticks.into_iter().map(|n| n as f64).collect();
        // A single epoch is drawn in the middle.
        let (low, high) = if last == 1 { (0.0, 2.0) } else { (1.0, last as f64) };
        Self { low, high, ticks, decimals: 0 }
    }

    /// Where a value lies on the scale, from 0 to 1.
    pub(crate) fn part(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// The next larger of 1, 2, 5 and 10 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(scale: &Scale) -> Vec<String> {
        scale.ticks.iter().map(|tick| format!("{tick:.*}", scale.decimals)).collect()
    }

    #[test]
    fn marks_are_round_and_enclose_what_is_shown() {
        let around = |values: &[f64]| Scale::around(values.iter().copied(), 4);
        assert_eq!(shown(&around(&[0.03, 0.69])), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(shown(&around(&[0.981, 0.99])), ["0.980", "0.985", "0.990"]);
        assert_eq!(shown(&around(&[0.0, f64::NAN, 1.0])), ["0.0", "0.5", "1.0"]);
        assert_eq!(shown(&around(&[3.0, 190.0, f64::INFINITY])), ["0", "50", "100", "150", "200"]);
        for values in [&[][..], &[f64::NAN], &[0.0], &[0.5, 0.5], &[1e-12], &[-2.0, -2.0]] {
            let scale = around(values);
            assert!(scale.high > scale.low && scale.ticks.len() >= 2, "{values:?}: {scale:?}");
            let inside = |v: f64| (scale.low..=scale.high).contains(&v);
            assert!(values.iter().all(|v| !v.is_finite() || inside(*v)), "{values:?}: {scale:?}");
        }
    }

    #[test]
    fn epochs_are_whole_and_both_ends_are_marked() {
        let counting = |last| shown(&Scale::counting(last, 6));
        assert_eq!(counting(1), ["1"]);
        assert_eq!(counting(2), ["1", "2"]);
        assert_eq!(counting(5), ["1", "2", "3", "4", "5"]);
        assert_eq!(counting(15), ["1", "5", "10", "15"]);
        for last in [7, 11, 21, 99, 1000, 1003, 10_000] {
            let scale = Scale::counting(last, 6);
            assert_eq!((scale.ticks.first(), scale.ticks.last()), (Some(&1.0), Some(&(last as f64))));
            assert!(scale.ticks.windows(2).all(|w| w[0] < w[1]) && scale.ticks.len() <= 9, "{scale:?}");
        }
        assert_eq!(Scale::counting(1, 6).part(1.0), 0.5);
        assert_eq!(Scale::counting(11, 6).part(6.0), 0.5);
    }
}
