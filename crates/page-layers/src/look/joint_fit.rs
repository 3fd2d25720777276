//! Which adjustment of each network's logit makes the choice among the networks best: pure
//! functions of what the networks see in pixels that none of them has learned from.
//!
//! Each layer's network is trained by itself, against its own targets, on patches around its own
//! pixels. So one may be surer of everything than another, and takes its pixels. Here scale and
//! shift of all logits are fitted together.

use rayon::prelude::*;

use crate::keras::Adjustment;
use domain::Score;
use kernels::sigmoid;

/// So many pixels are added up at a time. Sums don't depend on the number of threads.
const PIECE: usize = 4096;

/// Most steps of the search.
const MOST_STEPS: usize = 80;

/// A step that lowers the loss by less than this share of it is the last.
const HARDLY_LOWER: f64 = 1e-6;

/// What it costs to be far from no adjustment, for each square of a shift or of a scale's
/// logarithm: so little that only what hardly helps is left undone.
const COST: f64 = 1e-4;

/// What the networks see in some pixels of one page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pixels {
    /// The networks of the layers that this page has, by their numbers, in ascending order.
    pub(crate) networks: Vec<usize>,
    /// For each pixel a logit of each of these networks.
    pub(crate) logits: Vec<f32>,
    /// For each pixel the layers that it is drawn in: a bit for each of these networks.
    pub(crate) drawn: Vec<u16>,
}

impl Pixels {
    /// Each pixel: its logits, and what it is drawn in.
    fn iter(&self) -> impl Iterator<Item = (&[f32], u16)> {
        self.logits.chunks_exact(self.networks.len().max(1)).zip(self.drawn.iter().copied())
    }

    /// Pieces of the pixels, as [`Self::iter`] has them.
    fn pieces(&self) -> impl IndexedParallelIterator<Item = (&[f32], &[u16])> {
        let width = self.networks.len().max(1);
        self.logits.par_chunks(PIECE * width).zip(self.drawn.par_chunks(PIECE))
    }

    /// Adds how many pixels are drawn in each network's layer.
    pub(crate) fn add_counts(&self, counts: &mut [u64]) {
        for (place, network) in self.networks.iter().enumerate() {
            counts[*network] +=
                self.drawn.iter().filter(|drawn| *drawn >> place & 1 == 1).count() as u64;
        }
    }
}

/// How well each layer is found in these pixels, if each goes to the most confident network, as in
/// [`Segmentation`](crate::Segmentation).
pub(crate) fn scores(pixels: &[&Pixels], adjustments: &[Adjustment]) -> Vec<Score> {
    let mut scores = vec![Score::default(); adjustments.len()];
    for of_page in pixels {
        for (logits, drawn) in of_page.iter() {
            let (mut surest, mut best) = (0, f32::NEG_INFINITY);
            for (place, (logit, network)) in logits.iter().zip(&of_page.networks).enumerate() {
                // As it is compared later, with all ties.
                let seen = sigmoid(adjustments[*network].of(*logit));
                if seen > best {
                    (surest, best) = (place, seen);
                }
            }
            for (place, network) in of_page.networks.iter().enumerate() {
                let score = &mut scores[*network];
                match (place == surest, drawn >> place & 1 == 1) {
                    (true, true) => score.hits += 1,
                    (true, false) => score.extra += 1,
                    (false, true) => score.missed += 1,
                    (false, false) => {}
                }
            }
        }
    }
    scores
}

/// Mean F1 of the layers that are drawn somewhere; 0 where none is.
pub(crate) fn mean_f1(scores: &[Score]) -> f64 {
    let drawn = scores.iter().filter(|score| score.hits + score.missed > 0);
    let (count, sum) = drawn.fold((0, 0.0), |(count, sum), score| (count + 1, sum + score.f1()));
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}

/// What is made as small as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Objective {
    /// Cross entropy of the softmax over a pixel's logits. A pixel counts by this power of the
    /// number of its layer's pixels: 0 is plain, with -0.5 a layer counts by the root of its
    /// number of pixels, with -1 all layers count alike.
    Entropy(f64),
    /// One minus the layers' mean F1, in which a pixel is shared among the layers by the softmax.
    SoftF1,
}

/// The adjustments of so many networks that are best by this objective. Those of networks that are
/// never seen beside another are [`Adjustment::NONE`] but for what is common to all.
///
/// What is common to all changes nothing, so that the mean of the shifts is 0, and the product of
/// the scales is 1.
pub(crate) fn fit(networks: usize, pixels: &[&Pixels], objective: Objective) -> Vec<Adjustment> {
    let fit = Fit::new(networks, pixels);
    let found = minimise(|at| fit.value(at, objective), vec![0.0; 2 * networks]);
    let (scales, shifts) = found.split_at(networks);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / networks.max(1) as f64;
    let common = mean(scales);
    let shift = mean(shifts);
    let made = |(scale, own): (&f64, &f64)| Adjustment {
        scale: (scale - common).exp(),
        shift: (-common).exp() * (own - shift),
    };
    scales.iter().zip(shifts).map(made).collect()
}

struct Fit<'a> {
    networks: usize,
    pixels: &'a [&'a Pixels],
    /// How many pixels are drawn in each layer.
    counts: Vec<u64>,
}

/// A sum over pixels: the value, and its derivative by each parameter (the logarithms of the
/// scales, then the shifts).
struct Sum {
    value: f64,
    slope: Vec<f64>,
}

impl Sum {
    fn new(length: usize) -> Self {
        Self { value: 0.0, slope: vec![0.0; length] }
    }

    fn plus(mut self, other: &Self) -> Self {
        self.value += other.value;
        self.slope.iter_mut().zip(&other.slope).for_each(|(sum, part)| *sum += part);
        self
    }
}

impl<'a> Fit<'a> {
    fn new(networks: usize, pixels: &'a [&'a Pixels]) -> Self {
        let mut counts = vec![0; networks];
        pixels.iter().for_each(|of_page| of_page.add_counts(&mut counts));
        Self { networks, pixels, counts }
    }

    /// The objective and its derivatives.
    fn value(&self, at: &[f64], objective: Objective) -> Sum {
        let mut sum = match objective {
            Objective::Entropy(power) => {
                let weight = |count: &u64| (*count.max(&1) as f64).powf(power);
                self.entropy(at, &self.counts.iter().map(weight).collect::<Vec<_>>())
            }
            Objective::SoftF1 => self.soft_f1(at),
        };
        for (value, slope) in at.iter().zip(&mut sum.slope) {
            sum.value += COST * value * value;
            *slope += 2.0 * COST * value;
        }
        sum
    }

    /// What the parameters stand for.
    fn scales_and_shifts<'p>(&self, at: &'p [f64]) -> (Vec<f64>, &'p [f64]) {
        let (logarithms, shifts) = at.split_at(self.networks);
        (logarithms.iter().map(|scale| scale.exp()).collect(), shifts)
    }

    /// Adds up `each(shares, place → network, drawn, derivatives by the shares' logits)`, which
    /// returns a pixel's part of the value.
    fn add_up(
        &self,
        at: &[f64],
        each: impl Fn(&[f64], &[usize], u16, &mut [f64]) -> f64 + Sync,
    ) -> Sum {
        let (scales, shifts) = self.scales_and_shifts(at);
        let mut all = Sum::new(at.len());
        for of_page in self.pixels {
            let networks = &of_page.networks;
            let piece = |(logits, drawn): (&[f32], &[u16])| {
                let mut sum = Sum::new(at.len());
                let (mut shares, mut slopes) =
                    (vec![0.0; networks.len()], vec![0.0; networks.len()]);
                for (logits, drawn) in logits.chunks_exact(networks.len().max(1)).zip(drawn) {
                    for ((share, logit), network) in shares.iter_mut().zip(logits).zip(networks) {
                        *share = scales[*network] * f64::from(*logit) + shifts[*network];
                    }
                    softmax(&mut shares);
                    slopes.fill(0.0);
                    sum.value += each(&shares, networks, *drawn, &mut slopes);
                    for ((slope, logit), network) in slopes.iter().zip(logits).zip(networks) {
                        sum.slope[*network] += slope * scales[*network] * f64::from(*logit);
                        sum.slope[self.networks + network] += slope;
                    }
                }
                sum
            };
            // Added in their order, whoever has computed them.
            let pieces: Vec<Sum> = of_page.pieces().map(piece).collect();
            all = pieces.iter().fold(all, Sum::plus);
        }
        all
    }

    /// Mean cross entropy, each pixel weighted as the layers that it is drawn in.
    fn entropy(&self, at: &[f64], weights: &[f64]) -> Sum {
        let all: f64 =
            self.counts.iter().zip(weights).map(|(count, weight)| *count as f64 * weight).sum();
        let all = all.max(f64::MIN_POSITIVE);
        self.add_up(at, |shares, networks, drawn, slopes| {
            let own = |place: usize| drawn >> place & 1 == 1;
            let count = f64::from(drawn.count_ones());
            if count == 0.0 {
                return 0.0;
            }
            let weight: f64 = networks
                .iter()
                .enumerate()
                .filter(|(p, _)| own(*p))
                .map(|(_, n)| weights[*n])
                .sum();
            let weight = weight / all;
            let mut value = 0.0;
            for (place, (share, slope)) in shares.iter().zip(slopes).enumerate() {
                let target = if own(place) { 1.0 / count } else { 0.0 };
                *slope = weight * (share - target);
                value -= weight * target * share.max(1e-300).ln();
            }
            value
        })
    }

    /// One minus the mean F1 of the shares.
    fn soft_f1(&self, at: &[f64]) -> Sum {
        // Hits, and pixels given, of each layer: the slopes have room for both.
        let found = {
            let mut found = Sum::new(2 * self.networks);
            let (scales, shifts) = self.scales_and_shifts(at);
            for of_page in self.pixels {
                let networks = &of_page.networks;
                let piece = |(logits, drawn): (&[f32], &[u16])| {
                    let mut sum = Sum::new(2 * self.networks);
                    let mut shares = vec![0.0; networks.len()];
                    for (logits, drawn) in logits.chunks_exact(networks.len().max(1)).zip(drawn) {
                        for ((share, logit), n) in shares.iter_mut().zip(logits).zip(networks) {
                            *share = scales[*n] * f64::from(*logit) + shifts[*n];
                        }
                        softmax(&mut shares);
                        for (place, (share, network)) in shares.iter().zip(networks).enumerate() {
                            if drawn >> place & 1 == 1 {
                                sum.slope[*network] += share;
                            }
                            sum.slope[self.networks + network] += share;
                        }
                    }
                    sum
                };
                let pieces: Vec<Sum> = of_page.pieces().map(piece).collect();
                found = pieces.iter().fold(found, Sum::plus);
            }
            found
        };
        let (hits, given) = found.slope.split_at(self.networks);
        let layers = self.counts.iter().filter(|count| **count > 0).count().max(1) as f64;
        let both: Vec<f64> =
            given.iter().zip(&self.counts).map(|(given, count)| given + *count as f64).collect();
        let is_drawn = |network: usize| self.counts[network] > 0;
        let mean: f64 = (0..self.networks)
            .filter(|network| is_drawn(*network))
            .map(|network| 2.0 * hits[network] / both[network])
            .sum::<f64>()
            / layers;
        let mut sum = self.add_up(at, |shares, networks, drawn, slopes| {
            // What the mean F1 gains if a layer gets all of this pixel.
            let mut expected = 0.0;
            for (place, (network, slope)) in networks.iter().zip(&mut *slopes).enumerate() {
                if is_drawn(*network) {
                    let own = if drawn >> place & 1 == 1 { 2.0 } else { 0.0 };
                    let both = both[*network];
                    *slope = (own - 2.0 * hits[*network] / both) / both / layers;
                    expected += shares[place] * *slope;
                }
            }
            for (share, slope) in shares.iter().zip(slopes) {
                *slope = -share * (*slope - expected);
            }
            0.0
        });
        sum.value = 1.0 - mean;
        sum
    }
}

/// Turns logits into shares whose sum is 1.
fn softmax(values: &mut [f64]) {
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter_mut().for_each(|value| *value = (*value - most).exp());
    let sum: f64 = values.iter().sum();
    values.iter_mut().for_each(|value| *value /= sum);
}

/// Where a smooth function is least, near `at`: BFGS (Nocedal & Wright, "Numerical Optimization",
/// chapter 6) with steps that are halved until they help.
fn minimise(value: impl Fn(&[f64]) -> Sum, mut at: Vec<f64>) -> Vec<f64> {
    let n = at.len();
    let mut here = value(&at);
    let unit = || -> Vec<Vec<f64>> {
        (0..n)
            .map(|row| (0..n).map(|column| f64::from(u8::from(row == column))).collect())
            .collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // An estimate of the inverse of the second derivatives.
    let mut inverse = unit();
    for _ in 0..MOST_STEPS {
        let mut way: Vec<f64> = inverse.iter().map(|row| -dot(row, &here.slope)).collect();
        if dot(&way, &here.slope) >= 0.0 {
            inverse = unit();
            way = here.slope.iter().map(|slope| -slope).collect();
        }
        // Logits change by some units at a time, not by hundreds.
        let longest = way.iter().fold(0.0, |longest: f64, part| longest.max(part.abs()));
        let mut step = if longest > 2.0 { 2.0 / longest } else { 1.0 };
        let descent = dot(&way, &here.slope);
        let next = loop {
            let there: Vec<f64> = at.iter().zip(&way).map(|(at, way)| at + step * way).collect();
            let sum = value(&there);
            if sum.value.is_finite() && sum.value <= here.value + 1e-4 * step * descent {
                break Some((there, sum));
            }
            step /= 2.0;
            if step < 1e-9 {
                break None;
            }
        };
        let Some((there, sum)) = next else { break };
        let moved: Vec<f64> = there.iter().zip(&at).map(|(there, at)| there - at).collect();
        let turned: Vec<f64> =
            sum.slope.iter().zip(&here.slope).map(|(there, here)| there - here).collect();
        let both = dot(&moved, &turned);
        if both > 1e-14 {
            let by_turned: Vec<f64> = inverse.iter().map(|row| dot(row, &turned)).collect();
            let factor = (1.0 + dot(&turned, &by_turned) / both) / both;
            for (row, of_row) in inverse.iter_mut().enumerate() {
                for (column, cell) in of_row.iter_mut().enumerate() {
                    *cell += factor * moved[row] * moved[column]
                        - (by_turned[row] * moved[column] + moved[row] * by_turned[column]) / both;
                }
            }
        }
        let lower = here.value - sum.value;
        let is_last = lower < HARDLY_LOWER * (here.value.abs() + HARDLY_LOWER);
        (at, here) = (there, sum);
        if is_last {
            break;
        }
    }
    at
}

#[cfg(test)]
#[path = "joint_fit_tests.rs"]
mod tests;
