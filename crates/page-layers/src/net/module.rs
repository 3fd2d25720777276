//! The network as a candle module: from candle's operations, on any of its devices.
//!
//! The own kernels ([`Network`](crate::Network)) are compared with it. With the feature
//! `candle-cuda` it trains on candle's CUDA backend, a second opinion on a card. It is slow and
//! needs much memory: a step of 16 patches takes minutes on a CPU.
//!
//! Inside, images are NCHW, as candle's convolution wants them. Where candle's own gradient is not
//! TensorFlow's (max pool, ReLU at 0, upsampling, loss) the operation is spelled with ones whose
//! gradient is right: masks without a gradient of their own multiply the values they let through.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap};

use crate::keras::Weights;
use crate::topology::{Activation, CONV_LAYERS, LAST, NODES, Operation};

/// The network from the variables of a [`VarBuilder`]: for each of [`CONV_LAYERS`] `NAME.kernel`
/// (HWIO) and `NAME.bias`, as in the Keras file.
#[derive(Clone, Debug)]
pub struct PageNetwork {
    /// Kernel (HWIO) and bias of each convolution.
    layers: Vec<(Tensor, Tensor)>,
}

impl PageNetwork {
    /// A network that shares the variables of `variables`.
    ///
    /// ```
    /// # fn main() -> candle_core::Result<()> {
    /// use candle_core::{DType, Device, Tensor};
    /// use candle_nn::{Module, VarBuilder};
    /// use page_layers::{PageNetwork, initial_weights, variables};
    ///
    /// // Or those of a file: page_layers::keras::read("Model 0.hdf5".as_ref())?.weights
    /// let weights = initial_weights(7).expect("finite values");
    /// let device = Device::Cpu;
    /// let map = variables(&weights, &device)?;
    /// let network = PageNetwork::new(&VarBuilder::from_varmap(&map, DType::F32, &device))?;
    /// let images = Tensor::zeros((1, 8, 12, 3), DType::F32, &device)?;
    /// assert_eq!(network.forward(&images)?.dims(), [1, 8, 12, 1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When a variable is missing or has another shape.
    pub fn new(variables: &VarBuilder<'_>) -> Result<Self> {
        let layer = |layer: &crate::topology::ConvLayer| {
            let of_layer = variables.pp(layer.name);
            let kernel = (layer.kernel, layer.kernel, layer.input, layer.output);
            Ok((of_layer.get(kernel, "kernel")?, of_layer.get(layer.output, "bias")?))
        };
        Ok(Self { layers: CONV_LAYERS.iter().map(layer).collect::<Result<_>>()? })
    }
}

impl Module for PageNetwork {
    /// Logits `[n, h, w, 1]` of images `[n, h, w, 3]`; `h` and `w` are multiples of 4.
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut results: Vec<Tensor> = Vec::with_capacity(NODES.len());
        for node in &NODES {
            let read = |input: usize| &results[node.inputs[input]];
            let result = match node.operation {
                Operation::Input => images.permute((0, 3, 1, 2))?.contiguous()?,
                Operation::Conv(layer) => {
                    let (kernel, bias) = &self.layers[layer];
                    let y = convolution(read(0), kernel, bias)?;
                    match CONV_LAYERS[layer].activation {
                        Activation::Relu => relu(&y)?,
                        Activation::Sigmoid => y,
                    }
                }
                Operation::Pool => max_pool(read(0))?,
                Operation::Upsample => upsample(read(0))?,
                Operation::Concat => Tensor::cat(&[read(0), read(1)], 1)?,
            };
            results.push(result);
        }
        let logits = &results[crate::topology::node_of(LAST)];
        // One channel: NCHW and NHWC are the same memory.
        let (n, c, h, w) = logits.dims4()?;
        logits.reshape((n, h, w, c))
    }
}

/// The variables of a [`PageNetwork`] with these values.
///
/// # Errors
/// When the device's memory does not suffice.
pub fn variables(weights: &Weights, device: &Device) -> Result<VarMap> {
    let map = VarMap::new();
    let mut named = HashMap::with_capacity(2 * CONV_LAYERS.len());
    for (index, layer) in CONV_LAYERS.iter().enumerate() {
        let (kernel, bias) = weights.layer(index);
        let shape = (layer.kernel, layer.kernel, layer.input, layer.output);
        named.insert(format!("{}.kernel", layer.name), Var::from_slice(kernel, shape, device)?);
        named.insert(format!("{}.bias", layer.name), Var::from_slice(bias, layer.output, device)?);
    }
    if let Ok(mut data) = map.data().lock() {
        data.extend(named);
    }
    Ok(map)
}

/// The values of such variables, in Keras's order: for the Keras file, for instance.
///
/// # Errors
/// When a variable is missing, has another length or holds a value that is not finite.
pub fn weights_of(map: &VarMap) -> Result<Weights> {
    let data =
        map.data().lock().map_err(|_| candle_core::Error::msg("the variables are locked"))?;
    let mut tensors = Vec::with_capacity(2 * CONV_LAYERS.len());
    for layer in &CONV_LAYERS {
        for part in ["kernel", "bias"] {
            let name = format!("{}.{part}", layer.name);
            let found = data
                .get(&name)
                .ok_or_else(|| candle_core::Error::msg(format!("there is no variable {name}")))?;
            tensors.push(found.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Weights::new(tensors).map_err(candle_core::Error::wrap)
}

/// Convolution with TensorFlow's `same` padding, and bias; `x` is `[n, c, h, w]`, the kernel HWIO.
pub(crate) fn convolution(x: &Tensor, kernel: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let x = match kernel.dims()[0] {
        // The odd pixel of padding goes below and right.
        2 => x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?,
        _ => x.clone(),
    };
    let padding = if kernel.dims()[0] == 3 { 1 } else { 0 };
    let y = x.conv2d(&kernel.permute((3, 2, 0, 1))?.contiguous()?, padding, 1, 1, 1)?;
    y.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?)
}

/// ReLU whose derivative at 0 is 0.
pub(crate) fn relu(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.detach().gt(0.0)?.to_dtype(x.dtype())?)
}

/// Nearest ×2 of `[n, c, h, w]`.
pub(crate) fn upsample(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    x.reshape((n * c, h, 1, w, 1))?.broadcast_as((n * c, h, 2, w, 2))?.reshape((n, c, 2 * h, 2 * w))
}

/// Max pooling 2×2 of `[n, c, h, w]` whose gradient goes to the first maximum, row-major.
pub(crate) fn max_pool(x: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let windows = x.reshape((n * c, h / 2, 2, w / 2, 2))?;
    let mut corners = Vec::with_capacity(4);
    for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        corners.push(windows.narrow(2, row, 1)?.narrow(4, column, 1)?.contiguous()?);
    }
    let plain: Vec<Tensor> = corners.iter().map(Tensor::detach).collect();
    let best = plain[0].maximum(&plain[1])?.maximum(&plain[2])?.maximum(&plain[3])?;
    let mut taken = best.zeros_like()?;
    let mut sum: Option<Tensor> = None;
    for (corner, plain) in corners.iter().zip(&plain) {
        let first = plain.eq(&best)?.to_dtype(DType::F32)?.mul(&taken.affine(-1.0, 1.0)?)?;
        taken = taken.add(&first)?;
        let part = corner.mul(&first)?;
        sum = Some(match sum {
            Some(sum) => sum.add(&part)?,
            None => part,
        });
    }
    sum.unwrap_or(best).reshape((n, c, h / 2, w / 2))
}

/// Mean binary cross entropy of logits against targets of the same shape, unclipped.
///
/// Differentiating the usual formula leaves the choice at logit 0 to candle's `relu` and `abs`; so
/// the known gradient `σ(x) − y` is computed and attached: the loss is `ln(1 + e^x) − x·y` as a
/// number, and moves as `x · (σ(x) − y)` does with σ held still.
///
/// # Errors
/// When the shapes differ.
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let x = logits.detach();
    let log = x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?;
    let mean = x.relu()?.sub(&x.mul(targets)?)?.add(&log)?.mean_all()?;
    let sigmoid = x.neg()?.exp()?.affine(1.0, 1.0)?.recip()?;
    let gradient = sigmoid.sub(targets)?.detach();
    let carrier =
        logits.mul(&gradient)?.sum_all()?.affine(1.0 / logits.elem_count() as f64, 0.0)?;
    // What is added is 0, with the carrier's gradient.
    mean.detach().add(&carrier.sub(&carrier.detach())?)
}

#[cfg(test)]
mod tests {
    use candle_nn::Optimizer;

    use super::*;
    use crate::{KerasAdam, Network, initial_weights};

    fn batch(device: &Device) -> (Tensor, Tensor) {
        let values: Vec<f32> = (0..2 * 16 * 20 * 3)
            .map(|i| if i % 5 < 2 { 0.0 } else { (i * 7919 % 256) as f32 / 255.0 })
            .collect();
        let x = Tensor::from_vec(values, (2, 16, 20, 3), device).unwrap();
        let y = x.mean_keepdim(3).unwrap().gt(0.3).unwrap().to_dtype(DType::F32).unwrap();
        (x, y)
    }

    /// Trains three steps; the losses and the weights after them.
    fn train(weights: &Weights, device: &Device) -> (Vec<f32>, Weights) {
        let map = variables(weights, device).unwrap();
        let network = PageNetwork::new(&VarBuilder::from_varmap(&map, DType::F32, device)).unwrap();
        let mut adam = <KerasAdam as Optimizer>::new(map.all_vars(), 1e-3).unwrap();
        let (x, y) = batch(device);
        let mut losses = Vec::new();
        for _ in 0..3 {
            let loss = binary_cross_entropy(&network.forward(&x).unwrap(), &y).unwrap();
            adam.backward_step(&loss).unwrap();
            losses.push(loss.to_scalar().unwrap());
        }
        (losses, weights_of(&map).unwrap())
    }

    fn relative(a: &Weights, b: &Weights, from: &Weights) -> f64 {
        let moved = |of: &Weights| -> Vec<f64> {
            let pairs = of.tensors().iter().flatten().zip(from.tensors().iter().flatten());
            pairs.map(|(to, from)| f64::from(to - from)).collect()
        };
        let (a, b) = (moved(a), moved(b));
        let size =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        size(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / size(&mut b.iter().copied())
    }

    #[test]
    fn it_trains_with_candle_s_tape_as_the_own_kernels_do() {
        let weights = initial_weights(3).unwrap();
        let network = Network::new(&weights).unwrap();
        let mut adam = KerasAdam::new(network.parameters(), 1e-3).unwrap();
        let (x, y) = batch(&Device::Cpu);
        let (losses, trained) = train(&weights, &Device::Cpu);
        for (step, wanted) in losses.iter().enumerate() {
            let own = network.loss_and_gradients(&x, &y).unwrap();
            assert!((own.loss - wanted).abs() < 1e-3, "step {step}: {} and {wanted}", own.loss);
            adam.apply(&own.gradients).unwrap();
        }
        // Of a gradient near 0 Adam takes the sign alone, which rounding decides: of 1.4 million
        // weights some thousand may go the other way.
        let differs = relative(&network.weights().unwrap(), &trained, &weights);
        assert!(differs < 0.2, "{differs}");
    }

    #[test]
    fn weights_come_back_and_what_is_missing_is_named() {
        let weights = initial_weights(4).unwrap();
        let map = variables(&weights, &Device::Cpu).unwrap();
        assert!(weights_of(&map).unwrap() == weights);
        map.data().lock().unwrap().remove("conv2d_6.bias");
        assert!(weights_of(&map).unwrap_err().to_string().contains("conv2d_6.bias"));
        let none = VarBuilder::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
        assert!(PageNetwork::new(&none).unwrap_err().to_string().contains("conv2d"));
    }

    /// The second opinion itself: the same steps on candle's CUDA backend and on the CPU.
    #[cfg(feature = "candle-cuda")]
    #[test]
    fn candle_s_cuda_backend_trains_as_the_cpu_does() {
        let Ok(device) = Device::new_cuda(0) else {
            eprintln!(
                "SKIPPED: no CUDA device here, candle's CUDA backend was compared with nothing"
            );
            return;
        };
        let weights = initial_weights(3).unwrap();
        let ((ours, on_card), (wanted, on_cpu)) =
            (train(&weights, &device), train(&weights, &Device::Cpu));
        for (step, (ours, wanted)) in ours.iter().zip(&wanted).enumerate() {
            assert!((ours - wanted).abs() < 1e-2, "step {step}: {ours} and {wanted}");
        }
        assert!(relative(&on_card, &on_cpu, &weights) < 0.2);
    }
}
