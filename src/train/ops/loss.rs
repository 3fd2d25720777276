//! Binary cross entropy from logits, its gradient and the counts from which the metrics come.
//!
//! Keras clips the probability to `[1e-7, 1 − 1e-7]` before the logarithm. Seen from the logit `x` that is a clip
//! of `x` to ±[`CLIP`]: the loss of a pixel is `max(c, 0) − c·y + ln(1 + e^−|c|)` with the clipped `c`, and its gradient
//! is `σ(x) − y` inside and 0 outside, as TensorFlow's `clip_by_value` passes no gradient on. The one difference left:
//! near +[`CLIP`] f32 probabilities are multiples of 6e-8, so Keras's own loss is a coarse staircase there and ours the
//! smooth curve.

use rayon::prelude::*;

/// The logit of the largest probability Keras lets through, `ln((1 − 1e-7) / 1e-7)`.
pub(super) const CLIP: f32 = 16.118_095;

/// Pixels in one partial sum: fixed, so that sums don't depend on the number of threads.
const PIXELS: usize = 16 * 1024;

/// Loss of one pixel.
#[inline]
pub(crate) fn pixel(logit: f32, target: f32) -> f32 {
    // `clamp` keeps NaN.
    let c = logit.clamp(-CLIP, CLIP);
    let positive = if c < 0.0 { 0.0 } else { c };
    positive - c * target + (-c.abs()).exp().ln_1p()
}

/// Mean loss over all pixels.
pub(super) fn mean(logits: &[f32], targets: &[f32]) -> f32 {
    let parts: Vec<f64> = logits
        .par_chunks(PIXELS)
        .zip(targets.par_chunks(PIXELS))
        .map(|(x, y)| x.iter().zip(y).map(|(&x, &y)| f64::from(pixel(x, y))).sum())
        .collect();
    (parts.iter().sum::<f64>() / logits.len().max(1) as f64) as f32
}

/// Gradient of the mean loss with respect to the logits, times `scale`.
pub(super) fn gradient(logits: &[f32], targets: &[f32], scale: f32, out: &mut [f32]) {
    let scale = scale / logits.len().max(1) as f32;
    out.par_chunks_mut(PIXELS).zip(logits.par_chunks(PIXELS)).zip(targets.par_chunks(PIXELS)).for_each(
        |((out, x), y)| {
            for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
                *out = if x.abs() > CLIP { 0.0 } else { (sigmoid(x) - y) * scale };
            }
        },
    );
}

/// `1 / (1 + e^−x)`.
#[inline]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
