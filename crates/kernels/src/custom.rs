//! The operations as candle knows them: the forward pass on the CPU, and the gradients, both for
//! candle's `backward` and for the network's own backward pass.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, InplaceOp2, InplaceOp3, Layout, Result, Shape,
    Storage, Tensor, bail,
};

use rayon::prelude::*;

use super::buffers::{Buffers, to_tensor};
use super::conv::{Conv, Extent, Rectified};
use super::{loss, pool};

/// The values of a contiguous f32 tensor on the CPU.
fn host<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values: &[f32] = storage.as_slice()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("the operation needs a contiguous tensor, not {layout:?}"),
    }
}

/// Runs `f` with the values of some tensors on the CPU.
///
/// # Errors
/// When a tensor is on another device, is not contiguous or is not of f32.
pub fn with_host<R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let locked = tensors.map(Tensor::storage_and_layout);
    let mut values: [&[f32]; N] = [&[]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&locked) {
        let Storage::Cpu(storage) = &**storage else { bail!("the operation runs on the CPU only") };
        *values = host(storage, layout)?;
    }
    Ok(f(values))
}

impl Conv {
    /// A convolution of images with `input` channels; kernel 3 (with ReLU and bias) or 1. With
    /// `input_gradient` false, the gradient of the first layer's image is not computed.
    ///
    /// # Errors
    /// When the kernels on the CPU can't compute such a layer.
    pub fn new(
        kernel: usize,
        input: usize,
        output: usize,
        relu: bool,
        input_gradient: bool,
        buffers: &Buffers,
    ) -> Result<Self> {
        let buffers = buffers.clone();
        Self { kernel, inputs: [input, 0], output, relu, upsample: false, input_gradient, buffers }
            .checked()
    }

    /// A 3×3 convolution with ReLU of two images side by side: the skip connection's channels, then
    /// the other's.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn concatenated(skip: usize, up: usize, output: usize, buffers: &Buffers) -> Result<Self> {
        let (inputs, buffers) = ([skip, up], buffers.clone());
        Self {
            kernel: 3,
            inputs,
            output,
            relu: true,
            upsample: false,
            input_gradient: true,
            buffers,
        }
        .checked()
    }

    /// Nearest ×2 upsampling, then a 2×2 convolution with ReLU.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn upsampled(input: usize, output: usize, buffers: &Buffers) -> Result<Self> {
        let (inputs, buffers) = ([input, 0], buffers.clone());
        Self {
            kernel: 2,
            inputs,
            output,
            relu: true,
            upsample: true,
            input_gradient: true,
            buffers,
        }
        .checked()
    }

    fn checked(self) -> Result<Self> {
        if !self.supported() {
            bail!("no kernel for {self:?}");
        }
        Ok(self)
    }

    /// The same without its ReLU, for a forward pass.
    pub fn without_relu(&self) -> Self {
        Self { relu: false, ..self.clone() }
    }

    /// Shape of the parameters: rows for the kernel (height, width, input) and the bias; one column
    /// per output channel.
    pub fn parameter_shape(&self) -> (usize, usize) {
        (self.kernel * self.kernel * self.input() + 1, self.output)
    }

    fn extent(&self, shapes: &[&Shape], parameters: &Shape) -> Result<Extent> {
        let (batch, height, width, _) = shapes[0].dims4()?;
        for (shape, channels) in shapes.iter().zip(self.inputs) {
            if shape.dims() != [batch, height, width, channels] {
                bail!("expected an image of {channels} channels, got {shape:?}");
            }
        }
        if parameters.dims2()? != self.parameter_shape() {
            bail!("expected parameters of shape {:?}, got {parameters:?}", self.parameter_shape());
        }
        Ok(Extent { batch, height, width })
    }

    fn result_shape(&self, extent: Extent) -> Shape {
        let scale = if self.upsample { 2 } else { 1 };
        (extent.batch, extent.height * scale, extent.width * scale, self.output).into()
    }

    /// Gradients of one or two images and of the parameters, in this order. Without the result,
    /// `grad` is the gradient before the layer's ReLU, and the images' gradients are those before
    /// the ReLUs that made the images.
    ///
    /// # Errors
    /// When the shapes do not belong together.
    pub fn gradients(
        &self,
        images: [&Tensor; 2],
        parameters: &Tensor,
        result: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let grad = grad.contiguous()?;
        let count = if self.inputs[1] > 0 { 2 } else { 1 };
        let extent = self.extent(&images.map(Tensor::shape)[..count], parameters.shape())?;
        if grad.shape() != &self.result_shape(extent) {
            bail!(
                "expected a gradient of shape {:?}, got {:?}",
                self.result_shape(extent),
                grad.shape()
            );
        }
        let [a, b] = images;
        let gradients =
            with_host([a, b, parameters, result.unwrap_or(&grad), &grad], |[a, b, p, y, gy]| {
                let rectified =
                    if result.is_some() { Rectified::Here(y) } else { Rectified::Ahead };
                self.backward(extent, [a, b], p, gy, rectified)
            })?;
        let [a, b] = gradients.inputs;
        Ok([
            a.map(|a| to_tensor(a, images[0].shape())).transpose()?,
            b.map(|b| to_tensor(b, images[1].shape())).transpose()?,
            Some(to_tensor(gradients.parameters, parameters.shape())?),
        ])
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }
    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        image_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let extent = self.extent(&[image_layout.shape()], parameters_layout.shape())?;
        let (x, p) = (host(image, image_layout)?, host(parameters, parameters_layout)?);
        Ok((CpuStorage::F32(self.forward(extent, [x, &[]], p)), self.result_shape(extent)))
    }
    fn bwd(
        &self,
        image: &Tensor,
        parameters: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, _, p] = self.gradients([image, image], parameters, Some(result), grad)?;
        Ok((a, p))
    }
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv of a concatenation"
    }
    fn cpu_fwd(
        &self,
        skip: &CpuStorage,
        skip_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let extent =
            self.extent(&[skip_layout.shape(), up_layout.shape()], parameters_layout.shape())?;
        let x = [host(skip, skip_layout)?, host(up, up_layout)?];
        let p = host(parameters, parameters_layout)?;
        Ok((CpuStorage::F32(self.forward(extent, x, p)), self.result_shape(extent)))
    }
    fn bwd(
        &self,
        skip: &Tensor,
        up: &Tensor,
        parameters: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, p] = self.gradients([skip, up], parameters, Some(result), grad)?;
        Ok((a, b, p))
    }
}

/// Max pooling 2×2 of `[n, h, w, c]` with even `h` and `w`.
#[derive(Clone, Debug)]
pub struct MaxPool {
    /// Where the result's memory comes from.
    pub buffers: Buffers,
}

/// The inner part of `[n, h, w, c]`, without `by` pixels on each side.
#[derive(Clone, Debug)]
pub struct Inner {
    /// So many pixels.
    pub by: usize,
    /// Where the result's memory comes from.
    pub buffers: Buffers,
}

impl CustomOp1 for Inner {
    fn name(&self) -> &'static str {
        "inner"
    }
    fn cpu_fwd(&self, image: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        if 2 * self.by >= height.min(width) {
            bail!("nothing is left of {height}x{width} without {} on each side", self.by);
        }
        let shape = (batch, height - 2 * self.by, width - 2 * self.by, channels);
        let x = host(image, layout)?;
        let line = shape.2 * channels;
        let mut y = self.buffers.take(batch * shape.1 * line);
        y.par_chunks_mut(line).take(batch * shape.1).enumerate().for_each(|(row, y)| {
            let (image, row) = (row / shape.1, row % shape.1 + self.by);
            let from = ((image * height + row) * width + self.by) * channels;
            y.copy_from_slice(&x[from..from + line]);
        });
        Ok((CpuStorage::F32(y), shape.into()))
    }
}

/// Adds a tensor to another of the same shape: `sum.inplace_op2(other, &AddTo)`.
#[derive(Clone, Copy, Debug)]
pub struct AddTo;

impl InplaceOp2 for AddTo {
    fn name(&self) -> &'static str {
        "add-to"
    }
    fn cpu_fwd(
        &self,
        sum: &mut CpuStorage,
        sum_layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<()> {
        let other = host(other, other_layout)?;
        let (CpuStorage::F32(sum), Some((start, end))) = (sum, sum_layout.contiguous_offsets())
        else {
            bail!("the sum must be contiguous f32");
        };
        if sum_layout.shape() != other_layout.shape() {
            bail!("{:?} can't be added to {:?}", other_layout.shape(), sum_layout.shape());
        }
        sum[start..end].iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
        Ok(())
    }
}

/// Adds the gradient of a max pool to the gradient that its image has already got on another path:
/// `gradient.inplace_op3(image, gradient of the result, &AddPoolGradient)`.
#[derive(Clone, Copy, Debug)]
pub struct AddPoolGradient;

impl InplaceOp3 for AddPoolGradient {
    fn name(&self) -> &'static str {
        "add-max-pool-gradient"
    }
    fn cpu_fwd(
        &self,
        into: &mut CpuStorage,
        into_layout: &Layout,
        image: &CpuStorage,
        image_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let (_, _, width, channels) = image_layout.shape().dims4()?;
        let (x, gy) = (host(image, image_layout)?, host(grad, grad_layout)?);
        let (CpuStorage::F32(into), Some((0, end))) = (into, into_layout.contiguous_offsets())
        else {
            bail!("the gradient to add to must be contiguous f32");
        };
        pool::backward(x, gy, width, channels, &mut into[..end], true);
        Ok(())
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }
    fn cpu_fwd(&self, image: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, height, width, channels) = layout.shape().dims4()?;
        if height % 2 != 0 || width % 2 != 0 {
            bail!("max-pool needs an even height and width, got {height}x{width}");
        }
        let x = host(image, layout)?;
        let mut y = self.buffers.take(x.len() / 4);
        pool::forward(x, width, channels, &mut y);
        Ok((CpuStorage::F32(y), (batch, height / 2, width / 2, channels).into()))
    }
    fn bwd(&self, image: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, width, channels) = image.dims4()?;
        let grad = grad.contiguous()?;
        let mut gx = self.buffers.take(image.elem_count());
        with_host([image, &grad], |[x, gy]| {
            pool::backward(x, gy, width, channels, &mut gx, false)
        })?;
        Ok(Some(to_tensor(gx, image.shape())?))
    }
}

/// Mean binary cross entropy of logits against targets of the same shape (unclipped: see the `loss`
/// module).
#[derive(Clone, Debug)]
pub struct BinaryCrossEntropy {
    /// Where the gradient's memory comes from.
    pub buffers: Buffers,
}

impl CustomOp2 for BinaryCrossEntropy {
    fn name(&self) -> &'static str {
        "binary-cross-entropy"
    }
    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        logits_layout: &Layout,
        targets: &CpuStorage,
        targets_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        if logits_layout.shape() != targets_layout.shape() {
            bail!("logits {logits_layout:?} and targets {targets_layout:?} differ in shape");
        }
        let mean = loss::mean(host(logits, logits_layout)?, host(targets, targets_layout)?);
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }
    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let scale = grad.to_scalar::<f32>()?;
        let mut out = self.buffers.take(logits.elem_count());
        with_host([logits, targets], |[x, y]| loss::gradient(x, y, scale, &mut out))?;
        Ok((Some(to_tensor(out, logits.shape())?), None))
    }
}
