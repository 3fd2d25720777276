//! The joint calibration of a job's layers, once all of them are trained: on which pixels, whether
//! it is worth it, and into the models with it.
//!
//! The pixels are those inside the regions that lie in no training patch of any layer: between the
//! patches, and below them, where each layer's validation patches lie. How a layer is trained does
//! not depend on any of this.

use tracing::{info, warn};

use super::TrainingJob;
use crate::fit::outcome::TrainedLayer;
use crate::gpu::device::Device;
use crate::keras::{self, Adjustment, WriteError};
use crate::look::joint_fit::{Objective, Pixels, fit, mean_f1, scores};
use crate::look::predict::Predictor;
use crate::look::segment::Windows;
use crate::net::error::NetworkError;
use crate::page::page::{Edge, Page};
use domain::{Calibrate, Calibration, Gain, Layer, NotCalibrated, PatchShape};

/// What a fit makes as good as possible. The one that turns out better is taken: see
/// `docs/quality.md`.
const OBJECTIVES: [Objective; 2] = [Objective::Entropy(-0.5), Objective::SoftF1];

/// By how much the mean F1 has to be better. Less was no gain on parts of the page that were not
/// looked at.
const CLEARLY_BETTER: f64 = 0.01;

/// Longest side of the parts of a page that are looked at.
const TILE: usize = 256;

/// Most parts that are looked at: about as much work as a page of 1700×1700 pixels.
const MOST_TILES: usize = 48;

/// Most pixels that are fitted on.
const MOST_PIXELS: u64 = 300_000;

/// Side of the squares that are counted to the two halves of the pixels by turns.
const SQUARE: usize = 32;

/// A layer with fewer pixels than this in one of the halves can't be judged.
const FEW: u64 = 50;

/// A part of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    page: usize,
    top: usize,
    left: usize,
}

/// The upper left corners of the patches of a page that some network has learned from.
type Corners = Vec<(isize, isize)>;

impl TrainingJob {
    /// Makes the models of all layers comparable, if the settings say so and if the choice among
    /// them gets better by that: their files are then written anew, as their weights are.
    ///
    /// What comes out depends on the models, the job's pages and its seed alone, so that it is the
    /// same again after a crash, and whoever has trained the layers. `go_on` is asked again and
    /// again; once it says no, the models stay as they are.
    ///
    /// # Errors
    /// When a model can't be written.
    pub fn calibrate(
        &self,
        trained: &mut [TrainedLayer],
        device: &Device,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Calibration, WriteError> {
        if self.settings.calibrate == Calibrate::No {
            return Ok(Calibration::Off);
        }
        let found = self.adjustments(trained, device, go_on);
        let calibration = match found {
            Err(why) => Calibration::LeftOut(why),
            Ok((adjustments, gain)) => match folded(trained, &adjustments) {
                Err(error) => Calibration::LeftOut(NotCalibrated::Network(error.to_string())),
                Ok(weights) => {
                    for ((layer, weights), adjustment) in
                        trained.iter_mut().zip(weights).zip(adjustments)
                    {
                        keras::write_adjusted(&layer.path, &weights, self.shape, adjustment)?;
                        layer.weights = weights;
                    }
                    Calibration::Done(gain)
                }
            },
        };
        match (&calibration, calibration.in_words()) {
            (Calibration::LeftOut(NotCalibrated::Network(_)), Some(words)) => {
                warn!("calibration {words}");
            }
            (_, words) => info!("calibration: {}", words.unwrap_or_default()),
        }
        Ok(calibration)
    }

    fn adjustments(
        &self,
        trained: &[TrainedLayer],
        device: &Device,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(Vec<Adjustment>, Gain), NotCalibrated> {
        if trained.len() < 2 {
            return Err(NotCalibrated::OneLayer);
        }
        let layers: Vec<Layer> = trained.iter().map(|layer| layer.layer).collect();
        let broken = |error: NetworkError| NotCalibrated::Network(error.to_string());
        let weights = trained.iter().map(|layer| &layer.weights);
        let predictors = Predictor::of_all(weights, device).map_err(broken)?;
        let halves = self.look(&layers, &predictors, go_on)?;
        for half in &halves {
            let mut counts = vec![0; layers.len()];
            half.iter().for_each(|(_, pixels)| pixels.add_counts(&mut counts));
            for (layer, pixels) in layers.iter().zip(counts) {
                if pixels < FEW {
                    return Err(NotCalibrated::TooFew { layer: *layer, pixels });
                }
            }
        }
        if !go_on() {
            return Err(NotCalibrated::Stopped);
        }
        judged(layers.len(), &halves)
    }

    /// What the networks see in the pixels that none of them has learned from, by page, in two
    /// halves.
    fn look(
        &self,
        layers: &[Layer],
        predictors: &[Predictor],
        go_on: &dyn Fn() -> bool,
    ) -> Result<[Vec<(usize, Pixels)>; 2], NotCalibrated> {
        let corners: Vec<Corners> = (0..self.pages.len()).map(|page| self.corners(page)).collect();
        let reach = self.reach();
        let mut halves = [Vec::new(), Vec::new()];
        let mut tiles = Vec::new();
        let mut all = 0;
        for (number, page) in self.pages.iter().enumerate() {
            let present = |network: &usize| page.index_of(layers[*network]).is_some();
            let networks: Vec<usize> = (0..layers.len()).filter(present).collect();
            for half in &mut halves {
                half.push((number, Pixels { networks: networks.clone(), ..Pixels::default() }));
            }
            if networks.len() < 2 {
                continue; // nothing to choose among
            }
            for top in (0..page.height()).step_by(side(page.height())) {
                for left in (0..page.width()).step_by(side(page.width())) {
                    let tile = Tile { page: number, top, left };
                    let open = open(page, tile, &corners[number], reach);
                    let count = open.iter().filter(|open| **open).count() as u64;
                    if count > 0 {
                        tiles.push(tile);
                        all += count;
                    }
                }
            }
        }
        let chosen = evenly(&tiles, MOST_TILES);
        let share = chosen.len() as u64 * all / (tiles.len() as u64).max(1);
        // One pixel of this many is taken.
        let each = share.div_ceil(MOST_PIXELS).max(1);
        let mut passed = 0;
        for tile in chosen {
            let page = &self.pages[tile.page];
            let open = open(page, tile, &corners[tile.page], reach);
            let width = side(page.width());
            let networks = halves[0][tile.page].1.networks.clone();
            let mut seen = Vec::with_capacity(networks.len());
            for network in &networks {
                if !go_on() {
                    return Err(NotCalibrated::Stopped);
                }
                let logits = see(page, tile, &predictors[*network]);
                seen.push(logits.map_err(|error| NotCalibrated::Network(error.to_string()))?);
            }
            for at in (0..open.len()).filter(|at| open[*at]) {
                passed += 1;
                if passed % each != 0 {
                    continue;
                }
                let (row, column) = (tile.top + at / width, tile.left + at % width);
                let half = (row / SQUARE + column / SQUARE) % 2;
                let pixels = &mut halves[half][tile.page].1;
                pixels.logits.extend(seen.iter().map(|logits| logits[at]));
                pixels.drawn.push(drawn(page, layers, &networks, row, column));
            }
        }
        Ok(halves)
    }

    /// The patches of a page that some network has learned from.
    fn corners(&self, page: usize) -> Corners {
        let mut corners: Corners = self
            .layers
            .iter()
            .flat_map(|layer| layer.split.train.corners_on(&self.pages[page]))
            .collect();
        corners.sort_unstable();
        corners.dedup();
        corners
    }

    /// The size of a patch, and how far it may have been moved.
    fn reach(&self) -> (PatchShape, isize) {
        (self.shape, self.settings.augmentation().shift as isize)
    }
}

fn folded(
    trained: &[TrainedLayer],
    adjustments: &[Adjustment],
) -> Result<Vec<keras::Weights>, keras::WeightsError> {
    let pairs = trained.iter().zip(adjustments);
    pairs.map(|(layer, adjustment)| adjustment.fold(&layer.weights)).collect()
}

/// The adjustments, if those of each half make the choice among the layers clearly better in the
/// other half, on all pages together, and worse on none.
fn judged(
    networks: usize,
    halves: &[Vec<(usize, Pixels)>; 2],
) -> Result<(Vec<Adjustment>, Gain), NotCalibrated> {
    let [first, second] = [pixels_of(&halves[0]), pixels_of(&halves[1])];
    let trial = |objective| Trial {
        objective,
        by_first: fit(networks, &first, objective),
        by_second: fit(networks, &second, objective),
    };
    let [one, other] = OBJECTIVES.map(trial);
    let [gain_of_one, gain_of_other] = [&one, &other].map(|trial| trial.gain(&first, &second));
    let (trial, gain) = if gain_of_other.after > gain_of_one.after {
        (other, gain_of_other)
    } else {
        (one, gain_of_one)
    };
    if gain.after < gain.before + CLEARLY_BETTER {
        return Err(NotCalibrated::NoBetter(gain));
    }
    if first.len() > 1 {
        for (page, (one, other)) in first.iter().zip(&second).enumerate() {
            let gain = trial.gain(&[*one], &[*other]);
            if gain.after < gain.before {
                return Err(NotCalibrated::WorsePage { page: page + 1, gain });
            }
        }
    }
    let all: Vec<&Pixels> = first.iter().chain(&second).copied().collect();
    Ok((fit(networks, &all, trial.objective), gain))
}

/// What is fitted on one half of the pixels, to be judged by the other half.
struct Trial {
    objective: Objective,
    by_first: Vec<Adjustment>,
    by_second: Vec<Adjustment>,
}

impl Trial {
    /// What it is good for in pixels of the first and of the second half.
    fn gain(&self, first: &[&Pixels], second: &[&Pixels]) -> Gain {
        let f1 = |of_first: &[Adjustment], of_second: &[Adjustment]| {
            let mut sum = scores(first, of_first);
            let others = scores(second, of_second);
            sum.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
            mean_f1(&sum)
        };
        let none = vec![Adjustment::NONE; self.by_first.len()];
        Gain {
            pixels: first.iter().chain(second).map(|pixels| pixels.drawn.len() as u64).sum(),
            before: f1(&none, &none),
            after: f1(&self.by_second, &self.by_first),
        }
    }
}

fn pixels_of(half: &[(usize, Pixels)]) -> Vec<&Pixels> {
    half.iter().map(|(_, pixels)| pixels).collect()
}

/// The layers in which a pixel is drawn: a bit for each of the networks.
fn drawn(page: &Page, layers: &[Layer], networks: &[usize], row: usize, column: usize) -> u16 {
    let is_drawn = |network: &usize| {
        let index = page.index_of(layers[*network]);
        index.is_some_and(|index| page.layers()[index].mask.get(row, column))
    };
    let bit = |(place, network): (usize, &usize)| u16::from(is_drawn(network)) << place;
    networks.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
}

/// Side of the tiles along so many pixels of a page: all of them alike, and no more of them than
/// needed; a multiple of 4.
fn side(length: usize) -> usize {
    let count = length.div_ceil(TILE).max(1);
    length.div_ceil(count).next_multiple_of(4)
}

/// Which pixels of a tile lie on the page, inside its regions, and in no patch that a network has
/// learned from.
fn open(
    page: &Page,
    tile: Tile,
    corners: &[(isize, isize)],
    (shape, shift): (PatchShape, isize),
) -> Vec<bool> {
    let (height, width) = (side(page.height()), side(page.width()));
    let mut open = vec![false; height * width];
    for (y, line) in open.chunks_exact_mut(width).enumerate() {
        for (x, open) in line.iter_mut().enumerate() {
            let (row, column) = (tile.top + y, tile.left + x);
            *open = row < page.height() && column < page.width() && page.regions().get(row, column);
        }
    }
    for (top, left) in corners {
        // The part of the patch, wherever it was moved to, that lies in the tile.
        let part = |corner: isize, length: usize, start: usize, side: usize| {
            let from = corner - shift - start as isize;
            let to = corner + length as isize + shift - start as isize;
            from.clamp(0, side as isize) as usize..to.clamp(0, side as isize) as usize
        };
        let columns = part(*left, shape.width(), tile.left, width);
        for y in part(*top, shape.height(), tile.top, height) {
            open[y * width..][columns.clone()].fill(false);
        }
    }
    open
}

/// The logits of a tile's pixels.
fn see(page: &Page, tile: Tile, network: &Predictor) -> Result<Vec<f32>, NetworkError> {
    let rim = Windows::Large.rim();
    let (height, width) = (side(page.height()), side(page.width()));
    let sides = (height + 2 * rim, width + 2 * rim);
    let mut image = vec![0.0; 3 * sides.0 * sides.1];
    let corner = (tile.top as isize - rim as isize, tile.left as isize - rim as isize);
    page.crop(corner.0, corner.1, sides, Edge::Replicate, &mut image);
    let seen = network.inner_logits(&image, sides, rim)?;
    let inner = seen.chunks_exact(sides.1).skip(rim).take(height);
    Ok(inner.flat_map(|line| line[rim..rim + width].iter().copied()).collect())
}

/// At most so many of these, at even distances.
fn evenly(tiles: &[Tile], most: usize) -> Vec<Tile> {
    let count = tiles.len().min(most);
    (0..count).map(|i| tiles[i * tiles.len() / count]).collect()
}

#[cfg(test)]
#[path = "calibrate_tests.rs"]
mod tests;
