//! Does the GPU compute what the CPU does? The same comparisons are made in the tests (on the twin,
//! and on a GPU where there is one), before every training on a GPU, and for
//! `run_trainer --check-gpu`.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device as Candle, Tensor};

use super::card::Card;
use super::engine::Engine;
use super::machine::{GpuError, Precision};
use super::pages::Pages;
use super::trainer::Trainer;
use crate::keras::{CONV_LAYERS, Weights};
use crate::net::adam::KerasAdam;
use crate::net::error::NetworkError;
use crate::net::init::initial_weights;
use crate::net::metrics::Tally;
use crate::net::network::Network;
use crate::page::page::Page;
use crate::patch::samples::{Place, Samples};
use domain::PatchShape;

/// One comparison.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was compared.
    pub what: String,
    /// How far the GPU's result is from the CPU's: the norm of the difference divided by the norm
    /// of the CPU's result.
    pub error: f64,
    /// The largest error that is accepted.
    pub bound: f64,
}

impl Finding {
    /// Whether the error is small enough; an error that is not a number never is.
    pub fn is_good(&self) -> bool {
        self.error <= self.bound
    }
}

/// How long the GPU takes.
#[derive(Clone, Copy, Debug)]
pub struct StepTime {
    /// Median seconds of a training step.
    pub step: f64,
    /// Seconds for a batch of validation.
    pub validation: f64,
    /// Bytes in use on the GPU.
    pub memory: usize,
    /// Seconds until the first step was done: taking memory, choosing algorithms.
    pub start: f64,
}

/// Seed of the networks that are compared: with it, both channels before the last layer are active.
const SEED: u64 = 3;

/// Adam steps that are compared.
const STEPS: usize = 5;

/// Bound for the changes that Adam's steps made: f32, up to the last bits.
const ADAM: f64 = 1e-4;

/// Bounds for (loss and logits, gradients).
///
/// f32: sums in another order, and single ReLUs that switch because of rounding. The others follow
/// from the width of the numbers (10 and 8 bits), with room for what a GPU does differently from
/// the twin. A wrong index or a missing term makes an error of 0.3 and more.
fn bounds(precision: Precision) -> [f64; 2] {
    match precision {
        Precision::F32 => [1e-4, 5e-3],
        Precision::Tf32 => [1e-2, 1e-1],
        Precision::Bf16 => [3e-2, 1.5e-1],
    }
}

fn relative(ours: &[f32], theirs: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let pairs = ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let difference = square(&mut pairs.clone().map(|(a, b)| a - b));
    let norm = square(&mut pairs.map(|(_, b)| b));
    let lengths = ours.len() == theirs.len();
    if !lengths {
        f64::NAN
    } else if norm == 0.0 {
        difference.sqrt()
    } else {
        (difference / norm).sqrt()
    }
}

/// Images with exact zeros, as inverted white paper has, and targets. For f32 the targets depend on
/// the image. The gradients of such targets are small differences of large sums, in which the
/// rounding of the shorter numbers would hide everything (errors of 0.3 in bfloat16). So for those
/// all targets are 0, and all pixels pull in the same direction.
fn batch(n: usize, height: usize, width: usize, precision: Precision) -> (Vec<f32>, Vec<f32>) {
    let values = |i: usize| if i % 5 < 2 { 0.0 } else { (i * 7919 % 256) as f32 / 255.0 };
    let images: Vec<f32> = (0..n * height * width * 3).map(values).collect();
    let vary = precision == Precision::F32;
    let target = |p: &[f32]| f32::from(u8::from(vary && p.iter().sum::<f32>() > 0.9));
    let targets = images.chunks_exact(3).map(target).collect();
    (images, targets)
}

/// The comparisons of one kind.
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: impl Into<String>, error: f64, bound: f64) {
        self.0.push(Finding { what: what.into(), error, bound });
    }
}

impl Card {
    /// Compares the GPU with the CPU: samples cut out of a page, logits, counts, loss, the
    /// gradients of all layers, and the weights after some steps.
    ///
    /// # Errors
    ///
    /// When one of the two can't compute at all.
    pub fn compare(&self) -> Result<Vec<Finding>, NetworkError> {
        let mut findings = Findings(Vec::new());
        self.compare_cuts(&mut findings)?;
        let weights = initial_weights(SEED)?;
        // A batch that is not full, and sides of different lengths.
        self.compare_network(&weights, (4, 3, 16, 20), &mut findings)?;
        Ok(findings.0)
    }

    /// As [`Self::compare`], but a large difference is an error.
    ///
    /// # Errors
    ///
    /// For the first large difference, or when the GPU can't compute at all.
    pub fn verify(&self) -> Result<(), NetworkError> {
        match self.compare()?.into_iter().find(|finding| !finding.is_good()) {
            None => Ok(()),
            Some(Finding { what, error, bound }) => {
                let text = format!("{what} by {error:.1e}, {bound:.0e} is allowed");
                Err(GpuError::Differs(text).into())
            }
        }
    }

    fn compare_network(
        &self,
        weights: &Weights,
        (room, n, height, width): (usize, usize, usize, usize),
        findings: &mut Findings,
    ) -> Result<(), NetworkError> {
        let [near, gradients] = bounds(self.precision());
        let (images, targets) = batch(n, height, width, self.precision());
        let x = Tensor::from_slice(&images, (n, height, width, 3), &Candle::Cpu)?;
        let y = Tensor::from_slice(&targets, (n, height, width, 1), &Candle::Cpu)?;
        let cpu = Network::new(weights)?;
        let mut card = Engine::new(&self.0, weights, (room, height, width), true)?;

        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let logits = values(&cpu.forward_logits(&x)?)?;
        card.take(&images, Some(&targets))?;
        findings.add("logits", relative(&card.logits()?, &logits), near);
        let mut tally = Tally::default();
        tally.add(&logits, &targets);
        card.take(&images, Some(&targets))?;
        card.reset_totals()?;
        card.count()?;
        let counted = Tally::from_totals(targets.len() as u64, card.totals()?);
        let figures = |tally: &Tally| {
            tally.metrics().map(|m| [m.loss as f32, m.accuracy as f32]).unwrap_or_default()
        };
        findings.add("validation's figures", relative(&figures(&counted), &figures(&tally)), near);

        let step = cpu.loss_and_gradients(&x, &y)?;
        card.take(&images, Some(&targets))?;
        card.backward()?;
        let (loss, found) = card.gradients()?;
        findings.add("loss", relative(&[loss], &[step.loss]), near);
        for (index, layer) in CONV_LAYERS.iter().enumerate() {
            let wanted = values(&step.gradients[index])?;
            let (kernel, bias) = wanted.split_at(layer.kernel_len());
            let (found_kernel, found_bias) = found[index].split_at(layer.kernel_len());
            findings.add(
                format!("{} kernel", layer.name),
                relative(found_kernel, kernel),
                gradients,
            );
            findings.add(format!("{} bias", layer.name), relative(found_bias, bias), gradients);
        }

        // Adam is fed with the GPU's own gradients: with the CPU's, a weight whose gradient is
        // nearly 0 could move the other way and hide what the optimiser itself does. Parameters and
        // moments are f32 in every precision.
        let mut adam = KerasAdam::new(cpu.parameters(), 1e-3)?;
        for number in 0..STEPS {
            if number > 0 {
                card.take(&images, Some(&targets))?;
                card.backward()?;
            }
            let (_, gradients) = card.gradients()?;
            let pairs = gradients.into_iter().zip(cpu.parameters());
            let gradients = pairs
                .map(|(values, parameter)| {
                    Tensor::from_vec(values, parameter.shape(), &Candle::Cpu)
                })
                .collect::<candle_core::Result<Vec<_>>>()?;
            adam.apply(&gradients)?;
            card.step(1e-3)?;
        }
        let all = |weights: &Weights| weights.tensors().concat();
        // Only the changes are compared; next to the weights that stayed the same they would not be
        // seen.
        let moved = |to: &Weights| -> Vec<f32> {
            all(to).iter().zip(all(weights)).map(|(to, from)| to - from).collect()
        };
        let (ours, wanted) = (moved(&card.weights()?), moved(&cpu.weights()?));
        findings.add(format!("Adam, change in {STEPS} steps"), relative(&ours, &wanted), ADAM);
        // The logits show that the next pass uses the new weights' kernels.
        let logits = values(&cpu.forward_logits(&x)?)?;
        card.take(&images, None)?;
        findings.add(
            format!("logits after {STEPS} steps"),
            relative(&card.logits()?, &logits),
            near,
        );
        Ok(())
    }

    fn compare_cuts(&self, findings: &mut Findings) -> Result<(), NetworkError> {
        let (height, width) = (20, 24);
        let samples = Corners { page: Arc::new(Page::made_up(70, 41)) };
        let order: Vec<usize> = (0..samples.len()).rev().collect();
        let mut engine = Engine::new(&self.0, &initial_weights(SEED)?, (8, height, width), true)?;
        let Some(cuts) = Pages::default().cuts(&self.0, &samples, &order)? else {
            return Err(GpuError::Differs("samples of a page have no place on it".into()).into());
        };
        let bound = if self.precision() == Precision::Bf16 { 4e-3 } else { 0.0 };
        for (name, first) in [("samples", 0), ("samples of a later batch", 3)] {
            let count = (order.len() - first).min(7);
            let (mut images, mut targets) = (Vec::new(), Vec::new());
            for &index in &order[first..first + count] {
                let (mut image, mut target) =
                    (vec![0.0; 3 * height * width], vec![0.0; height * width]);
                samples.write(index, &mut image, &mut target);
                images.extend(image);
                targets.extend(target);
            }
            engine.cut(&cuts, first, count)?;
            let (found, found_targets) = engine.input()?;
            // The whole batch is compared: images behind the samples are empty.
            images.resize(found.len(), 0.0);
            targets.resize(found_targets.len(), 0.0);
            findings.add(format!("{name}: images"), relative(&found, &images), bound);
            findings.add(format!("{name}: targets"), relative(&found_targets, &targets), 0.0);
        }
        Ok(())
    }

    /// Measures `steps` training steps of `images` samples of `side` × `side` pixels.
    ///
    /// # Errors
    ///
    /// When the GPU fails or has too little memory.
    pub fn measure(
        &self,
        images: usize,
        side: usize,
        steps: usize,
    ) -> Result<StepTime, NetworkError> {
        let began = Instant::now();
        let shape = PatchShape::new(side, side)
            .map_err(|_| NetworkError::Shape(vec![images, side, side, 3]))?;
        let samples =
            Many { corners: Corners { page: Arc::new(Page::made_up(4 * side, 4 * side)) }, shape };
        let weights = initial_weights(SEED)?;
        let mut trainer = Trainer::new(self, &weights, (images, side, side), 1e-4, None)?;
        let order: Vec<usize> = (0..images * (steps + 1)).collect();
        // Losses arrive at the GPU's pace: the time between two of them is the time of a step.
        let (mut last, mut start, mut times) = (Instant::now(), 0.0, Vec::with_capacity(steps));
        trainer.steps(&samples, &order, images, |_, loss| {
            if !loss.is_finite() {
                return Err(NetworkError::from(GpuError::Differs(format!("a loss of {loss}"))));
            }
            if start == 0.0 {
                start = began.elapsed().as_secs_f64();
            } else {
                times.push(last.elapsed().as_secs_f64());
            }
            last = Instant::now();
            Ok(true)
        })?;
        times.sort_by(f64::total_cmp);
        let memory = self.0.memory_used();
        let (began, batches) = (Instant::now(), steps.clamp(1, 20));
        trainer.evaluate(&samples, &order[..images * batches], images, &|| true)?;
        let validation = began.elapsed().as_secs_f64() / batches as f64;
        Ok(StepTime {
            step: times.get(times.len() / 2).copied().unwrap_or(0.0),
            validation,
            memory,
            start,
        })
    }
}

/// Samples inside of the page, at its edges, and varied in every way.
struct Corners {
    page: Arc<Page>,
}

/// Of each sample: upper left corner, exchanged sides, brightness.
const CORNERS: [(isize, isize, bool, bool, f32); 10] = [
    (5, 7, false, false, 0.0),
    (-3, -4, false, false, 0.0),
    (30, 60, false, false, 0.0),
    (-90, 200, false, false, 0.0),
    (5, 40, true, false, 0.0),
    (9, 33, false, true, 0.0),
    (-7, 61, true, true, 0.0),
    (0, 0, false, false, 0.25),
    (12, 13, true, false, -0.4),
    (21, 46, false, false, 0.0),
];

impl Samples for Corners {
    fn shape(&self) -> PatchShape {
        // 20 and 24 are multiples of 4.
        PatchShape::new(20, 24).unwrap_or(PatchShape::SMALLEST)
    }
    fn len(&self) -> usize {
        CORNERS.len()
    }
    fn place(&self, index: usize, (rows, columns): (isize, isize)) -> Option<Place<'_>> {
        let (top, left, left_right, up_down, lighter) = CORNERS[index];
        let (page, layer) = (&self.page, 0);
        Some(Place {
            page,
            layer,
            top: top + rows,
            left: left + columns,
            left_right,
            up_down,
            lighter,
        })
    }
    fn write_shifted(
        &self,
        index: usize,
        shift: (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    ) {
        if let Some(place) = self.place(index, shift) {
            place.write(self.shape(), image, target);
        }
    }
}

/// As many samples as are asked for.
struct Many {
    corners: Corners,
    shape: PatchShape,
}

impl Samples for Many {
    fn shape(&self) -> PatchShape {
        self.shape
    }
    fn len(&self) -> usize {
        usize::MAX
    }
    fn place(&self, index: usize, shift: (isize, isize)) -> Option<Place<'_>> {
        let place = self.corners.place(index % CORNERS.len(), shift)?;
        Some(Place { top: (index * 37 % 500) as isize, left: (index * 91 % 500) as isize, ..place })
    }
    fn write_shifted(
        &self,
        index: usize,
        shift: (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    ) {
        if let Some(place) = self.place(index, shift) {
            place.write(self.shape, image, target);
        }
    }
}
