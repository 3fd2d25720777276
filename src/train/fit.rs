//! The training loop: epochs, validation, the best weights, when to stop and when to start anew.

use std::time::Instant;

use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::adam::Adam;
use super::batches::{self, Batch};
use super::init::initial_weights;
use super::metrics::{Metrics, Tally};
use super::network::Network;
use super::ops::with_host;
pub use super::outcome::{EpochReport, FitError, FitObserver, FitOptions, StopReason, Trained};
use super::samples::Samples;
use crate::keras::Weights;

/// Trains one network.
///
/// The result depends only on samples, options and the kind of processor, not on the number of threads. Runs on the
/// rayon pool that it is called in, plus one thread that cuts samples.
///
/// # Errors
/// See [`FitError`].
pub fn fit(
    train: &dyn Samples,
    validation: &dyn Samples,
    options: &FitOptions,
    observer: &mut dyn FitObserver,
) -> Result<Trained, FitError> {
    if train.is_empty() {
        return Err(FitError::NoSamples);
    }
    if !validation.is_empty() && validation.shape() != train.shape() {
        return Err(FitError::Shapes);
    }
    if options.epochs == 0 {
        return Err(FitError::Zero("the number of epochs"));
    }
    if options.batch_size == 0 {
        return Err(FitError::Zero("the batch size"));
    }
    let mut restarts = 0;
    loop {
        let seed = seed_of_start(options.seed, restarts);
        let weights = match &options.initial {
            Some(weights) if restarts == 0 => weights.clone(),
            _ => initial_weights(seed)?,
        };
        let mut run = Run::start(train, validation, options, seed, &weights)?;
        match run.train(observer, restarts < options.max_restarts)? {
            End::LearnedNothing => {
                restarts += 1;
                observer.on_restart(restarts, seed_of_start(options.seed, restarts));
            }
            End::Stopped(stopped) => return run.finish(restarts, stopped),
        }
    }
}

/// Seed of start number `restart`: the asked-for one first, then its neighbours in another order (SplitMix64).
fn seed_of_start(seed: u64, restart: usize) -> u64 {
    if restart == 0 {
        return seed;
    }
    let mut z = seed.wrapping_add((restart as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Order of the training samples in one epoch. It depends on nothing but seed and epoch, so a training that goes on
/// from a checkpoint needs no generator's state.
fn shuffled(len: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Stream 0 drew the weights.
    rng.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rng);
    order
}

/// After so many epochs a network that learns at all has a loss below the base rate's; before, it may need more time.
const SETTLED: usize = 3;

enum End {
    Stopped(StopReason),
    LearnedNothing,
}

struct Best {
    weights: Weights,
    epoch: usize,
    score: f64,
}

/// One start of the training; between two epochs it is all there is to know.
struct Run<'a> {
    train: &'a dyn Samples,
    validation: &'a dyn Samples,
    options: &'a FitOptions,
    seed: u64,
    network: Network,
    adam: Adam,
    history: Vec<EpochReport>,
    best: Option<Best>,
    learned: bool,
}

impl<'a> Run<'a> {
    fn start(
        train: &'a dyn Samples,
        validation: &'a dyn Samples,
        options: &'a FitOptions,
        seed: u64,
        weights: &Weights,
    ) -> Result<Self, FitError> {
        let network = Network::new(weights, &options.device)?;
        let adam = Adam::new(network.parameters(), options.learning_rate)?;
        Ok(Self {
            train,
            validation,
            options,
            seed,
            network,
            adam,
            history: Vec::new(),
            best: None,
            learned: true,
        })
    }

    fn train(&mut self, observer: &mut dyn FitObserver, may_restart: bool) -> Result<End, FitError> {
        let reason = loop {
            let epoch = self.history.len() + 1;
            let started = Instant::now();
            let Some(training_loss) = self.train_epoch(epoch, observer)? else {
                return Ok(End::Stopped(StopReason::Interrupted));
            };
            let tally = self.evaluate(self.validation, usize::MAX)?;
            let validation = tally.metrics();
            let last = self.record(epoch, training_loss, validation, started, observer)?;
            // Once soon, lest hours go into a dead network, and once before it is called the result.
            if epoch == 1 || last.is_some() {
                let undecided = epoch >= SETTLED && tally.is_no_better_than_the_base_rate();
                self.learned = !(undecided || self.learned_nothing(tally)?);
                if !self.learned && may_restart {
                    return Ok(End::LearnedNothing);
                }
            }
            if observer.stop_requested() {
                break StopReason::Interrupted;
            }
            if let Some(reason) = last {
                break reason;
            }
        };
        Ok(End::Stopped(reason))
    }

    /// Mean loss of the epoch, or nothing when it was broken off.
    fn train_epoch(&mut self, epoch: usize, observer: &mut dyn FitObserver) -> Result<Option<f64>, FitError> {
        let order = shuffled(self.train.len(), self.seed, epoch);
        let steps = order.len().div_ceil(self.options.batch_size);
        let (mut step, mut sum) = (0, 0.0);
        let mut stopped = false;
        let samples = self.train;
        batches::for_each(samples, &order, self.options.batch_size, |batch| {
            step += 1;
            let len = batch.len as f64;
            let loss = self.step(batch)?;
            if !loss.is_finite() {
                return Err(FitError::Diverged { epoch, step, loss });
            }
            sum += f64::from(loss) * len;
            observer.on_step(epoch, step, steps, loss);
            // After the last step the epoch is as good as done: it is validated, then training ends.
            stopped = step < steps && observer.stop_requested();
            Ok(!stopped)
        })?;
        Ok((!stopped).then_some(sum / order.len() as f64))
    }

    fn tensors(&self, batch: Batch, samples: &dyn Samples) -> Result<(Tensor, Tensor), FitError> {
        let (height, width) = (samples.shape().height(), samples.shape().width());
        let device = self.network.device();
        Ok((
            Tensor::from_vec(batch.images, (batch.len, height, width, 3), device)?,
            Tensor::from_vec(batch.targets, (batch.len, height, width, 1), device)?,
        ))
    }

    fn step(&mut self, batch: Batch) -> Result<f32, FitError> {
        let (x, y) = self.tensors(batch, self.train)?;
        let step = self.network.loss_and_gradients(&x, &y)?;
        // A step with such a loss would spoil the weights; the caller ends the training.
        if step.loss.is_finite() {
            self.adam.step(self.network.parameters(), &step.gradients)?;
        }
        for gradient in step.gradients {
            self.network.reclaim(gradient)?;
        }
        Ok(step.loss)
    }

    /// Predictions for the first `most` samples against their targets.
    fn evaluate(&self, samples: &dyn Samples, most: usize) -> Result<Tally, FitError> {
        let order: Vec<usize> = (0..samples.len().min(most)).collect();
        let mut tally = Tally::default();
        batches::for_each(samples, &order, self.options.batch_size, |batch| {
            let targets = batch.targets.clone();
            let (x, _) = self.tensors(batch, samples)?;
            let logits = self.network.forward_logits(&x)?;
            let on_host = logits.to_device(&Device::Cpu)?.contiguous()?;
            with_host([&on_host], |[logits]| tally.add(logits, &targets))?;
            drop(on_host);
            self.network.reclaim(logits)?;
            Ok::<_, FitError>(true)
        })?;
        Ok(tally)
    }

    fn learned_nothing(&self, validation: Tally) -> Result<bool, FitError> {
        if validation.targets_vary() {
            return Ok(validation.learned_nothing());
        }
        // Nothing to see in the validation samples: look at some of the others.
        Ok(self.evaluate(self.train, 4 * self.options.batch_size)?.learned_nothing())
    }

    /// Keeps the epoch's report, and its weights if they are the best; says whether it was the last.
    fn record(
        &mut self,
        epoch: usize,
        training_loss: f64,
        validation: Option<Metrics>,
        started: Instant,
        observer: &mut dyn FitObserver,
    ) -> Result<Option<StopReason>, FitError> {
        let score = validation.map_or(-training_loss, |metrics| metrics.accuracy);
        let best = self.best.as_ref().is_none_or(|best| score > best.score);
        if best {
            self.best = Some(Best { weights: self.network.weights()?, epoch, score });
        }
        let seconds = started.elapsed().as_secs_f64();
        let report = EpochReport { epoch, training_loss, validation, best, seconds };
        observer.on_epoch(&report);
        self.history.push(report);
        let without_better = epoch - self.best.as_ref().map_or(0, |best| best.epoch);
        Ok(if without_better >= self.options.patience && without_better > 0 {
            Some(StopReason::Patience)
        } else if epoch >= self.options.epochs {
            Some(StopReason::Epochs)
        } else {
            None
        })
    }

    fn finish(self, restarts: usize, stopped: StopReason) -> Result<Trained, FitError> {
        let best = self.best.ok_or(FitError::Interrupted)?;
        Ok(Trained {
            weights: best.weights,
            history: self.history,
            best_epoch: best.epoch,
            restarts,
            learned: self.learned,
            stopped,
        })
    }
}
