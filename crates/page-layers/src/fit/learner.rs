//! A network and its optimiser, on the CPU or on a GPU, as the training loop uses them.

use candle_core::{Device as Candle, Tensor};

use crate::fit::outcome::FitError;
use crate::gpu::Trainer;
use crate::gpu::device::Device;
use crate::keras::Weights;
use crate::net::adam::{AdamState, KerasAdam};
use crate::net::metrics::Tally;
use crate::net::network::Network;
use crate::patch::batches::{self, Batch};
use crate::patch::samples::Samples;
use domain::PatchShape;
use kernels::with_host;

/// A network that learns.
pub(crate) enum Learner {
    Host { network: Box<Network>, adam: KerasAdam },
    Card(Box<Trainer>),
}

fn tensors(batch: Batch, shape: PatchShape) -> candle_core::Result<(Tensor, Tensor)> {
    let (height, width) = (shape.height(), shape.width());
    Ok((
        Tensor::from_vec(batch.images, (batch.len, height, width, 3), &Candle::Cpu)?,
        Tensor::from_vec(batch.targets, (batch.len, height, width, 1), &Candle::Cpu)?,
    ))
}

impl Learner {
    /// A network with these weights that learns at `rate`, continuing from `state` if there is one.
    /// `most` is the size of the largest batch.
    ///
    /// # Errors
    ///
    /// When the device has too little memory.
    pub(crate) fn new(
        device: &Device,
        shape: PatchShape,
        most: usize,
        (weights, state): (&Weights, Option<AdamState>),
        rate: f64,
    ) -> Result<Self, FitError> {
        if let Device::Card(card) = device {
            let shape = (most, shape.height(), shape.width());
            return Ok(Self::Card(Box::new(Trainer::new(card, weights, shape, rate, state)?)));
        }
        let network = Box::new(Network::new(weights)?);
        let adam = match state {
            None => KerasAdam::new(network.parameters(), rate)?,
            Some(state) => KerasAdam::resume(network.parameters(), rate, state)?,
        };
        Ok(Self::Host { network, adam })
    }

    /// The weights now.
    ///
    /// # Errors
    /// When one of them is not a finite number any more.
    pub(crate) fn weights(&self) -> Result<Weights, FitError> {
        Ok(match self {
            Self::Host { network, .. } => network.weights()?,
            Self::Card(trainer) => trainer.weights()?,
        })
    }

    /// Overwrites the weights; the optimiser stays as it is.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(crate) fn set_weights(&mut self, weights: &Weights) -> Result<(), FitError> {
        match self {
            Self::Host { network, .. } => network.set_weights(weights)?,
            Self::Card(trainer) => trainer.set_weights(weights)?,
        }
        Ok(())
    }

    /// The state of the optimiser.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(crate) fn adam(&self) -> Result<AdamState, FitError> {
        Ok(match self {
            Self::Host { adam, .. } => adam.state()?,
            Self::Card(trainer) => trainer.adam()?,
        })
    }

    /// Trains on the samples of `order`, `size` at a time, until `done` (which is told the samples
    /// and the loss of a step) returns false. A GPU is some steps ahead: these are still finished
    /// and reported to `done`, whose answer no longer counts. So every step that was made is
    /// reported.
    ///
    /// # Errors
    ///
    /// The first error of `done`, or when the device fails.
    pub(crate) fn steps(
        &mut self,
        samples: &dyn Samples,
        order: &[usize],
        size: usize,
        mut done: impl FnMut(usize, f32) -> Result<bool, FitError>,
    ) -> Result<(), FitError> {
        let (network, adam) = match self {
            Self::Card(trainer) => return trainer.steps(samples, order, size, done),
            Self::Host { network, adam } => (network, adam),
        };
        batches::for_each(samples, order, size, |batch| {
            let len = batch.len;
            let (x, y) = tensors(batch, samples.shape())?;
            let step = network.loss_and_gradients(&x, &y)?;
            // A step with such a loss would spoil the weights; the caller ends the training.
            if step.loss.is_finite() {
                adam.apply(&step.gradients)?;
            }
            for gradient in step.gradients {
                network.reclaim(gradient)?;
            }
            done(len, step.loss)
        })
    }

    /// The metrics of the samples of `order`; `None` when `go_on` returned false between two
    /// batches.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(crate) fn evaluate(
        &mut self,
        samples: &dyn Samples,
        order: &[usize],
        size: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Tally>, FitError> {
        let network = match self {
            Self::Card(trainer) => return Ok(trainer.evaluate(samples, order, size, go_on)?),
            Self::Host { network, .. } => network,
        };
        let (mut tally, mut whole) = (Tally::default(), true);
        batches::for_each(samples, order, size, |batch| {
            whole = go_on();
            if !whole {
                return Ok(false);
            }
            let targets = batch.targets.clone();
            let (x, _) = tensors(batch, samples.shape())?;
            let logits = network.forward_logits(&x)?;
            with_host([&logits], |[logits]| tally.add(logits, &targets))?;
            network.reclaim(logits)?;
            Ok::<_, FitError>(true)
        })?;
        Ok(whole.then_some(tally))
    }
}
