//! The weights of the network, in Keras's order.

use thiserror::Error;

use crate::topology::CONV_LAYERS;

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
                    return Err(WeightsError::Length {
                        name: name(),
                        expected,
                        found: values.len(),
                    });
                }
                if !values.iter().all(|v| v.is_finite()) {
                    return Err(WeightsError::NotFinite(name()));
                }
            }
        }
        Ok(Self { tensors })
    }

    /// The weights in between: `share` (0 to 1) of the other ones, the rest of these.
    #[must_use]
    pub(crate) fn with_share_of(mut self, other: &Self, share: f32) -> Self {
        for (values, others) in self.tensors.iter_mut().zip(&other.tensors) {
            for (value, other) in values.iter_mut().zip(others) {
                *value += share * (other - *value);
            }
        }
        self
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
