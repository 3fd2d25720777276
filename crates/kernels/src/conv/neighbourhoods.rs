//! The first layer: three channels, too few for panels, so that each pixel's neighbourhood is a
//! row.

use super::super::direct::{Neighbourhoods, Pixels, ToPixels};
use super::super::engine::{Panels, Product, gradient};
use super::{Above, Below, Conv, Layer, Method};

/// Neighbourhoods laid out as rows of a matrix.
pub(super) struct Lowered;

impl Method for Lowered {
    fn supports(&self, conv: &Conv) -> bool {
        conv.inputs[1] == 0 && !conv.input_gradient
    }

    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        let ((input, output), conv) = (layer.channels(), layer.conv);
        let rows = conv.kernel * conv.kernel * input;
        let weights = Panels::new(1, rows, output, &conv.buffers, |_, row, to| {
            to.copy_from_slice(&layer.kernel[row * output..(row + 1) * output]);
        });
        let (height, width, relu) = (layer.extent.height, layer.extent.width, conv.relu);
        let raising =
            ToPixels { height, width, channels: output, bias: Some(bias), relu, gate: None };
        let lowering = Neighbourhoods { image: layer.image(), kernel: conv.kernel, depth: rows };
        Product { lowering, weights, raising }.compute(layer.grid(1), [y, &mut []]);
    }

    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let ((input, output), conv) = (layer.channels(), layer.conv);
        let (kernel, buffers) = (conv.kernel, &conv.buffers);
        let left = Neighbourhoods { image: layer.image(), kernel, depth: kernel * kernel * input };
        let right = Pixels { image: above.image, depth: output };
        let sums = gradient(layer.grid(1), &left, &right, 0, buffers);
        let (kernel, bias) = sums.split_at(below.kernel.len());
        below.kernel.copy_from_slice(kernel);
        below.bias.copy_from_slice(&bias[..output]);
        buffers.give(sums);
    }
}
