//! The network on the CPU, forward and backward written out instead of by candle's tape. The tape
//! would add each gradient to fresh zeros (three more passes over several GB) and could not give
//! memory back to [`Buffers`].

use candle_core::{CustomOp2, Device, Result, Tensor, Var};

use crate::net::network::Step;
use crate::ops::{AddPoolGradient, BinaryCrossEntropy, Buffers, Conv, MaxPool};

/// The parts of a network that its computation needs; layers are numbered as in
/// [`CONV_LAYERS`](crate::keras::CONV_LAYERS).
pub(crate) struct Native<'a> {
    pub(crate) parameters: &'a [Var],
    pub(crate) layers: &'a [Conv],
    pub(crate) pool: &'a MaxPool,
    pub(crate) loss: &'a BinaryCrossEntropy,
    pub(crate) buffers: &'a Buffers,
}

impl Native<'_> {
    fn conv(&self, index: usize, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(self.parameters[index].as_tensor(), &self.layers[index])
    }

    /// As [`Self::conv`], for an input that nobody reads afterwards.
    fn last_conv(&self, index: usize, x: Tensor) -> Result<Tensor> {
        let y = self.conv(index, &x)?;
        self.buffers.reclaim(x)?;
        Ok(y)
    }

    fn join(&self, index: usize, skip: &Tensor, up: &Tensor) -> Result<Tensor> {
        skip.apply_op3_no_bwd(up, self.parameters[index].as_tensor(), &self.layers[index])
    }

    fn max_pool(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self.pool)
    }

    /// Logits of contiguous images. Memory is reused as soon as an image is no longer needed.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let skip_1 = self.last_conv(1, self.conv(0, x)?)?;
        let skip_3 = self.last_conv(3, self.last_conv(2, self.max_pool(&skip_1)?)?)?;
        let deep = self.last_conv(5, self.last_conv(4, self.max_pool(&skip_3)?)?)?;
        let up = self.last_conv(6, deep)?;
        let joined = self.join(7, &skip_3, &up)?;
        self.buffers.reclaim(skip_3)?;
        self.buffers.reclaim(up)?;
        let up = self.last_conv(9, self.last_conv(8, joined)?)?;
        let joined = self.join(10, &skip_1, &up)?;
        self.buffers.reclaim(skip_1)?;
        self.buffers.reclaim(up)?;
        self.last_conv(13, self.last_conv(12, self.last_conv(11, joined)?)?)
    }

    /// Loss and gradients of contiguous images and targets.
    pub(crate) fn step(&self, x: &Tensor, targets: &Tensor) -> Result<Step> {
        let c0 = self.conv(0, x)?;
        let c1 = self.conv(1, &c0)?;
        let p1 = self.max_pool(&c1)?;
        let c2 = self.conv(2, &p1)?;
        let c3 = self.conv(3, &c2)?;
        let p3 = self.max_pool(&c3)?;
        let c4 = self.conv(4, &p3)?;
        let c5 = self.conv(5, &c4)?;
        let c6 = self.conv(6, &c5)?;
        let c7 = self.join(7, &c3, &c6)?;
        let c8 = self.conv(8, &c7)?;
        let c9 = self.conv(9, &c8)?;
        let c10 = self.join(10, &c1, &c9)?;
        let c11 = self.conv(11, &c10)?;
        let c12 = self.conv(12, &c11)?;
        let logits = self.conv(13, &c12)?;

        let loss = logits.apply_op2_no_bwd(targets, self.loss)?;
        let one = Tensor::new(1f32, &Device::Cpu)?;
        let (gradient, _) = self.loss.bwd(&logits, targets, &loss, &one)?;
        let mut back = Backward { network: self, gradients: vec![None; self.layers.len()] };
        self.buffers.reclaim(logits)?;
        let g = back.conv(13, &c12, gradient.unwrap_or(one))?;
        self.buffers.reclaim(c12)?;
        let g = back.conv(12, &c11, g)?;
        self.buffers.reclaim(c11)?;
        let g = back.conv(11, &c10, g)?;
        self.buffers.reclaim(c10)?;
        let (skip_1, g) = back.join(10, [&c1, &c9], g)?;
        self.buffers.reclaim(c9)?;
        let g = back.conv(9, &c8, g)?;
        self.buffers.reclaim(c8)?;
        let g = back.conv(8, &c7, g)?;
        self.buffers.reclaim(c7)?;
        let (skip_3, g) = back.join(7, [&c3, &c6], g)?;
        self.buffers.reclaim(c6)?;
        let g = back.conv(6, &c5, g)?;
        self.buffers.reclaim(c5)?;
        let g = back.conv(5, &c4, g)?;
        self.buffers.reclaim(c4)?;
        let g = back.conv(4, &p3, g)?;
        self.buffers.reclaim(p3)?;
        let g = back.max_pool(&c3, g, skip_3)?;
        self.buffers.reclaim(c3)?;
        let g = back.conv(3, &c2, g)?;
        self.buffers.reclaim(c2)?;
        let g = back.conv(2, &p1, g)?;
        self.buffers.reclaim(p1)?;
        let g = back.max_pool(&c1, g, skip_1)?;
        self.buffers.reclaim(c1)?;
        let g = back.conv(1, &c0, g)?;
        self.buffers.reclaim(c0)?;
        back.layer(0, [x, x], g)?;
        let gradients = back.gradients.into_iter().map(|g| g.ok_or_else(missing)).collect::<Result<_>>()?;
        Ok(Step { loss: loss.to_scalar()?, gradients })
    }
}

fn missing() -> candle_core::Error {
    candle_core::Error::msg("a layer got no gradient")
}

/// The backward pass. Every gradient here is the one before the ReLU, so a layer's result is not
/// read again, and its memory can be used for the next gradients.
struct Backward<'a> {
    network: &'a Native<'a>,
    gradients: Vec<Option<Tensor>>,
}

impl Backward<'_> {
    /// Computes the gradients of the inputs `x` of layer `index` from its gradient `gy`, whose
    /// memory is then given back.
    fn layer(&mut self, index: usize, x: [&Tensor; 2], gy: Tensor) -> Result<[Option<Tensor>; 2]> {
        let parameters = self.network.parameters[index].as_tensor();
        let [a, b, p] = self.network.layers[index].gradients(x, parameters, None, &gy)?;
        self.gradients[index] = p;
        self.network.buffers.reclaim(gy)?;
        Ok([a, b])
    }

    /// Gradient of the input of layer `index`.
    fn conv(&mut self, index: usize, x: &Tensor, gy: Tensor) -> Result<Tensor> {
        let [gx, _] = self.layer(index, [x, x], gy)?;
        gx.ok_or_else(missing)
    }

    /// Gradients of both inputs.
    fn join(&mut self, index: usize, x: [&Tensor; 2], gy: Tensor) -> Result<(Tensor, Tensor)> {
        let [a, b] = self.layer(index, x, gy)?;
        Ok((a.ok_or_else(missing)?, b.ok_or_else(missing)?))
    }

    /// Gradient of a pooled image; `skip` is the gradient that came over the skip connection. Where
    /// the image's ReLU is 0, the gradients of the pool's result and of the skip connection are
    /// already 0.
    fn max_pool(&mut self, x: &Tensor, gy: Tensor, skip: Tensor) -> Result<Tensor> {
        skip.inplace_op3(x, &gy, &AddPoolGradient)?;
        self.network.buffers.reclaim(gy)?;
        Ok(skip)
    }
}
