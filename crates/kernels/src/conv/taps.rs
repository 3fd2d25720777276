//! The layer with two channels out: too few for panels, so that all taps of a pixel are the
//! columns.

use rayon::prelude::*;

use super::super::direct::{AddTaps, Neighbourhoods, Pixels, ToPixels};
use super::super::engine::{Panels, Product, gradient, gradient_and_product, with_scratch};
use super::super::gemm::{Left, PANEL, Right, Size, multiply};
use super::super::image::Image;
use super::super::simd::{Kernel, Simd, dispatch};
use super::{Above, Below, Conv, Layer, Method};

/// What each pixel adds to its neighbours, then their sums.
pub(super) struct Taps;

/// Columns of a pixel's products.
fn depth(conv: &Conv) -> usize {
    (conv.kernel * conv.kernel * conv.output).next_multiple_of(PANEL)
}

impl Method for Taps {
    fn supports(&self, conv: &Conv) -> bool {
        let odd = !conv.kernel.is_multiple_of(2);
        let fits = depth(conv) <= 2 * PANEL && conv.inputs[0].is_multiple_of(PANEL);
        odd && fits && conv.inputs[1] == 0
    }

    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        const ROWS: usize = 16;
        let conv = layer.conv;
        let Image { values, height, width, channels: input, .. } = layer.image();
        let (output, depth) = (conv.output, depth(conv));
        let mut weights = conv.buffers.take(input * depth);
        weights.fill(0.0);
        for (row, values) in layer.kernel.chunks_exact(output).enumerate() {
            let (tap, i) = (row / input, row % input);
            weights[i * depth + tap * output..][..output].copy_from_slice(values);
        }
        let (kernel, relu) = (conv.kernel, conv.relu);
        let add = AddTaps { height, width, channels: output, kernel, depth, bias, relu };
        y.par_chunks_mut(height * width * output)
            .zip(values.par_chunks(height * width * input))
            .for_each(|(y, x)| {
                y.par_chunks_mut(ROWS * width * output).enumerate().for_each(|(strip, y)| {
                    let rows = strip * ROWS..((strip + 1) * ROWS).min(height);
                    let reach = add.reach(&rows);
                    let pixels = reach.len() * width;
                    with_scratch([pixels * depth], |[products]| {
                        dispatch(Products {
                            size: Size { m: pixels, n: depth, k: input },
                            left: Left {
                                values: &x[reach.start * width * input..],
                                row: input,
                                column: 1,
                            },
                            right: Right { values: &weights, row: depth, panel: PANEL },
                            products,
                        });
                        add.run(products, reach.start, rows, y);
                    });
                });
            });
        conv.buffers.give(weights);
    }

    /// A tap of a pixel's products went to one neighbour, so its gradient is that neighbour's: the
    /// gradients of all taps are the pixel's neighbourhood, turned by 180°.
    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let ((input, output), conv) = (layer.channels(), layer.conv);
        let (grid, depth, kernel) = (layer.grid(1), depth(conv), layer.kernel);
        let taps = conv.kernel * conv.kernel;
        let left = Pixels { image: layer.image(), depth: input };
        let right = Neighbourhoods { image: above.image, kernel: conv.kernel, depth };
        let sums = if conv.input_gradient {
            let weights = Panels::new(1, taps * output, input, &conv.buffers, |_, row, to| {
                let (tap, o) = (taps - 1 - row / output, row % output);
                for (i, value) in to.iter_mut().enumerate() {
                    *value = kernel[(tap * input + i) * output + o];
                }
            });
            let lowering = Neighbourhoods { depth: taps * output, ..right };
            let (height, width, gate) = (layer.extent.height, layer.extent.width, above.gates[0]);
            let raising =
                ToPixels { height, width, channels: input, bias: None, relu: false, gate };
            let product = Product { lowering, weights, raising };
            gradient_and_product(grid, &left, &right, 0, &product, below.x, &conv.buffers)
        } else {
            gradient(grid, &left, &right, 0, &conv.buffers)
        };
        let (products, bias) = sums.split_at(input * depth);
        for (row, to) in below.kernel.chunks_exact_mut(output).enumerate() {
            let (turned, i) = (taps - 1 - row / input, row % input);
            to.copy_from_slice(&products[i * depth + turned * output..][..output]);
        }
        // The middle tap's product stays at its pixel, so its gradients are the result's own.
        let middle = taps / 2 * output;
        below.bias.copy_from_slice(&bias[middle..middle + output]);
        conv.buffers.give(sums);
    }
}

struct Products<'a> {
    size: Size,
    left: Left<'a>,
    right: Right<'a>,
    products: &'a mut [f32],
}

impl Kernel for Products<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        multiply::<S, false>(self.size, self.left, self.right, self.products, false);
    }
}
