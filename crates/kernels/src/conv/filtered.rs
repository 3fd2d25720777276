//! 3×3 layers by Winograd's minimal filtering.

use std::marker::PhantomData;

use super::super::engine::{Panels, gradient, product};
use super::super::winograd::{
    F2, F4, Filtering, Input, Output, OutputGradient, kernel_gradient, kernel_points, point_of_sums,
};
use super::{Above, Below, Conv, Layer, Method, transposed};

/// Filtering of the gradients: fewer products, rounding errors still below those that a batch's
/// choice makes.
type Back = F4;
const BACK_SIDE: usize = 4;
const BACK_POINTS: usize = 6;

/// Tiles of the image and of the kernel as points whose products are the convolution.
pub(super) struct Filtered;

impl Method for Filtered {
    fn supports(&self, conv: &Conv) -> bool {
        conv.kernel == 3
    }

    /// For training F(2, 3), which is as exact as the direct sum: it decides where ReLU and pooling
    /// switch. Nothing is decided from a prediction but which layer is surest: F(4, 3).
    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        if layer.conv.predicts {
            filter::<F4, 4, 6>(layer, bias, y);
        } else {
            filter::<F2, 2, 4>(layer, bias, y);
        }
    }

    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let ((input, output), buffers) = (layer.channels(), &layer.conv.buffers);
        let grid = layer.grid(BACK_SIDE);
        let left = Input { images: layer.images(), filtering: PhantomData::<Back> };
        let right = OutputGradient { image: above.image, filtering: PhantomData::<Back> };
        let sums = gradient(grid, &left, &right, point_of_sums(BACK_POINTS), buffers);
        let (points, bias) = sums.split_at(BACK_POINTS * BACK_POINTS * input * output);
        kernel_gradient::<Back, BACK_SIDE, BACK_POINTS>(points, input * output, below.kernel);
        below.bias.copy_from_slice(&bias[..output]);
        buffers.give(sums);
        if !layer.conv.input_gradient {
            return;
        }
        // The gradient of a `same` convolution is one with the kernel turned by 180°.
        let turned = transposed(layer.kernel, input, output, buffers);
        let weights =
            Panels::new(BACK_POINTS * BACK_POINTS, output, input, buffers, |point, o, row| {
                let tap = |tap| &turned[((8 - tap) * output + o) * input..][..input];
                kernel_points::<Back, BACK_SIDE, BACK_POINTS>(point, tap, row);
            });
        let lowering = Input { images: [Some(above.image), None], filtering: PhantomData::<Back> };
        let raising = Output {
            height: layer.extent.height,
            width: layer.extent.width,
            channels: layer.conv.inputs,
            bias: None,
            relu: false,
            gates: above.gates,
            filtering: PhantomData::<Back>,
        };
        product(grid, &lowering, &weights, &raising, below.x);
        drop(weights);
        buffers.give(turned);
    }
}

/// The result, computed in tiles of `M` × `M` pixels.
fn filter<F: Filtering<M, N>, const M: usize, const N: usize>(
    layer: &Layer<'_>,
    bias: &[f32],
    y: &mut [f32],
) {
    let ((input, output), kernel) = (layer.channels(), layer.kernel);
    let weights = Panels::new(N * N, input, output, &layer.conv.buffers, |point, i, row| {
        let tap = |tap| &kernel[(tap * input + i) * output..][..output];
        kernel_points::<F, M, N>(point, tap, row);
    });
    let lowering = Input { images: layer.images(), filtering: PhantomData::<F> };
    let raising = Output {
        height: layer.extent.height,
        width: layer.extent.width,
        channels: [output, 0],
        bias: Some(bias),
        relu: layer.conv.relu,
        gates: [None; 2],
        filtering: PhantomData::<F>,
    };
    product(layer.grid(M), &lowering, &weights, &raising, [y, &mut []]);
}
