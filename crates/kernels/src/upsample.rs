//! Nearest ×2 upsampling followed by the 2×2 convolution, without making the large image.
//!
//! TensorFlow pads the even kernel below and to the right. So along one axis, the two results of a
//! small pixel `x₀` with the next pixel `x₁` are `y₀ = x₀ (k₀ + k₁)` and
//! `y₁ = x₀ k₀ + x₁ k₁ = y₀ + (x₁ − x₀) k₁`: two products instead of four. In two dimensions there
//! are four instead of sixteen, with the differences `x₀`, `x₁ − x₀` taken in both directions.
//! Outside of the image `x` is 0.

use super::engine::{Lowering, Raising, Share};
use super::grid::{Place, Tiles};
use super::image::Image;
use super::simd::Simd;

/// A pixel with its right, lower and diagonal neighbours; zeros outside of the image.
#[inline(always)]
fn square<S: Simd>(
    from: &Image<'_>,
    image: usize,
    row: isize,
    column: isize,
    channel: usize,
) -> [S::V; 4] {
    let inside = row >= 0
        && column >= 0
        && row + 1 < from.height as isize
        && column + 1 < from.width as isize;
    if inside && from.gate.is_none() {
        let (line, pixel) = (from.width * from.channels, from.channels);
        let first = from.at(image, row as usize, column as usize) + channel;
        let values = from.values[first..first + line + pixel + S::LANES].as_ptr();
        // SAFETY: the slice above ends with the lanes of the last of the four pixels.
        return unsafe {
            [
                S::load_ptr(values),
                S::load_ptr(values.add(pixel)),
                S::load_ptr(values.add(line)),
                S::load_ptr(values.add(line + pixel)),
            ]
        };
    }
    // Not a closure: one that is not inlined would be compiled without the wide registers.
    [
        from.load_padded::<S>(image, (row, column), channel),
        from.load_padded::<S>(image, (row, column + 1), channel),
        from.load_padded::<S>(image, (row + 1, column), channel),
        from.load_padded::<S>(image, (row + 1, column + 1), channel),
    ]
}

/// The four differences of each small pixel with its right, lower and diagonal neighbours.
pub(super) struct Differences<'a> {
    pub(super) image: Image<'a>,
}

impl Lowering for Differences<'_> {
    fn components(&self) -> usize {
        4
    }
    fn depth(&self) -> usize {
        self.image.channels
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        let from = &self.image;
        for Place { index, image, row, column } in tiles.iter() {
            let (row, column) = (row as isize, column as isize);
            let to = &mut to[index * from.channels..];
            for channel in (0..from.channels).step_by(S::LANES) {
                let [here, right, below, beyond] = square::<S>(from, image, row, column, channel);
                S::store(&mut to[channel..], here);
                S::store(&mut to[stride + channel..], S::sub(right, here));
                let below_here = S::sub(below, here);
                S::store(&mut to[2 * stride + channel..], below_here);
                S::store(
                    &mut to[3 * stride + channel..],
                    S::sub(S::sub(beyond, right), below_here),
                );
            }
        }
    }
}

/// Turns the four products of a small pixel into its 2×2 large pixels, with bias and ReLU.
pub(super) struct Sums<'a> {
    /// Height of the small image.
    pub(super) height: usize,
    /// Width of the small image.
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) bias: &'a [f32],
    pub(super) relu: bool,
}

impl Raising for Sums<'_> {
    fn values_before(&self, image: usize, row: usize) -> [usize; 2] {
        [(image * self.height + row) * 4 * self.width * self.channels, 0]
    }
    #[inline(always)]
    fn scatter<S: Simd>(&self, tiles: &Tiles, stride: usize, from: &[f32], to: &mut Share<'_>) {
        let Share { before: [before, _], out: [out, _], far, .. } = to;
        let line = 2 * self.width * self.channels;
        for Place { index, image, row, column } in tiles.iter() {
            let first =
                (image * self.height + row) * 2 * line + 2 * column * self.channels - *before;
            for channel in (0..self.channels).step_by(S::LANES) {
                let from = &from[index * self.channels + channel..];
                let bias = S::load(&self.bias[channel..]);
                let y00 = S::add(S::load(from), bias);
                let right = S::load(&from[stride..]);
                let y01 = S::add(y00, right);
                let below = S::load(&from[2 * stride..]);
                let y10 = S::add(y00, below);
                let y11 = S::add(S::add(y01, below), S::load(&from[3 * stride..]));
                let at = first + channel;
                for (at, y) in [
                    (at, y00),
                    (at + self.channels, y01),
                    (at + line, y10),
                    (at + line + self.channels, y11),
                ] {
                    let y = if self.relu { S::relu(y) } else { y };
                    let out = &mut out[at..][..S::LANES];
                    // SAFETY: the slice has the register's values. What is `far` begins at a cache
                    // line, and pixels have whole panels of channels.
                    unsafe { S::put_ptr(out.as_mut_ptr(), y, *far) };
                }
            }
        }
    }
}

/// The transpose of [`Sums`]: the gradients of the four products from the gradients of the 2×2
/// large pixels. Product 0 gets the sum of all four.
pub(super) struct SumsGradient<'a> {
    /// Gradient of the large image.
    pub(super) image: Image<'a>,
}

impl SumsGradient<'_> {
    #[inline(always)]
    fn products<S: Simd>(
        &self,
        image: usize,
        row: isize,
        column: isize,
        channel: usize,
    ) -> [S::V; 4] {
        let [y00, y01, y10, y11] = square::<S>(&self.image, image, 2 * row, 2 * column, channel);
        let (right, below) = (S::add(y01, y11), S::add(y10, y11));
        [S::add(S::add(y00, y10), right), right, below, y11]
    }
}

impl Lowering for SumsGradient<'_> {
    fn components(&self) -> usize {
        4
    }
    fn depth(&self) -> usize {
        self.image.channels
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        for Place { index, image, row, column } in tiles.iter() {
            let to = &mut to[index * self.image.channels..];
            for channel in (0..self.image.channels).step_by(S::LANES) {
                let products = self.products::<S>(image, row as isize, column as isize, channel);
                for (c, product) in products.into_iter().enumerate() {
                    S::store(&mut to[c * stride + channel..], product);
                }
            }
        }
    }
}

/// For the gradient of the small image: [`SumsGradient`] with the transpose of [`Differences`]
/// already applied (the two commute with the product over channels), the four side by side in one
/// row.
pub(super) struct DifferencesGradient<'a> {
    pub(super) sums: SumsGradient<'a>,
}

impl Lowering for DifferencesGradient<'_> {
    fn components(&self) -> usize {
        1
    }
    fn depth(&self) -> usize {
        4 * self.sums.image.channels
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, _stride: usize, to: &mut [f32]) {
        let channels = self.sums.image.channels;
        for Place { index, image, row, column } in tiles.iter() {
            let (row, column) = (row as isize, column as isize);
            let to = &mut to[index * 4 * channels..(index + 1) * 4 * channels];
            for channel in (0..channels).step_by(S::LANES) {
                // Outside of the image everything reads as 0, which is what the missing neighbours
                // contribute.
                let [whole, right, below, beyond] =
                    self.sums.products::<S>(image, row, column, channel);
                let [_, left_right, _, left_beyond] =
                    self.sums.products::<S>(image, row, column - 1, channel);
                let [_, _, above_below, above_beyond] =
                    self.sums.products::<S>(image, row - 1, column, channel);
                let [_, _, _, corner] =
                    self.sums.products::<S>(image, row - 1, column - 1, channel);
                S::store(&mut to[channel..], whole);
                S::store(&mut to[channels + channel..], S::sub(left_right, right));
                S::store(&mut to[2 * channels + channel..], S::sub(above_below, below));
                let both = S::add(S::sub(beyond, left_beyond), S::sub(corner, above_beyond));
                S::store(&mut to[3 * channels + channel..], both);
            }
        }
    }
}

/// Which of the four taps (row-major) product `c` multiplies by: all, the right two, the lower two,
/// the last.
pub(super) const TAPS: [&[usize]; 4] = [&[0, 1, 2, 3], &[1, 3], &[2, 3], &[3]];
