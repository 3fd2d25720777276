//! How parameters and images lie in a GPU's memory.
//!
//! All channel counts are multiples of 8, as tensor cores want: the image has its 3 channels and 5
//! that are 0; the thirteenth layer has 2 and 6 that stay 0 (no gradient reaches them). Kernels are
//! `[out][k][k][in]` where Keras has `[k][k][in][out]`.
//!
//! Nearest ×2 followed by a 2×2 convolution is computed on the small image: each pixel of a 2×2
//! block of the result is a small convolution of its own, and their kernels are stored one after
//! another (`[4 · out][2][2][in]`). So there is no upsampled image. The padding below and to the
//! right (TensorFlow's for an even kernel) is a row and a column of zeros that the layer before
//! leaves beside its result.

use bytemuck::{Pod, Zeroable};

use super::machine::ConvShape;
use crate::keras::{CONV_LAYERS, ConvLayer, Weights, WeightsError};
pub(super) use crate::topology::LAST;
use crate::topology::{self, NODES, Operation, Source};

/// Number of blocks that compute a sum over all pixels. It is the same on every GPU, so the sums
/// are the same too.
pub(super) const PARTS: u32 = 512;

/// Whether an upsampling stands before the layer.
fn is_upsampled(layer: usize) -> bool {
    matches!(topology::source(layer), Source::Upsampled(_))
}

const fn padded(channels: usize) -> usize {
    channels.div_ceil(8) * 8
}

/// Input and output channels of a layer in the GPU's memory. The last layer's output is the logit
/// alone.
pub(super) fn channels(layer: usize) -> (usize, usize) {
    let ConvLayer { input, output, .. } = CONV_LAYERS[layer];
    (padded(input), if layer == LAST { output } else { padded(output) })
}

/// A run of parameters, laid out as in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct Segment {
    /// Index of its first value among the parameters.
    pub(super) master: u32,
    pub(super) length: u32,
    /// Index of its first value among the kernels in the layout of the convolutions.
    pub(super) compute: u32,
    pub(super) kind: u32,
    /// Channels in and out.
    pub(super) input: u32,
    pub(super) output: u32,
    /// Index of its first row of partial sums.
    pub(super) parts: u32,
}

/// Values of [`Segment::kind`].
pub(super) mod kind {
    pub(crate) const PLAIN: u32 = 0;
    pub(crate) const UPSAMPLED: u32 = 1;
    pub(crate) const BIAS: u32 = 2;
    pub(crate) const DIRECT: u32 = 3;
}

/// Where all parameters lie.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Kernel and bias of each layer.
    pub(super) segments: Vec<Segment>,
    /// Number of parameters, including those that pad.
    pub(super) parameters: usize,
    /// Number of kernel values in the layout of the convolutions.
    pub(super) compute: usize,
    /// Number of partial sums.
    pub(super) parts: usize,
}

impl Layout {
    pub(super) fn new() -> Self {
        let (mut parameters, mut compute, mut parts) = (0, 0, 0);
        let mut segments = Vec::with_capacity(2 * CONV_LAYERS.len());
        for (layer, conv) in CONV_LAYERS.iter().enumerate() {
            let (input, output) = channels(layer);
            let kernel = conv.kernel * conv.kernel * input * output;
            let upsampled = is_upsampled(layer);
            let kinds = match layer {
                LAST => [kind::DIRECT; 2],
                // The gradient of its bias is computed together with the loss.
                _ if layer + 1 == LAST => [kind::PLAIN, kind::DIRECT],
                _ if upsampled => [kind::UPSAMPLED, kind::BIAS],
                _ => [kind::PLAIN, kind::BIAS],
            };
            for (kind, length) in kinds.into_iter().zip([kernel, output]) {
                segments.push(Segment {
                    master: parameters as u32,
                    length: length as u32,
                    compute: compute as u32,
                    kind,
                    input: input as u32,
                    output: output as u32,
                    parts: parts as u32,
                });
                parameters += padded(length);
                compute += padded(length) * if kind == kind::UPSAMPLED { 4 } else { 1 };
                parts += if kind == kind::BIAS { PARTS as usize * output } else { 0 };
            }
        }
        Self { segments, parameters, compute, parts }
    }

    /// Kernel of a layer.
    pub(super) fn kernel(&self, layer: usize) -> &Segment {
        &self.segments[2 * layer]
    }

    /// Bias of a layer.
    pub(super) fn bias(&self, layer: usize) -> &Segment {
        &self.segments[2 * layer + 1]
    }

    /// Calls `visit(index here, index among the layer's [k · k · in + 1, out] values)` for each
    /// real parameter of a layer.
    fn each(&self, layer: usize, mut visit: impl FnMut(usize, usize)) {
        let ConvLayer { kernel, input, output, .. } = CONV_LAYERS[layer];
        let taps = kernel * kernel;
        let (wide, _) = channels(layer);
        for o in 0..output {
            for tap in 0..taps {
                for i in 0..input {
                    let here = self.kernel(layer).master as usize + (o * taps + tap) * wide + i;
                    visit(here, (tap * input + i) * output + o);
                }
            }
            visit(self.bias(layer).master as usize + o, taps * input * output + o);
        }
    }

    /// Orders the values of all layers (`[k · k · in + 1, out]` each, as in the CPU's network) as
    /// on the GPU.
    pub(super) fn pack(&self, layers: &[Vec<f32>]) -> Vec<f32> {
        let mut all = vec![0.0; self.parameters];
        for (layer, values) in layers.iter().enumerate().take(CONV_LAYERS.len()) {
            self.each(layer, |here, there| all[here] = values[there]);
        }
        all
    }

    /// The inverse of [`Self::pack`].
    pub(super) fn unpack(&self, all: &[f32]) -> Vec<Vec<f32>> {
        let layer = |layer: usize| {
            let ConvLayer { output, .. } = CONV_LAYERS[layer];
            let mut values = vec![0.0; CONV_LAYERS[layer].kernel_len() + output];
            self.each(layer, |here, there| values[there] = all[here]);
            values
        };
        (0..CONV_LAYERS.len()).map(layer).collect()
    }
}

/// The layers' parameters as [`Layout::pack`] takes them.
pub(super) fn layers_of(weights: &Weights) -> Vec<Vec<f32>> {
    (0..CONV_LAYERS.len())
        .map(|layer| [weights.layer(layer).0, weights.layer(layer).1].concat())
        .collect()
}

/// The inverse of [`layers_of`].
///
/// # Errors
///
/// When a value is not finite.
pub(super) fn weights_of(layers: Vec<Vec<f32>>) -> Result<Weights, WeightsError> {
    let mut tensors = Vec::with_capacity(2 * CONV_LAYERS.len());
    for (mut values, layer) in layers.into_iter().zip(&CONV_LAYERS) {
        let bias = values.split_off(layer.kernel_len());
        tensors.extend([values, bias]);
    }
    Weights::new(tensors)
}

/// How an image lies in memory, laid out as in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Rows and columns in memory.
    pub(super) height: u32,
    pub(super) width: u32,
    /// Number of channels in memory, and the first one that is visible.
    pub(super) stride: u32,
    pub(super) first: u32,
    /// 1 when the pixels of a 2×2 block are stored side by side.
    pub(super) split: u32,
}

impl View {
    /// An image without gaps.
    pub(super) fn plain(height: u32, width: u32, channels: u32) -> Self {
        Self { height, width, stride: channels, first: 0, split: 0 }
    }

    /// An image with an extra row below it and an extra column to the right.
    pub(super) fn padded(height: u32, width: u32, channels: u32) -> Self {
        Self::plain(height + 1, width + 1, channels)
    }

    /// The channels from `first` on of an image that has `channels`.
    pub(super) fn part(height: u32, width: u32, channels: u32, first: u32) -> Self {
        Self { first, ..Self::plain(height, width, channels) }
    }

    /// The result of a convolution after an upsampling; `height` × `width` is the size of the
    /// result.
    pub(super) fn split(height: u32, width: u32, channels: u32) -> Self {
        Self { split: 1, ..Self::plain(height / 2, width / 2, channels) }
    }

    /// Number of values in memory of this many images.
    pub(super) fn values(&self, images: u32) -> usize {
        let parts = if self.split == 1 { 4 } else { 1 };
        [images, self.height, self.width, self.stride, parts].iter().map(|n| *n as usize).product()
    }
}

/// Where a node's result lies: in which node's image, and as what part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    /// The node whose image it is: its own, or the concatenation that reads it.
    pub(super) owner: usize,
    pub(super) view: View,
}

/// Height, width and channels (as the card keeps them) of a node's result, of images of this size.
pub(super) fn extent(node: usize, height: u32, width: u32) -> [u32; 3] {
    let scale = topology::scale(node) as u32;
    [height / scale, width / scale, padded(topology::channels(node)) as u32]
}

/// The node with this operation that reads the result of `node`.
pub(super) fn reader(node: usize, operation: Operation) -> Option<usize> {
    let reads = |reader: &usize| {
        NODES[*reader].operation == operation && NODES[*reader].inputs.contains(&node)
    };
    (node + 1..NODES.len()).find(reads)
}

/// Where the result of a node lies. Views are the same for images and gradients.
pub(super) fn home(node: usize, height: u32, width: u32) -> Home {
    let [h, w, channels] = extent(node, height, width);
    if let Some(owner) = reader(node, Operation::Concat) {
        let [skip, up] = [NODES[owner].inputs[0], NODES[owner].inputs[1]];
        let before = if node == up { padded(topology::channels(skip)) as u32 } else { 0 };
        let [_, _, all] = extent(owner, height, width);
        return Home { owner, view: View::part(h, w, all, before) };
    }
    // The convolution behind the upsampling wants a row below and a column on the right.
    let view = match reader(node, Operation::Upsample) {
        Some(_) => View::padded(h, w, channels),
        None => View::plain(h, w, channels),
    };
    Home { owner: node, view }
}

/// How the convolution of a layer leaves its result.
pub(super) fn raw_result(layer: usize, height: u32, width: u32) -> View {
    let [h, w, channels] = extent(topology::node_of(layer), height, width);
    if is_upsampled(layer) { View::split(h, w, channels) } else { View::plain(h, w, channels) }
}

/// The node that a layer's convolution reads: of two that are joined, their concatenation.
pub(super) fn read_by(layer: usize) -> usize {
    match topology::source(layer) {
        Source::Node(node) | Source::Upsampled(node) => node,
        Source::Joined(..) => NODES[topology::node_of(layer)].inputs[0],
    }
}

/// The convolution of a layer on a batch of `images` whose first layer is `height` × `width`.
/// Behind an upsampling it takes the small image, with its border.
pub(super) fn convolution(layer: usize, images: u32, height: u32, width: u32) -> ConvShape {
    let (input, output) = channels(layer);
    let (input, output) = (input as u32, output as u32);
    let [height, width, _] = extent(read_by(layer), height, width);
    if is_upsampled(layer) {
        let (height, width) = (height + 1, width + 1);
        ConvShape { images, height, width, input, output: 4 * output, side: 2, padding: 0 }
    } else {
        ConvShape { images, height, width, input, output, side: 3, padding: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initial_weights;

    #[test]
    fn parameters_come_back_from_the_cards_order() {
        let layout = Layout::new();
        let layers = layers_of(&initial_weights(5).unwrap());
        let all = layout.pack(&layers);
        assert_eq!(layout.unpack(&all), layers);
        // What pads is zero, and nothing is there twice.
        let present = |values: &[f32]| values.iter().filter(|v| **v != 0.0).count();
        let wanted: usize = layers.iter().map(|values| present(values)).sum();
        assert_eq!(present(&all), wanted);
        // Keras's kernel [2][0][1][5] of the first layer.
        let (taps, wide) = (9, 8);
        assert_eq!(all[(5 * taps + 6) * wide + 1], layers[0][(6 * 3 + 1) * 32 + 5]);
    }

    #[test]
    fn segments_lie_side_by_side_and_aligned() {
        let layout = Layout::new();
        let mut places = (0, 0);
        for segment in &layout.segments {
            assert_eq!((segment.master, segment.compute), places);
            assert!(segment.master % 8 == 0 && segment.compute % 8 == 0);
            let length = segment.length.next_multiple_of(8);
            let compute = if segment.kind == kind::UPSAMPLED { 4 * length } else { length };
            places = (places.0 + length, places.1 + compute);
        }
        assert_eq!(places, (layout.parameters as u32, layout.compute as u32));
    }

    #[test]
    fn every_result_has_a_home_of_its_size() {
        // Skip connections come first in a joined image.
        let joined = |layer, channels, first| {
            let home = home(topology::node_of(layer), 32, 48);
            assert_eq!((home.view.stride, home.view.first), (channels, first), "layer {layer}");
            home.owner
        };
        assert_eq!(joined(3, 192, 0), joined(6, 192, 64));
        assert_eq!(joined(1, 96, 0), joined(9, 96, 32));
        assert_eq!(home(topology::node_of(5), 32, 48).view, View::padded(8, 12, 256));
        assert_eq!(home(topology::node_of(12), 32, 48).view, View::plain(32, 48, 8));
        assert_eq!(home(0, 32, 48), Home { owner: 0, view: View::plain(32, 48, 8) });
        for layer in 0..LAST {
            let [image, _, result] = convolution(layer, 3, 32, 48).lengths();
            assert_eq!(
                home(read_by(layer), 32, 48).view.values(3),
                image,
                "image of layer {layer}"
            );
            assert_eq!(raw_result(layer, 32, 48).values(3), result, "result of layer {layer}");
        }
    }

    #[test]
    fn results_are_as_large_as_the_views_of_them() {
        for (layer, side) in [(0, 1), (2, 2), (4, 4), (6, 4), (7, 2), (9, 2), (12, 1)] {
            let shape = convolution(layer, 3, 32, 48);
            assert_eq!(shape.result(), (32 / side, 48 / side), "layer {layer}");
        }
        let shape = convolution(9, 3, 32, 48);
        assert_eq!(shape.lengths()[2], View::split(32, 48, 64).values(3));
        assert_eq!(shape.lengths()[0], View::padded(16, 24, 128).values(3));
    }
}
