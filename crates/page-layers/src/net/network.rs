//! The network on the CPU: the nodes of the topology with own kernels.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor, Var};

use crate::keras::Weights;
use crate::net::error::{NetworkError, Step};
use crate::net::native::Native;
use crate::topology::{self, Activation, CONV_LAYERS, Source};
use domain::PIXELS_AT_A_TIME;
use kernels::{AddTo, BinaryCrossEntropy, Buffers, Conv, MaxPool};

/// The network and its parameters on the CPU.
pub struct Network {
    parameters: Vec<Var>,
    buffers: Buffers,
    layers: Vec<Conv>,
    pool: MaxPool,
    loss: BinaryCrossEntropy,
    /// Most pixels of a batch that are gone through at a time.
    at_a_time: usize,
    /// Number of values in the largest batch so far, for which [`Self::buffers`] has memory.
    largest: Mutex<usize>,
}

/// The operation that computes a convolution of [`CONV_LAYERS`] together with an upsampling or a
/// concatenation before it.
fn operation(index: usize, buffers: &Buffers) -> candle_core::Result<Conv> {
    let layer = CONV_LAYERS[index];
    match topology::source(index) {
        Source::Upsampled(_) => Conv::upsampled(layer.input, layer.output, buffers),
        Source::Joined(skip, up) => {
            let [skip, up] = [skip, up].map(topology::channels);
            Conv::concatenated(skip, up, layer.output, buffers)
        }
        Source::Node(read) => {
            let relu = layer.activation == Activation::Relu;
            // Nobody needs the gradient of the image.
            Conv::new(layer.kernel, layer.input, layer.output, relu, read > 0, buffers)
        }
    }
}

impl Network {
    /// A network with these weights.
    ///
    /// # Errors
    /// When the memory does not suffice.
    pub fn new(weights: &Weights) -> Result<Self, NetworkError> {
        Self::made_of(weights, Buffers::default())
    }

    /// The same, which goes through at most so many pixels of a batch at a time.
    #[cfg(test)]
    pub(crate) fn going_through(self, pixels: usize) -> Self {
        Self { at_a_time: pixels, ..self }
    }

    /// A network that only predicts, with the memory of others; only one of them computes at a
    /// time.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn predicting(weights: &Weights, buffers: &Buffers) -> Result<Self, NetworkError> {
        Self::made_of(weights, buffers.clone())
    }

    fn made_of(weights: &Weights, buffers: Buffers) -> Result<Self, NetworkError> {
        let mut parameters = Vec::with_capacity(CONV_LAYERS.len());
        let mut layers = Vec::with_capacity(CONV_LAYERS.len());
        for index in 0..CONV_LAYERS.len() {
            let conv = operation(index, &buffers)?;
            let (kernel, bias) = weights.layer(index);
            let values = [kernel, bias].concat();
            parameters.push(Var::from_vec(values, conv.parameter_shape(), &Device::Cpu)?);
            layers.push(conv);
        }
        let pool = MaxPool { buffers: buffers.clone() };
        let loss = BinaryCrossEntropy { buffers: buffers.clone() };
        let (at_a_time, largest) = (PIXELS_AT_A_TIME, Mutex::default());
        Ok(Self { parameters, buffers, layers, pool, loss, at_a_time, largest })
    }

    /// The parameters of each layer: `[k · k · in + 1, out]`, kernel rows (HWI) first, the bias
    /// last.
    pub fn parameters(&self) -> &[Var] {
        &self.parameters
    }

    /// Copies the parameters out.
    ///
    /// # Errors
    /// When one of them is not a finite number any more.
    pub fn weights(&self) -> Result<Weights, NetworkError> {
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
    /// When the memory does not suffice.
    pub fn set_weights(&self, weights: &Weights) -> Result<(), NetworkError> {
        for (index, parameters) in self.parameters.iter().enumerate() {
            let (kernel, bias) = weights.layer(index);
            let values = [kernel, bias].concat();
            parameters.set(&Tensor::from_vec(values, parameters.shape(), &Device::Cpu)?)?;
        }
        Ok(())
    }

    /// The weights, changed so that each channel before a ReLU has a mean of 0 and a deviation of 1
    /// on these images `[n, h, w, 3]`.
    ///
    /// # Errors
    /// As [`Self::forward_logits`], and when a value is not finite.
    pub(crate) fn standardised(&self, x: &Tensor) -> Result<Weights, NetworkError> {
        self.check(x)?;
        let layers: Vec<Conv> = self.layers.iter().map(Conv::without_relu).collect();
        let native = Native { layers: &layers, ..self.native() };
        let channels = native.channels(&x.detach().contiguous()?)?;
        let mut tensors = self.weights()?.tensors().to_vec();
        for (layer, channels) in tensors.chunks_exact_mut(2).zip(&channels) {
            if let [kernel, bias] = layer {
                channels.fold(kernel, bias);
            }
        }
        Ok(Weights::new(tensors)?)
    }

    /// Logits `[n, h, w, 1]` of images `[n, h, w, 3]`; keeps nothing for a gradient.
    ///
    /// # Errors
    /// When the images have another shape or the memory does not suffice.
    pub fn forward_logits(&self, x: &Tensor) -> Result<Tensor, NetworkError> {
        self.check(x)?;
        let x = x.detach().contiguous()?;
        let parts = self.parts(&x);
        if parts.len() == 1 {
            return Ok(self.native().forward(&x, 0)?);
        }
        let mut logits = Vec::with_capacity(parts.len());
        for part in parts {
            logits.push(self.native().forward(&x.narrow(0, part.start, part.len())?, 0)?);
        }
        let all = Tensor::cat(&logits, 0)?;
        logits.into_iter().try_for_each(|part| self.reclaim(part))?;
        Ok(all)
    }

    /// The images of a batch in parts of about the same number, which are gone through one after
    /// the other.
    fn parts(&self, x: &Tensor) -> Vec<Range<usize>> {
        let (images, pixels) = (x.dims()[0], x.dims()[1] * x.dims()[2]);
        let most = (self.at_a_time / pixels).max(1);
        let each = images.div_ceil(images.div_ceil(most));
        (0..images).step_by(each).map(|start| start..(start + each).min(images)).collect()
    }

    /// As [`Self::forward_logits`], if the outermost `rim` pixels, a multiple of 4, are of no
    /// interest. Also says how many of them the logits lack on each side.
    ///
    /// # Errors
    /// As [`Self::forward_logits`], and when nothing is left.
    pub(crate) fn inner_logits(
        &self,
        x: &Tensor,
        rim: usize,
    ) -> Result<(Tensor, usize), NetworkError> {
        self.check(x)?;
        let logits = self.native().forward(&x.detach().contiguous()?, rim)?;
        Ok((logits, Native::left_out(rim)))
    }

    /// Loss of images `[n, h, w, 3]` against targets `[n, h, w, 1]`, and its gradients.
    ///
    /// # Errors
    /// As [`Self::forward_logits`].
    pub fn loss_and_gradients(&self, x: &Tensor, targets: &Tensor) -> Result<Step, NetworkError> {
        self.check(x)?;
        let (x, targets) = (x.detach().contiguous()?, targets.contiguous()?);
        let images = x.dims()[0];
        let mut sum: Option<Step> = None;
        for part in self.parts(&x) {
            let of = |all: &Tensor| all.narrow(0, part.start, part.len());
            let share = part.len() as f32 / images as f32;
            let step = self.native().step(&of(&x)?, &of(&targets)?, share)?;
            let Some(before) = &mut sum else {
                sum = Some(Step { loss: share * step.loss, ..step });
                continue;
            };
            before.loss += share * step.loss;
            for (sum, gradient) in before.gradients.iter().zip(step.gradients) {
                sum.inplace_op2(&gradient, &AddTo)?;
                self.reclaim(gradient)?;
            }
        }
        sum.ok_or_else(|| NetworkError::Shape(x.dims().to_vec()))
    }

    /// Mean loss of logits against targets of the same shape.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn loss(&self, logits: &Tensor, targets: &Tensor) -> Result<f32, NetworkError> {
        Ok(logits.apply_op2_no_bwd(targets, &self.loss)?.to_scalar()?)
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

    /// Gives the whole storage of a tensor that nobody reads any more, such as a used gradient, to
    /// the next step, also where the tensor is a view of a part of it: every tensor that shares it
    /// is empty afterwards.
    ///
    /// # Errors
    ///
    /// When the tensor repeats elements (a broadcast).
    pub fn reclaim(&self, tensor: Tensor) -> Result<(), NetworkError> {
        Ok(self.buffers.reclaim(tensor)?)
    }

    fn check(&self, x: &Tensor) -> Result<(), NetworkError> {
        match x.dims() {
            [_, h, w, 3] if h.is_multiple_of(4) && w.is_multiple_of(4) && x.elem_count() > 0 => {
                let mut largest = self.largest.lock().unwrap_or_else(PoisonError::into_inner);
                // What is kept for smaller batches would only add to this one's; a smaller batch
                // makes do with what is kept.
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
