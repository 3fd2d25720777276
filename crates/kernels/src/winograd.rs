//! 3×3 convolution with fewer multiplications: Winograd's minimal filtering (Lavin & Gray, "Fast
//! Algorithms for Convolutional Neural Networks", 2015). A tile of `M × M` pixels of the result
//! costs `N × N` products for each pair of channels, `N = M + 2`, instead of `9 M²`:
//! `y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`.
//!
//! The gradient of the kernel uses the transposed algorithm, the gradient of the image is a
//! convolution with the turned kernel.

use std::marker::PhantomData;

use super::engine::{Lowering, Raising, Tiles};
use super::image::Image;
use super::simd::Simd;

/// The one-dimensional transforms of F(M, 3).
pub(super) trait Filtering<const M: usize, const N: usize>: Sync {
    /// `G`: kernel taps to points.
    const G: [[f32; 3]; N];
    /// `Bᵀ d`.
    fn input<S: Simd>(d: [S::V; N]) -> [S::V; N];
    /// `Aᵀ m`.
    fn output<S: Simd>(m: [S::V; N]) -> [S::V; M];
    /// `A y`, the transpose of [`Self::output`].
    fn output_transposed<S: Simd>(y: [S::V; M]) -> [S::V; N];
}

/// F(2, 3): 16 products instead of 36, as exact as the direct sum.
pub(super) struct F2;

impl Filtering<2, 4> for F2 {
    const G: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

    #[inline(always)]
    fn input<S: Simd>([a, b, c, d]: [S::V; 4]) -> [S::V; 4] {
        [S::sub(a, c), S::add(b, c), S::sub(c, b), S::sub(b, d)]
    }
    #[inline(always)]
    fn output<S: Simd>([a, b, c, d]: [S::V; 4]) -> [S::V; 2] {
        [S::add(S::add(a, b), c), S::sub(S::sub(b, c), d)]
    }
    #[inline(always)]
    fn output_transposed<S: Simd>([p, q]: [S::V; 2]) -> [S::V; 4] {
        [p, S::add(p, q), S::sub(p, q), S::sub(S::splat(0.0), q)]
    }
}

/// F(4, 3): 36 products instead of 144; its rounding errors are several times those of the direct
/// sum.
pub(super) struct F4;

impl Filtering<4, 6> for F4 {
    const G: [[f32; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn input<S: Simd>([d0, d1, d2, d3, d4, d5]: [S::V; 6]) -> [S::V; 6] {
        let (two, four, five) = (S::splat(2.0), S::splat(4.0), S::splat(-5.0));
        let minus_four = S::splat(-4.0);
        let even = S::fma(minus_four, d2, d4);
        let odd = S::fma(minus_four, d1, d3);
        let near = S::sub(d4, d2);
        let far = S::sub(d3, d1);
        [
            S::fma(four, d0, S::fma(five, d2, d4)),
            S::add(even, odd),
            S::sub(even, odd),
            S::fma(two, far, near),
            S::fma(S::splat(-2.0), far, near),
            S::fma(four, d1, S::fma(five, d3, d5)),
        ]
    }
    #[inline(always)]
    fn output<S: Simd>([m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 4] {
        let (s1, d1) = (S::add(m1, m2), S::sub(m1, m2));
        let (s2, d2) = (S::add(m3, m4), S::sub(m3, m4));
        [
            S::add(m0, S::add(s1, s2)),
            S::fma(S::splat(2.0), d2, d1),
            S::fma(S::splat(4.0), s2, s1),
            S::add(S::fma(S::splat(8.0), d2, d1), m5),
        ]
    }
    #[inline(always)]
    fn output_transposed<S: Simd>([y0, y1, y2, y3]: [S::V; 4]) -> [S::V; 6] {
        let (even, odd) = (S::add(y0, y2), S::add(y1, y3));
        let even_2 = S::fma(S::splat(4.0), y2, y0);
        let odd_2 = S::fma(S::splat(8.0), y3, S::add(y1, y1));
        [y0, S::add(even, odd), S::sub(even, odd), S::add(even_2, odd_2), S::sub(even_2, odd_2), y3]
    }
}

/// Applies a one-dimensional transform to the columns, then to the rows.
macro_rules! both_ways {
    ($values:expr, $from:expr, $to:expr, $transform:expr) => {{
        let values = $values;
        let mut half = [[S::splat(0.0); $from]; $to];
        for column in 0..$from {
            let mut line = [S::splat(0.0); $from];
            for (row, value) in line.iter_mut().enumerate() {
                *value = values[row][column];
            }
            let line = $transform(line);
            for (row, value) in line.into_iter().enumerate() {
                half[row][column] = value;
            }
        }
        let mut full = [[S::splat(0.0); $to]; $to];
        for row in 0..$to {
            full[row] = $transform(half[row]);
        }
        full
    }};
}

/// `Bᵀ d B` of the `N × N` pixels around each tile, beginning one pixel above and to the left of
/// it; the channels of one image, then those of the other.
pub(super) struct Input<'a, F, const M: usize, const N: usize> {
    pub(super) images: [Option<Image<'a>>; 2],
    pub(super) filtering: PhantomData<F>,
}

impl<F: Filtering<M, N>, const M: usize, const N: usize> Lowering for Input<'_, F, M, N> {
    fn components(&self) -> usize {
        N * N
    }
    fn depth(&self) -> usize {
        self.images.iter().flatten().map(|image| image.channels).sum()
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        let depth = self.depth();
        let mut first_channel = 0;
        for image in self.images.iter().flatten() {
            for (i, tile_row, tile_column) in tiles.iter() {
                let to = &mut to[i * depth + first_channel..];
                let (row, column) = (tile_row * M, tile_column * M);
                let inside = row > 0
                    && column > 0
                    && row + N - 1 <= image.height
                    && column + N - 1 <= image.width;
                for channel in (0..image.channels).step_by(S::LANES) {
                    let mut d = [[S::splat(0.0); N]; N];
                    if inside {
                        let first = image.at(tiles.image, row - 1, column - 1) + channel;
                        for (r, line) in d.iter_mut().enumerate() {
                            for (c, value) in line.iter_mut().enumerate() {
                                *value =
                                    image.load::<S>(first + (r * image.width + c) * image.channels);
                            }
                        }
                    } else {
                        for (r, line) in d.iter_mut().enumerate() {
                            for (c, value) in line.iter_mut().enumerate() {
                                let at = ((row + r) as isize - 1, (column + c) as isize - 1);
                                *value = image.load_padded::<S>(tiles.image, at, channel);
                            }
                        }
                    }
                    let v = both_ways!(d, N, N, F::input::<S>);
                    for (r, line) in v.into_iter().enumerate() {
                        for (c, value) in line.into_iter().enumerate() {
                            S::store(&mut to[(r * N + c) * stride + channel..], value);
                        }
                    }
                }
            }
            first_channel += image.channels;
        }
    }
}

/// `A y Aᵀ` of the `M × M` pixels of each tile: the gradients of the points from the gradient of
/// the result. Point `(1, 1)` is the sum of the tile's pixels (see [`point_of_sums`]).
pub(super) struct OutputGradient<'a, F, const M: usize, const N: usize> {
    pub(super) image: Image<'a>,
    pub(super) filtering: PhantomData<F>,
}

/// The point where the polynomial is evaluated at 1 in both directions, in a grid of `n × n`.
pub(super) const fn point_of_sums(n: usize) -> usize {
    n + 1
}

impl<F: Filtering<M, N>, const M: usize, const N: usize> Lowering for OutputGradient<'_, F, M, N> {
    fn components(&self) -> usize {
        N * N
    }
    fn depth(&self) -> usize {
        self.image.channels
    }
    #[inline(always)]
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]) {
        let image = &self.image;
        for (i, tile_row, tile_column) in tiles.iter() {
            let to = &mut to[i * image.channels..];
            for channel in (0..image.channels).step_by(S::LANES) {
                let mut y = [[S::splat(0.0); M]; M];
                for (r, line) in y.iter_mut().enumerate() {
                    for (c, value) in line.iter_mut().enumerate() {
                        let at = ((tile_row * M + r) as isize, (tile_column * M + c) as isize);
                        *value = image.load_padded::<S>(tiles.image, at, channel);
                    }
                }
                let v = both_ways!(y, M, N, F::output_transposed::<S>);
                for (r, line) in v.into_iter().enumerate() {
                    for (c, value) in line.into_iter().enumerate() {
                        S::store(&mut to[(r * N + c) * stride + channel..], value);
                    }
                }
            }
        }
    }
}

/// `Aᵀ m A`, bias and ReLU; the first channels go to one result, the rest to the other.
pub(super) struct Output<'a, F, const M: usize, const N: usize> {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: [usize; 2],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    /// Outputs of ReLUs in the shapes of the two results; a result is 0 where they are not
    /// positive.
    pub(super) gates: [Option<&'a [f32]>; 2],
    pub(super) filtering: PhantomData<F>,
}

impl<F: Filtering<M, N>, const M: usize, const N: usize> Raising for Output<'_, F, M, N> {
    fn values_before(&self, tile_row: usize) -> [usize; 2] {
        self.channels.map(|channels| (tile_row * M).min(self.height) * self.width * channels)
    }
    #[inline(always)]
    fn scatter<S: Simd>(
        &self,
        tiles: &Tiles,
        stride: usize,
        from: &[f32],
        first_row: usize,
        [out_a, out_b]: [&mut [f32]; 2],
    ) {
        let depth = self.channels[0] + self.channels[1];
        for (i, tile_row, tile_column) in tiles.iter() {
            for channel in (0..depth).step_by(S::LANES) {
                let from = &from[i * depth + channel..];
                let mut m = [[S::splat(0.0); N]; N];
                for (r, line) in m.iter_mut().enumerate() {
                    for (c, value) in line.iter_mut().enumerate() {
                        *value = S::load(&from[(r * N + c) * stride..]);
                    }
                }
                let y = both_ways!(m, N, M, F::output::<S>);
                let bias = match self.bias {
                    Some(bias) => S::load(&bias[channel..]),
                    None => S::splat(0.0),
                };
                let (out, gate, channels, channel) = if channel < self.channels[0] {
                    (&mut *out_a, self.gates[0], self.channels[0], channel)
                } else {
                    (&mut *out_b, self.gates[1], self.channels[1], channel - self.channels[0])
                };
                let above = (tiles.image * self.height + first_row * M) * self.width * channels;
                for (r, line) in y.into_iter().enumerate() {
                    for (c, value) in line.into_iter().enumerate() {
                        let (row, column) = (tile_row * M + r, tile_column * M + c);
                        if row < self.height && column < self.width {
                            let value = S::add(value, bias);
                            let value = if self.relu { S::relu(value) } else { value };
                            let at =
                                ((row - first_row * M) * self.width + column) * channels + channel;
                            let value = match gate {
                                Some(gate) => {
                                    S::where_positive(S::load(&gate[above + at..]), value)
                                }
                                None => value,
                            };
                            S::store(&mut out[at..], value);
                        }
                    }
                }
            }
        }
    }
}

/// One row of `G g Gᵀ` at `point`: all output channels for one input channel. `tap` gives the row
/// of the 3×3 kernel at a tap (row-major).
pub(super) fn kernel_points<'a, F: Filtering<M, N>, const M: usize, const N: usize>(
    point: usize,
    tap: impl Fn(usize) -> &'a [f32],
    row: &mut [f32],
) {
    row.fill(0.0);
    for t in 0..9 {
        let factor = F::G[point / N][t / 3] * F::G[point % N][t % 3];
        if factor != 0.0 {
            row.iter_mut().zip(tap(t)).for_each(|(r, k)| *r += factor * k);
        }
    }
}

/// `Gᵀ u G`: the gradient of a 3×3 kernel from that of its points (`[N * N][pairs]`), as
/// `[9][pairs]`.
pub(super) fn kernel_gradient<F: Filtering<M, N>, const M: usize, const N: usize>(
    points: &[f32],
    pairs: usize,
    out: &mut [f32],
) {
    use rayon::prelude::*;
    out.par_chunks_mut(pairs).take(9).enumerate().for_each(|(tap, out)| {
        out.fill(0.0);
        for (point, values) in points.chunks_exact(pairs).take(N * N).enumerate() {
            let factor = F::G[point / N][tap / 3] * F::G[point % N][tap % 3];
            if factor != 0.0 {
                out.iter_mut().zip(values).for_each(|(o, v)| *o += factor * v);
            }
        }
    });
}
