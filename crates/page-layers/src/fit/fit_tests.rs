//! The training loop, on synthetic patches that are small enough for a test.

use crate::Device;
use crate::fit::start::starting_weights;
use crate::keras::Weights;
use crate::{
    Collapse, EpochReport, FitError, FitObserver, FitOptions, FitState, KerasAdam, LearningRates,
    Network, PatchShape, Samples, Stop, StopReason, fit, fit_from, initial_weights,
};
use domain::{Flip, StoppingMetric, TrainingSettings};

/// Patches with a bright rectangle each, which is the target.
pub(crate) struct Rectangles {
    len: usize,
    pub(crate) side: usize,
    nothing: bool,
}

impl Rectangles {
    pub(crate) fn new(len: usize) -> Self {
        Self { len, side: 16, nothing: false }
    }

    pub(crate) fn empty(len: usize) -> Self {
        Self { nothing: true, ..Self::new(len) }
    }
}

impl Samples for Rectangles {
    fn shape(&self) -> PatchShape {
        PatchShape::new(self.side, self.side).unwrap()
    }
    fn len(&self) -> usize {
        self.len
    }
    fn write_shifted(
        &self,
        index: usize,
        (rows, columns): (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    ) {
        let (top, left) = ((index * 5 % 9) as isize - rows, (index * 3 % 8) as isize - columns);
        for (at, (pixel, target)) in image.chunks_exact_mut(3).zip(target).enumerate() {
            let (row, column) = ((at / self.side) as isize, (at % self.side) as isize);
            let inside = (top..top + 6).contains(&row)
                && (left..left + 8).contains(&column)
                && !self.nothing;
            pixel.fill(if inside { 0.9 } else { 0.1 });
            *target = f32::from(u8::from(inside));
        }
    }
}

struct Nobody;

impl FitObserver for Nobody {}

#[derive(Default)]
struct Watcher {
    steps: usize,
    epochs: Vec<EpochReport>,
    restarts: Vec<u64>,
    reasons: Vec<Collapse>,
    stop_after: Option<usize>,
}

impl FitObserver for Watcher {
    fn on_step(&mut self, epoch: usize, step: usize, steps: usize, loss: f32) {
        assert!(epoch >= 1 && (1..=steps).contains(&step) && loss.is_finite());
        self.steps += 1;
    }
    fn on_epoch(&mut self, report: &EpochReport) {
        self.epochs.push(report.clone());
    }
    fn on_restart(&mut self, restart: usize, seed: u64, why: Collapse) {
        self.reasons.push(why);
        assert_eq!(restart, self.restarts.len() + 1);
        self.restarts.push(seed);
    }
    fn stop(&self) -> Stop {
        if self.stop_after.is_some_and(|steps| self.steps >= steps) {
            Stop::KeepBest
        } else {
            Stop::No
        }
    }
}

fn options(epochs: u32) -> FitOptions {
    let options = FitOptions {
        learning_rates: LearningRates::both(1e-3),
        ..FitOptions::new(Device::Cpu, epochs, 3)
    };
    with(options, |settings| settings.batch_size = 4)
}

/// The same options with other settings.
pub(crate) fn with(mut options: FitOptions, change: impl Fn(&mut TrainingSettings)) -> FitOptions {
    change(&mut options.settings);
    options
}

/// As [`options`], with another patience.
fn patient(epochs: u32, patience: u32) -> FitOptions {
    with(options(epochs), |settings| settings.patience = patience)
}

/// Weights whose two-channel layer is dead: its biases are far below 0.
pub(crate) fn collapsed() -> Weights {
    let mut tensors = initial_weights(1).unwrap().tensors().to_vec();
    tensors[2 * 12 + 1] = vec![-1e3; 2];
    Weights::new(tensors).unwrap()
}

#[test]
fn a_simple_pattern_is_learned_and_the_best_epoch_kept() {
    let mut watcher = Watcher::default();
    // For some epochs the accuracy stays at the base rate while the loss falls; that alone must not
    // end the training.
    let options = FitOptions { seed: 4, ..patient(8, 2) };
    let trained = fit(&Rectangles::new(24), &Rectangles::new(3), &options, &mut watcher).unwrap();
    assert_eq!(
        trained.course.history,
        watcher.epochs[watcher.epochs.len() - trained.course.history.len()..]
    );
    assert!(trained.course.learned);
    let best = &trained.course.history[trained.course.best_epoch - 1];
    let accuracy = best.validation.unwrap().accuracy;
    assert!(accuracy > 0.95, "accuracy {accuracy}");
    assert!(trained.course.history.iter().all(|r| r.validation.unwrap().accuracy <= accuracy));
    assert!(best.best);
    assert!(
        trained.course.history.last().unwrap().training_loss
            < trained.course.history[0].training_loss
    );
}

#[test]
fn the_same_seed_trains_the_same_weights_on_any_number_of_threads() {
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = FitOptions { seed, ..options(2) };
        pool.install(|| {
            fit(&Rectangles::new(6), &Rectangles::new(2), &options, &mut Watcher::default())
        })
        .unwrap()
    };
    assert_eq!(run(1, 3).weights, run(3, 3).weights);
    assert_ne!(run(1, 3).weights, run(1, 4).weights);
}

#[test]
fn a_collapsed_network_is_replaced_and_the_observer_told() {
    let options = FitOptions { initial: Some(collapsed()), ..options(5) };
    let mut watcher = Watcher::default();
    let trained = fit(&Rectangles::new(10), &Rectangles::new(3), &options, &mut watcher).unwrap();
    assert_eq!(trained.course.restarts, watcher.restarts.len());
    assert!(trained.course.restarts >= 1);
    assert_eq!(watcher.reasons[0], Collapse::Constant);
    assert!(trained.course.learned);
    assert_eq!(trained.course.history[0].epoch, 1);
    assert!(
        watcher.epochs.len() > trained.course.history.len(),
        "the collapsed start's epochs are not in the history"
    );
}

#[test]
fn a_share_of_the_model_that_was_given_stays_in_the_new_one() {
    let (train, validation) = (Rectangles::new(10), Rectangles::new(3));
    let run = |given: &Weights, keep| {
        let options = FitOptions { initial: Some(given.clone()), ..options(2) };
        let options = with(options, |settings| settings.keep = keep);
        fit(&train, &validation, &options, &mut Watcher::default()).unwrap().weights
    };
    let given = starting_weights(1, &train, &Device::Cpu).unwrap();
    let learned = run(&given, 0);
    let kept = run(&given, 40);
    let [given, learned, kept] =
        [&given, &learned, &kept].map(|weights| weights.tensors().concat());
    assert!(given != learned);
    for ((given, learned), kept) in given.iter().zip(&learned).zip(&kept) {
        let between = f64::from(*given) * 0.4 + f64::from(*learned) * 0.6;
        assert!((f64::from(*kept) - between).abs() < 1e-6, "{given}, {learned}: {kept}");
    }
    // A network that had to be started anew has nothing in common with the model that was given.
    assert!(run(&collapsed(), 40) == run(&collapsed(), 0));
}

#[test]
fn without_restarts_left_a_collapsed_network_is_named_so() {
    let options = FitOptions { initial: Some(collapsed()), max_restarts: 0, ..options(2) };
    let trained =
        fit(&Rectangles::new(4), &Rectangles::new(2), &options, &mut Watcher::default()).unwrap();
    assert!(!trained.course.learned);
    assert_eq!((trained.course.restarts, trained.course.history.len()), (0, 2));
}

#[test]
fn targets_without_a_pixel_of_the_layer_are_no_collapse() {
    let nothing = |len| Rectangles { nothing: true, ..Rectangles::new(len) };
    let trained = fit(&nothing(4), &nothing(2), &options(1), &mut Watcher::default()).unwrap();
    assert!(trained.course.learned);
    assert_eq!(trained.course.restarts, 0);
}

#[test]
fn patience_ends_a_training_that_gets_no_better() {
    let options =
        FitOptions { learning_rates: LearningRates::both(0.0), max_restarts: 0, ..patient(10, 2) };
    let trained =
        fit(&Rectangles::new(4), &Rectangles::new(2), &options, &mut Watcher::default()).unwrap();
    assert_eq!(trained.stopped, StopReason::Patience);
    assert_eq!((trained.course.best_epoch, trained.course.history.len()), (1, 3));
    let train = Rectangles::new(4);
    assert!(trained.weights == starting_weights(3, &train, &Device::Cpu).unwrap());
}

#[test]
fn a_network_from_scratch_and_one_that_goes_on_learn_at_rates_of_their_own() {
    let rates = LearningRates { from_scratch: 1e-3, fine_tuning: 0.0 };
    let given = initial_weights(4).unwrap();
    let run = |initial, learning_rates| {
        let options = FitOptions { initial, learning_rates, ..options(1) };
        fit(&Rectangles::new(4), &Rectangles::new(2), &options, &mut Watcher::default()).unwrap()
    };
    let same = LearningRates::both(1e-3);
    assert!(run(None, rates).weights == run(None, same).weights);
    assert!(run(Some(given.clone()), rates).weights == given);
    // One that is replaced starts from scratch.
    let replaced = run(Some(collapsed()), rates);
    assert_eq!(replaced.course.restarts, 1);
    assert!(replaced.weights == run(Some(collapsed()), same).weights);
    // Rodan's original trainer knows the second one only.
    assert_eq!(
        FitOptions::new(Device::Cpu, 1, 3).learning_rates,
        LearningRates { from_scratch: 0.000_3, fine_tuning: 0.000_1 },
    );
}

#[test]
fn a_network_that_has_only_begun_to_learn_is_neither_ended_nor_replaced() {
    // Weights as they were drawn; with adapted weights, as a start uses them, it would be too easy.
    let initial = Some(initial_weights(4).unwrap());
    let options = FitOptions { seed: 4, max_restarts: 0, initial, ..patient(5, 2) };
    let mut watcher = Watcher::default();
    let (train, validation) = (Rectangles::new(16), Rectangles::new(2));
    let trained = fit(&train, &validation, &options, &mut watcher).unwrap();
    let accuracies: Vec<_> =
        trained.course.history.iter().map(|r| r.validation.unwrap().accuracy).collect();
    assert_eq!(
        (trained.stopped, trained.course.best_epoch),
        (StopReason::Epochs, 5),
        "{:?}",
        trained.course.history
    );
    assert!(
        accuracies[..4].iter().all(|a| *a <= accuracies[0]),
        "{accuracies:?}: accuracy alone would have ended it"
    );
    let restarting =
        FitOptions { max_restarts: 3, ..with(options, |settings| settings.epochs = 2) };
    let trained = fit(&train, &validation, &restarting, &mut watcher).unwrap();
    assert_eq!(trained.course.restarts, 0);
}

#[test]
fn a_network_no_better_than_the_base_rate_at_the_end_is_started_again() {
    // Its output is near 0.5 for all pixels, and stays there.
    let initial = Some(initial_weights(3).unwrap());
    let options = FitOptions {
        learning_rates: LearningRates::both(0.0),
        max_restarts: 1,
        initial,
        ..patient(3, 9)
    };
    let mut watcher = Watcher::default();
    let trained = fit(&Rectangles::new(4), &Rectangles::new(2), &options, &mut watcher).unwrap();
    assert_eq!((trained.course.restarts, watcher.epochs.len()), (1, 6));
    let options = FitOptions { max_restarts: 0, ..options };
    let trained = fit(&Rectangles::new(4), &Rectangles::new(2), &options, &mut watcher).unwrap();
    assert!(!trained.course.learned);
}

#[test]
fn without_validation_samples_the_training_loss_decides() {
    let trained =
        fit(&Rectangles::new(4), &Rectangles::new(0), &options(3), &mut Watcher::default())
            .unwrap();
    assert_eq!(trained.stopped, StopReason::Epochs);
    assert!(trained.course.history.iter().all(|report| report.validation.is_none()));
    let lowest = trained
        .course
        .history
        .iter()
        .min_by(|a, b| a.training_loss.total_cmp(&b.training_loss))
        .unwrap();
    assert_eq!(trained.course.best_epoch, lowest.epoch);
}

#[test]
fn a_stop_ends_after_the_step_and_keeps_the_best_so_far() {
    let (train, validation) = (Rectangles::new(10), Rectangles::new(2));
    // Three steps an epoch.
    let mut early = Watcher { stop_after: Some(2), ..Watcher::default() };
    let result = fit(&train, &validation, &options(5), &mut early);
    assert!(matches!(result, Err(FitError::Interrupted)));
    assert_eq!(early.steps, 2);
    let mut later = Watcher { stop_after: Some(4), ..Watcher::default() };
    let trained = fit(&train, &validation, &options(5), &mut later).unwrap();
    assert_eq!((trained.stopped, trained.course.best_epoch), (StopReason::Interrupted, 1));
    assert_eq!(later.steps, 4);
    // After an epoch's last step the epoch counts.
    let mut at_end = Watcher { stop_after: Some(3), ..Watcher::default() };
    let trained = fit(&train, &validation, &options(5), &mut at_end).unwrap();
    assert_eq!(
        (trained.stopped, trained.course.history.len(), at_end.steps),
        (StopReason::Interrupted, 1, 3)
    );
}

#[test]
fn a_diverging_training_says_where() {
    let options = FitOptions { learning_rates: LearningRates::both(1e30), ..options(3) };
    let result = fit(&Rectangles::new(8), &Rectangles::new(2), &options, &mut Watcher::default());
    assert!(matches!(result, Err(FitError::Diverged { epoch: 1, step: 2, .. })), "{result:?}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let (some, none) = (Rectangles::new(2), Rectangles::new(0));
    let other = Rectangles { side: 8, ..Rectangles::new(2) };
    let mut watcher = Watcher::default();
    assert!(matches!(fit(&none, &some, &options(1), &mut watcher), Err(FitError::NoSamples)));
    assert!(matches!(fit(&some, &other, &options(1), &mut watcher), Err(FitError::Shapes)));
    assert!(matches!(fit(&some, &none, &options(0), &mut watcher), Err(FitError::Zero(_))));
    let no_batch = with(options(1), |settings| settings.batch_size = 0);
    assert!(matches!(fit(&some, &none, &no_batch, &mut watcher), Err(FitError::Zero(_))));
}

#[test]
fn a_network_with_a_dead_channel_is_replaced_after_its_first_epoch_unless_it_was_given() {
    let mut tensors =
        starting_weights(1, &Rectangles::new(4), &Device::Cpu).unwrap().tensors().to_vec();
    // The channel that speaks for the layer. Without the other one a network soon says the same of
    // all pixels, and is replaced for that.
    tensors[2 * 12 + 1][1] = -1e3;
    let half = Weights::new(tensors).unwrap();
    assert!(half.layer(13).0[1] > 0.0);
    let state = |restarts| FitState {
        restarts,
        learned: true,
        history: Vec::new(),
        step: 0,
        loss_sum: 0.0,
        seconds: 0.0,
        adam: KerasAdam::new(Network::new(&half).unwrap().parameters(), 1e-3)
            .unwrap()
            .state()
            .unwrap(),
        weights: half.clone(),
        average: None,
        best: None,
    };
    let (train, validation) = (Rectangles::new(8), Rectangles::new(2));
    let run = |initial, restarts| {
        let options = FitOptions { initial, ..options(2) };
        fit_from(&train, &validation, &options, Some(state(restarts)), &mut Nobody).unwrap()
    };
    assert_eq!(run(None, 0).course.restarts, 1);
    assert_eq!(run(Some(half.clone()), 0).course.restarts, 0);
    assert_eq!(run(Some(half.clone()), 1).course.restarts, 2);
}

#[test]
fn the_best_epoch_is_the_one_of_the_chosen_metric() {
    let best = |metric, epochs| {
        let options = with(patient(epochs, 9), |settings| settings.metric = metric);
        let options = FitOptions { seed: 4, ..options };
        let trained =
            fit(&Rectangles::new(16), &Rectangles::new(4), &options, &mut Watcher::default())
                .unwrap();
        let validation: Vec<_> =
            trained.course.history.iter().map(|report| report.validation.unwrap()).collect();
        (validation[trained.course.best_epoch - 1], validation)
    };
    let (accurate, all) = best(StoppingMetric::Accuracy, 3);
    assert!(all.iter().all(|metrics| metrics.accuracy <= accurate.accuracy));
    let (found, all) = best(StoppingMetric::F1, 8);
    assert!(all.iter().all(|metrics| metrics.f1 <= found.f1) && found.f1 > 0.9, "{all:?}");
    let (low, all) = best(StoppingMetric::Loss, 3);
    assert!(all.iter().all(|metrics| metrics.loss >= low.loss));
}

#[test]
fn augmented_samples_train_other_weights_and_the_same_ones_again() {
    let run = |shift, brightness, flip| {
        let options = with(options(2), |settings| {
            (settings.shift, settings.brightness, settings.flip) = (shift, brightness, flip);
        });
        fit(&Rectangles::new(6), &Rectangles::new(2), &options, &mut Watcher::default())
            .unwrap()
            .weights
    };
    assert!(run(2, 10, Flip::Both) == run(2, 10, Flip::Both));
    assert!(run(2, 10, Flip::Both) != run(0, 0, Flip::None));
}
