//! Drawing pixels of a layer by their ranks. A rank is a pixel's position among all that may be
//! drawn, in row order.

use std::collections::BTreeSet;

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use domain::PatchShape;

/// Up to 64 neighbouring pixels of a row that may be drawn.
pub(crate) struct Word {
    /// Number of the page.
    pub(crate) page: usize,
    pub(crate) row: usize,
    /// Column of the lowest bit.
    pub(crate) start: usize,
    pub(crate) bits: u64,
}

/// The ranks that are drawn when each of `eligible` pixels is drawn with this probability.
pub(crate) fn visit(chance: f64, eligible: u64, rng: &mut impl Rng) -> Vec<u64> {
    let mut ranks = Vec::with_capacity((eligible as f64 * chance * 1.1) as usize + 16);
    // The gaps between drawn pixels have a geometric distribution, so not every pixel has to be
    // looked at.
    let scale = (-chance).ln_1p();
    let mut rank = 0.0f64;
    loop {
        // 1 − random lies in (0, 1]: its logarithm is finite.
        rank += ((1.0 - rng.random::<f64>()).ln() / scale).floor();
        if rank >= eligible as f64 {
            return ranks;
        }
        ranks.push(rank as u64);
        rank += 1.0;
    }
}

/// Exactly `count` different ranks below `eligible`; every set is equally likely (Floyd's method).
pub(crate) fn choose(count: u64, eligible: u64, rng: &mut impl Rng) -> Vec<u64> {
    let mut chosen = BTreeSet::new();
    for limit in eligible - count..eligible {
        let rank = rng.random_range(0..=limit);
        if !chosen.insert(rank) {
            chosen.insert(limit);
        }
    }
    chosen.into_iter().collect()
}

/// `count` different ranks below `eligible`, chosen first so that the patches around these pixels
/// show every pixel of `words`. Also returns how many cells of the pages get no patch of their own
/// because `count` is too small.
///
/// A cell is half a patch high and half a patch wide, so a patch around any pixel of the cell shows
/// the whole cell. One pixel is drawn from each cell that has any; the rest are drawn from all
/// pixels.
pub(crate) fn cover(
    words: impl Iterator<Item = Word>,
    shape: PatchShape,
    count: u64,
    eligible: u64,
    rng: &mut impl Rng,
) -> (Vec<u64>, usize) {
    let mut cells = one_in_each_cell(words, shape, rng);
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    let missed = cells.len().saturating_sub(wanted);
    cells.shuffle(rng);
    let mut chosen: BTreeSet<u64> = cells.into_iter().take(wanted).collect();
    while (chosen.len() as u64) < count.min(eligible) {
        chosen.insert(rng.random_range(0..eligible));
    }
    (chosen.into_iter().collect(), missed)
}

/// The rank of one pixel of each cell that has any; each pixel of a cell is equally likely.
fn one_in_each_cell(
    words: impl Iterator<Item = Word>,
    shape: PatchShape,
    rng: &mut impl Rng,
) -> Vec<u64> {
    let (height, width) = (shape.height() / 2, shape.width() / 2);
    let mut ranks = Vec::new();
    // The cells of one band of rows: how many pixels of each were met so far, and the one that is
    // kept.
    let mut band: Vec<(u64, u64)> = Vec::new();
    let (mut place, mut rank) = ((0, 0), 0);
    for Word { page, row, start, mut bits } in words {
        if (page, row / height) != place {
            ranks.extend(band.drain(..).filter(|(met, _)| *met > 0).map(|(_, kept)| kept));
            place = (page, row / height);
        }
        while bits != 0 {
            let cell = (start + bits.trailing_zeros() as usize) / width;
            if band.len() <= cell {
                band.resize(cell + 1, (0, 0));
            }
            let (met, kept) = &mut band[cell];
            *met += 1;
            if rng.random_range(0..*met) == 0 {
                *kept = rank;
            }
            bits &= bits - 1;
            rank += 1;
        }
    }
    ranks.extend(band.into_iter().filter(|(met, _)| *met > 0).map(|(_, kept)| kept));
    ranks
}
