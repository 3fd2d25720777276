//! The weights that a start begins with: random ones, then changed so that the network tells pixels
//! apart from its first step on. Chance alone can make one that learns late or never.
//!
//! The network decides by two channels after a ReLU, one that speaks for the layer and one that
//! speaks against it. No gradient comes back through a channel that is silent. And where few pixels
//! belong to the layer, the first steps push all outputs down, which silences the channel that
//! speaks for it.
//!
//! - All channels before a ReLU get a mean of 0 and a deviation of 1 on some of the samples
//!   ([`standardise`](crate::net::standardise)).
//! - If a channel is silent for most of the pixels that it should speak for, it changes its sign:
//!   both signs are equally likely in the distribution that its kernel was drawn from.
//! - The last layer's two weights get a fixed size. The gradient of every kernel before it is
//!   multiplied by one of them: a network with small ones says the same of all pixels for epochs.
//! - The last bias starts at the logit of the layer's share of the pixels (Lin et al. 2017, "Focal
//!   loss for dense object detection", section 3.3), so that the first steps tell pixels apart
//!   instead of learning that share.

use candle_core::Tensor;

use crate::fit::outcome::FitError;
use crate::gpu::device::Device;
use crate::keras::{CONV_LAYERS, Weights};
use crate::look::predict::Predictor;
use crate::net::error::NetworkError;
use crate::net::init::initial_weights;
use crate::net::network::Network;
use crate::patch::samples::Samples;

/// Number of samples from which the layer's share of the pixels is estimated.
const SHARE_SAMPLES: usize = 256;

/// Most samples on which the channels are tried.
const CHANNEL_SAMPLES: usize = 16;

/// Longest side of what is taken of each of these samples for the channels' means and deviations,
/// pixels: at most as many pixels as in one patch of 256×256, for all of which the network's images
/// are in memory at a time.
const LONGEST_SIDE: usize = 64;

/// About how many pixels the channels are tried on at a time. A whole batch would need as much
/// memory again as the training step, whose memory is kept.
const TRIED_AT_A_TIME: usize = 1 << 14;

/// The share is taken as at least this, and at most 1 minus this.
const LEAST_SHARE: f64 = 0.01;

/// The size of the last layer's two weights: what Glorot's uniform distribution gives on average
/// for two inputs and one output, √(6 / 3) / 2. Of 0.35, 0.5, 0.7, 1.4 and 2.2 this one did best
/// (`docs/quality.md`).
const LAST_WEIGHT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// On how many of the pixels that a channel should speak for it is active.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Activity {
    /// Number of pixels that it should speak for: those of the layer if its weight is positive,
    /// else the others.
    pixels: u64,
    /// Number of these on which it is active.
    active: u64,
    /// Whether it is active on any pixel at all.
    anywhere: bool,
}

/// The weights to start with: [`initial_weights`], adapted to the samples.
///
/// # Errors
///
/// When the network can't be computed.
pub(crate) fn starting_weights(
    seed: u64,
    samples: &dyn Samples,
    device: &Device,
) -> Result<Weights, FitError> {
    let images = centres(samples)?;
    // On the CPU whatever the device is: the same weights for all.
    let weights = Network::new(&initial_weights(seed)?)?.standardised(&images)?;
    let activity = activity(&weights, samples, device)?;
    let mut tensors = weights.tensors().to_vec();
    let last = CONV_LAYERS.len() - 1;
    // The kernel and the bias of the two channels.
    for tensor in tensors.iter_mut().take(2 * last).skip(2 * (last - 1)) {
        for pair in tensor.chunks_exact_mut(2) {
            for (weight, channel) in pair.iter_mut().zip(activity) {
                if 2 * channel.active < channel.pixels {
                    *weight = -*weight;
                }
            }
        }
    }
    if let Some(weights) = tensors.get_mut(2 * last) {
        weights.iter_mut().for_each(|weight| *weight = LAST_WEIGHT.copysign(*weight));
    }
    if let Some(bias) = tensors.get_mut(2 * last + 1) {
        let share = share_of_the_layer(samples).clamp(LEAST_SHARE, 1.0 - LEAST_SHARE);
        bias.fill((share / (1.0 - share)).ln() as f32);
    }
    Ok(Weights::new(tensors)?)
}

/// True when the tried samples hold both kinds of pixels and one of the two channels is active on
/// none of them: it will never be active again.
///
/// # Errors
///
/// When the network can't be computed.
pub(crate) fn has_silent_channel(
    weights: &Weights,
    samples: &dyn Samples,
    device: &Device,
) -> Result<bool, FitError> {
    let channels = activity(weights, samples, device)?;
    Ok(channels.iter().all(|channel| channel.pixels > 0)
        && channels.iter().any(|channel| !channel.anywhere))
}

/// At most `most` sample numbers at equal distances, so that they come from all over the page.
fn spread(len: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = len.min(most);
    (0..count).map(move |n| n * len / count)
}

/// The middles of some samples, at most [`LONGEST_SIDE`] pixels high and wide.
fn centres(samples: &dyn Samples) -> Result<Tensor, NetworkError> {
    let shape = samples.shape();
    let [height, width] = [shape.height(), shape.width()].map(|side| side.min(LONGEST_SIDE));
    let (top, left) = ((shape.height() - height) / 2, (shape.width() - width) / 2);
    let (mut image, mut target) = (vec![0.0; 3 * shape.pixels()], vec![0.0; shape.pixels()]);
    let mut images = Vec::new();
    for index in spread(samples.len(), CHANNEL_SAMPLES) {
        samples.write(index, &mut image, &mut target);
        for row in image.chunks_exact(3 * shape.width()).skip(top).take(height) {
            images.extend_from_slice(&row[3 * left..][..3 * width]);
        }
    }
    let count = images.len() / (3 * height * width);
    Ok(Tensor::from_vec(images, (count, height, width, 3), &candle_core::Device::Cpu)?)
}

fn share_of_the_layer(samples: &dyn Samples) -> f64 {
    let pixels = samples.shape().pixels();
    let (mut image, mut target) = (vec![0.0; 3 * pixels], vec![0.0; pixels]);
    let (mut of_layer, mut all) = (0u64, 0u64);
    for index in spread(samples.len(), SHARE_SAMPLES) {
        samples.write(index, &mut image, &mut target);
        of_layer += target.iter().map(|t| u64::from(*t > 0.5)).sum::<u64>();
        all += pixels as u64;
    }
    of_layer as f64 / all.max(1) as f64
}

fn activity(
    weights: &Weights,
    samples: &dyn Samples,
    device: &Device,
) -> Result<[Activity; 2], FitError> {
    let last = weights.layer(CONV_LAYERS.len() - 1).0;
    let speaks_for_the_layer = |channel: usize| last.get(channel).is_some_and(|w| *w > 0.0);
    let mut predictor = Predictor::new(&only_channel(weights, 0)?, device)?;
    let first = activity_of(&predictor, speaks_for_the_layer(0), samples)?;
    predictor.set_weights(&only_channel(weights, 1)?)?;
    Ok([first, activity_of(&predictor, speaks_for_the_layer(1), samples)?])
}

/// The activity of the channel that this network computes; `positive` when it speaks for the layer.
fn activity_of(
    predictor: &Predictor,
    positive: bool,
    samples: &dyn Samples,
) -> Result<Activity, FitError> {
    let (height, width) = (samples.shape().height(), samples.shape().width());
    let pixels = samples.shape().pixels();
    let mut counted = Activity { pixels: 0, active: 0, anywhere: false };
    let indices: Vec<usize> = spread(samples.len(), CHANNEL_SAMPLES).collect();
    for indices in indices.chunks((TRIED_AT_A_TIME / pixels).max(1)) {
        let mut images = vec![0.0; indices.len() * 3 * pixels];
        let mut targets = vec![0.0; indices.len() * pixels];
        let parts = images.chunks_exact_mut(3 * pixels).zip(targets.chunks_exact_mut(pixels));
        for (index, (image, target)) in indices.iter().zip(parts) {
            samples.write(*index, image, target);
        }
        let values = predictor.logits(&images, height, width)?;
        for (value, target) in values.iter().zip(&targets) {
            let (active, meant) = (*value > 0.0, (*target > 0.5) == positive);
            counted.pixels += u64::from(meant);
            counted.active += u64::from(meant && active);
            counted.anywhere |= active;
        }
    }
    Ok(counted)
}

/// The network whose output, before the sigmoid, is one of the two channels.
fn only_channel(weights: &Weights, channel: usize) -> Result<Weights, FitError> {
    let mut tensors = weights.tensors().to_vec();
    let last = CONV_LAYERS.len() - 1;
    for tensor in tensors.iter_mut().skip(2 * last) {
        tensor.fill(0.0);
    }
    if let Some(weight) = tensors.get_mut(2 * last).and_then(|kernel| kernel.get_mut(channel)) {
        *weight = 1.0;
    }
    Ok(Weights::new(tensors)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::fit_tests::Rectangles;

    #[test]
    fn both_channels_speak_up_and_the_output_starts_at_the_share_of_the_layer() {
        let samples = Rectangles::new(12);
        let bias = (48.0f64 / 208.0).ln() as f32; // 6x8 of 16x16 pixels
        let mut changed = 0;
        for seed in 0..12 {
            let weights = starting_weights(seed, &samples, &Device::Cpu).unwrap();
            for channel in activity(&weights, &samples, &Device::Cpu).unwrap() {
                assert!(2 * channel.active >= channel.pixels, "seed {seed}: {channel:?}");
            }
            assert!((weights.layer(13).1[0] - bias).abs() < 1e-6);
            let drawn = initial_weights(seed).unwrap();
            for (ours, plain) in weights.layer(13).0.iter().zip(drawn.layer(13).0) {
                assert_eq!(*ours, 0.5f32.sqrt().copysign(*plain), "seed {seed}");
            }
            let images = centres(&samples).unwrap();
            let plain = Network::new(&drawn).unwrap().standardised(&images).unwrap();
            assert_eq!(weights.tensors()[..24], plain.tensors()[..24]);
            let [ours, plain] = [&weights, &plain].map(|w| w.tensors()[24..26].concat());
            assert!(ours.iter().zip(&plain).all(|(ours, plain)| ours.abs() == plain.abs()));
            changed += usize::from(ours != plain);
        }
        assert!(
            (1..12).contains(&changed),
            "some draws are fit as they are, others are not: {changed}"
        );
    }

    #[test]
    fn large_samples_are_looked_at_in_their_middle() {
        let mut samples = Rectangles::new(3);
        samples.side = 72;
        let images = centres(&samples).unwrap();
        assert_eq!(images.dims(), [3, 64, 64, 3]);
        let (mut image, mut target) = (vec![0.0; 3 * 72 * 72], vec![0.0; 72 * 72]);
        samples.write(1, &mut image, &mut target);
        let whole = Tensor::from_vec(image, (72, 72, 3), &candle_core::Device::Cpu).unwrap();
        let middle = whole.narrow(0, 4, 64).unwrap().narrow(1, 4, 64).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&images.get(1).unwrap()), values(&middle));
    }

    #[test]
    fn a_channel_that_is_dead_is_seen() {
        let samples = Rectangles::new(5);
        let silent =
            |weights: &Weights| has_silent_channel(weights, &samples, &Device::Cpu).unwrap();
        let weights = starting_weights(1, &samples, &Device::Cpu).unwrap();
        assert!(!silent(&weights));
        let tried: u64 =
            activity(&weights, &samples, &Device::Cpu).unwrap().iter().map(|c| c.pixels).sum();
        assert!(tried >= 5 * 16 * 16, "all samples count: {tried} pixels");
        let mut tensors = weights.tensors().to_vec();
        tensors[2 * 12 + 1][1] = -1e3;
        assert!(silent(&Weights::new(tensors).unwrap()));
    }

    #[test]
    fn a_layer_that_is_everywhere_or_nowhere_starts_with_a_finite_bias() {
        let weights = starting_weights(1, &Rectangles::empty(3), &Device::Cpu).unwrap();
        assert!((weights.layer(13).1[0] - (0.01f64 / 0.99).ln() as f32).abs() < 1e-6);
    }
}
