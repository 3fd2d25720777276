//! The training loop: epochs, validation, the best weights, when to stop and when to start anew.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::fit::average::{Average, STRIDE};
use crate::fit::learner::Learner;
use crate::fit::outcome::{
    Best, Collapse, FitError, FitObserver, FitOptions, FitState, Stop, StopReason, Trained,
};
use crate::fit::start::{has_silent_channel, starting_weights};
use crate::keras::Weights;
use crate::net::adam::AdamState;
use crate::net::metrics::Tally;
use crate::patch::augment::Augmented;
use crate::patch::samples::Samples;
use domain::{Course, EpochReport, StoppingMetric};

/// Trains one network.
///
/// The result depends only on samples, options and the kind of processor, not on the number of
/// threads. Runs on the rayon pool that it is called in, plus one thread that cuts samples.
///
/// # Errors
/// See [`FitError`].
pub fn fit(
    train: &dyn Samples,
    validation: &dyn Samples,
    options: &FitOptions,
    observer: &mut dyn FitObserver,
) -> Result<Trained, FitError> {
    fit_from(train, validation, options, None, observer)
}

/// As [`fit`], continuing from `state`, which an earlier run with the same samples and options has
/// left. On the CPU the result is, to the bit, that of a run that was never interrupted.
///
/// # Errors
///
/// See [`FitError`].
pub fn fit_from(
    train: &dyn Samples,
    validation: &dyn Samples,
    options: &FitOptions,
    mut state: Option<FitState>,
    observer: &mut dyn FitObserver,
) -> Result<Trained, FitError> {
    if train.is_empty() {
        return Err(FitError::NoSamples);
    }
    if !validation.is_empty() && validation.shape() != train.shape() {
        return Err(FitError::Shapes);
    }
    if options.settings.epochs == 0 {
        return Err(FitError::Zero("the number of epochs"));
    }
    if options.settings.batch_size == 0 {
        return Err(FitError::Zero("the batch size"));
    }
    let mut restarts = state.as_ref().map_or(0, |state| state.restarts);
    let mut validating = Duration::ZERO;
    loop {
        let seed = seed_of_start(options.seed, restarts);
        let mut run = match (state.take(), options.given(restarts)) {
            (Some(state), _) => Run::resume(train, validation, options, seed, state)?,
            (None, Some(weights)) => {
                Run::start(train, validation, options, seed, (weights, None), 0)?
            }
            (None, None) => {
                let weights = starting_weights(seed, train, &options.device)?;
                Run::start(train, validation, options, seed, (&weights, None), restarts)?
            }
        };
        let end = run.train(observer, restarts < options.max_restarts)?;
        validating += run.validating;
        match end {
            End::Collapsed(why) => {
                restarts += 1;
                observer.on_restart(restarts, seed_of_start(options.seed, restarts), why);
            }
            End::Stopped(stopped) => return run.finish(stopped, validating),
        }
    }
}

/// Seed of start number `restart`: first the given seed, then others derived from it (SplitMix64).
fn seed_of_start(seed: u64, restart: usize) -> u64 {
    if restart == 0 {
        return seed;
    }
    let mut z = seed.wrapping_add((restart as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Order of the training samples in one epoch. It depends only on seed and epoch, so a training
/// that goes on from a checkpoint needs no state of a generator.
fn shuffled(len: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Stream 0 has drawn the weights.
    rng.set_stream(epoch as u64);
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rng);
    order
}

/// Number of samples in the largest batch of this training.
fn largest(train: &dyn Samples, validation: &dyn Samples, options: &FitOptions) -> usize {
    (options.settings.batch_size as usize).min(train.len().max(validation.len()))
}

/// After this many epochs, a network that learns at all has a loss below that of the base rate;
/// before, it may need more time.
const SETTLED: usize = 3;

/// Number of steps after which a network whose output hardly varies counts as dead.
const GROWN_UP: usize = 100;

/// Standard deviation of probabilities that are all the same except for rounding.
const ALL_THE_SAME: f64 = 1e-5;

/// The output of dead networks stayed below this standard deviation; that of others did not.
const HARDLY_VARIES: f64 = 0.02;

/// A loss counts as lower than another if it is below this share of it; a smaller difference may be
/// chance.
const CLEARLY_LOWER: f64 = 0.99;

enum End {
    Stopped(StopReason),
    Collapsed(Collapse),
}

/// One start of the training.
struct Run<'a> {
    train: &'a dyn Samples,
    validation: &'a dyn Samples,
    options: &'a FitOptions,
    seed: u64,
    restarts: usize,
    learner: Learner,
    history: Vec<EpochReport>,
    /// The average over the weights so far, where one is wanted.
    average: Option<Average>,
    best: Option<Best>,
    learned: bool,
    epoch: Epoch,
    /// How long validation has taken.
    validating: Duration,
}

/// The epoch that is being trained.
struct Epoch {
    /// Steps that are done.
    step: usize,
    /// Sum of their losses, each multiplied by its number of samples.
    loss_sum: f64,
    started: Instant,
    /// Seconds that the epoch took in earlier runs of the program.
    seconds: f64,
}

impl Epoch {
    fn new() -> Self {
        Self { step: 0, loss_sum: 0.0, started: Instant::now(), seconds: 0.0 }
    }

    fn seconds(&self) -> f64 {
        self.seconds + self.started.elapsed().as_secs_f64()
    }
}

impl<'a> Run<'a> {
    /// Begins at the first epoch, with these weights and, for a training that goes on, its
    /// optimiser.
    fn start(
        train: &'a dyn Samples,
        validation: &'a dyn Samples,
        options: &'a FitOptions,
        seed: u64,
        network: (&Weights, Option<AdamState>),
        restarts: usize,
    ) -> Result<Self, FitError> {
        let most = largest(train, validation, options);
        let rate = options.learning_rate(restarts);
        Ok(Self {
            train,
            validation,
            options,
            seed,
            restarts,
            learner: Learner::new(&options.device, train.shape(), most, network, rate)?,
            history: Vec::new(),
            average: None,
            best: None,
            learned: true,
            epoch: Epoch::new(),
            validating: Duration::ZERO,
        })
    }

    fn resume(
        train: &'a dyn Samples,
        validation: &'a dyn Samples,
        options: &'a FitOptions,
        seed: u64,
        state: FitState,
    ) -> Result<Self, FitError> {
        let FitState {
            restarts,
            learned,
            history,
            step,
            loss_sum,
            seconds,
            weights,
            adam,
            average,
            best,
        } = state;
        let run = Self::start(train, validation, options, seed, (&weights, Some(adam)), restarts)?;
        Ok(Self {
            learned,
            history,
            average,
            best,
            epoch: Epoch { step, loss_sum, seconds, ..Epoch::new() },
            ..run
        })
    }

    fn state(&self) -> Result<FitState, FitError> {
        Ok(FitState {
            restarts: self.restarts,
            learned: self.learned,
            history: self.history.clone(),
            step: self.epoch.step,
            loss_sum: self.epoch.loss_sum,
            seconds: self.epoch.seconds(),
            weights: self.learner.weights()?,
            adam: self.learner.adam()?,
            average: self.average.clone(),
            best: self.best.clone(),
        })
    }

    fn checkpoint(&self, observer: &mut dyn FitObserver) {
        match self.state() {
            Ok(state) => observer.on_checkpoint(state),
            // This is no reason to end the training: weights that are not numbers are found by the
            // next step.
            Err(error) => tracing::warn!("no checkpoint: {error}"),
        }
    }

    fn train(
        &mut self,
        observer: &mut dyn FitObserver,
        may_restart: bool,
    ) -> Result<End, FitError> {
        loop {
            let epoch = self.history.len() + 1;
            let tally = if observer.stop() == Stop::No && self.train_epoch(epoch, observer)? {
                let began = Instant::now();
                let tally = self.validate(&|| observer.stop() != Stop::Suspend)?;
                self.validating += began.elapsed();
                tally
            } else {
                None
            };
            let Some(tally) = tally else {
                if observer.checkpoint_due(true) {
                    self.checkpoint(observer);
                }
                return Ok(End::Stopped(StopReason::Interrupted));
            };
            let undecided = tally.is_no_better_than_the_base_rate();
            let last = self.record(epoch, &tally, observer)?;
            // Checked early, to waste no hours on a dead network, and again before the result is
            // accepted.
            if epoch == 1 || undecided || last.is_some() {
                let hopeless = undecided && last.is_some() && epoch >= SETTLED;
                self.learned = !(hopeless || self.learned_nothing(epoch, tally)?);
                if may_restart && !self.learned {
                    return Ok(End::Collapsed(Collapse::Constant));
                }
                if may_restart && epoch == 1 && self.is_half_dead()? {
                    return Ok(End::Collapsed(Collapse::LostChannel));
                }
            }
            if let Some(reason) = last {
                return Ok(End::Stopped(reason));
            }
        }
    }

    /// Trains the rest of the epoch; false when it ended early.
    fn train_epoch(
        &mut self,
        epoch: usize,
        observer: &mut dyn FitObserver,
    ) -> Result<bool, FitError> {
        let order = shuffled(self.train.len(), self.seed, epoch);
        let size = self.options.settings.batch_size as usize;
        let steps = order.len().div_ceil(size);
        let varied = Augmented {
            samples: self.train,
            how: self.options.settings.augmentation(),
            seed: self.seed,
            epoch,
        };
        let samples: &dyn Samples = if varied.how.is_none() { self.train } else { &varied };
        let mut stopped = false;
        while !stopped && self.epoch.step < steps {
            let left = order.get(self.epoch.step.saturating_mul(size)..).unwrap_or_default();
            let left = match self.options.settings.average {
                0 => left,
                _ => {
                    let next = STRIDE - self.epoch.step % STRIDE;
                    left.get(..next.saturating_mul(size)).unwrap_or(left)
                }
            };
            let (at, mut due) = (&mut self.epoch, false);
            self.learner.steps(samples, left, size, |len, loss| {
                at.step += 1;
                if !loss.is_finite() {
                    return Err(FitError::Diverged { epoch, step: at.step, loss });
                }
                at.loss_sum += f64::from(loss) * len as f64;
                observer.on_step(epoch, at.step, steps, loss);
                stopped = match observer.stop() {
                    Stop::No => false,
                    // After the last step the epoch is complete: it is validated, then training
                    // ends.
                    Stop::KeepBest => at.step < steps,
                    Stop::Suspend => true,
                };
                // Not here: a GPU may be some steps ahead of what it has reported.
                due = !stopped && observer.checkpoint_due(false);
                Ok(!stopped && !due)
            })?;
            let step = self.epoch.step;
            if self.options.settings.average > 0 && (step.is_multiple_of(STRIDE) || step == steps) {
                let weights = self.learner.weights()?;
                let over = self.options.settings.average;
                self.average = Some(Average::after(self.average.take(), weights, over));
            }
            if due {
                self.checkpoint(observer);
            }
        }
        Ok(!stopped)
    }

    /// The metrics of the validation samples with the weights that would be kept; `None` when
    /// `go_on` returned false between two batches.
    fn validate(&mut self, go_on: &dyn Fn() -> bool) -> Result<Option<Tally>, FitError> {
        let Some(average) = &self.average else {
            return self.evaluate(self.validation, usize::MAX, go_on);
        };
        let now = self.learner.weights()?;
        self.learner.set_weights(&average.weights)?;
        let tally = self.evaluate(self.validation, usize::MAX, go_on);
        self.learner.set_weights(&now)?;
        tally
    }

    /// The weights that would be kept.
    fn result(&self) -> Result<Weights, FitError> {
        self.average.as_ref().map_or_else(|| self.learner.weights(), |now| Ok(now.weights.clone()))
    }

    /// The metrics of the first `most` samples; `None` when `go_on` returned false between two
    /// batches.
    fn evaluate(
        &mut self,
        samples: &dyn Samples,
        most: usize,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Option<Tally>, FitError> {
        let order: Vec<usize> = (0..samples.len().min(most)).collect();
        let size = self.options.settings.batch_size as usize;
        self.learner.evaluate(samples, &order, size, go_on)
    }

    fn learned_nothing(&mut self, epoch: usize, validation: Tally) -> Result<bool, FitError> {
        let steps = epoch * self.train.len().div_ceil(self.options.settings.batch_size as usize);
        // A young network's output varies little too, but it does vary.
        let flat = if steps < GROWN_UP { ALL_THE_SAME } else { HARDLY_VARIES };
        if validation.targets_vary() {
            return Ok(validation.learned_nothing(flat));
        }
        // The validation samples can't show it, so some of the training samples are used. A few
        // batches, which nothing interrupts.
        let tally =
            self.evaluate(self.train, 4 * self.options.settings.batch_size as usize, &|| true)?;
        Ok(tally.unwrap_or_default().learned_nothing(flat))
    }

    /// True when the network has lost one of the two channels that it decides by. Not for a model
    /// that was given: it may have been good enough without.
    fn is_half_dead(&self) -> Result<bool, FitError> {
        if self.options.given(self.restarts).is_some() {
            return Ok(false);
        }
        let Self { train, options, .. } = self;
        has_silent_channel(&self.learner.weights()?, *train, &options.device)
    }

    /// Keeps the epoch's report, and its weights if they are the best; returns whether it was the
    /// last epoch.
    ///
    /// Where few pixels belong to a layer, a constant output is already so accurate that no epoch
    /// is better until the network has learned a good deal. Until then the best epoch and the
    /// patience go by the validation loss. With F1 they do so until the network has found a pixel
    /// of the layer.
    fn record(
        &mut self,
        epoch: usize,
        tally: &Tally,
        observer: &mut dyn FitObserver,
    ) -> Result<Option<StopReason>, FitError> {
        let done = std::mem::replace(&mut self.epoch, Epoch::new());
        let training_loss = done.loss_sum / self.train.len() as f64;
        let validation = tally.metrics();
        let score = match (validation, self.options.settings.metric) {
            (None, _) => -training_loss,
            (Some(metrics), StoppingMetric::Accuracy) if !tally.is_accurate_by_chance() => {
                metrics.accuracy
            }
            (Some(metrics), StoppingMetric::F1)
                if metrics.f1 > 0.0 && !tally.is_no_better_than_the_base_rate() =>
            {
                metrics.f1
            }
            (Some(metrics), _) => -metrics.loss,
        };
        let best = self.best.as_ref().is_none_or(|best| score > best.score);
        if best {
            self.best = Some(Best { weights: self.result()?, epoch, score });
        }
        let report =
            EpochReport { epoch, training_loss, validation, best, seconds: done.seconds() };
        observer.on_epoch(&report);
        self.history.push(report);
        let waiting =
            self.best.as_ref().is_some_and(|best| best.score < 0.0) && validation.is_some();
        let better = if waiting {
            self.last_lower_loss()
        } else {
            self.best.as_ref().map_or(0, |b| b.epoch)
        };
        let without_better = epoch - better;
        Ok(if without_better >= self.options.settings.patience as usize && without_better > 0 {
            Some(StopReason::Patience)
        } else if epoch >= self.options.settings.epochs as usize {
            Some(StopReason::Epochs)
        } else {
            None
        })
    }

    /// The latest epoch whose validation loss was clearly lower than any before.
    fn last_lower_loss(&self) -> usize {
        let (mut lowest, mut at) = (f64::INFINITY, 0);
        for report in &self.history {
            let loss = report.validation.map_or(f64::INFINITY, |metrics| metrics.loss);
            if loss < CLEARLY_LOWER * lowest {
                (lowest, at) = (loss, report.epoch);
            }
        }
        at
    }

    fn finish(self, stopped: StopReason, validating: Duration) -> Result<Trained, FitError> {
        let best = self.best.ok_or(FitError::Interrupted)?;
        let keep = self.options.settings.keep;
        let weights = match self.options.given(self.restarts) {
            // A network that was started anew has nothing in common with the model that was given.
            Some(given) if keep > 0 => best.weights.with_share_of(given, keep as f32 / 100.0),
            _ => best.weights,
        };
        Ok(Trained {
            weights,
            course: Course {
                history: self.history,
                best_epoch: best.epoch,
                restarts: self.restarts,
                learned: self.learned,
            },
            stopped,
            validating,
        })
    }
}
