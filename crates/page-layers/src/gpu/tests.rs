//! The same tests for the twin and for a GPU: the comparisons of `check.rs`, and the training loop.

use std::sync::Arc;

use super::card::Card;
use super::engine::Engine;
use super::layout::{Segment, View};
use super::machine::{Buffer, Machine, Precision};
use super::pages::Cut;
use super::twin::{self, Twin};
use crate::fit::fit_tests::{Rectangles, with};
use crate::{
    Device, FitError, FitObserver, FitOptions, FitState, LearningRates, Predictor, Stop, fit,
    fit_from, initial_weights,
};

/// Runs `body` on the twin, in each precision that it computes differently, and on this machine's
/// GPU, in each precision that it has.
fn on_every_card(body: impl Fn(&Card)) {
    for precision in [Precision::F32, Precision::Bf16] {
        body(&Twin::card(precision));
    }
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        match Card::open(0, Some(precision)) {
            Ok(card) => body(&card),
            Err(error) => {
                eprintln!(
                    "SKIPPED on a GPU, {}: {error}. On the twin it was tested.",
                    precision.name()
                );
            }
        }
    }
}

#[test]
fn a_card_computes_what_the_cpu_computes() {
    on_every_card(|card| {
        let findings = card.compare().unwrap();
        for finding in &findings {
            println!("{card:?} {}: {:.2e} of {:.0e}", finding.what, finding.error, finding.bound);
        }
        let bad: Vec<_> = findings.iter().filter(|finding| !finding.is_good()).collect();
        assert!(bad.is_empty(), "{card:?}: {bad:#?}");
        // Cuts, network, 28 gradients, steps.
        assert_eq!(findings.len(), 4 + 3 + 28 + 2);
    });
}

#[test]
fn bias_and_relu_inside_of_the_convolution_make_no_difference() {
    let weights = initial_weights(3).unwrap();
    let images: Vec<f32> = (0..3 * 16 * 8).map(|i| (i % 7) as f32 / 7.0).collect();
    let [apart, fused] = [false, true].map(|fused| {
        let machine: Arc<dyn Machine> = Twin::new(Precision::F32, fused);
        let mut engine = Engine::new(&machine, &weights, (1, 16, 8), false).unwrap();
        engine.take(&images, None).unwrap();
        engine.logits().unwrap()
    });
    assert_eq!(apart, fused);
}

#[test]
fn both_sides_lay_out_their_types_alike() {
    let [view, cut, segment] = twin::sizes();
    assert_eq!(size_of::<View>(), view as usize);
    assert_eq!(size_of::<Cut>(), cut as usize);
    assert_eq!(size_of::<Segment>(), segment as usize);
}

#[test]
fn memory_is_given_back_and_nothing_is_written_behind_its_end() {
    let machine = Twin::new(Precision::Bf16, false);
    let card = Card(Arc::clone(&machine) as Arc<dyn Machine>);
    let weights = initial_weights(3).unwrap();
    // The smallest image, in which borders are large.
    let mut engine = Engine::new(&card.0, &weights, (2, 4, 4), true).unwrap();
    engine.take(&[0.5; 2 * 48], Some(&[1.0; 32])).unwrap();
    engine.backward().unwrap();
    engine.step(1e-4).unwrap();
    assert!(machine.check() > 20);
    drop(engine);
    assert_eq!(machine.check(), 0);
}

#[test]
fn a_buffer_refuses_what_does_not_fit() {
    let machine: Arc<dyn Machine> = Twin::new(Precision::F32, false);
    let buffer = Buffer::zeros(&machine, 16).unwrap();
    assert!(buffer.write(&[0f32; 4]).is_ok() && buffer.write(&[0f32; 5]).is_err());
    assert!(buffer.read(&mut [0f32; 5]).is_err());
    assert!(buffer.part("x", 1, 3, 4).is_ok() && buffer.part("x", 2, 3, 4).is_err());
    let weights = initial_weights(1).unwrap();
    assert!(Engine::new(&machine, &weights, (1, 6, 8), false).is_err());
    assert!(Engine::new(&machine, &weights, (1000, 4096, 4096), false).is_err());
}

#[test]
fn a_loss_that_is_no_number_moves_nothing() {
    on_every_card(|card| {
        let weights = initial_weights(3).unwrap();
        let mut engine = Engine::new(&card.0, &weights, (1, 8, 8), true).unwrap();
        engine.take(&[f32::NAN; 192], Some(&[1.0; 64])).unwrap();
        engine.backward().unwrap();
        engine.step(1e-2).unwrap();
        engine.fetch_loss(0).unwrap();
        assert!(engine.fetched(0).unwrap().is_nan());
        assert!(engine.weights().unwrap() == weights);
        engine.take(&[0.5; 192], Some(&[1.0; 64])).unwrap();
        engine.backward().unwrap();
        engine.step(1e-2).unwrap();
        assert!(engine.weights().unwrap() != weights);
    });
}

#[test]
fn a_predictor_on_a_card_takes_any_number_of_images() {
    on_every_card(|card| {
        let weights = initial_weights(3).unwrap();
        let images: Vec<f32> = (0..3 * 3 * 64).map(|i| (i % 11) as f32 / 11.0).collect();
        let device = Device::Card(card.clone());
        let [ours, theirs] = [&device, &Device::Cpu].map(|device| {
            let predictor = Predictor::new(&weights, device).unwrap();
            let one = predictor.predict(&images[..192], 8, 8).unwrap();
            let all = predictor.predict(&images, 8, 8).unwrap();
            let wide = predictor.predict(&images[..192], 4, 16).unwrap();
            assert_eq!((one.len(), all.len(), wide.len()), (64, 192, 64));
            assert!(one.iter().zip(&all).all(|(a, b)| (a - b).abs() < 1e-6));
            [all, wide].concat()
        });
        let bound = if card.precision() == Precision::F32 { 1e-4 } else { 3e-2 };
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < bound, "{card:?}: {worst}");
    });
}

/// Counts steps, and stops or asks for a checkpoint after one of them.
#[derive(Default)]
struct Watcher {
    losses: Vec<f32>,
    stop_after: Option<usize>,
    checkpoint_after: Option<usize>,
    state: Option<(usize, FitState)>,
}

impl FitObserver for Watcher {
    fn on_step(&mut self, _epoch: usize, step: usize, steps: usize, loss: f32) {
        assert!((1..=steps).contains(&step) && loss.is_finite());
        self.losses.push(loss);
    }
    fn stop(&self) -> Stop {
        if self.stop_after.is_some_and(|after| self.losses.len() >= after) {
            Stop::Suspend
        } else {
            Stop::No
        }
    }
    fn checkpoint_due(&self, stopping: bool) -> bool {
        stopping
            || (self.state.is_none()
                && self.checkpoint_after.is_some_and(|n| self.losses.len() >= n))
    }
    fn on_checkpoint(&mut self, state: FitState) {
        self.state = Some((self.losses.len(), state));
    }
}

fn options(device: Device, epochs: u32) -> FitOptions {
    let options = FitOptions {
        learning_rates: LearningRates::both(1e-3),
        max_restarts: 0,
        initial: Some(initial_weights(4).unwrap()),
        ..FitOptions::new(device, epochs, 3)
    };
    with(options, |settings| settings.batch_size = 2)
}

#[test]
fn a_training_on_a_card_goes_as_on_the_cpu() {
    // 9 samples, 2 at a time: the last batch is not full.
    let (train, validation) = (Rectangles::new(9), Rectangles::new(3));
    let run = |device: Device| {
        let mut watcher = Watcher::default();
        let trained = fit(&train, &validation, &options(device, 2), &mut watcher).unwrap();
        (watcher.losses, trained)
    };
    let (wanted, host) = run(Device::Cpu);
    on_every_card(|card| {
        let (losses, trained) = run(Device::Card(card.clone()));
        assert_eq!(
            (losses.len(), trained.course.history.len()),
            (10, 2),
            "every step is told of once"
        );
        // A gradient near 0 makes Adam take a whole step in the direction of its sign, so trainings
        // drift apart later; but they begin alike.
        let (first, near) =
            if card.precision() == Precision::F32 { (1e-5, 1e-2) } else { (1e-2, 5e-2) };
        for (step, (ours, theirs)) in losses.iter().zip(&wanted).enumerate() {
            let near = if step == 0 { first } else { near };
            assert!((ours - theirs).abs() < near, "{card:?}, step {step}: {ours} and {theirs}");
        }
        for (ours, theirs) in trained.course.history.iter().zip(&host.course.history) {
            assert!((ours.training_loss - theirs.training_loss).abs() < f64::from(near));
            let (ours, theirs) = (ours.validation.unwrap(), theirs.validation.unwrap());
            assert!((ours.loss - theirs.loss).abs() < f64::from(near));
        }
        let (again, _) = run(Device::Card(card.clone()));
        assert_eq!(losses, again, "{card:?}: the same again, to the bit");
    });
}

#[test]
fn a_training_on_a_card_is_suspended_and_goes_on() {
    on_every_card(|card| {
        let (train, validation) = (Rectangles::new(16), Rectangles::new(2));
        let options = options(Device::Card(card.clone()), 1);
        let mut whole = Watcher::default();
        let uninterrupted = fit(&train, &validation, &options, &mut whole).unwrap();
        // The GPU is some steps ahead: the steps that it has begun are reported, and are in the
        // checkpoint.
        let mut first = Watcher { stop_after: Some(3), ..Watcher::default() };
        let result = fit(&train, &validation, &options, &mut first);
        assert!(matches!(result, Err(FitError::Interrupted)));
        let (told, state) = first.state.unwrap();
        assert_eq!((told, first.losses.len()), (state.step, state.step));
        assert!(state.step >= 3 && state.step < 8);
        let mut second = Watcher::default();
        let resumed = fit_from(&train, &validation, &options, Some(state), &mut second).unwrap();
        assert_eq!([first.losses, second.losses].concat(), whole.losses, "{card:?}");
        assert!(resumed.weights == uninterrupted.weights);
        // Writing a checkpoint in between changes nothing.
        let mut watcher = Watcher { checkpoint_after: Some(2), ..Watcher::default() };
        fit(&train, &validation, &options, &mut watcher).unwrap();
        assert_eq!(watcher.losses, whole.losses);
        let (told, state) = watcher.state.unwrap();
        assert_eq!(told, state.step);
    });
}

#[test]
fn a_training_that_diverges_on_a_card_says_where() {
    on_every_card(|card| {
        let options = FitOptions {
            learning_rates: LearningRates::both(1e30),
            ..options(Device::Card(card.clone()), 2)
        };
        let result =
            fit(&Rectangles::new(8), &Rectangles::new(2), &options, &mut Watcher::default());
        assert!(matches!(result, Err(FitError::Diverged { epoch: 1, step: 2, .. })), "{result:?}");
    });
}

#[test]
fn a_step_asks_for_few_kernels_and_nothing_of_the_host() {
    let machine = Twin::new(Precision::F32, true);
    let card = Card(Arc::clone(&machine) as Arc<dyn Machine>);
    card.measure(2, 16, 3).unwrap();
    let started = machine.started.lock().unwrap();
    // Behind the 4th and last step the validation begins.
    let mut steps = started.split(|kernel| kernel == "cut_samples").skip(1);
    for _ in 0..3 {
        let step = steps.next().unwrap();
        assert!(!step.iter().any(|name| twin::HOST.contains(&name.as_str())), "{step:?}");
        // Besides 39 convolutions: 6 forward, loss, 12 gates, sums, Adam and the kernels after the
        // upsamplings.
        assert_eq!(step.len(), 6 + 2 + 12 + 1 + 2, "{step:?}");
    }
    assert!(steps.next().unwrap().iter().any(|name| name == "write"), "the host is seen here");
}
