//! Probabilities from a trained network.

use candle_core::{Device as Candle, Tensor};
use rayon::prelude::*;

use crate::gpu::Inference;
use crate::gpu::device::Device;
use crate::keras::Weights;
use crate::net::error::NetworkError;
use crate::net::network::Network;
use kernels::{Buffers, sigmoid, with_host};

/// A network that only predicts: no gradients, and intermediate images live only while they are
/// needed.
pub struct Predictor {
    on: On,
}

enum On {
    Host(Network),
    Card(Box<Inference>),
}

impl Predictor {
    /// Puts the weights on the device.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(weights: &Weights, device: impl Into<Device>) -> Result<Self, NetworkError> {
        Self::sharing(weights, device.into(), &Buffers::default())
    }

    /// One for each of the weights. On the CPU they share the memory for intermediate images, so
    /// that several take little more than one; only one of them may compute at a time.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn of_all<'a>(
        weights: impl IntoIterator<Item = &'a Weights>,
        device: &Device,
    ) -> Result<Vec<Self>, NetworkError> {
        let buffers = Buffers::default();
        let one = |weights| Self::sharing(weights, device.clone(), &buffers);
        weights.into_iter().map(one).collect()
    }

    fn sharing(weights: &Weights, device: Device, buffers: &Buffers) -> Result<Self, NetworkError> {
        let on = match device {
            Device::Cpu => On::Host(Network::predicting(weights, buffers)?),
            Device::Card(card) => On::Card(Box::new(Inference::new(&card, weights))),
        };
        Ok(Self { on })
    }

    /// Goes on with other weights, in the same memory.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub(crate) fn set_weights(&mut self, weights: &Weights) -> Result<(), NetworkError> {
        match &mut self.on {
            On::Host(network) => network.set_weights(weights),
            On::Card(inference) => inference.set_weights(weights),
        }
    }

    /// Logits `[n, height, width]` of images `[n, height, width, 3]`; see [`Self::predict`].
    ///
    /// # Errors
    /// As [`Self::predict`].
    pub(crate) fn logits(
        &self,
        images: &[f32],
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>, NetworkError> {
        self.inner_logits(images, (height, width), 0)
    }

    /// The same within a rim of pixels: see [`Self::predict_within`].
    pub(crate) fn inner_logits(
        &self,
        images: &[f32],
        (height, width): (usize, usize),
        rim: usize,
    ) -> Result<Vec<f32>, NetworkError> {
        let image = 3 * height * width;
        let shape = (images.len() / image.max(1), height, width);
        let fits = image > 0 && !images.is_empty() && images.len().is_multiple_of(image);
        if !fits || !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            return Err(NetworkError::Shape(vec![shape.0, height, width, 3]));
        }
        match &self.on {
            On::Card(card) => Ok(card.logits(images, shape)?),
            On::Host(network) => {
                let x = Tensor::from_slice(images, (shape.0, height, width, 3), &Candle::Cpu)?;
                let (logits, lacking) = network.inner_logits(&x, rim / 4 * 4)?;
                let values = with_host([&logits], |[values]| {
                    if lacking == 0 {
                        return values.to_vec();
                    }
                    let (inner, across) = (height - 2 * lacking, width - 2 * lacking);
                    let mut whole = vec![0.0; shape.0 * height * width];
                    for (line, values) in values.chunks_exact(across).enumerate() {
                        let row = line / inner * height + line % inner + lacking;
                        whole[row * width + lacking..][..across].copy_from_slice(values);
                    }
                    whole
                })?;
                network.reclaim(logits)?;
                Ok(values)
            }
        }
    }

    /// Probability that each pixel belongs to the layer, `[n, height, width]`, for images `[n,
    /// height, width, 3]` (BGR, `(255 - value) / 255`); `n` follows from the slice's length. Height
    /// and width are multiples of 4.
    ///
    /// # Errors
    /// When the sizes don't fit or the device's memory does not suffice.
    pub fn predict(
        &self,
        images: &[f32],
        height: usize,
        width: usize,
    ) -> Result<Vec<f32>, NetworkError> {
        self.predict_within(images, (height, width), 0)
    }

    /// As [`Self::predict`], if the outermost `rim` pixels of each image, less than half of its
    /// sides, are of no interest: what stands there is arbitrary, and takes less time.
    ///
    /// # Errors
    /// As [`Self::predict`].
    pub fn predict_within(
        &self,
        images: &[f32],
        (height, width): (usize, usize),
        rim: usize,
    ) -> Result<Vec<f32>, NetworkError> {
        let logits = self.inner_logits(images, (height, width), rim)?;
        Ok(logits.into_par_iter().map(sigmoid).collect())
    }
}
