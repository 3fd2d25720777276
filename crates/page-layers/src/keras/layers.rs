//! The convolution layers of the selectional auto-encoder, in Keras's order, and their weights.
//!
//! Source of the table: the Keras model that Rodan's classifier loads
//! (`Sequential` order of `model_weights/layer_names` in the files that Keras 2.15 writes).

use thiserror::Error;

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
}

impl ConvLayer {
    /// Number of kernel values; the kernel's shape is HWIO: `(kernel, kernel, input, output)`.
    pub const fn kernel_len(&self) -> usize {
        self.kernel * self.kernel * self.input * self.output
    }
}

const fn conv(name: &'static str, kernel: usize, input: usize, output: usize) -> ConvLayer {
    ConvLayer { name, kernel, input, output }
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
    conv("conv2d_13", 1, 2, 1),
];

/// Number of trainable values in the whole network.
pub const PARAMETER_COUNT: usize = 1_429_733;

/// All weights of one network: for each of [`CONV_LAYERS`] the kernel (HWIO, row-major f32), then
/// the bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    tensors: Vec<Vec<f32>>,
}

/// A set of tensors that is not this network's.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// There are not 28 tensors.
    #[error("expected 28 weight tensors, found {0}")]
    Count(usize),
    /// One tensor has another number of values than the layer needs.
    #[error("{name}: expected {expected} values, found {found}")]
    Length {
        /// Keras's name of the weight, such as `conv2d_6/kernel:0`.
        name: String,
        /// Number of values the network needs.
        expected: usize,
        /// Number of values given.
        found: usize,
    },
    /// One tensor holds a NaN or an infinity.
    #[error("{0}: holds a value that is not a finite number")]
    NotFinite(String),
}

impl Weights {
    /// Checks and takes 28 tensors: kernel and bias of each layer, in the order of [`CONV_LAYERS`].
    ///
    /// # Errors
    /// When the number of tensors or the length of one differs from the network's, or a value is
    /// not finite.
    pub fn new(tensors: Vec<Vec<f32>>) -> Result<Self, WeightsError> {
        if tensors.len() != 2 * CONV_LAYERS.len() {
            return Err(WeightsError::Count(tensors.len()));
        }
        for (layer, pair) in CONV_LAYERS.iter().zip(tensors.chunks_exact(2)) {
            for (part, values, expected) in
                [("kernel:0", &pair[0], layer.kernel_len()), ("bias:0", &pair[1], layer.output)]
            {
                let name = || format!("{}/{part}", layer.name);
                if values.len() != expected {
                    return Err(WeightsError::Length { name: name(), expected, found: values.len() });
                }
                if !values.iter().all(|v| v.is_finite()) {
                    return Err(WeightsError::NotFinite(name()));
                }
            }
        }
        Ok(Self { tensors })
    }

    /// The 28 tensors: kernel and bias of each layer, in the order of [`CONV_LAYERS`].
    pub fn tensors(&self) -> &[Vec<f32>] {
        &self.tensors
    }

    /// Kernel (HWIO) and bias of layer `index` of [`CONV_LAYERS`].
    pub fn layer(&self, index: usize) -> (&[f32], &[f32]) {
        (&self.tensors[2 * index], &self.tensors[2 * index + 1])
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
}
