//! The network on the CPU: forward and backward along [`NODES`] by hand rather than by candle's
//! tape, which would add each gradient to fresh zeros (three more passes over several GB) and
//! couldn't give memory back to [`Buffers`].
//!
//! A convolution's gradient of its input already contains the derivative of the ReLU that made this
//! input (`Rectified::Ahead`): it is 0 where the input is not positive. For that the convolution
//! needs the image that it has read, not its result.

use candle_core::{CustomOp2, Device, Result, Tensor, Var};

use crate::net::error::Step;
use crate::net::standardise::Channels;
use crate::topology::{self, CONV_LAYERS, LAST, NODES, Operation, Source};
use kernels::{AddPoolGradient, BinaryCrossEntropy, Buffers, Conv, Inner, MaxPool, with_host};

/// The parts of a network that its computation needs; layers are numbered as in [`CONV_LAYERS`].
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

    fn join(&self, index: usize, skip: &Tensor, up: &Tensor) -> Result<Tensor> {
        skip.apply_op3_no_bwd(up, self.parameters[index].as_tensor(), &self.layers[index])
    }

    fn max_pool(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op1_no_bwd(self.pool)
    }

    /// What the convolution `layer` makes of the results so far.
    fn convolve(&self, layer: usize, results: &Results) -> Result<Tensor> {
        match topology::source(layer) {
            Source::Node(node) | Source::Upsampled(node) => self.conv(layer, results.get(node)?),
            Source::Joined(skip, up) => self.join(layer, results.get(skip)?, results.get(up)?),
        }
    }

    /// Logits of contiguous images. Memory is reused as soon as an image is no longer needed.
    ///
    /// The outermost `rim` pixels of the images, a multiple of 4, are of no interest: the second
    /// half of the network leaves out what only they depend on. The result lacks the outermost
    /// [`Self::left_out`] pixels.
    pub(crate) fn forward(&self, x: &Tensor, rim: usize) -> Result<Tensor> {
        let mut results = Results::new(x);
        // How many of the image's outermost pixels each result lacks.
        let mut lacking = [0; NODES.len()];
        for (index, node) in NODES.iter().enumerate() {
            let result = match node.operation {
                Operation::Conv(layer) => {
                    let cut = cut(rim, layer);
                    let nodes = match topology::source(layer) {
                        Source::Node(node) | Source::Upsampled(node) => [node, node],
                        Source::Joined(skip, up) => [skip, up],
                    };
                    for read in nodes {
                        let by = (cut - lacking[read]) / topology::scale(read);
                        if by > 0 {
                            let inner = results
                                .get(read)?
                                .apply_op1_no_bwd(&Inner { by, buffers: self.buffers.clone() })?;
                            // Never the images that come in (node 0), which are not ours to
                            // reuse: layers that read them cut nothing.
                            let whole = results.0[read].replace(inner);
                            self.reclaim(whole)?;
                            lacking[read] = cut;
                        }
                    }
                    lacking[index] = cut;
                    self.convolve(layer, &results)?
                }
                Operation::Pool => self.max_pool(results.get(node.inputs[0])?)?,
                Operation::Input | Operation::Upsample | Operation::Concat => continue,
            };
            results.0[index] = Some(result);
            self.reclaim_read(index, &mut results)?;
        }
        results.take(topology::node_of(LAST))
    }

    /// The channels of each layer but the last on contiguous images, if all layers before it are
    /// changed by theirs ([`Channels::fold`]). Here [`Self::layers`] have no ReLU.
    pub(crate) fn channels(&self, x: &Tensor) -> Result<Vec<Channels>> {
        let mut results = Results::new(x);
        let mut of_layers = Vec::with_capacity(LAST);
        for (index, node) in NODES.iter().enumerate() {
            let result = match node.operation {
                Operation::Conv(LAST) => break,
                Operation::Conv(layer) => {
                    let result = self.convolve(layer, &results)?;
                    let count = CONV_LAYERS[layer].output;
                    let channels = with_host([&result], |[pixels]| Channels::of(pixels, count))?;
                    result.inplace_op1(&channels)?;
                    of_layers.push(channels);
                    result
                }
                Operation::Pool => self.max_pool(results.get(node.inputs[0])?)?,
                Operation::Input | Operation::Upsample | Operation::Concat => continue,
            };
            results.0[index] = Some(result);
            self.reclaim_read(index, &mut results)?;
        }
        Ok(of_layers)
    }

    /// Gives up the results that nobody reads after this node.
    fn reclaim_read(&self, index: usize, results: &mut Results) -> Result<()> {
        for read in 1..index {
            if topology::readers(read).1 == index {
                self.reclaim(results.0[read].take())?;
            }
        }
        Ok(())
    }

    /// How many of the images' outermost pixels the result of [`Self::forward`] lacks.
    pub(crate) fn left_out(rim: usize) -> usize {
        cut(rim, LAST)
    }

    /// Loss of contiguous images and targets, and its gradients, each multiplied by `share`.
    pub(crate) fn step(&self, x: &Tensor, targets: &Tensor, share: f32) -> Result<Step> {
        let mut results = Results::new(x);
        for (index, node) in NODES.iter().enumerate() {
            results.0[index] = match node.operation {
                Operation::Conv(layer) => Some(self.convolve(layer, &results)?),
                Operation::Pool => Some(self.max_pool(results.get(node.inputs[0])?)?),
                Operation::Input => continue,
                Operation::Upsample | Operation::Concat => None,
            };
        }
        let logits = results.take(topology::node_of(LAST))?;
        let loss = logits.apply_op2_no_bwd(targets, self.loss)?;
        let share = Tensor::new(share, &Device::Cpu)?;
        let (gradient, _) = self.loss.bwd(&logits, targets, &loss, &share)?;
        self.buffers.reclaim(logits)?;
        let gradients = self.backward(results, gradient.ok_or_else(missing)?)?;
        Ok(Step { loss: loss.to_scalar()?, gradients })
    }

    /// Gradients of each layer's parameters from the one of the logits. An image is given up once
    /// the first node that has read it is gone through: nothing before that node needs it.
    fn backward(&self, mut results: Results, gradient: Tensor) -> Result<Vec<Tensor>> {
        let mut parameters = vec![None; self.layers.len()];
        // Of the nodes' results, as far as they are known.
        let mut above = Results::empty();
        above.0[topology::node_of(LAST)] = Some(gradient);
        for (index, node) in NODES.iter().enumerate().rev() {
            match node.operation {
                Operation::Conv(layer) => {
                    let read = match topology::source(layer) {
                        Source::Node(node) | Source::Upsampled(node) => [node, node],
                        Source::Joined(skip, up) => [skip, up],
                    };
                    let x = [results.get(read[0])?, results.get(read[1])?];
                    let gy = above.take(index)?;
                    let p = self.parameters[layer].as_tensor();
                    let [a, b, of_parameters] = self.layers[layer].gradients(x, p, None, &gy)?;
                    self.buffers.reclaim(gy)?;
                    parameters[layer] = of_parameters;
                    above.add(read[0], a)?;
                    above.add(read[1], b)?;
                }
                Operation::Pool => {
                    // Where the image's ReLU is closed the gradients of the pool's result and of
                    // the skip connection are 0 already.
                    let (x, gy) = (results.get(node.inputs[0])?, above.take(index)?);
                    let skip = above.take(node.inputs[0])?;
                    skip.inplace_op3(x, &gy, &AddPoolGradient)?;
                    self.buffers.reclaim(gy)?;
                    above.0[node.inputs[0]] = Some(skip);
                }
                Operation::Input | Operation::Upsample | Operation::Concat => continue,
            }
            for read in 1..index {
                if topology::readers(read).0 == index {
                    self.reclaim(results.0[read].take())?;
                }
            }
        }
        parameters.into_iter().map(|gradient| gradient.ok_or_else(missing)).collect()
    }

    fn reclaim(&self, image: Option<Tensor>) -> Result<()> {
        image.map_or(Ok(()), |image| self.buffers.reclaim(image))
    }
}

/// How many pixels around a pixel of the result the layers from this one on see at most, rounded up
/// to whole pixels of the images that they read; nothing is known for the layers before.
///
/// The last 3×3 convolutions see 3 pixels of the image around each; behind the second upsampling
/// that is 2 pixels of the half image; the two 3×3 convolutions before see 2 more.
const fn ahead(layer: usize) -> Option<usize> {
    match layer {
        0..7 => None,
        7 | 8 => Some(8),
        _ => Some(4),
    }
}

/// How many of the outermost pixels a layer need not read, if as many as `rim` are of no interest.
fn cut(rim: usize, layer: usize) -> usize {
    ahead(layer).map_or(0, |ahead| rim.saturating_sub(ahead))
}

/// An image for each node of the network, as far as there is one.
struct Results([Option<Tensor>; NODES.len()]);

impl Results {
    fn empty() -> Self {
        Self([const { None }; NODES.len()])
    }

    /// With the images that come in.
    fn new(x: &Tensor) -> Self {
        let mut results = Self::empty();
        results.0[0] = Some(x.clone());
        results
    }

    fn get(&self, node: usize) -> Result<&Tensor> {
        self.0[node].as_ref().ok_or_else(missing)
    }

    fn take(&mut self, node: usize) -> Result<Tensor> {
        self.0[node].take().ok_or_else(missing)
    }

    /// Adds a gradient to what is there.
    fn add(&mut self, node: usize, gradient: Option<Tensor>) -> Result<()> {
        if let Some(gradient) = gradient {
            self.0[node] = Some(match self.0[node].take() {
                Some(other) => (other + gradient)?,
                None => gradient,
            });
        }
        Ok(())
    }
}

fn missing() -> candle_core::Error {
    candle_core::Error::msg("a node of the network has no image, or got no gradient")
}
