//! Channels with a mean of 0 and a standard deviation of 1: how a start makes them, so that a
//! network tells pixels apart from its first step on.
//!
//! A page's pixels are much alike, and features behind a ReLU are never negative. So a channel with
//! random weights has a large mean and a small deviation: 0.43 and 0.28 on a drawn page, the
//! averages of all layers. What distinguishes pixels is then a small part of what each layer passes
//! on, and the first epochs go by until training has removed the rest. Instead each kernel is
//! divided by the deviation, and the bias subtracts the mean, layer by layer: a data-dependent
//! initialisation (Krähenbühl et al. 2016, "Data-dependent Initializations of Convolutional Neural
//! Networks"; Mishkin & Matas 2016, "All you need is a good init"). What that gains:
//! `docs/quality.md`.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, bail};

/// Deviations are taken as at least this, so that noise is not made large where a channel is the
/// same everywhere.
const LEAST_DEVIATION: f64 = 0.05;

/// The mean and the deviation of each channel of a layer, before its ReLU.
pub(crate) struct Channels {
    means: Vec<f32>,
    deviations: Vec<f32>,
}

impl Channels {
    /// Those of pixels with so many `channels`, one pixel after the other.
    pub(crate) fn of(pixels: &[f32], channels: usize) -> Self {
        let mut sums = vec![(0.0f64, 0.0f64); channels];
        for pixel in pixels.chunks_exact(channels) {
            for ((sum, squares), value) in sums.iter_mut().zip(pixel) {
                let value = f64::from(*value);
                *sum += value;
                *squares += value * value;
            }
        }
        let count = (pixels.len() / channels).max(1) as f64;
        let mean_and_deviation = |(sum, squares): (f64, f64)| {
            let mean = sum / count;
            let variance = squares / count - mean * mean;
            (mean as f32, variance.sqrt().max(LEAST_DEVIATION) as f32)
        };
        let (means, deviations) = sums.into_iter().map(mean_and_deviation).unzip();
        Self { means, deviations }
    }

    /// Changes a layer so that its channels have mean 0 and deviation 1 where they had these. The
    /// kernel's output channels follow one another (HWIO).
    pub(crate) fn fold(&self, kernel: &mut [f32], bias: &mut [f32]) {
        for row in kernel.chunks_exact_mut(self.deviations.len()) {
            row.iter_mut().zip(&self.deviations).for_each(|(weight, by)| *weight /= by);
        }
        for (bias, (mean, by)) in bias.iter_mut().zip(self.means.iter().zip(&self.deviations)) {
            *bias = (*bias - mean) / by;
        }
    }
}

/// What the changed layer makes of the same pixels, with its ReLU.
impl InplaceOp1 for Channels {
    fn name(&self) -> &'static str {
        "standardise"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("the pixels must be contiguous f32");
        };
        for pixel in values[start..end].chunks_exact_mut(self.means.len()) {
            let changes = self.means.iter().zip(&self.deviations);
            for (value, (mean, by)) in pixel.iter_mut().zip(changes) {
                *value = ((*value - mean) / by).max(0.0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_layer_has_mean_0_and_deviation_1() {
        // Two channels: 1 and 5; 7 everywhere.
        let pixels = [1.0, 7.0, 5.0, 7.0];
        let channels = Channels::of(&pixels, 2);
        assert_eq!(channels.means, [3.0, 7.0]);
        assert_eq!(channels.deviations, [2.0, 0.05]);
        // A 1x1 convolution that made these of the inputs 0 and 1, with biases of 1 and 7.
        let (mut kernel, mut bias) = ([4.0, 0.0], [1.0, 7.0]);
        channels.fold(&mut kernel, &mut bias);
        assert_eq!((kernel, bias), ([2.0, 0.0], [-1.0, 0.0]));
        let pixels = candle_core::Tensor::new(&pixels, &candle_core::Device::Cpu).unwrap();
        pixels.inplace_op1(&channels).unwrap();
        assert_eq!(pixels.to_vec1::<f32>().unwrap(), [0.0, 0.0, 1.0, 0.0]);
    }
}
