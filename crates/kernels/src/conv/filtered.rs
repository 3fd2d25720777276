//! 3×3 layers by Winograd's minimal filtering.

use super::super::engine::{Panels, Product, gradient, gradient_and_product};
use super::super::winograd::{
    Input, Output, OutputGradient, POINTS, SIDE, kernel_gradient, kernel_points,
};
use super::{Above, Below, Conv, Layer, Method, transposed};

/// Tiles of the image and of the kernel as points whose products are the convolution.
pub(super) struct Filtered;

impl Method for Filtered {
    fn supports(&self, conv: &Conv) -> bool {
        conv.kernel == 3
    }

    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        let ((input, output), kernel) = (layer.channels(), layer.kernel);
        let weights = Panels::new(POINTS, input, output, &layer.conv.buffers, |point, i, row| {
            let tap = |tap| &kernel[(tap * input + i) * output..][..output];
            kernel_points(point, tap, row);
        });
        let raising = Output {
            height: layer.extent.height,
            width: layer.extent.width,
            channels: [output, 0],
            bias: Some(bias),
            relu: layer.conv.relu,
            gates: [None; 2],
        };
        let lowering = Input { images: layer.images() };
        Product { lowering, weights, raising }.compute(layer.grid(SIDE), [y, &mut []]);
    }

    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let ((input, output), buffers) = (layer.channels(), &layer.conv.buffers);
        let grid = layer.grid(SIDE);
        let left = Input { images: layer.images() };
        let right = OutputGradient { image: above.image };
        let sums = if layer.conv.input_gradient {
            // The gradient of a `same` convolution is one with the kernel turned by 180°.
            let turned = transposed(layer.kernel, input, output, buffers);
            let weights = Panels::new(POINTS, output, input, buffers, |point, o, row| {
                let tap = |tap| &turned[((8 - tap) * output + o) * input..][..input];
                kernel_points(point, tap, row);
            });
            buffers.give(turned);
            let lowering = Input { images: [Some(above.image), None] };
            let raising = Output {
                height: layer.extent.height,
                width: layer.extent.width,
                channels: layer.conv.inputs,
                bias: None,
                relu: false,
                gates: above.gates,
            };
            let product = Product { lowering, weights, raising };
            gradient_and_product(grid, &left, &right, POINTS, &product, below.x, buffers)
        } else {
            gradient(grid, &left, &right, POINTS, buffers)
        };
        let (points, bias) = sums.split_at(POINTS * input * output);
        kernel_gradient(points, input * output, below.kernel);
        below.bias.copy_from_slice(&bias[..output]);
        buffers.give(sums);
    }
}
