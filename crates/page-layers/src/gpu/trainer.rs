//! Training and predicting on a GPU, batch by batch.

use std::sync::Mutex;
use std::sync::PoisonError;

use super::card::Card;
use super::engine::Engine;
use super::machine::{GpuError, SLOTS};
use super::pages::{Cuts, Pages};
use crate::keras::Weights;
use crate::net::adam::AdamState;
use crate::net::error::NetworkError;
use crate::net::metrics::Tally;
use crate::patch::batches::cut;
use crate::patch::samples::Samples;

/// A network that is trained on a GPU.
pub(crate) struct Trainer {
    card: Card,
    engine: Engine,
    pages: Pages,
    learning_rate: f64,
}

impl Trainer {
    /// Puts the network on the GPU, with memory for batches of `batch` samples.
    ///
    /// # Errors
    ///
    /// When the GPU has too little memory.
    pub(crate) fn new(
        card: &Card,
        weights: &Weights,
        (batch, height, width): (usize, usize, usize),
        learning_rate: f64,
        state: Option<AdamState>,
    ) -> Result<Self, NetworkError> {
        let mut engine = Engine::new(&card.0, weights, (batch, height, width), true)?;
        if let Some(AdamState { step, first, second }) = state {
            engine.set_moments(step, &first, &second)?;
        }
        Ok(Self { card: card.clone(), engine, pages: Pages::default(), learning_rate })
    }

    /// The weights now.
    ///
    /// # Errors
    /// When one of them is not a finite number any more.
    pub(crate) fn weights(&self) -> Result<Weights, NetworkError> {
        self.engine.weights()
    }

    /// Overwrites the weights; the optimiser stays as it is.
    ///
    /// # Errors
    ///
    /// When the GPU fails.
    pub(crate) fn set_weights(&mut self, weights: &Weights) -> Result<(), NetworkError> {
        Ok(self.engine.set_weights(weights)?)
    }

    /// The state of the optimiser.
    ///
    /// # Errors
    ///
    /// When the GPU fails.
    pub(crate) fn adam(&self) -> Result<AdamState, NetworkError> {
        Ok(self.engine.moments()?)
    }

    /// Trains on the samples of `order`, `size` at a time, and calls `done` with the number of
    /// samples and the loss of each step, in order. The GPU is always some steps ahead: when `done`
    /// returns false, the steps that have begun are still finished and reported to `done`, whose
    /// answer no longer counts.
    ///
    /// # Errors
    ///
    /// The first error of `done`, or when the GPU fails. A step whose loss is not finite changes no
    /// weights; the up to 3 steps that are queued behind it may. So after an error of `done` the
    /// weights are not those of the last step that it was told of.
    pub(crate) fn steps<E: From<NetworkError>>(
        &mut self,
        samples: &dyn Samples,
        order: &[usize],
        size: usize,
        mut done: impl FnMut(usize, f32) -> Result<bool, E>,
    ) -> Result<(), E> {
        let cuts = self.pages.cuts(&self.card.0, samples, order).map_err(NetworkError::from)?;
        let batches: Vec<&[usize]> = order.chunks(size.max(1)).collect();
        let (mut asked, mut told, mut go_on) = (0, 0, true);
        while told < batches.len() {
            while go_on && asked < batches.len() && asked < told + SLOTS {
                self.ask(samples, batches[asked], asked * size, cuts.as_ref(), asked % SLOTS)?;
                asked += 1;
            }
            if told == asked {
                break;
            }
            let loss = self.engine.fetched(told % SLOTS).map_err(NetworkError::from)?;
            let answer = done(batches[told].len(), loss)?;
            go_on &= answer;
            told += 1;
        }
        Ok(())
    }

    fn ask(
        &mut self,
        samples: &dyn Samples,
        indices: &[usize],
        first: usize,
        cuts: Option<&Cuts>,
        slot: usize,
    ) -> Result<(), NetworkError> {
        self.load(samples, indices, first, cuts)?;
        self.engine.backward()?;
        self.engine.step(self.learning_rate)?;
        self.engine.fetch_loss(slot)?;
        Ok(())
    }

    /// Loads the batch of these samples; number `first` of the cuts is the first of them.
    fn load(
        &mut self,
        samples: &dyn Samples,
        indices: &[usize],
        first: usize,
        cuts: Option<&Cuts>,
    ) -> Result<(), GpuError> {
        match cuts {
            Some(cuts) => self.engine.cut(cuts, first, indices.len()),
            None => {
                let batch = cut(samples, indices);
                self.engine.take(&batch.images, Some(&batch.targets))
            }
        }
    }

    /// The metrics of the samples of `order`; `None` when `go_on` returned false between two
    /// batches.
    ///
    /// # Errors
    ///
    /// When the GPU fails.
    pub(crate) fn evaluate(
        &mut self,
        samples: &dyn Samples,
        order: &[usize],
        size: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Tally>, NetworkError> {
        let cuts = self.pages.cuts(&self.card.0, samples, order)?;
        self.engine.reset_totals()?;
        for (number, indices) in order.chunks(size.max(1)).enumerate() {
            // Waits for the batch before the last ones; otherwise `go_on` could stop nothing before
            // the whole validation is queued.
            if number >= SLOTS {
                self.engine.fetched(number % SLOTS)?;
            }
            if !go_on() {
                return Ok(None);
            }
            self.load(samples, indices, number * size, cuts.as_ref())?;
            self.engine.count()?;
            self.engine.fetch_loss(number % SLOTS)?;
        }
        let pixels = order.len() * samples.shape().pixels();
        Ok(Some(Tally::from_totals(pixels as u64, self.engine.totals()?)))
    }
}

/// A network that only predicts.
pub(crate) struct Inference {
    card: Card,
    /// The engine for the sizes that were used last.
    engine: Mutex<Option<Engine>>,
    weights: Weights,
}

impl Inference {
    /// A network on a GPU. Memory is taken with the first batch.
    pub(crate) fn new(card: &Card, weights: &Weights) -> Self {
        Self { card: card.clone(), engine: Mutex::default(), weights: weights.clone() }
    }

    /// Goes on with other weights.
    ///
    /// # Errors
    ///
    /// When the GPU fails.
    pub(crate) fn set_weights(&mut self, weights: &Weights) -> Result<(), NetworkError> {
        self.weights.clone_from(weights);
        let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(engine.as_mut().map_or(Ok(()), |engine| engine.set_weights(weights))?)
    }

    /// Logits of `images` images, NHWC.
    ///
    /// # Errors
    ///
    /// When the GPU fails or has too little memory.
    pub(crate) fn logits(
        &self,
        values: &[f32],
        (images, height, width): (usize, usize, usize),
    ) -> Result<Vec<f32>, NetworkError> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |(n, h, w): (usize, usize, usize)| n >= images && (h, w) == (height, width);
        if !engine.as_ref().is_some_and(|engine| fits(engine.shape())) {
            *engine = None; // its memory first
            *engine =
                Some(Engine::new(&self.card.0, &self.weights, (images, height, width), false)?);
        }
        match engine.as_mut() {
            Some(engine) => {
                engine.take(values, None)?;
                Ok(engine.logits()?)
            }
            None => Ok(Vec::new()),
        }
    }
}
