//! Convolutions with too few channels for the transforms. The first layer (3 channels in) is
//! computed from gathered neighbourhoods. The layer with 2 channels out multiplies each pixel by
//! all taps first, and then adds the shifted products. The last one is in `pointwise.rs`.

use std::ops::Range;

use super::engine::{Lowering, Raising, Share};
use super::grid::{Place, Tiles};
use super::image::Image;
use super::simd::Simd;

/// Each pixel's `kernel × kernel` neighbourhood as a row: taps row-major, channels innermost (HWI),
/// and then arbitrary values up to `depth`.
pub(super) struct Neighbourhoods<'a> {
    pub(super) image: Image<'a>,
    pub(super) kernel: usize,
    pub(super) depth: usize,
}

/// A row of a neighbourhood. The usual lengths are written out: for a few values the C library's
/// copy costs more than the values.
#[inline(always)]
fn copy_row(from: &[f32], to: &mut [f32]) {
    match (from.first_chunk::<6>(), from.first_chunk::<9>()) {
        (Some(six), _) if from.len() == 6 => to[..6].copy_from_slice(six),
        (_, Some(nine)) if from.len() == 9 => to[..9].copy_from_slice(nine),
        _ => to.copy_from_slice(from),
    }
}

impl Lowering for Neighbourhoods<'_> {
    fn components(&self) -> usize {
        1
    }
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, _stride: usize, to: &mut [f32]) {
        let from = &self.image;
        // `same` padding: the odd pixel is below and to the right.
        let before = (self.kernel - 1) / 2;
        let line = self.kernel * from.channels;
        for Place { index, image, row, column } in tiles.iter() {
            let to = &mut to[index * self.depth..][..self.kernel * line];
            let inside_across = column >= before && column - before + self.kernel <= from.width;
            for (r, to) in to.chunks_exact_mut(line).enumerate() {
                let row = (row + r).wrapping_sub(before);
                if row >= from.height {
                    to.fill(0.0);
                } else if inside_across && from.gate.is_none() {
                    let first = from.at(image, row, column - before);
                    copy_row(&from.values[first..first + line], to);
                } else {
                    for (c, to) in to.chunks_exact_mut(from.channels).enumerate() {
                        let column = (column + c).wrapping_sub(before);
                        if column >= from.width {
                            to.fill(0.0);
                        } else {
                            let first = from.at(image, row, column);
                            for (c, to) in to.iter_mut().enumerate() {
                                *to = from.value(first + c);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Each pixel's channels as a row, padded with zeros to `depth`.
pub(super) struct Pixels<'a> {
    pub(super) image: Image<'a>,
    pub(super) depth: usize,
}

impl Lowering for Pixels<'_> {
    fn components(&self) -> usize {
        1
    }
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, _stride: usize, to: &mut [f32]) {
        self.image.copy_pixels::<S>(tiles, self.depth, to);
    }
}

/// Turns rows into pixels, with bias and ReLU.
pub(super) struct ToPixels<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    /// Outputs of a ReLU, in the shape of the result; the result is 0 where they are not positive.
    pub(super) gate: Option<&'a [f32]>,
}

impl Raising for ToPixels<'_> {
    fn values_before(&self, image: usize, row: usize) -> [usize; 2] {
        [(image * self.height + row) * self.width * self.channels, 0]
    }
    #[inline(always)]
    fn scatter<S: Simd>(&self, tiles: &Tiles, _stride: usize, from: &[f32], to: &mut Share<'_>) {
        let Share { before: [before, _], out: [out, _], far, .. } = to;
        for Place { index, image, row, column } in tiles.iter() {
            let at = ((image * self.height + row) * self.width + column) * self.channels;
            let out = &mut out[at - *before..][..self.channels];
            for channel in (0..self.channels).step_by(S::LANES) {
                let value = S::load(&from[index * self.channels + channel..]);
                let value = match self.bias {
                    Some(bias) => S::add(value, S::load(&bias[channel..])),
                    None => value,
                };
                let value = match self.gate {
                    Some(gate) => S::where_positive(S::load(&gate[at + channel..]), value),
                    None => value,
                };
                let value = if self.relu { S::relu(value) } else { value };
                let out = &mut out[channel..][..S::LANES];
                // SAFETY: the slice has the register's values. What is `far` begins at a cache
                // line, and pixels have whole panels of channels.
                unsafe { S::put_ptr(out.as_mut_ptr(), value, *far) };
            }
        }
    }
}

/// Adds each pixel's tap products (`[h × w][depth]`, one image) to the results of rows `rows`, with
/// bias and ReLU.
pub(super) struct AddTaps<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) kernel: usize,
    pub(super) depth: usize,
    pub(super) bias: &'a [f32],
    pub(super) relu: bool,
}

impl AddTaps<'_> {
    /// `products` starts at image row `first_row` and holds every row that the kernel reaches from
    /// `rows`.
    pub(super) fn run(
        &self,
        products: &[f32],
        first_row: usize,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        let before = (self.kernel - 1) / 2;
        let line = self.width * self.channels;
        for (row, out) in rows.zip(out.chunks_exact_mut(line)) {
            for (column, out) in out.chunks_exact_mut(self.channels).enumerate() {
                out.copy_from_slice(&self.bias[..self.channels]);
                for tap in 0..self.kernel * self.kernel {
                    let row = (row + tap / self.kernel).wrapping_sub(before);
                    let column = (column + tap % self.kernel).wrapping_sub(before);
                    if row < self.height && column < self.width {
                        let from = ((row - first_row) * self.width + column) * self.depth
                            + tap * self.channels;
                        for (o, p) in out.iter_mut().zip(&products[from..]) {
                            *o += p;
                        }
                    }
                }
                if self.relu {
                    // Not `max`, which would turn a NaN into 0 and hide a diverged training.
                    out.iter_mut().for_each(|o| *o = if *o <= 0.0 { 0.0 } else { *o });
                }
            }
        }
    }

    /// The rows of the image that the kernel reaches from `rows`.
    pub(super) fn reach(&self, rows: &Range<usize>) -> Range<usize> {
        let before = (self.kernel - 1) / 2;
        let after = self.kernel - 1 - before;
        rows.start.saturating_sub(before)..(rows.end + after).min(self.height)
    }
}
