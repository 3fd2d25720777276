//! The selectional auto-encoder: fourteen convolutions of [`CONV_LAYERS`], two poolings, two
//! upsamplings, two skip connections.

use std::sync::{Mutex, PoisonError};

use candle_core::{Device as Candle, Tensor, Var};
use thiserror::Error;

use crate::gpu::device::Device;
use crate::gpu::{GpuError, Inference};
use crate::keras::{CONV_LAYERS, Weights, WeightsError};
use crate::net::native::Native;
use crate::ops::{BinaryCrossEntropy, Buffers, Conv, MaxPool, composed, with_host};

/// Which implementation of the operations computes the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Own kernels on the CPU.
    Native,
    /// Candle's operations on the CPU: slow, and the reference for our own kernels.
    Composed,
}

/// Something that the network can't compute.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// Candle failed, for example because the device has too little memory.
    #[error("the network's computation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// The GPU failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A network on a GPU was asked for something that only one on the CPU has.
    #[error("the network on a card has no {0}")]
    OnCard(&'static str),
    /// The weights in the device's memory are not finite.
    #[error("the network's weights are unusable: {0}")]
    Weights(#[from] WeightsError),
    /// An image whose sides are not positive multiples of 4, or not of three channels.
    #[error("the network takes images [n, h, w, 3] whose height and width are multiples of 4, not {0:?}")]
    Shape(Vec<usize>),
}

/// Loss and gradients of one batch.
pub struct Step {
    /// Mean loss over all pixels.
    pub loss: f32,
    /// Gradient of each layer's parameters, in the order and shape of [`Network::parameters`].
    pub gradients: Vec<Tensor>,
}

/// The network and its parameters on one device.
pub struct Network {
    parameters: Vec<Var>,
    /// The network on a GPU. It only predicts: training on a GPU has no tensors
    /// ([`fit`](crate::fit::epochs) does it).
    card: Option<Inference>,
    backend: Backend,
    buffers: Buffers,
    layers: Vec<Conv>,
    pool: MaxPool,
    loss: BinaryCrossEntropy,
    /// Number of values in the largest batch so far, for which [`Self::buffers`] has memory.
    largest: Mutex<usize>,
}

/// Where each layer of [`CONV_LAYERS`] differs from a plain one.
mod place {
    /// 2×2 convolutions after an upsampling.
    pub(crate) const UPSAMPLED: [usize; 2] = [6, 9];
    /// Convolutions of (skip, up), with the skip's channels.
    pub(crate) const CONCATENATED: [(usize, usize); 2] = [(7, 64), (10, 32)];
    /// The only layer without ReLU: the logits.
    pub(crate) const LOGITS: usize = 13;
}

impl Network {
    /// Puts `weights` on `device`, computed by the device's usual backend.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn new(weights: &Weights, device: impl Into<Device>) -> Result<Self, NetworkError> {
        Self::sharing(weights, device, &Buffers::default())
    }

    /// As [`Self::new`], with the memory of other networks, which are used in turns.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn sharing(
        weights: &Weights,
        device: impl Into<Device>,
        buffers: &Buffers,
    ) -> Result<Self, NetworkError> {
        let network = Self::build(weights, Backend::Native, buffers.clone())?;
        Ok(match device.into() {
            Device::Cpu => network,
            Device::Card(card) => Self {
                card: Some(Inference::new(&card, weights)),
                parameters: Vec::new(),
                layers: Vec::new(),
                ..network
            },
        })
    }

    /// As [`Self::new`] on the CPU, with a chosen backend.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_backend(weights: &Weights, backend: Backend) -> Result<Self, NetworkError> {
        Self::build(weights, backend, Buffers::default())
    }

    fn build(weights: &Weights, backend: Backend, buffers: Buffers) -> Result<Self, NetworkError> {
        let mut parameters = Vec::with_capacity(CONV_LAYERS.len());
        let mut layers = Vec::with_capacity(CONV_LAYERS.len());
        for (index, layer) in CONV_LAYERS.iter().enumerate() {
            let conv = if place::UPSAMPLED.contains(&index) {
                Conv::upsampled(layer.input, layer.output, &buffers)?
            } else if let Some((_, skip)) = place::CONCATENATED.iter().find(|(i, _)| *i == index) {
                Conv::concatenated(*skip, layer.input - skip, layer.output, &buffers)?
            } else {
                let relu = index != place::LOGITS;
                Conv::new(layer.kernel, layer.input, layer.output, relu, index > 0, &buffers)?
            };
            let (kernel, bias) = weights.layer(index);
            let values = [kernel, bias].concat();
            parameters.push(Var::from_vec(values, conv.parameter_shape(), &Candle::Cpu)?);
            layers.push(conv);
        }
        let pool = MaxPool { buffers: buffers.clone() };
        let loss = BinaryCrossEntropy { buffers: buffers.clone() };
        Ok(Self { parameters, card: None, backend, buffers, layers, pool, loss, largest: Mutex::default() })
    }

    /// The parameters of each layer: `[k · k · in + 1, out]`, kernel rows (HWI) first, the bias
    /// last.
    pub fn parameters(&self) -> &[Var] {
        &self.parameters
    }

    /// The implementation that computes.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Copies the parameters out.
    ///
    /// # Errors
    /// When one of them is not a finite number any more.
    pub fn weights(&self) -> Result<Weights, NetworkError> {
        if let Some(card) = &self.card {
            return Ok(card.weights());
        }
        let mut tensors = Vec::with_capacity(2 * CONV_LAYERS.len());
        for (parameters, layer) in self.parameters.iter().zip(&CONV_LAYERS) {
            let mut values = parameters.flatten_all()?.to_vec1::<f32>()?;
            let bias = values.split_off(layer.kernel_len());
            tensors.extend([values, bias]);
        }
        Ok(Weights::new(tensors)?)
    }

    /// Overwrites the parameters.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn set_weights(&self, weights: &Weights) -> Result<(), NetworkError> {
        if let Some(card) = &self.card {
            card.set_weights(weights);
        }
        for (index, parameters) in self.parameters.iter().enumerate() {
            let (kernel, bias) = weights.layer(index);
            parameters.set(&Tensor::from_vec([kernel, bias].concat(), parameters.shape(), &Candle::Cpu)?)?;
        }
        Ok(())
    }

    /// Logits `[n, h, w, 1]` of images `[n, h, w, 3]`, both on the CPU; keeps nothing for a
    /// gradient.
    ///
    /// # Errors
    /// When the images have another shape or the device's memory does not suffice.
    pub fn forward_logits(&self, x: &Tensor) -> Result<Tensor, NetworkError> {
        self.check(x)?;
        if let Some(card) = &self.card {
            let (n, h, w, _) = x.dims4()?;
            let logits = with_host([&x.contiguous()?], |[x]| card.logits(x, (n, h, w)))??;
            return Ok(Tensor::from_vec(logits, (n, h, w, 1), &Candle::Cpu)?);
        }
        match self.backend {
            Backend::Native => {
                let x = x.detach().contiguous()?;
                Ok(self.native().forward(&x)?)
            }
            Backend::Composed => {
                let parameters: Vec<Tensor> =
                    self.parameters.iter().map(|p| p.as_tensor().detach()).collect();
                Ok(composed::network(&x.detach(), &parameters)?)
            }
        }
    }

    /// Loss of images `[n, h, w, 3]` against targets `[n, h, w, 1]`, and its gradients.
    ///
    /// # Errors
    /// As [`Self::forward_logits`].
    pub fn loss_and_gradients(&self, x: &Tensor, targets: &Tensor) -> Result<Step, NetworkError> {
        self.check(x)?;
        if self.card.is_some() {
            return Err(NetworkError::OnCard("gradients as tensors"));
        }
        match self.backend {
            Backend::Native => Ok(self.native().step(&x.detach().contiguous()?, &targets.contiguous()?)?),
            Backend::Composed => {
                let parameters: Vec<Tensor> = self.parameters.iter().map(|p| p.as_tensor().clone()).collect();
                let logits = composed::network(x, &parameters)?;
                let (loss, carrier) = composed::loss(&logits, targets)?;
                let mut store = carrier.backward()?;
                let gradients = parameters
                    .iter()
                    .map(|p| store.remove(p).map_or_else(|| p.zeros_like(), Ok))
                    .collect::<Result<_, _>>()?;
                Ok(Step { loss: loss.to_scalar()?, gradients })
            }
        }
    }

    /// Mean loss of logits against targets of the same shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn loss(&self, logits: &Tensor, targets: &Tensor) -> Result<f32, NetworkError> {
        Ok(match self.backend {
            Backend::Native => logits.apply_op2_no_bwd(targets, &self.loss)?.to_scalar()?,
            Backend::Composed => composed::loss(logits, targets)?.0.to_scalar()?,
        })
    }

    fn native(&self) -> Native<'_> {
        Native {
            parameters: &self.parameters,
            layers: &self.layers,
            pool: &self.pool,
            loss: &self.loss,
            buffers: &self.buffers,
        }
    }

    /// Gives the memory of a tensor that nobody reads any more, such as a used gradient, to the
    /// next step. Clones of the tensor are empty afterwards.
    ///
    /// # Errors
    ///
    /// When the tensor is a view.
    pub fn reclaim(&self, tensor: Tensor) -> Result<(), NetworkError> {
        if self.backend == Backend::Native {
            self.buffers.reclaim(tensor)?;
        }
        Ok(())
    }

    fn check(&self, x: &Tensor) -> Result<(), NetworkError> {
        match x.dims() {
            [_, h, w, 3] if h.is_multiple_of(4) && w.is_multiple_of(4) && x.elem_count() > 0 => {
                let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
                // Memory that is kept for smaller batches would only be added to this one's; a
                // smaller batch can use what is kept.
                if x.elem_count() > *largest {
                    self.buffers.clear();
                    *largest = x.elem_count();
                }
                Ok(())
            }
            dims => Err(NetworkError::Shape(dims.to_vec())),
        }
    }
}
