//! The network, once and as data: its layers, in Keras's order, and what each of them reads.
//!
//! The Keras file's JSON, the comparison of a stranger's file, the network on the CPU, on a candle
//! device and on a GPU are all made from these two tables. Source: the Keras model that Rodan's
//! classifier loads (order of `model_weights/layer_names` in the files that Keras 2.15 writes).
//!
//! # What else knows this network
//!
//! When the tables change a test or the compiler fails for each of these, except where "by hand" is
//! said:
//! - its two poolings shrink a patch by 4: `PatchShape` in `domain`, and a patch side's step in the
//!   table of settings;
//! - it sees 24 and 27 pixels: `REACH` in `look/segment.rs`; how many of them its later layers see:
//!   `ahead` in `net/native.rs`;
//! - its last layer alone makes the logit: `Adjustment::fold` in `keras/adjustment.rs`;
//! - it decides by two channels: `fit/start.rs`, `net/init.rs`, `Collapse::LostChannel`;
//! - kernels for layers of these sizes: `Method` in `conv/mod.rs` of `kernels`, `gpu/layout.rs`,
//!   and the last layer in `gpu/kernels.cu`;
//! - the memory of a step: `PATCH_MB` in `contract` (`wire/chosen.rs`) and docs/quality.md, both
//!   measured (by hand).

/// What follows a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`, with derivative 0 at 0 as in TensorFlow.
    Relu,
    /// The logistic function. Only the last layer has it, and it is left to the loss and to the
    /// prediction: the layer itself gives the logit.
    Sigmoid,
}

/// One convolution of the network: all use `same` padding and stride 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvLayer {
    /// Keras's name of the layer, such as `conv2d_6`.
    pub name: &'static str,
    /// Side of the square kernel in pixels.
    pub kernel: usize,
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub output: usize,
    /// What follows it.
    pub activation: Activation,
}

impl ConvLayer {
    /// Number of kernel values; the kernel's shape is HWIO: `(kernel, kernel, input, output)`.
    pub const fn kernel_len(&self) -> usize {
        self.kernel * self.kernel * self.input * self.output
    }
}

const fn conv(name: &'static str, kernel: usize, input: usize, output: usize) -> ConvLayer {
    ConvLayer { name, kernel, input, output, activation: Activation::Relu }
}

/// The fourteen convolutions in the order in which Keras stores and matches their weights.
pub const CONV_LAYERS: [ConvLayer; 14] = [
    conv("conv2d", 3, 3, 32),
    conv("conv2d_1", 3, 32, 32),
    conv("conv2d_2", 3, 32, 64),
    conv("conv2d_3", 3, 64, 64),
    conv("conv2d_4", 3, 64, 256),
    conv("conv2d_5", 3, 256, 256),
    conv("conv2d_6", 2, 256, 128),
    conv("conv2d_7", 3, 192, 128),
    conv("conv2d_8", 3, 128, 128),
    conv("conv2d_9", 2, 128, 64),
    conv("conv2d_10", 3, 96, 64),
    conv("conv2d_11", 3, 64, 64),
    conv("conv2d_12", 3, 64, 2),
    ConvLayer { activation: Activation::Sigmoid, ..conv("conv2d_13", 1, 2, 1) },
];

/// Number of trainable values in the whole network.
pub const PARAMETER_COUNT: usize = 1_429_733;

/// The last convolution, whose result is the logit.
pub const LAST: usize = CONV_LAYERS.len() - 1;

/// What a node of the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The image `[n, h, w, 3]`.
    Input,
    /// The convolution of this number in [`CONV_LAYERS`].
    Conv(usize),
    /// The maximum of each 2×2 window.
    Pool,
    /// Each pixel four times: nearest ×2.
    Upsample,
    /// The channels of the skip connection, then those of the upsampled branch.
    Concat,
}

/// A node: what it does to what.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// Keras's name of the layer.
    pub name: &'static str,
    /// What it does.
    pub operation: Operation,
    /// The nodes it reads, by their number in [`NODES`]; all come before it.
    pub inputs: &'static [usize],
}

const fn node(name: &'static str, operation: Operation, inputs: &'static [usize]) -> Node {
    Node { name, operation, inputs }
}

const fn conv_node(layer: usize, inputs: &'static [usize]) -> Node {
    node(CONV_LAYERS[layer].name, Operation::Conv(layer), inputs)
}

/// The nodes in the order of Keras's `layer_names`.
pub const NODES: [Node; 21] = [
    node("input_1", Operation::Input, &[]),
    conv_node(0, &[0]),
    conv_node(1, &[1]),
    node("max_pooling2d", Operation::Pool, &[2]),
    conv_node(2, &[3]),
    conv_node(3, &[4]),
    node("max_pooling2d_1", Operation::Pool, &[5]),
    conv_node(4, &[6]),
    conv_node(5, &[7]),
    node("up_sampling2d", Operation::Upsample, &[8]),
    conv_node(6, &[9]),
    node("concatenate", Operation::Concat, &[5, 10]),
    conv_node(7, &[11]),
    conv_node(8, &[12]),
    node("up_sampling2d_1", Operation::Upsample, &[13]),
    conv_node(9, &[14]),
    node("concatenate_1", Operation::Concat, &[2, 15]),
    conv_node(10, &[16]),
    conv_node(11, &[17]),
    conv_node(12, &[18]),
    conv_node(13, &[19]),
];

/// What a convolution reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The result of this node, as it is.
    Node(usize),
    /// The result of this node, each pixel four times.
    Upsampled(usize),
    /// The results of a skip connection's node and of the upsampled branch's, side by side.
    Joined(usize, usize),
}

/// The node of a convolution.
pub const fn node_of(layer: usize) -> usize {
    let mut index = 0;
    while index < NODES.len() {
        if let Operation::Conv(found) = NODES[index].operation
            && found == layer
        {
            return index;
        }
        index += 1;
    }
    panic!("every convolution has a node")
}

/// What the convolution `layer` reads, an upsampling or a concatenation before it looked through.
pub const fn source(layer: usize) -> Source {
    let read = NODES[node_of(layer)].inputs[0];
    match NODES[read].operation {
        Operation::Upsample => Source::Upsampled(NODES[read].inputs[0]),
        Operation::Concat => Source::Joined(NODES[read].inputs[0], NODES[read].inputs[1]),
        _ => Source::Node(read),
    }
}

/// The first and the last node that read the result of `node`, an upsampling or a concatenation
/// looked through; `node` itself where nobody does. Between them its memory is needed.
pub const fn readers(node: usize) -> (usize, usize) {
    let (mut first, mut last) = (node, node);
    let mut reader = node + 1;
    while reader < NODES.len() {
        let mut input = 0;
        while input < NODES[reader].inputs.len() {
            if NODES[reader].inputs[input] == node {
                let (from, to) = match NODES[reader].operation {
                    Operation::Upsample | Operation::Concat => readers(reader),
                    _ => (reader, reader),
                };
                first = if first == node || from < first { from } else { first };
                last = if to > last { to } else { last };
            }
            input += 1;
        }
        reader += 1;
    }
    (first, last)
}

/// Channels of a node's result.
pub const fn channels(node: usize) -> usize {
    match NODES[node].operation {
        Operation::Input => 3,
        Operation::Conv(layer) => CONV_LAYERS[layer].output,
        Operation::Pool | Operation::Upsample => channels(NODES[node].inputs[0]),
        Operation::Concat => channels(NODES[node].inputs[0]) + channels(NODES[node].inputs[1]),
    }
}

/// By how much a node's result is smaller than the image, in each direction.
pub const fn scale(node: usize) -> usize {
    match NODES[node].operation {
        Operation::Input => 1,
        Operation::Pool => 2 * scale(NODES[node].inputs[0]),
        Operation::Upsample => scale(NODES[node].inputs[0]) / 2,
        Operation::Conv(_) | Operation::Concat => scale(NODES[node].inputs[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_parameter_count_of_the_keras_model() {
        let count: usize = CONV_LAYERS.iter().map(|l| l.kernel_len() + l.output).sum();
        assert_eq!(count, PARAMETER_COUNT);
    }

    #[test]
    fn every_convolution_takes_the_channels_of_what_it_reads() {
        for (index, node) in NODES.iter().enumerate() {
            assert!(node.inputs.iter().all(|input| *input < index), "{}", node.name);
            if let Operation::Conv(layer) = node.operation {
                assert_eq!(channels(node.inputs[0]), CONV_LAYERS[layer].input, "{}", node.name);
                assert_eq!(node_of(layer), index);
            }
            if let [one, other] = node.inputs {
                assert_eq!(scale(*one), scale(*other), "{}: sizes that can't be joined", node.name);
            }
        }
        assert_eq!(scale(node_of(LAST)), 1);
        // What a patch's height and width have to be multiples of.
        let deepest = (0..NODES.len()).map(scale).max();
        assert_eq!(deepest, Some(domain::PatchShape::SMALLEST.height()));
    }

    #[test]
    fn upsamplings_and_skip_connections_are_where_they_were_drawn() {
        assert_eq!(source(6), Source::Upsampled(8));
        assert_eq!(source(9), Source::Upsampled(13));
        assert_eq!(source(7), Source::Joined(node_of(3), node_of(6)));
        assert_eq!(source(10), Source::Joined(node_of(1), node_of(9)));
        assert_eq!(source(2), Source::Node(3));
        // The skip connection's image: the pooling reads it first, the convolution 10 last.
        assert_eq!(readers(node_of(1)), (3, node_of(10)));
        assert_eq!(readers(node_of(5)), (node_of(6), node_of(6)));
        assert_eq!(readers(node_of(LAST)), (node_of(LAST), node_of(LAST)));
        assert_eq!(
            [0, 2, 4, 6, 7, 9, 10].map(|layer| scale(node_of(layer))),
            [1, 2, 4, 2, 2, 1, 1]
        );
    }
}
