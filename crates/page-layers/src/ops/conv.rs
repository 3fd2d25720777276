//! Convolution with bias and ReLU on the CPU: which method computes each layer, and its gradients.
//!
//! Parameters are one matrix of shape `[k · k · in + 1, out]`: the kernel in Keras's order (HWIO),
//! and the bias as the last row. candle's custom operations take at most three tensors; with one
//! for the parameters, two are left for the halves of a concatenation.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::buffers::Buffers;
use super::direct::{AddTaps, Neighbourhoods, Pixels, TapGradients, ToPixels};
use super::engine::{Grid, Panels, gradient, product, with_scratch};
use super::gemm::{Left, PANEL, Right, Size, multiply};
use super::image::Image;
use super::pointwise;
use super::simd::{Kernel, Simd, dispatch};
use super::upsample::{Differences, DifferencesGradient, Sums, SumsGradient, TAPS};
use super::winograd::{F2, F4, Input, Output, OutputGradient, kernel_gradient, kernel_points, point_of_sums};

/// The Winograd filtering of 3×3 layers in the forward pass. It is as exact as the direct sum,
/// which matters because rounding decides where ReLU and pooling switch.
type Forward = F2;
const FORWARD_SIDE: usize = 2;
const FORWARD_POINTS: usize = 4;

/// The filtering of the gradients: fewer products. Its rounding errors are smaller than the
/// differences between two random batches.
type Back = F4;
const BACK_SIDE: usize = 4;
const BACK_POINTS: usize = 6;

/// One convolution, `same` padding as TensorFlow pads, stride 1.
#[derive(Clone, Debug)]
pub struct Conv {
    pub(super) kernel: usize,
    pub(super) inputs: [usize; 2],
    pub(super) output: usize,
    pub(super) relu: bool,
    pub(super) upsample: bool,
    pub(super) input_gradient: bool,
    pub(super) buffers: Buffers,
}

/// Batch size, height and width in pixels of a convolution's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Extent {
    fn pixels(self) -> usize {
        self.batch * self.height * self.width
    }
}

/// Whose derivative of ReLU the gradients contain.
#[derive(Clone, Copy)]
pub(super) enum Rectified<'a> {
    /// The gradient passed in is that of the layer's result (given here), and the gradients
    /// returned are those of its inputs.
    Here(&'a [f32]),
    /// The gradient passed in is already that of the result before its ReLU, and the gradients
    /// returned are those before the ReLUs of the inputs: 0 where an input, which is a ReLU's
    /// result, is not positive. So the layer's result is not read again, and needs no memory in the
    /// backward pass.
    Ahead,
}

/// The gradients of a convolution, in vectors of a [`Buffers`], which may be longer than needed.
pub(super) struct Gradients {
    pub(super) inputs: [Option<Vec<f32>>; 2],
    pub(super) parameters: Vec<f32>,
}

enum Method {
    Winograd,
    Upsample,
    Neighbourhoods,
    Taps,
    Pointwise,
}

impl Conv {
    /// Channels in, both inputs together.
    pub(super) fn input(&self) -> usize {
        self.inputs[0] + self.inputs[1]
    }

    fn kernel_len(&self) -> usize {
        self.kernel * self.kernel * self.input() * self.output
    }

    fn method(&self) -> Method {
        match self.kernel {
            _ if self.upsample => Method::Upsample,
            1 => Method::Pointwise,
            _ if !self.output.is_multiple_of(PANEL) => Method::Taps,
            _ if !self.inputs.iter().all(|c| c.is_multiple_of(PANEL)) => Method::Neighbourhoods,
            _ => Method::Winograd,
        }
    }

    /// Whether the kernels in this folder can compute this convolution.
    pub(super) fn supported(&self) -> bool {
        let whole = |channels: usize| channels.is_multiple_of(PANEL);
        match self.method() {
            Method::Upsample => {
                self.kernel == 2 && whole(self.inputs[0]) && whole(self.output) && self.inputs[1] == 0
            }
            Method::Winograd => self.kernel == 3,
            Method::Neighbourhoods => self.inputs[1] == 0 && !self.input_gradient,
            Method::Taps => self.inputs[1] == 0 && self.taps_depth() <= 2 * PANEL && whole(self.inputs[0]),
            Method::Pointwise => self.inputs[1] == 0,
        }
    }

    fn taps_depth(&self) -> usize {
        (self.kernel * self.kernel * self.output).next_multiple_of(PANEL)
    }

    fn grid(&self, extent: Extent, winograd_side: usize) -> Grid {
        let side = if matches!(self.method(), Method::Winograd) { winograd_side } else { 1 };
        Grid {
            images: extent.batch,
            rows: extent.height.div_ceil(side),
            columns: extent.width.div_ceil(side),
        }
    }

    fn images<'a>(&self, extent: Extent, x: [&'a [f32]; 2]) -> [Option<Image<'a>>; 2] {
        let image = |i: usize| {
            (self.inputs[i] > 0).then(|| Image::new(x[i], extent.height, extent.width, self.inputs[i]))
        };
        [image(0), image(1)]
    }

    /// The result, `[batch, height, width, output]` (twice as high and wide after upsampling).
    pub(super) fn forward(&self, extent: Extent, x: [&[f32]; 2], parameters: &[f32]) -> Vec<f32> {
        let Extent { height, width, .. } = extent;
        let (kernel, bias) = parameters.split_at(self.kernel_len());
        let (input, output, relu) = (self.input(), self.output, self.relu);
        let grid = self.grid(extent, FORWARD_SIDE);
        let scale = if self.upsample { 4 } else { 1 };
        let buffers = &self.buffers;
        let mut y = buffers.take(extent.pixels() * scale * output);
        let image = Image::new(x[0], height, width, self.inputs[0]);
        match self.method() {
            Method::Winograd => {
                let weights =
                    Panels::new(FORWARD_POINTS * FORWARD_POINTS, input, output, buffers, |point, i, row| {
                        kernel_points::<Forward, FORWARD_SIDE, FORWARD_POINTS>(
                            point,
                            |tap| &kernel[(tap * input + i) * output..][..output],
                            row,
                        );
                    });
                let lowering = Input { images: self.images(extent, x), filtering: PhantomData::<Forward> };
                let raising = Output {
                    height,
                    width,
                    channels: [output, 0],
                    bias: Some(bias),
                    relu,
                    gates: [None; 2],
                    filtering: PhantomData::<Forward>,
                };
                product(grid, &lowering, &weights, &raising, [&mut y, &mut []]);
            }
            Method::Upsample => {
                let weights = Panels::new(4, input, output, buffers, |c, i, row| {
                    sum_taps(TAPS[c], |tap| &kernel[(tap * input + i) * output..][..output], row);
                });
                let raising = Sums { width, channels: output, bias, relu };
                product(grid, &Differences { image }, &weights, &raising, [&mut y, &mut []]);
            }
            Method::Neighbourhoods => {
                let weights =
                    Panels::new(1, self.kernel * self.kernel * input, output, buffers, |_, row, to| {
                        to.copy_from_slice(&kernel[row * output..(row + 1) * output]);
                    });
                let raising =
                    ToPixels { height, width, channels: output, bias: Some(bias), relu, gate: None };
                let lowering = Neighbourhoods { image, kernel: self.kernel };
                product(grid, &lowering, &weights, &raising, [&mut y, &mut []]);
            }
            Method::Taps => self.forward_taps(image, kernel, bias, &mut y),
            Method::Pointwise => pointwise::forward(x[0], kernel, bias, relu, &mut y),
        }
        y
    }

    fn forward_taps(&self, image: Image<'_>, kernel: &[f32], bias: &[f32], y: &mut [f32]) {
        const ROWS: usize = 16;
        let Image { values, height, width, channels: input, .. } = image;
        let (output, depth) = (self.output, self.taps_depth());
        let mut weights = self.buffers.take(input * depth);
        weights.fill(0.0);
        for (row, values) in kernel.chunks_exact(output).enumerate() {
            let (tap, i) = (row / input, row % input);
            weights[i * depth + tap * output..][..output].copy_from_slice(values);
        }
        let add =
            AddTaps { height, width, channels: output, kernel: self.kernel, depth, bias, relu: self.relu };
        y.par_chunks_mut(height * width * output).zip(values.par_chunks(height * width * input)).for_each(
            |(y, x)| {
                y.par_chunks_mut(ROWS * width * output).enumerate().for_each(|(strip, y)| {
                    let rows = strip * ROWS..((strip + 1) * ROWS).min(height);
                    let reach = add.reach(&rows);
                    let pixels = reach.len() * width;
                    with_scratch([pixels * depth], |[products]| {
                        dispatch(Products {
                            size: Size { m: pixels, n: depth, k: input },
                            left: Left { values: &x[reach.start * width * input..], row: input, column: 1 },
                            right: Right { values: &weights, row: depth, panel: PANEL },
                            products,
                        });
                        add.run(products, reach.start, rows, y);
                    });
                });
            },
        );
        self.buffers.give(weights);
    }

    /// The gradients, from inputs, parameters and the gradient of the result; see [`Rectified`].
    pub(super) fn backward(
        &self,
        extent: Extent,
        x: [&[f32]; 2],
        parameters: &[f32],
        gy: &[f32],
        rectified: Rectified<'_>,
    ) -> Gradients {
        let Extent { height, width, .. } = extent;
        let kernel = &parameters[..self.kernel_len()];
        let (input, output) = (self.input(), self.output);
        let grid = self.grid(extent, BACK_SIDE);
        let buffers = &self.buffers;
        let (gate, gates) = match rectified {
            Rectified::Here(y) => (self.relu.then_some(y), [None; 2]),
            Rectified::Ahead => (None, x.map(Some)),
        };
        let scale = if self.upsample { 2 } else { 1 };
        let result = Image::new(gy, height * scale, width * scale, output).gated(gate);
        let image = Image::new(x[0], height, width, self.inputs[0]);
        let mut gx = self.inputs.map(|channels| {
            (channels > 0 && self.input_gradient).then(|| buffers.take(extent.pixels() * channels))
        });
        let [gx_a, gx_b] = &mut gx;
        let gx_out: [&mut [f32]; 2] =
            [gx_a.as_deref_mut().unwrap_or_default(), gx_b.as_deref_mut().unwrap_or_default()];
        let mut to_parameters = buffers.take_exactly(parameters.len());
        let (to_kernel, to_bias) = to_parameters[..parameters.len()].split_at_mut(self.kernel_len());
        match self.method() {
            Method::Winograd => {
                let left = Input { images: self.images(extent, x), filtering: PhantomData::<Back> };
                let right = OutputGradient { image: result, filtering: PhantomData::<Back> };
                let sums = gradient(grid, &left, &right, point_of_sums(BACK_POINTS), buffers);
                let (points, bias) = sums.split_at(BACK_POINTS * BACK_POINTS * input * output);
                kernel_gradient::<Back, BACK_SIDE, BACK_POINTS>(points, input * output, to_kernel);
                to_bias.copy_from_slice(&bias[..output]);
                buffers.give(sums);
                if self.input_gradient {
                    // The gradient of a `same` convolution is a convolution with the kernel turned
                    // by 180°.
                    let turned = transposed(kernel, input, output, buffers);
                    let weights =
                        Panels::new(BACK_POINTS * BACK_POINTS, output, input, buffers, |point, o, row| {
                            let tap = |tap| &turned[((8 - tap) * output + o) * input..][..input];
                            kernel_points::<Back, BACK_SIDE, BACK_POINTS>(point, tap, row);
                        });
                    let lowering = Input { images: [Some(result), None], filtering: PhantomData::<Back> };
                    let raising = Output {
                        height,
                        width,
                        channels: self.inputs,
                        bias: None,
                        relu: false,
                        gates,
                        filtering: PhantomData::<Back>,
                    };
                    product(grid, &lowering, &weights, &raising, gx_out);
                    drop(weights);
                    buffers.give(turned);
                }
            }
            Method::Upsample => {
                let sums =
                    gradient(grid, &Differences { image }, &SumsGradient { image: result }, 0, buffers);
                let (products, bias) = sums.split_at(4 * input * output);
                let pairs = input * output;
                to_kernel.par_chunks_mut(pairs).enumerate().for_each(|(tap, to)| {
                    to.fill(0.0);
                    for (product, taps) in products.chunks_exact(pairs).zip(TAPS) {
                        if taps.contains(&tap) {
                            to.iter_mut().zip(product).for_each(|(t, p)| *t += p);
                        }
                    }
                });
                to_bias.copy_from_slice(&bias[..output]);
                buffers.give(sums);
                if self.input_gradient {
                    let turned = transposed(kernel, input, output, buffers);
                    let weights = Panels::new(1, 4 * output, input, buffers, |_, row, to| {
                        let (c, o) = (row / output, row % output);
                        sum_taps(TAPS[c], |tap| &turned[(tap * output + o) * input..][..input], to);
                    });
                    let lowering = DifferencesGradient { sums: SumsGradient { image: result } };
                    let gate = gates[0];
                    let raising = ToPixels { height, width, channels: input, bias: None, relu: false, gate };
                    product(grid, &lowering, &weights, &raising, gx_out);
                    drop(weights);
                    buffers.give(turned);
                }
            }
            Method::Neighbourhoods => {
                let left = Neighbourhoods { image, kernel: self.kernel };
                let right = Pixels { image: result, depth: output };
                let sums = gradient(grid, &left, &right, 0, buffers);
                to_kernel.copy_from_slice(&sums[..to_kernel.len()]);
                to_bias.copy_from_slice(&sums[to_kernel.len()..][..output]);
                buffers.give(sums);
            }
            Method::Taps => {
                let depth = self.taps_depth();
                let right = TapGradients { image: result, kernel: self.kernel, depth };
                let sums = gradient(grid, &Pixels { image, depth: input }, &right, 0, buffers);
                let (products, bias) = sums.split_at(input * depth);
                for (row, to) in to_kernel.chunks_exact_mut(output).enumerate() {
                    let (tap, i) = (row / input, row % input);
                    to.copy_from_slice(&products[i * depth + tap * output..][..output]);
                }
                // The middle tap's product stays at its pixel, so its gradients are those of the
                // result.
                let before = (self.kernel - 1) / 2;
                let middle = (before * self.kernel + before) * output;
                to_bias.copy_from_slice(&bias[middle..middle + output]);
                buffers.give(sums);
                if self.input_gradient {
                    let weights = Panels::new(1, depth, input, buffers, |_, row, to| {
                        let (tap, o) = (row / output, row % output);
                        for (i, value) in to.iter_mut().enumerate() {
                            *value = kernel.get((tap * input + i) * output + o).copied().unwrap_or(0.0);
                        }
                    });
                    let gate = gates[0];
                    let raising = ToPixels { height, width, channels: input, bias: None, relu: false, gate };
                    product(grid, &right, &weights, &raising, gx_out);
                }
            }
            Method::Pointwise => {
                let mut unused = Vec::new();
                let [to_input, _] = gx_out;
                let to_input = if self.input_gradient {
                    to_input
                } else {
                    unused.resize(x[0].len(), 0.0);
                    &mut unused
                };
                let sums = pointwise::backward(x[0], kernel, (gate, gates[0]), gy, output, to_input);
                to_parameters[..sums.len()].copy_from_slice(&sums);
            }
        }
        Gradients { inputs: gx, parameters: to_parameters }
    }
}

/// The kernel with input and output channels exchanged: `[taps][out][in]`.
fn transposed(kernel: &[f32], input: usize, output: usize, buffers: &Buffers) -> Vec<f32> {
    let mut turned = buffers.take(kernel.len());
    let taps = turned.par_chunks_mut(input * output).zip(kernel.par_chunks(input * output));
    taps.for_each(|(turned, tap)| {
        for (o, row) in turned.chunks_exact_mut(input).enumerate() {
            for (i, value) in row.iter_mut().enumerate() {
                *value = tap[i * output + o];
            }
        }
    });
    turned
}

fn sum_taps<'a>(taps: &[usize], tap: impl Fn(usize) -> &'a [f32], row: &mut [f32]) {
    row.fill(0.0);
    for &t in taps {
        row.iter_mut().zip(tap(t)).for_each(|(r, k)| *r += k);
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
        multiply::<S>(self.size, self.left, self.right, self.products, false);
    }
}
