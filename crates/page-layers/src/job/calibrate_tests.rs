//! Cases of the calibration, with networks that are made by hand.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::fit::outcome::LayerTimes;
use crate::job::PreparedLayer;
use crate::keras::{CONV_LAYERS, Weights};
use crate::page::decode::Input;
use crate::page::mask::Mask;
use crate::page::page::PageLayer;
use crate::patch::patches::{Rule, sample};
use domain::{Course, InputKind, PatchSelection, TrainingSettings};

const SIDE: usize = 32;
const INK: Layer = Layer::Numbered(0);

/// A network whose logit is `scale · darkness + shift`; the darkness of the pixel is 0 to 1.
fn network(scale: f32, shift: f32) -> Weights {
    let mut tensors: Vec<Vec<f32>> = CONV_LAYERS
        .iter()
        .flat_map(|layer| [vec![0.0; layer.kernel_len()], vec![0.0; layer.output]])
        .collect();
    // The first channel is handed on, past both poolings.
    for index in [0, 1, 10, 11, 12] {
        let layer = CONV_LAYERS[index];
        tensors[2 * index][4 * layer.input * layer.output] = 1.0;
    }
    tensors[26][0] = scale;
    tensors[27][0] = shift;
    Weights::new(tensors).unwrap()
}

fn is_ink(row: usize, column: usize) -> bool {
    row % 20 < 5 && column % 10 < 8
}

/// A page with ink on it, and these layers drawn.
fn page(height: usize, width: usize, layers: &[Layer]) -> Arc<Page> {
    let darkness =
        |at: usize| if is_ink(at / width, at % width) { 20 + at % 3 } else { 200 + at % 50 };
    let bgr = (0..width * height).flat_map(|at| [darkness(at) as u8; 3]).collect();
    let layers = layers.iter().map(|layer| {
        let mask = match *layer {
            Layer::Background => Mask::from_fn(width, height, |row, column| !is_ink(row, column)),
            INK => Mask::from_fn(width, height, is_ink),
            _ => Mask::from_fn(width, height, |row, column| row == 0 && column < 20),
        };
        let input = Input { kind: InputKind::Layer(*layer), path: "drawn.png".into() };
        PageLayer { layer: *layer, input, mask }
    });
    Arc::new(Page::from_parts(width, height, bgr, layers.collect()))
}

fn job(pages: Vec<Arc<Page>>, layers: &[Layer], settings: TrainingSettings) -> TrainingJob {
    let shape = PatchShape::new(SIDE, SIDE).unwrap();
    let prepared = |layer: &Layer| {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let rule = Rule {
            n: 60,
            shape,
            selection: PatchSelection::Random,
            around_others: 0,
            exact_below: 32,
        };
        let split = sample(&pages, *layer, &rule, &mut rng).unwrap();
        PreparedLayer { layer: *layer, split, initial: None, seed: 9 }
    };
    let layers = layers.iter().map(prepared).collect();
    let (decoding, sampling) = (Duration::ZERO, Duration::ZERO);
    TrainingJob { pages, settings, shape, seed: 9, layers, decoding, sampling }
}

fn wanted() -> TrainingSettings {
    TrainingSettings { calibrate: Calibrate::Yes, ..TrainingSettings::default() }
}

/// What training has left in `folder`.
fn trained(job: &TrainingJob, folder: &Path, networks: &[Weights]) -> Vec<TrainedLayer> {
    let layer = |(prepared, weights): (&PreparedLayer, &Weights)| {
        let path = folder.join(format!("{}.hdf5", prepared.layer.model_name()));
        keras::write(&path, weights, job.shape).unwrap();
        TrainedLayer {
            layer: prepared.layer,
            path,
            weights: weights.clone(),
            samples: prepared.samples(),
            course: Course { history: Vec::new(), best_epoch: 1, restarts: 0, learned: true },
            times: LayerTimes::default(),
        }
    };
    job.layers.iter().zip(networks).map(layer).collect()
}

const BOTH: [Layer; 2] = [Layer::Background, INK];

/// The background's network is right, and so sure that the ink's, which knows its pixels too, gets
/// none of them.
fn timid() -> [Weights; 2] {
    [network(-8.0, 4.0), network(8.0, -14.0)]
}

fn run(job: &TrainingJob, networks: &[Weights]) -> (Calibration, Vec<TrainedLayer>, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let mut layers = trained(job, folder.path(), networks);
    let calibration = job.calibrate(&mut layers, &Device::Cpu, &|| true).unwrap();
    let files = layers.iter().map(|layer| std::fs::read(&layer.path).unwrap()).collect();
    (calibration, layers, files)
}

#[test]
fn a_timid_network_gets_its_pixels_and_the_files_say_what_was_done() {
    let job = job(vec![page(120, 100, &BOTH)], &BOTH, wanted());
    let (calibration, layers, files) = run(&job, &timid());
    let Calibration::Done(gain) = calibration else { panic!("{calibration:?}") };
    assert!(gain.before < 0.5 && gain.after > 0.999, "{gain:?}");
    assert!(gain.pixels > 3_000, "{gain:?}");
    for ((layer, bytes), was) in layers.iter().zip(&files).zip(timid()) {
        let model = keras::from_bytes(bytes.clone()).unwrap();
        assert_eq!(model.weights, layer.weights, "the file holds what is used from here on");
        assert_ne!(model.weights, was);
        assert_eq!(model.adjustment.unwrap().fold(&was).unwrap(), layer.weights);
        let back = model.as_trained().unwrap();
        for (old, new) in was.tensors().iter().flatten().zip(back.tensors().iter().flatten()) {
            assert!((old - new).abs() < 1e-5, "{old} {new}");
        }
    }
    // The whole page is right now, not only the pixels that were fitted on.
    let predictors = Predictor::of_all(layers.iter().map(|l| &l.weights), &Device::Cpu).unwrap();
    let see = |network: usize, images: &[f32], (height, width)| {
        predictors[network].predict(images, height, width)
    };
    let found = crate::Segmentation::cut(&job.pages[0], Windows::Large, 2, see).unwrap();
    assert!(found.score(&job.pages[0], 1, INK).f1() > 0.999);
    // Again, as after a crash: the same bytes.
    assert_eq!(run(&job, &timid()).2, files);
}

#[test]
fn a_job_that_does_not_want_it_or_that_can_not_gain_by_it_keeps_its_files() {
    let pages = vec![page(120, 100, &BOTH)];
    let good = [network(-8.0, 4.0), network(8.0, -4.0)];
    let files = |networks: &[Weights]| -> Vec<_> {
        networks
            .iter()
            .map(|one| keras::to_bytes(one, PatchShape::new(SIDE, SIDE).unwrap()).unwrap())
            .collect()
    };
    let off = TrainingSettings { calibrate: Calibrate::No, ..TrainingSettings::default() };
    let off = job(pages.clone(), &BOTH, off);
    let (calibration, _, written) = run(&off, &timid());
    assert_eq!((calibration, written), (Calibration::Off, files(&timid())));

    let (calibration, _, written) = run(&job(pages.clone(), &BOTH, wanted()), &good);
    assert_eq!(written, files(&good));
    let Calibration::LeftOut(NotCalibrated::NoBetter(gain)) = calibration else {
        panic!("{calibration:?}");
    };
    assert!(gain.before > 0.999, "{gain:?}");

    let (calibration, _, _) = run(&job(pages, &BOTH[..1], wanted()), &timid()[..1]);
    assert_eq!(calibration, Calibration::LeftOut(NotCalibrated::OneLayer));
}

#[test]
fn a_layer_with_too_few_pixels_left_can_not_be_judged() {
    let rare = Layer::Numbered(4);
    let layers = [Layer::Background, INK, rare];
    let mut job = job(vec![page(120, 100, &layers)], &layers[..2], wanted());
    let third = PreparedLayer { layer: rare, ..job.layers[1].clone() };
    job.layers.push(third);
    let networks = [network(-8.0, 4.0), network(8.0, -14.0), network(0.0, -9.0)];
    let (calibration, _, _) = run(&job, &networks);
    let Calibration::LeftOut(NotCalibrated::TooFew { layer, pixels }) = calibration else {
        panic!("{calibration:?}")
    };
    assert!(layer == rare && pixels <= 20, "{layer:?} {pixels}");
}

#[test]
fn it_ends_when_the_job_is_to_end() {
    let job = job(vec![page(120, 100, &BOTH)], &BOTH, wanted());
    let folder = tempfile::tempdir().unwrap();
    for most in 0..2 {
        let mut layers = trained(&job, folder.path(), &timid());
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            asked.get() <= most
        };
        let calibration = job.calibrate(&mut layers, &Device::Cpu, &go_on).unwrap();
        assert_eq!(calibration, Calibration::LeftOut(NotCalibrated::Stopped));
        assert!(layers[1].weights == timid()[1], "as it was trained");
    }
}

#[test]
fn a_layer_that_a_page_lacks_takes_no_part_there() {
    let pages = vec![page(120, 100, &BOTH), page(120, 100, &BOTH[..1])];
    let job = job(pages, &BOTH, wanted());
    let networks = timid();
    let predictors = Predictor::of_all(&networks, &Device::Cpu).unwrap();
    let [one, other] = job.look(&BOTH, &predictors, &|| true).unwrap();
    for half in [&one, &other] {
        assert_eq!(half[0].1.networks, [0, 1]);
        assert!(half[0].1.drawn.len() > 1_500);
        assert_eq!(half[0].1.logits.len(), 2 * half[0].1.drawn.len());
        // A page with one layer has nothing to choose.
        assert!(half[1].1.drawn.is_empty());
    }
    let difference = one[0].1.drawn.len().abs_diff(other[0].1.drawn.len());
    assert!(difference < one[0].1.drawn.len() / 2);
}

#[test]
fn no_pixel_is_used_that_a_training_patch_shows() {
    let settings = TrainingSettings { shift: 5, ..wanted() };
    let job = job(vec![page(280, 300, &BOTH)], &BOTH, settings);
    let corners = job.corners(0);
    let patches: usize =
        job.layers.iter().map(|layer| layer.split.train.corners_on(&job.pages[0]).count()).sum();
    assert!(corners.len() > 20 && corners.len() <= patches);
    let mut used = 0;
    for (top, left) in [(0, 0), (0, 152), (140, 0), (140, 152)] {
        let found = open(&job.pages[0], Tile { page: 0, top, left }, &corners, job.reach());
        for (at, open) in found.iter().enumerate() {
            let (row, column) = ((top + at / 152) as isize, (left + at % 152) as isize);
            let shown = corners.iter().any(|(top, left)| {
                (top - 5..top + 32 + 5).contains(&row)
                    && (left - 5..left + 32 + 5).contains(&column)
            });
            let on_page = row < 280 && column < 300;
            assert_eq!(*open, on_page && !shown, "{row} {column}");
            used += usize::from(*open);
        }
    }
    assert!(used > 1_000, "{used}");
}

#[test]
fn tiles_are_alike_and_no_more_than_are_needed() {
    let sides = [18, 41, 256, 257, 264, 1000, 1024, 1025].map(side);
    assert_eq!(sides, [20, 44, 256, 132, 132, 252, 256, 208]);
    for length in 1..3000 {
        let side = side(length);
        assert!(side <= 256 && side.is_multiple_of(4), "{length}: {side}");
        let (tiles, least) = (length.div_ceil(side), length.div_ceil(256));
        assert_eq!(tiles, least, "{length}: {side}");
    }
}

#[test]
fn pixels_outside_the_page_or_its_regions_are_not_used() {
    // The tile has two rows beyond the page.
    let outside = |row: usize, column: usize| (4..10).contains(&row) && (12..30).contains(&column);
    let page = Arc::into_inner(page(18, 40, &BOTH)).unwrap();
    let page = page.with_regions(Mask::from_fn(40, 18, |row, column| !outside(row, column)));
    let tile = Tile { page: 0, top: 0, left: 0 };
    let shape = (PatchShape::new(16, 16).unwrap(), 0);
    let found = open(&page, tile, &[], shape);
    assert_eq!(found.len(), 20 * 40);
    for (at, open) in found.iter().enumerate() {
        let (row, column) = (at / 40, at % 40);
        assert_eq!(*open, row < 18 && !outside(row, column), "{row} {column}");
    }
    let rest = open(&page, tile, &[(-8, -8)], shape).iter().filter(|open| **open).count();
    assert_eq!(rest, 18 * 40 - 6 * 18 - 8 * 8);
}

#[test]
fn what_a_network_sees_in_a_tile_is_what_it_sees_on_the_page() {
    let page = page(264, 40, &BOTH);
    let weights = crate::net::init::initial_weights(5).unwrap();
    let predictor = Predictor::new(&weights, Device::Cpu).unwrap();
    let rim = 32;
    let sides = (264 + 2 * rim, 40 + 2 * rim);
    let mut image = vec![0.0; 3 * sides.0 * sides.1];
    page.crop(-(rim as isize), -(rim as isize), sides, Edge::Replicate, &mut image);
    let whole = predictor.logits(&image, sides.0, sides.1).unwrap();
    for top in [0, 132] {
        let seen = see(&page, Tile { page: 0, top, left: 0 }, &predictor).unwrap();
        for (at, logit) in seen.iter().enumerate() {
            let (row, column) = (top + at / 40, at % 40);
            if row < 264 {
                let expected = whole[(row + rim) * sides.1 + column + rim];
                assert!((logit - expected).abs() < 1e-5, "{row} {column}: {logit} {expected}");
            }
        }
    }
}

#[test]
fn tiles_are_chosen_evenly() {
    let tile = |left| Tile { page: 0, top: 0, left };
    let tiles: Vec<_> = (0..10).map(tile).collect();
    assert_eq!(evenly(&tiles, 10), tiles);
    assert_eq!(evenly(&tiles, 99), tiles);
    assert_eq!(evenly(&tiles, 4), [0, 2, 5, 7].map(tile));
    assert!(evenly(&[], 4).is_empty());
}

/// Pixels of a page with two layers: each is drawn in the layer whose logit this is larger for.
fn seen(logits: &[[f32; 2]], drawn: &[u16]) -> Pixels {
    let times = 200;
    Pixels {
        networks: vec![0, 1],
        logits: logits.iter().flatten().copied().cycle().take(2 * times * logits.len()).collect(),
        drawn: drawn.iter().copied().cycle().take(times * drawn.len()).collect(),
    }
}

#[test]
fn a_page_that_would_be_cut_worse_keeps_the_job_as_it_is() {
    // The second network is too timid on the first page, and right on the other one.
    let timid = seen(&[[0.0, -4.0], [0.0, -1.0]], &[1, 2]);
    let right = seen(&[[0.0, -0.5], [0.0, 3.0]], &[1, 2]);
    let half = |pages: &[&Pixels]| -> Vec<_> {
        pages.iter().enumerate().map(|(page, pixels)| (page, (*pixels).clone())).collect()
    };
    let of = |pages: &[&Pixels]| judged(2, &[half(pages), half(pages)]);
    let (_, gain) = of(&[&timid]).unwrap();
    assert!(gain.after > gain.before + 0.3, "{gain:?}");
    assert!(matches!(of(&[&right]), Err(NotCalibrated::NoBetter(_))));
    let both = of(&[&timid, &timid, &timid, &timid, &right]);
    let Err(NotCalibrated::WorsePage { page: 5, gain }) = both else { panic!("{both:?}") };
    assert!(gain.after < gain.before, "{gain:?}");
}
