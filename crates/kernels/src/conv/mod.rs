//! Convolution with bias and ReLU on the CPU: which method computes each layer, and its gradients.
//!
//! Parameters are one matrix of shape `[k · k · in + 1, out]`: the kernel in Keras's order (HWIO),
//! the bias as the last row. One tensor instead of two leaves candle's three-operand limit room for
//! the two halves of a concatenation.
//!
//! There are five ways, each a file with a [`Method`]: what a layer's size allows decides.

mod filtered;
mod neighbourhoods;
mod pointwise;
mod taps;
mod upsampled;

use rayon::prelude::*;

use super::buffers::Buffers;
use super::gemm::PANEL;
use super::grid::Grid;
use super::image::Image;

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
    /// The gradient passed in is that of the result before its ReLU. The gradients returned already
    /// contain the derivative of the ReLU that made the input: they are 0 where the input is not
    /// positive. That needs only the input, so the result need not be kept.
    Ahead,
}

/// The gradients of a convolution, in vectors of a [`Buffers`], which may be longer than needed.
pub(super) struct Gradients {
    pub(super) inputs: [Option<Vec<f32>>; 2],
    pub(super) parameters: Vec<f32>,
}

/// A layer at work: what its results and its gradients are made from.
struct Layer<'a> {
    conv: &'a Conv,
    extent: Extent,
    x: [&'a [f32]; 2],
    /// HWIO.
    kernel: &'a [f32],
}

impl<'a> Layer<'a> {
    /// Channels in and out.
    fn channels(&self) -> (usize, usize) {
        (self.conv.input(), self.conv.output)
    }

    /// The grid of tiles of `side` pixels.
    fn grid(&self, side: usize) -> Grid {
        Grid {
            images: self.extent.batch,
            rows: self.extent.height.div_ceil(side),
            columns: self.extent.width.div_ceil(side),
        }
    }

    /// The first input.
    fn image(&self) -> Image<'a> {
        Image::new(self.x[0], self.extent.height, self.extent.width, self.conv.inputs[0])
    }

    /// Both inputs, where there are two.
    fn images(&self) -> [Option<Image<'a>>; 2] {
        let Extent { height, width, .. } = self.extent;
        let image = |i: usize| {
            let channels = self.conv.inputs[i];
            (channels > 0).then(|| Image::new(self.x[i], height, width, channels))
        };
        [image(0), image(1)]
    }
}

/// The gradient that a layer gets.
struct Above<'a> {
    /// As it comes.
    gy: &'a [f32],
    /// The layer's own result, where the gradient still lacks the derivative of its ReLU.
    gate: Option<&'a [f32]>,
    /// The gradient as an image, with that derivative.
    image: Image<'a>,
    /// The inputs, where their gradients shall have the derivative of the ReLUs they come from.
    gates: [Option<&'a [f32]>; 2],
}

/// Where a layer's gradients go.
struct Below<'a> {
    /// Of the inputs; empty where nobody wants them.
    x: [&'a mut [f32]; 2],
    kernel: &'a mut [f32],
    bias: &'a mut [f32],
}

/// A way to compute a convolution.
trait Method {
    /// Whether it can compute layers of this size.
    fn supports(&self, conv: &Conv) -> bool;

    /// The result, with bias and ReLU.
    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]);

    /// The gradients.
    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>);
}

impl Conv {
    /// Channels in, both inputs together.
    pub(super) fn input(&self) -> usize {
        self.inputs[0] + self.inputs[1]
    }

    fn kernel_len(&self) -> usize {
        self.kernel * self.kernel * self.input() * self.output
    }

    fn method(&self) -> &'static dyn Method {
        match self.kernel {
            _ if self.upsample => &upsampled::Upsampled,
            1 => &pointwise::Pointwise,
            _ if !self.output.is_multiple_of(PANEL) => &taps::Taps,
            _ if !self.inputs.iter().all(|c| c.is_multiple_of(PANEL)) => &neighbourhoods::Lowered,
            _ => &filtered::Filtered,
        }
    }

    /// Whether the kernels in this folder can compute this convolution.
    pub(super) fn supported(&self) -> bool {
        self.method().supports(self)
    }

    /// The result, `[batch, height, width, output]` (twice as high and wide after upsampling).
    pub(super) fn forward(&self, extent: Extent, x: [&[f32]; 2], parameters: &[f32]) -> Vec<f32> {
        let (kernel, bias) = parameters.split_at(self.kernel_len());
        let scale = if self.upsample { 4 } else { 1 };
        let len = extent.pixels() * scale * self.output;
        let mut y = self.buffers.take(len);
        self.method().forward(&Layer { conv: self, extent, x, kernel }, bias, &mut y[..len]);
        y
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
        let (gate, gates) = match rectified {
            Rectified::Here(y) => (self.relu.then_some(y), [None; 2]),
            Rectified::Ahead => (None, x.map(Some)),
        };
        let scale = if self.upsample { 2 } else { 1 };
        let (height, width) = (extent.height * scale, extent.width * scale);
        let image = Image::new(gy, height, width, self.output).gated(gate);
        let mut gx = self.inputs.map(|channels| {
            let wanted = channels > 0 && self.input_gradient;
            wanted.then(|| self.buffers.take(extent.pixels() * channels))
        });
        let [gx_a, gx_b] = &mut gx;
        let [gx_a, gx_b] = [(gx_a, 0), (gx_b, 1)].map(|(gx, input)| match gx {
            // The vector may be longer.
            Some(gx) => &mut gx[..extent.pixels() * self.inputs[input]],
            None => &mut [],
        });
        let mut to_parameters = self.buffers.take_exactly(parameters.len());
        let (kernel, bias) = to_parameters[..parameters.len()].split_at_mut(self.kernel_len());
        let below = Below { x: [gx_a, gx_b], kernel, bias };
        let layer = Layer { conv: self, extent, x, kernel: &parameters[..self.kernel_len()] };
        self.method().backward(&layer, &Above { gy, gate, image, gates }, below);
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
