//! A training that was interrupted and resumed, compared with one that was not: equal to the bit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::Device;
use crate::fit::checkpoint::{Checkpoint, CheckpointError};
use crate::fit::fit_tests::{Rectangles, collapsed, with};
use crate::{
    Checkpoints, EpochReport, FitObserver, FitOptions, FitState, JobObserver, LearningRates,
    PageInputs, Stop, StopReason, TrainError, Trained, TrainedLayer, TrainingInputs, TrainingJob,
    fit, fit_from,
};
use domain::{Flip, Layer, TrainingSettings};

/// Keeps the file of every state that it is offered, and suspends after a number of steps.
#[derive(Default)]
struct Recorder {
    files: Vec<Vec<u8>>,
    steps: usize,
    suspend_after: Option<usize>,
}

fn file(fit: FitState) -> Vec<u8> {
    Checkpoint { seed: 3, finished: Vec::new(), fit: Some(fit) }.to_bytes("page").unwrap()
}

fn state(file: &[u8]) -> FitState {
    Checkpoint::from_bytes(file, "page").unwrap().fit.unwrap()
}

impl FitObserver for Recorder {
    fn on_step(&mut self, _epoch: usize, _step: usize, _steps: usize, _loss: f32) {
        self.steps += 1;
    }
    fn stop(&self) -> Stop {
        if self.suspend_after.is_some_and(|steps| self.steps >= steps) {
            Stop::Suspend
        } else {
            Stop::No
        }
    }
    fn checkpoint_due(&self, stopping: bool) -> bool {
        stopping || self.suspend_after.is_none()
    }
    fn on_checkpoint(&mut self, state: FitState) {
        self.files.push(file(state));
    }
}

/// Everything but the seconds.
fn exact(history: &[EpochReport]) -> Vec<EpochReport> {
    history.iter().map(|report| EpochReport { seconds: 0.0, ..report.clone() }).collect()
}

#[track_caller]
fn assert_same(left: &Trained, right: &Trained) {
    assert!(left.weights == right.weights, "the weights differ");
    assert_eq!(exact(&left.course.history), exact(&right.course.history));
    let rest = |t: &Trained| (t.course.best_epoch, t.course.restarts, t.course.learned, t.stopped);
    assert_eq!(rest(left), rest(right));
}

/// Two steps per epoch. The first start is dead and is followed by another one.
fn options() -> FitOptions {
    let options = FitOptions {
        learning_rates: LearningRates { from_scratch: 1e-3, fine_tuning: 2e-3 },
        initial: Some(collapsed()),
        ..FitOptions::new(Device::Cpu, 3, 3)
    };
    with(options, |settings| settings.batch_size = 3)
}

fn samples() -> (Rectangles, Rectangles) {
    (Rectangles::new(6), Rectangles::new(3))
}

#[test]
fn a_training_resumed_after_any_step_ends_as_if_it_had_not_been_interrupted() {
    let (train, validation) = samples();
    let mut recorder = Recorder::default();
    let whole = fit(&train, &validation, &options(), &mut recorder).unwrap();
    assert!(
        whole.course.restarts > 0,
        "one of the interruptions is to be before a restart, and others after it"
    );
    assert_eq!(recorder.files.len(), recorder.steps, "a checkpoint after every step");
    for file in &recorder.files {
        let resumed =
            fit_from(&train, &validation, &options(), Some(state(file)), &mut Recorder::default())
                .unwrap();
        assert_same(&whole, &resumed);
    }
}

#[test]
fn averaged_weights_go_on_after_any_step_and_change_nothing_of_the_training() {
    let (train, validation) = samples();
    // Six steps an epoch: the average is taken after the fourth and the sixth.
    let plain = FitOptions {
        learning_rates: LearningRates::both(1e-3),
        ..FitOptions::new(Device::Cpu, 2, 3)
    };
    let plain = with(plain, |settings| settings.batch_size = 1);
    let averaged = with(plain.clone(), |settings| settings.average = 3);
    let mut recorder = Recorder::default();
    let whole = fit(&train, &validation, &averaged, &mut recorder).unwrap();
    for file in &recorder.files {
        let left = Some(state(file));
        let resumed =
            fit_from(&train, &validation, &averaged, left, &mut Recorder::default()).unwrap();
        assert_same(&whole, &resumed);
    }
    let other = fit(&train, &validation, &plain, &mut Recorder::default()).unwrap();
    let losses = |trained: &Trained| -> Vec<f64> {
        trained.course.history.iter().map(|report| report.training_loss).collect()
    };
    assert_eq!(losses(&whole), losses(&other));
    assert!(whole.weights != other.weights);
    let validated = |trained: &Trained| trained.course.history[0].validation;
    assert!(validated(&whole) != validated(&other), "the average is what is validated");
}

#[test]
fn a_training_suspended_again_and_again_ends_as_if_it_had_not_been_interrupted() {
    let (train, validation) = samples();
    let whole = fit(&train, &validation, &options(), &mut Recorder::default()).unwrap();
    for every in [1, 3] {
        let mut left = None;
        let resumed = loop {
            let mut recorder = Recorder { suspend_after: Some(every), ..Recorder::default() };
            let from = left.as_deref().map(state);
            match fit_from(&train, &validation, &options(), from, &mut recorder) {
                Ok(trained) if trained.stopped != StopReason::Interrupted => break trained,
                _ => left = recorder.files.pop(),
            }
            assert!(left.is_some(), "who is suspended leaves a checkpoint");
        };
        assert_same(&whole, &resumed);
    }
}

#[test]
fn what_can_not_be_gone_on_from_says_why() {
    let (train, validation) = samples();
    let mut recorder = Recorder::default();
    fit(&train, &validation, &with(options(), |s| s.epochs = 1), &mut recorder).unwrap();
    let file = recorder.files.pop().unwrap();
    let refused = |bytes: &[u8]| Checkpoint::from_bytes(bytes, "page").unwrap_err();
    for length in [0, 7, 8, 100, file.len() / 2, file.len() - 1] {
        assert!(matches!(refused(&file[..length]), CheckpointError::Damaged(_)), "{length} bytes");
    }
    let mut flipped = file.clone();
    let middle = file.len() / 2;
    flipped[middle] ^= 1;
    assert!(matches!(refused(&flipped), CheckpointError::Damaged(_)));
    assert!(matches!(Checkpoint::from_bytes(&file, "other"), Err(CheckpointError::Foreign)));
    let (from, to): (&[u8], &[u8]) = (br#"{\"version\":1,"#, br#"{\"version\":7,"#);
    let at = file.windows(from.len()).position(|window| window == from).unwrap();
    let mut newer = file;
    newer[at..at + to.len()].copy_from_slice(to);
    assert!(matches!(refused(&newer), CheckpointError::Version(7)));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(Checkpoint::from_bytes(&bytes, "page").is_err());
    }

    #[test]
    fn any_header_is_refused_without_a_panic(meta in r#"[{}\[\]":,a-z0-9]{0,60}"#) {
        let header = serde_json::json!({"__metadata__": {"hpc-trainer": meta}}).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        prop_assert!(Checkpoint::from_bytes(&bytes, "page").is_err());
    }
}

/// Suspends a job's training after a number of steps.
struct Interrupter {
    steps: usize,
    most: usize,
}

impl JobObserver for Interrupter {
    fn step(&mut self, _layer: Layer, _epoch: usize, _step: usize, _steps: usize, _loss: f32) {
        self.steps += 1;
    }
    fn stop(&self) -> Stop {
        if self.steps >= self.most { Stop::Suspend } else { Stop::No }
    }
}

/// The example page in a folder of its own, with two layers.
struct Desk {
    folder: tempfile::TempDir,
    inputs: TrainingInputs,
    settings: TrainingSettings,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/page");
        let copy = |name: &str| {
            let path = folder.path().join(name);
            fs::copy(page.join(name), &path).unwrap();
            path
        };
        let inputs = TrainingInputs::of_page(PageInputs {
            label: None,
            image: copy("image.png"),
            regions: Some(copy("regions.png")),
            background: copy("background.png"),
            layers: vec![(Layer::Numbered(0), copy("layer_0.png"))],
        });
        let settings = TrainingSettings {
            epochs: 2,
            max_samples: 20,
            patch_height: 16,
            patch_width: 16,
            batch_size: 8,
            brightness: 10,
            shift: 4,
            flip: Flip::Horizontal,
            ..TrainingSettings::default()
        };
        Self { folder, inputs, settings }
    }

    fn open(&self) -> Checkpoints {
        Checkpoints::open(
            &self.folder.path().join("checkpoint"),
            Duration::ZERO,
            &self.inputs,
            &self.settings,
        )
        .unwrap()
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint/training.safetensors")
    }

    /// One run of the program; it is suspended after `most` steps.
    fn run(&self, most: usize, seed: Option<u64>) -> (u64, Result<Vec<TrainedLayer>, TrainError>) {
        let mut checkpoints = self.open();
        let seed = seed.or(checkpoints.seed());
        let job = TrainingJob::prepare(&self.inputs, &TrainingSettings { seed, ..self.settings })
            .unwrap();
        let out = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let mut observer = Interrupter { steps: 0, most };
        (job.seed(), job.train_from(Some(&mut checkpoints), &Device::Cpu, &out, &mut observer))
    }
}

fn models(trained: &[TrainedLayer]) -> Vec<(String, Vec<u8>)> {
    trained.iter().map(|layer| (layer.layer.model_name(), fs::read(&layer.path).unwrap())).collect()
}

#[test]
fn a_page_suspended_again_and_again_gets_the_models_of_an_uninterrupted_one() {
    let desk = Desk::new();
    let (seed, first) = desk.run(2, None);
    assert!(matches!(first, Err(TrainError::Stopped { .. })));
    let mut runs = 1;
    let resumed = loop {
        runs += 1;
        match desk.run(2, None) {
            (same, Ok(trained)) => {
                assert_eq!(same, seed, "the seed that was drawn");
                break trained;
            }
            (_, Err(TrainError::Stopped { .. })) => assert!(runs < 100),
            (_, Err(error)) => panic!("{error}"),
        }
    };
    assert!(runs > 3, "{runs} runs");
    let other = Desk::new();
    let whole = other.run(usize::MAX, Some(seed)).1.unwrap();
    assert_eq!(models(&resumed), models(&whole));
    for (left, right) in resumed.iter().zip(&whole) {
        assert_eq!(exact(&left.course.history), exact(&right.course.history));
        assert_eq!(
            (left.course.best_epoch, left.course.restarts),
            (right.course.best_epoch, right.course.restarts)
        );
    }
}

#[test]
fn a_layer_whose_model_can_not_be_kept_is_trained_again() {
    let desk = Desk::new();
    // A folder in the model's place.
    let in_the_way = desk.folder.path().join("checkpoint/Background Model.hdf5");
    fs::create_dir_all(in_the_way.join("full")).unwrap();
    let observed = |most| {
        let mut checkpoints = desk.open();
        let seed = checkpoints.seed().or(Some(1));
        let job = TrainingJob::prepare(&desk.inputs, &TrainingSettings { seed, ..desk.settings })
            .unwrap();
        let out = tempfile::tempdir_in(desk.folder.path()).unwrap().keep();
        let mut observer = Interrupter { steps: 0, most };
        let trained = job.train_from(Some(&mut checkpoints), &Device::Cpu, &out, &mut observer);
        (trained, out, checkpoints.is_saved())
    };
    // Stopped within the second layer: the first one's model was written.
    let mut steps = 1;
    loop {
        let (stopped, out, saved) = observed(steps);
        assert!(matches!(stopped, Err(TrainError::Stopped { .. })));
        if out.join("Background Model.hdf5").exists() {
            assert!(!saved, "there is no use in a requeue");
            break;
        }
        steps += 1;
    }
    fs::remove_dir_all(&in_the_way).unwrap();
    let resumed = observed(usize::MAX).0.unwrap();
    let other = Desk::new();
    let whole = other.run(usize::MAX, Some(1)).1.unwrap();
    assert_eq!(models(&resumed), models(&whole));
}

#[test]
fn a_checkpoint_that_does_not_fit_is_passed_over() {
    let mut desk = Desk::new();
    assert!(desk.run(1, Some(1)).1.is_err());
    assert!(desk.open().seed().is_some());
    let good = fs::read(desk.checkpoint()).unwrap();
    fs::write(desk.checkpoint(), &good[..good.len() / 3]).unwrap();
    assert_eq!(desk.open().seed(), None, "torn");
    fs::write(desk.checkpoint(), &good).unwrap();
    desk.settings.epochs += 1;
    assert_eq!(desk.open().seed(), None, "other settings");
    desk.settings.epochs -= 1;
    let layer = desk.inputs.pages[0].layers[0].1.clone();
    let drawn = fs::read(&layer).unwrap();
    fs::copy(&desk.inputs.pages[0].background, &layer).unwrap();
    assert_eq!(desk.open().seed(), None, "another page");
    fs::write(&layer, drawn).unwrap();
    assert!(desk.open().seed().is_some());
    // The first layer is done after some steps; its model is then spoiled.
    while !desk.folder.path().join("checkpoint/Background Model.hdf5").exists() {
        assert!(desk.run(5, None).1.is_err());
    }
    assert!(desk.open().seed().is_some());
    fs::write(desk.folder.path().join("checkpoint/Background Model.hdf5"), "spoiled").unwrap();
    assert_eq!(desk.open().seed(), None, "without the model of a layer that is done");
}

#[test]
fn a_checkpoint_is_written_in_well_under_the_time_that_slurm_gives() {
    let desk = Desk::new();
    assert!(desk.run(1, Some(1)).1.is_err());
    let fit =
        Checkpoint::from_bytes(&fs::read(desk.checkpoint()).unwrap(), desk.open().fingerprint())
            .unwrap()
            .fit
            .unwrap();
    // With the weights of a best epoch, as all but the first have it.
    let best = crate::Best { epoch: 1, score: 0.5, weights: fit.weights.clone() };
    let mut checkpoints = desk.open();
    let started = Instant::now();
    checkpoints.save(1, Some(FitState { best: Some(best), ..fit }));
    let (took, length) = (started.elapsed(), fs::metadata(desk.checkpoint()).unwrap().len());
    println!("a checkpoint of {length} bytes in {took:?}");
    assert!((22_000_000..24_000_000).contains(&length), "{length}");
    // Slurm's KillWait is 30 s unless a site says otherwise.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(checkpoints.is_saved());

    // What a killed run left is removed, and a full or absent disk ends nothing.
    let directory = desk.folder.path().join("checkpoint");
    fs::write(directory.join(".new-x"), "a part").unwrap();
    drop(desk.open());
    assert!(!directory.join(".new-x").exists());
    fs::remove_dir_all(&directory).unwrap();
    checkpoints.save(1, None);
    assert!(!checkpoints.is_saved());
}
