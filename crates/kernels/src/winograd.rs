//! 3×3 convolution with fewer multiplications: Winograd's minimal filtering F(4×4, 3×3) (Lavin &
//! Gray, "Fast Algorithms for Convolutional Neural Networks", 2015). A tile of 4×4 pixels of the
//! result costs 36 products for each pair of channels instead of 144:
//! `y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`.
//!
//! The polynomials are evaluated at 0, ±√½, ±√2 and infinity. With the usual 0, ±1, ±2 and infinity
//! the rounding errors are twice as large; with these they are about twice those of the direct sum.
//!
//! The gradient of the kernel uses the transposed algorithm, the gradient of the image is a
//! convolution with the turned kernel.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use super::engine::{Lowering, Raising, Share};
use super::grid::{Place, Tiles};
use super::image::Image;
use super::simd::Simd;

/// Side of a tile of the result in pixels.
pub(super) const SIDE: usize = 4;

/// Points in one direction: products of a tile along one axis, and pixels of the image that they
/// are made from.
const LINE: usize = SIDE + 2;

/// Points of a tile: products for each pair of channels.
pub(super) const POINTS: usize = LINE * LINE;

/// `G`: the taps of a kernel to its points.
const G: [[f32; 3]; LINE] = [
    [1.0, 0.0, 0.0],
    [-2.0 / 3.0, -2.0 / 3.0 * FRAC_1_SQRT_2, -1.0 / 3.0],
    [-2.0 / 3.0, 2.0 / 3.0 * FRAC_1_SQRT_2, -1.0 / 3.0],
    [1.0 / 6.0, SQRT_2 / 6.0, 1.0 / 3.0],
    [1.0 / 6.0, -SQRT_2 / 6.0, 1.0 / 3.0],
    [0.0, 0.0, 1.0],
];

/// `Bᵀ d`: pixels of the image to points.
#[inline(always)]
fn input<S: Simd>([d0, d1, d2, d3, d4, d5]: [S::V; LINE]) -> [S::V; LINE] {
    let (half, two, middle) = (S::splat(-0.5), S::splat(-2.0), S::splat(-2.5));
    let (near_even, near_odd) = (S::fma(two, d2, d4), S::fma(two, d1, d3));
    let (far_even, far_odd) = (S::fma(half, d2, d4), S::fma(half, d1, d3));
    [
        S::fma(middle, d2, S::add(d0, d4)),
        S::fma(S::splat(FRAC_1_SQRT_2), near_odd, near_even),
        S::fma(S::splat(-FRAC_1_SQRT_2), near_odd, near_even),
        S::fma(S::splat(SQRT_2), far_odd, far_even),
        S::fma(S::splat(-SQRT_2), far_odd, far_even),
        S::fma(middle, d3, S::add(d1, d5)),
    ]
}

/// `Aᵀ m`: points to pixels of the result.
#[inline(always)]
fn output<S: Simd>([m0, m1, m2, m3, m4, m5]: [S::V; LINE]) -> [S::V; SIDE] {
    let (near_sum, near) = (S::add(m1, m2), S::sub(m1, m2));
    let (far_sum, far) = (S::add(m3, m4), S::sub(m3, m4));
    [
        S::add(m0, S::add(near_sum, far_sum)),
        S::mul(S::splat(FRAC_1_SQRT_2), S::fma(S::splat(2.0), far, near)),
        S::fma(S::splat(0.5), near_sum, S::add(far_sum, far_sum)),
        S::fma(S::splat(0.5 * FRAC_1_SQRT_2), S::fma(S::splat(8.0), far, near), m5),
    ]
}

/// `A y`, the transpose of [`output`].
#[inline(always)]
fn output_transposed<S: Simd>([y0, y1, y2, y3]: [S::V; SIDE]) -> [S::V; LINE] {
    let (half, two) = (S::splat(0.5), S::splat(2.0));
    let (near_even, near_odd) = (S::fma(half, y2, y0), S::fma(half, y3, y1));
    let (far_even, far_odd) = (S::fma(two, y2, y0), S::fma(two, y3, y1));
    [
        y0,
        S::fma(S::splat(FRAC_1_SQRT_2), near_odd, near_even),
        S::fma(S::splat(-FRAC_1_SQRT_2), near_odd, near_even),
        S::fma(S::splat(SQRT_2), far_odd, far_even),
        S::fma(S::splat(-SQRT_2), far_odd, far_even),
        y3,
    ]
}

/// An array of 4 or 6 values, written out: a loop is left as a loop at `opt-level = 2`, and the
/// values are then in memory.
macro_rules! each {
    (4, |$i:ident| $value:expr) => {
        each!(@ $i $value, 0 1 2 3)
    };
    (6, |$i:ident| $value:expr) => {
        each!(@ $i $value, 0 1 2 3 4 5)
    };
    (@ $i:ident $value:expr, $($number:literal)*) => {
        [$({
            let $i: usize = $number;
            $value
        }),*]
    };
}

/// `T x Tᵀ` of the square `x` for a one-dimensional transform `T`: its columns first, then the
/// rows of what comes of that.
macro_rules! both_ways {
    ($from:tt to $to:tt, $transform:expr, |$r:ident, $c:ident| $value:expr) => {{
        let columns = each!($from, |$c| $transform(each!($from, |$r| $value)));
        each!($to, |row| $transform(each!($from, |column| columns[column][row])))
    }};
}

/// `Bᵀ d B` of the 6×6 pixels around each tile, beginning one pixel above and to the left of
/// it; the channels of one image, then those of the other.
pub(super) struct Input<'a> {
    pub(super) images: [Option<Image<'a>>; 2],
}

impl Lowering for Input<'_> {
    fn components(&self) -> usize {
        POINTS
    }
    fn depth(&self) -> usize {
        self.images.iter().flatten().map(|image| image.channels).sum()
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        let depth = self.depth();
        let mut first_channel = 0;
        for from in self.images.iter().flatten() {
            for Place { index, image, row, column } in tiles.iter() {
                let to = &mut to[index * depth + first_channel..];
                let (row, column) = (row * SIDE, column * SIDE);
                let inside = row > 0
                    && column > 0
                    && row + LINE - 1 <= from.height
                    && column + LINE - 1 <= from.width;
                for channel in (0..from.channels).step_by(S::LANES) {
                    let points = if inside && from.gate.is_none() {
                        let first = from.at(image, row - 1, column - 1) + channel;
                        let window = Window::<LINE>::new::<S>(from, first);
                        window.prefetch::<S>();
                        both_ways!(6 to 6, input::<S>, |r, c| window.load::<S>(r, c))
                    } else {
                        both_ways!(6 to 6, input::<S>, |r, c| {
                            let at = ((row + r) as isize - 1, (column + c) as isize - 1);
                            from.load_padded::<S>(image, at, channel)
                        })
                    };
                    store_points::<S>(&points, stride, &mut to[channel..]);
                }
            }
            first_channel += from.channels;
        }
    }
}

/// Some lanes of the `K × K` pixels of a tile, all inside of their image.
struct Window<'a, const K: usize> {
    values: &'a [f32],
    /// Values from one pixel to the one below it.
    line: usize,
    /// Values from one pixel to the next.
    pixel: usize,
}

impl<'a, const K: usize> Window<'a, K> {
    /// The window whose first value is at `first`.
    #[inline(always)]
    fn new<S: Simd>(image: &Image<'a>, first: usize) -> Self {
        let (line, pixel) = (image.width * image.channels, image.channels);
        let len = (K - 1) * (line + pixel) + S::LANES;
        Self { values: &image.values[first..first + len], line, pixel }
    }

    #[inline(always)]
    fn load<S: Simd>(&self, row: usize, column: usize) -> S::V {
        // SAFETY: `new` has seen that the last pixel's lanes lie inside, and all others lie before
        // it: the macros that call this name rows and columns below K only.
        unsafe { S::load_ptr(self.values.as_ptr().add(row * self.line + column * self.pixel)) }
    }

    /// Fetches what a tile further right needs and this one and the next have not.
    #[inline(always)]
    fn prefetch<S: Simd>(&self) {
        let first = self.values.as_ptr().wrapping_add((K + SIDE) * self.pixel);
        for row in 0..K {
            for column in 0..SIDE {
                S::prefetch(first.wrapping_add(row * self.line + column * self.pixel));
            }
        }
    }
}

/// Writes the points of some lanes of a tile: one value to each matrix.
#[inline(always)]
fn store_points<S: Simd>(points: &[[S::V; LINE]; LINE], stride: usize, to: &mut [f32]) {
    let to = &mut to[..(POINTS - 1) * stride + S::LANES];
    each!(6, |row| {
        each!(6, |column| {
            // SAFETY: the slice above ends with the lanes of the last point, and the others lie
            // before it.
            unsafe {
                let to = to.as_mut_ptr().add((row * LINE + column) * stride);
                S::store_ptr(to, points[row][column]);
            }
        });
    });
}

/// `A y Aᵀ` of the 4×4 pixels of each tile: the gradients of the points from the gradient of the
/// result. One more matrix has the sums of the tile's pixels, for the gradient of the bias.
pub(super) struct OutputGradient<'a> {
    pub(super) image: Image<'a>,
}

impl Lowering for OutputGradient<'_> {
    fn components(&self) -> usize {
        POINTS
    }
    fn matrices(&self) -> usize {
        POINTS + 1
    }
    fn depth(&self) -> usize {
        self.image.channels
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        let from = &self.image;
        for Place { index, image, row, column } in tiles.iter() {
            let (row, column) = (row * SIDE, column * SIDE);
            let inside = row + SIDE <= from.height && column + SIDE <= from.width;
            let to = &mut to[index * from.channels..];
            for channel in (0..from.channels).step_by(S::LANES) {
                let y = if inside && from.gate.is_none() {
                    let first = from.at(image, row, column) + channel;
                    let window = Window::<SIDE>::new::<S>(from, first);
                    window.prefetch::<S>();
                    each!(4, |r| each!(4, |c| window.load::<S>(r, c)))
                } else {
                    each!(4, |r| {
                        each!(4, |c| {
                            let at = ((row + r) as isize, (column + c) as isize);
                            from.load_padded::<S>(image, at, channel)
                        })
                    })
                };
                let [a, b, c, d] =
                    each!(4, |r| S::add(S::add(y[r][0], y[r][1]), S::add(y[r][2], y[r][3])));
                let sum = S::add(S::add(a, b), S::add(c, d));
                S::store(&mut to[POINTS * stride + channel..], sum);
                let points = both_ways!(4 to 6, output_transposed::<S>, |r, c| y[r][c]);
                store_points::<S>(&points, stride, &mut to[channel..]);
            }
        }
    }
}

/// `Aᵀ m A`, bias and ReLU; the first channels go to one result, the rest to the other.
pub(super) struct Output<'a> {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: [usize; 2],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    /// Outputs of ReLUs in the shapes of the two results; a result is 0 where they are not
    /// positive.
    pub(super) gates: [Option<&'a [f32]>; 2],
}

impl Raising for Output<'_> {
    fn values_before(&self, image: usize, row: usize) -> [usize; 2] {
        let lines = image * self.height + (row * SIDE).min(self.height);
        self.channels.map(|channels| lines * self.width * channels)
    }
    #[inline(always)]
    fn scatter<S: Simd>(&self, tiles: &Tiles, stride: usize, from: &[f32], to: &mut Share<'_>) {
        let Share { before, out: [out_a, out_b], far, .. } = to;
        let depth = self.channels[0] + self.channels[1];
        for Place { index, image, row, column } in tiles.iter() {
            let (row, column) = (row * SIDE, column * SIDE);
            for channel in (0..depth).step_by(S::LANES) {
                let from = &from[index * depth + channel..][..(POINTS - 1) * stride + S::LANES];
                let y = both_ways!(6 to 4, output::<S>, |r, c| {
                    // SAFETY: the slice above ends with the lanes of the last point.
                    unsafe { S::load_ptr(from.as_ptr().add((r * LINE + c) * stride)) }
                });
                let bias = match self.bias {
                    Some(bias) => S::load(&bias[channel..]),
                    None => S::splat(0.0),
                };
                let (out, before, gate, channels, channel) = if channel < self.channels[0] {
                    (&mut *out_a, before[0], self.gates[0], self.channels[0], channel)
                } else {
                    let [skipped, channels] = self.channels;
                    (&mut *out_b, before[1], self.gates[1], channels, channel - skipped)
                };
                let at = ((image * self.height + row) * self.width + column) * channels + channel;
                let line = self.width * channels;
                if row + SIDE <= self.height && column + SIDE <= self.width {
                    let len = (SIDE - 1) * (line + channels) + S::LANES;
                    let out = out[at - before..][..len].as_mut_ptr();
                    let gate = gate.map(|gate| gate[at..at + len].as_ptr());
                    each!(4, |r| each!(4, |c| {
                        let place = r * line + c * channels;
                        let mut value = self.finished::<S>(y[r][c], bias);
                        // SAFETY: the slices above end with the lanes of the last pixel. What is
                        // `far` begins at a cache line, and pixels have whole panels of channels.
                        unsafe {
                            if let Some(gate) = gate {
                                value = S::where_positive(S::load_ptr(gate.add(place)), value);
                            }
                            S::put_ptr(out.add(place), value, *far);
                        }
                    }));
                } else {
                    for (r, line_of_y) in y.iter().enumerate().take(self.height - row) {
                        for (c, y) in line_of_y.iter().enumerate().take(self.width - column) {
                            let at = at + r * line + c * channels;
                            let mut value = self.finished::<S>(*y, bias);
                            if let Some(gate) = gate {
                                value = S::where_positive(S::load(&gate[at..]), value);
                            }
                            S::store(&mut out[at - before..], value);
                        }
                    }
                }
            }
        }
    }
}

impl Output<'_> {
    #[inline(always)]
    fn finished<S: Simd>(&self, value: S::V, bias: S::V) -> S::V {
        let value = S::add(value, bias);
        if self.relu { S::relu(value) } else { value }
    }
}

/// One row of `G g Gᵀ` at `point`: all output channels for one input channel. `tap` gives the row
/// of the 3×3 kernel at a tap (row-major).
pub(super) fn kernel_points<'a>(point: usize, tap: impl Fn(usize) -> &'a [f32], row: &mut [f32]) {
    row.fill(0.0);
    for t in 0..9 {
        let factor = G[point / LINE][t / 3] * G[point % LINE][t % 3];
        if factor != 0.0 {
            row.iter_mut().zip(tap(t)).for_each(|(r, k)| *r += factor * k);
        }
    }
}

/// `Gᵀ u G`: the gradient of a 3×3 kernel from that of its points (`[36][pairs]`), as
/// `[9][pairs]`.
pub(super) fn kernel_gradient(points: &[f32], pairs: usize, out: &mut [f32]) {
    use rayon::prelude::*;
    out.par_chunks_mut(pairs).take(9).enumerate().for_each(|(tap, out)| {
        out.fill(0.0);
        for (point, values) in points.chunks_exact(pairs).take(POINTS).enumerate() {
            let factor = G[point / LINE][tap / 3] * G[point % LINE][tap % 3];
            if factor != 0.0 {
                out.iter_mut().zip(values).for_each(|(o, v)| *o += factor * v);
            }
        }
    });
}
