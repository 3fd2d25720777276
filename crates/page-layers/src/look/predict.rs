//! Probabilities from a trained network.

use candle_core::{Device as Candle, Tensor};

use crate::gpu::device::Device;
use crate::keras::Weights;
use crate::net::network::{Network, NetworkError};
use crate::ops::{Buffers, sigmoid};

/// A network that only predicts: no gradients, and intermediate images live only while they are
/// needed.
pub struct Predictor {
    network: Network,
}

impl Predictor {
    /// Puts the weights on the device.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(weights: &Weights, device: impl Into<Device>) -> Result<Self, NetworkError> {
        Ok(Self { network: Network::new(weights, device)? })
    }

    /// One for each of the weights. On the CPU they share the memory for intermediate images, so that
    /// several take little more than one.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn of_all<'a>(
        weights: impl IntoIterator<Item = &'a Weights>,
        device: &Device,
    ) -> Result<Vec<Self>, NetworkError> {
        let buffers = Buffers::default();
        let one = |weights| Ok(Self { network: Network::sharing(weights, device, &buffers)? });
        weights.into_iter().map(one).collect()
    }

    /// Probability that each pixel belongs to the layer, `[n, height, width]`, for images
    /// `[n, height, width, 3]` (BGR, `(255 - value) / 255`); `n` follows from the slice's length.
    /// Height and width are multiples of 4.
    ///
    /// # Errors
    /// When the sizes don't fit or the device's memory does not suffice.
    pub fn predict(&self, images: &[f32], height: usize, width: usize) -> Result<Vec<f32>, NetworkError> {
        let image = 3 * height * width;
        if image == 0 || images.is_empty() || !images.len().is_multiple_of(image) {
            return Err(NetworkError::Shape(vec![images.len() / image.max(1), height, width, 3]));
        }
        let shape = (images.len() / image, height, width, 3);
        let x = Tensor::from_slice(images, shape, &Candle::Cpu)?;
        let logits = self.network.forward_logits(&x)?;
        let probabilities = logits.flatten_all()?.to_vec1::<f32>()?.into_iter().map(sigmoid).collect();
        self.network.reclaim(logits)?;
        Ok(probabilities)
    }
}
