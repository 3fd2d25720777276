//! How well predictions match targets, counted pixel by pixel.

use domain::Metrics;

use kernels::{pixel_loss, sigmoid};

/// Sums over pixels from which the metrics are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pixels: u64,
    true_positive: u64,
    false_positive: u64,
    false_negative: u64,
    loss: f64,
    probability: f64,
    probability_squared: f64,
}

impl Tally {
    /// Counts some pixels.
    pub(crate) fn add(&mut self, logits: &[f32], targets: &[f32]) {
        for (&logit, &target) in logits.iter().zip(targets) {
            let probability = sigmoid(logit);
            let (called, is) = (probability > 0.5, target > 0.5);
            self.true_positive += u64::from(called && is);
            self.false_positive += u64::from(called && !is);
            self.false_negative += u64::from(!called && is);
            self.loss += f64::from(pixel_loss(logit, target));
            self.probability += f64::from(probability);
            self.probability_squared += f64::from(probability) * f64::from(probability);
        }
        self.pixels += logits.len().min(targets.len()) as u64;
    }

    /// The counts of a GPU on `pixels` pixels: true positives, false positives, false negatives,
    /// and the sums of loss, probabilities and their squares.
    pub(crate) fn from_totals(pixels: u64, totals: [f64; 6]) -> Self {
        // Counts are whole numbers below 2^53: exact in f64.
        let [true_positive, false_positive, false_negative] = [0, 1, 2].map(|i| totals[i] as u64);
        let [loss, probability, probability_squared] = [totals[3], totals[4], totals[5]];
        Self {
            pixels,
            true_positive,
            false_positive,
            false_negative,
            loss,
            probability,
            probability_squared,
        }
    }

    /// The metrics; `None` before the first pixel.
    pub(crate) fn metrics(&self) -> Option<Metrics> {
        let share =
            |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let wrong = self.false_positive + self.false_negative;
        let precision = share(self.true_positive, self.true_positive + self.false_positive);
        let recall = share(self.true_positive, self.true_positive + self.false_negative);
        (self.pixels > 0).then(|| Metrics {
            loss: self.loss / self.pixels as f64,
            accuracy: share(self.pixels - wrong, self.pixels),
            precision,
            recall,
            f1: share(2 * self.true_positive, 2 * self.true_positive + wrong),
        })
    }

    /// Whether the targets hold both values.
    pub(crate) fn targets_vary(&self) -> bool {
        let positive = self.true_positive + self.false_negative;
        positive > 0 && positive < self.pixels
    }

    /// True when the output says nothing about the image: its standard deviation is less than
    /// `flat` although the targets vary, and its loss is no better than that of the base rate.
    ///
    /// The ReLU of the two-channel layer before the last can die for all pixels. Then every logit
    /// is the last bias, and no gradient reaches the kernels again.
    pub(crate) fn learned_nothing(&self, flat: f64) -> bool {
        if !self.targets_vary() {
            return false;
        }
        let pixels = self.pixels as f64;
        let mean = self.probability / pixels;
        let deviation = (self.probability_squared / pixels - mean * mean).max(0.0).sqrt();
        deviation < flat && self.loss / pixels >= 0.995 * self.base_rate_loss()
    }

    /// True when the loss is no better than that of a constant output, one that knows only the
    /// layer's share of the pixels.
    ///
    /// Where the ReLU of the two-channel layer has died for only one of the two kinds of pixels,
    /// those stay near a probability of 0.5. The output then varies and the accuracy can be high,
    /// but when several networks compete for a pixel, such pixels go to the wrong one.
    pub(crate) fn is_no_better_than_the_base_rate(&self) -> bool {
        self.targets_vary() && self.loss / self.pixels as f64 >= self.base_rate_loss()
    }

    /// True when a constant output would be right for as many pixels, or the loss is
    /// [no better than the base rate's](Self::is_no_better_than_the_base_rate): then the accuracy
    /// says nothing about what was learned.
    pub(crate) fn is_accurate_by_chance(&self) -> bool {
        let positive = self.true_positive + self.false_negative;
        let right = self.pixels - self.false_positive - self.false_negative;
        self.is_no_better_than_the_base_rate()
            || (self.targets_vary() && right <= positive.max(self.pixels - positive))
    }

    /// Entropy of the targets, in nats per pixel.
    fn base_rate_loss(&self) -> f64 {
        let rate = (self.true_positive + self.false_negative) as f64 / self.pixels as f64;
        -(rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_stays_undecided_about_most_pixels_is_no_better_than_the_base_rate() {
        let targets: Vec<f32> = (0..100).map(|i| if i < 5 { 1.0 } else { 0.0 }).collect();
        let undecided: Vec<f32> =
            targets.iter().map(|t| if *t > 0.5 { 3.0 } else { -0.1 }).collect();
        let mut tally = Tally::default();
        tally.add(&undecided, &targets);
        assert_eq!(tally.metrics().map(|m| m.accuracy), Some(1.0));
        assert!(tally.is_no_better_than_the_base_rate() && !tally.learned_nothing(0.02));
        let mut tally = Tally::default();
        tally.add(&targets.iter().map(|t| 6.0 * t - 3.0).collect::<Vec<_>>(), &targets);
        assert!(!tally.is_no_better_than_the_base_rate() && !tally.is_accurate_by_chance());
        // It has begun to tell the pixels apart, but calls none positive yet.
        let mut tally = Tally::default();
        tally.add(&targets.iter().map(|t| t - 3.0).collect::<Vec<_>>(), &targets);
        assert!(!tally.is_no_better_than_the_base_rate() && tally.is_accurate_by_chance());
    }

    #[test]
    fn metrics_are_those_of_a_small_table() {
        let mut tally = Tally::default();
        assert_eq!(tally.metrics(), None);
        // One true positive, one false positive, one false negative, two true negatives.
        tally.add(&[2.0, 2.0, -2.0, -2.0, 0.0], &[1.0, 0.0, 1.0, 0.0, 0.0]);
        let metrics = tally.metrics().unwrap();
        assert_eq!((metrics.precision, metrics.recall, metrics.f1), (0.5, 0.5, 0.5));
        assert!((metrics.accuracy - 0.6).abs() < 1e-12);
        assert!(!tally.learned_nothing(0.02));
    }

    #[test]
    fn only_a_constant_output_for_varied_targets_has_learned_nothing() {
        let mut constant = Tally::default();
        constant.add(&[0.1; 8], &[1., 0., 1., 0., 1., 0., 1., 0.]);
        assert!(constant.learned_nothing(1e-5));
        let mut nothing_to_learn = Tally::default();
        nothing_to_learn.add(&[-5.0; 8], &[0.0; 8]);
        assert!(!nothing_to_learn.learned_nothing(0.02));
    }
}
