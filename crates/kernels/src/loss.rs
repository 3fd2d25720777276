//! Binary cross entropy from logits, its gradient and the counts from which the metrics come.
//!
//! Keras documents that probabilities are clipped to `[1e-7, 1 − 1e-7]`. That does not happen here,
//! as it does not in TensorFlow 2.15: where the last layer is a sigmoid, Keras computes the loss
//! from the logit before it (`sigmoid_cross_entropy_with_logits`). Measured: logit 30 with target 0
//! has loss 30 and gradient 1 in `fit` and `evaluate`, where the clip would give 15.4 and 0. So the
//! loss of a pixel is `max(x, 0) − x·y + ln(1 + e^−|x|)` and its gradient is `σ(x) − y`; both are
//! finite for every finite `x`.

use rayon::prelude::*;

/// Pixels in one partial sum: a fixed number, so that sums don't depend on the number of threads.
const PIXELS: usize = 16 * 1024;

/// Loss of one pixel.
#[inline]
pub fn pixel(logit: f32, target: f32) -> f32 {
    // Not `max`, which would turn a NaN into 0 and hide a diverged training.
    let positive = if logit < 0.0 { 0.0 } else { logit };
    positive - logit * target + (-logit.abs()).exp().ln_1p()
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
    out.par_chunks_mut(PIXELS)
        .zip(logits.par_chunks(PIXELS))
        .zip(targets.par_chunks(PIXELS))
        .for_each(|((out, x), y)| {
            for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
                *out = (sigmoid(x) - y) * scale;
            }
        });
}

/// `1 / (1 + e^−x)`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
