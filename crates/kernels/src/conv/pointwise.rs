//! The last layer, 1×1.

use super::super::pointwise;
use super::{Above, Below, Conv, Layer, Method};

/// Each pixel by itself.
pub(super) struct Pointwise;

impl Method for Pointwise {
    fn supports(&self, conv: &Conv) -> bool {
        conv.inputs[1] == 0
    }

    fn forward(&self, layer: &Layer<'_>, bias: &[f32], y: &mut [f32]) {
        pointwise::forward(layer.x[0], layer.kernel, bias, layer.conv.relu, y);
    }

    fn backward(&self, layer: &Layer<'_>, above: &Above<'_>, below: Below<'_>) {
        let (x, output) = (layer.x[0], layer.conv.output);
        let mut unused = Vec::new();
        let [to_input, _] = below.x;
        let to_input = if layer.conv.input_gradient {
            to_input
        } else {
            unused.resize(x.len(), 0.0);
            &mut unused
        };
        let gates = (above.gate, above.gates[0]);
        let sums = pointwise::backward(x, layer.kernel, gates, above.gy, output, to_input);
        let (kernel, bias) = sums.split_at(below.kernel.len());
        below.kernel.copy_from_slice(kernel);
        below.bias.copy_from_slice(bias);
    }
}
