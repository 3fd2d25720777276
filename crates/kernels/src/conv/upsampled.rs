//! Nearest ×2 with a 2×2 convolution behind it, computed on the small image: 9/16 of the work.

use rayon::prelude::*;

use super::super::direct::ToPixels;
use super::super::engine::{Panels, Product, gradient, gradient_and_product};
use super::super::gemm::PANEL;
use super::super::upsample::{Differences, DifferencesGradient, Sums, SumsGradient, TAPS};
use super::{Above, Below, Conv, Layer, Method, transposed};

/// Sums of taps that meet the same small pixel.
pub(super) struct Upsampled;

impl Method for Upsampled {
    fn supports(&self, conv: &Conv) -> bool {
        let whole = |channels: usize| channels.is_multiple_of(PANEL);
        conv.kernel == 2 && whole(conv.inputs[0]) && whole(conv.output) && conv.inputs[1] == 0
    }

    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        let ((input, output), kernel) = (layer.channels(), layer.kernel);
        let weights = Panels::new(4, input, output, &layer.conv.buffers, |c, i, row| {
            sum_taps(TAPS[c], |tap| &kernel[(tap * input + i) * output..][..output], row);
        });
        let (height, width, relu) = (layer.extent.height, layer.extent.width, layer.conv.relu);
        let raising = Sums { height, width, channels: output, bias, relu };
        let lowering = Differences { image: layer.image() };
        Product { lowering, weights, raising }.compute(layer.grid(1), [y, &mut []]);
    }

    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let ((input, output), buffers) = (layer.channels(), &layer.conv.buffers);
        let grid = layer.grid(1);
        let left = Differences { image: layer.image() };
        let right = SumsGradient { image: above.image };
        let sums = if layer.conv.input_gradient {
            let turned = transposed(layer.kernel, input, output, buffers);
            let weights = Panels::new(1, 4 * output, input, buffers, |_, row, to| {
                let (c, o) = (row / output, row % output);
                sum_taps(TAPS[c], |tap| &turned[(tap * output + o) * input..][..input], to);
            });
            buffers.give(turned);
            let lowering = DifferencesGradient { sums: SumsGradient { image: above.image } };
            let (height, width, gate) = (layer.extent.height, layer.extent.width, above.gates[0]);
            let raising =
                ToPixels { height, width, channels: input, bias: None, relu: false, gate };
            let product = Product { lowering, weights, raising };
            gradient_and_product(grid, &left, &right, 0, &product, below.x, buffers)
        } else {
            gradient(grid, &left, &right, 0, buffers)
        };
        let (products, bias) = sums.split_at(4 * input * output);
        let pairs = input * output;
        below.kernel.par_chunks_mut(pairs).enumerate().for_each(|(tap, to)| {
            to.fill(0.0);
            for (product, taps) in products.chunks_exact(pairs).zip(TAPS) {
                if taps.contains(&tap) {
                    to.iter_mut().zip(product).for_each(|(t, p)| *t += p);
                }
            }
        });
        below.bias.copy_from_slice(&bias[..output]);
        buffers.give(sums);
    }
}

fn sum_taps<'a>(taps: &[usize], tap: impl Fn(usize) -> &'a [f32], row: &mut [f32]) {
    row.fill(0.0);
    for &t in taps {
        row.iter_mut().zip(tap(t)).for_each(|(r, k)| *r += k);
    }
}
