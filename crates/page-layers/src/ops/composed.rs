//! The same operations built from candle's own: the reference that the tests compare the native
//! operations with.
//!
//! Images are NCHW here, as candle's convolution expects. Where candle's own gradient is not
//! TensorFlow's (max pool, ReLU at 0, upsampling, loss), the operation is built from others whose
//! gradients are right: a mask without a gradient of its own multiplies the values that it lets
//! through.

use candle_core::{DType, Result, Tensor};

/// Kernel `[out, in, k, k]` and bias `[1, out, 1, 1]` from parameters `[k · k · in + 1, out]`.
fn split(parameters: &Tensor, kernel: usize) -> Result<(Tensor, Tensor)> {
    let (rows, output) = parameters.dims2()?;
    let input = (rows - 1) / (kernel * kernel);
    let weights = parameters.narrow(0, 0, rows - 1)?.reshape((kernel, kernel, input, output))?;
    let bias = parameters.narrow(0, rows - 1, 1)?.reshape((1, output, 1, 1))?;
    Ok((weights.permute((3, 2, 0, 1))?.contiguous()?, bias))
}

/// ReLU whose derivative at 0 is 0.
fn relu(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.detach().gt(0.0)?.to_dtype(x.dtype())?)
}

/// Convolution with TensorFlow's `same` padding, bias and, if asked for, ReLU; `x` is
/// `[n, c, h, w]`.
pub(crate) fn conv(x: &Tensor, parameters: &Tensor, kernel: usize, with_relu: bool) -> Result<Tensor> {
    let (weights, bias) = split(parameters, kernel)?;
    let x = match kernel {
        // `same` padding: the odd pixel is below and to the right.
        2 => x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?,
        _ => x.clone(),
    };
    let padding = if kernel == 3 { 1 } else { 0 };
    let y = x.conv2d(&weights, padding, 1, 1, 1)?.broadcast_add(&bias)?;
    if with_relu { relu(&y) } else { Ok(y) }
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

/// Mean loss (no gradient) and a scalar whose gradient with respect to `logits` is the loss's.
///
/// Differentiating the usual formula would leave the derivative at logit 0 to candle's `relu` and
/// `abs`. So the known gradient `σ(x) − y` is computed and attached.
pub(crate) fn loss(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let x = logits.detach();
    let log = x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?;
    let mean = x.relu()?.sub(&x.mul(targets)?)?.add(&log)?.mean_all()?;
    let sigmoid = x.neg()?.exp()?.affine(1.0, 1.0)?.recip()?;
    let gradient = sigmoid.sub(targets)?;
    let carrier = logits.mul(&gradient.detach())?.sum_all()?.affine(1.0 / logits.elem_count() as f64, 0.0)?;
    Ok((mean, carrier))
}

/// Logits `[n, h, w, 1]` of images `[n, h, w, 3]` from the fourteen layers' parameters.
pub(crate) fn network(x: &Tensor, parameters: &[Tensor]) -> Result<Tensor> {
    let layer = |index: usize, x: &Tensor| {
        let kernel = crate::keras::CONV_LAYERS[index].kernel;
        conv(x, &parameters[index], kernel, index + 1 < parameters.len())
    };
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let skip_1 = layer(1, &layer(0, &x)?)?;
    let skip_3 = layer(3, &layer(2, &max_pool(&skip_1)?)?)?;
    let deep = layer(5, &layer(4, &max_pool(&skip_3)?)?)?;
    let up = layer(6, &upsample(&deep)?)?;
    let x = layer(8, &layer(7, &Tensor::cat(&[&skip_3, &up], 1)?)?)?;
    let up = layer(9, &upsample(&x)?)?;
    let x = layer(11, &layer(10, &Tensor::cat(&[&skip_1, &up], 1)?)?)?;
    let logits = layer(13, &layer(12, &x)?)?;
    // One channel: NCHW and NHWC are the same memory.
    let (n, c, h, w) = logits.dims4()?;
    logits.reshape((n, h, w, c))
}
