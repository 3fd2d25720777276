//! Every convolution here has three parts: turn tiles of the image into rows of matrices
//! ([`Lowering`]), multiply, and turn the products into pixels ([`Raising`]). This file goes
//! through the tiles in parallel.
//!
//! Results don't depend on the number of threads: each value of an image is computed within one
//! block of tiles, and a weight gradient is summed over groups of tiles that depend on the image's
//! size only.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::buffers::Buffers;
use super::gemm::{Left, PANEL, Right, Size, multiply};
use super::grid::{Grid, Tiles};
use super::precision::{Precision, pair};
use super::simd::{Kernel, Simd, dispatch};

/// Turns tiles of an image into `components` matrices with a row of `depth` values for each tile.
pub(super) trait Lowering: Sync {
    /// Number of matrices that are multiplied.
    fn components(&self) -> usize;
    /// Number of matrices that [`Self::gather`] writes.
    fn matrices(&self) -> usize {
        self.components()
    }
    /// Values in a row; rows are stored without gaps.
    fn depth(&self) -> usize;
    /// Writes all rows; matrix `c` starts at `c * stride`.
    fn gather<S: Simd>(&self, tiles: &Tiles, stride: usize, to: &mut [f32]);
}

/// Turns the products of some tiles into pixels.
pub(super) trait Raising: Sync {
    /// Number of values of a batch before row `row` of tiles of image `image`, for each of the two
    /// results (the second may be empty). The last row of tiles may reach beyond the image's edge.
    fn values_before(&self, image: usize, row: usize) -> [usize; 2];
    /// Writes the pixels of `tiles`; matrix `c` of `from` starts at `c * stride`.
    fn scatter<S: Simd>(&self, tiles: &Tiles, stride: usize, from: &[f32], to: &mut Share<'_>);
}

/// Right-hand matrices, one for each component, each as panels of [`PANEL`] columns.
pub(super) struct Panels<'a> {
    values: Vec<f32>,
    buffers: &'a Buffers,
    offset: usize,
    components: usize,
    depth: usize,
    width: usize,
    /// Whether each value has the bits of two bfloat16: those of two successive rows.
    bf16: bool,
}

impl<'a> Panels<'a> {
    /// Fills the matrices: `fill(component, row, columns)` writes one row of `width` values.
    pub(super) fn new(
        components: usize,
        depth: usize,
        width: usize,
        buffers: &'a Buffers,
        fill: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) -> Self {
        let padded = width.next_multiple_of(PANEL);
        let bf16 = Precision::of_process() == Precision::Bf16 && depth.is_multiple_of(2);
        // Rows of the values here, and rows of the matrix in each.
        let (rows, each) = if bf16 { (depth / 2, 2) } else { (depth, 1) };
        let mut values = buffers.take(components * rows * padded + ALIGN);
        let offset = misalignment(&values);
        let body = &mut values[offset..offset + components * rows * padded];
        if depth > 0 {
            body.par_chunks_mut(rows * padded).enumerate().for_each(|(c, matrix)| {
                with_scratch([padded, padded], |[row, next]| {
                    row.fill(0.0);
                    next.fill(0.0);
                    for r in 0..rows {
                        fill(c, each * r, &mut row[..width]);
                        if bf16 {
                            fill(c, 2 * r + 1, &mut next[..width]);
                            row.iter_mut().zip(&*next).for_each(|(a, b)| *a = pair(*a, *b));
                        }
                        let panels =
                            matrix.chunks_exact_mut(rows * PANEL).zip(row.chunks_exact(PANEL));
                        for (panel, values) in panels {
                            panel[r * PANEL..(r + 1) * PANEL].copy_from_slice(values);
                        }
                        if bf16 {
                            row[width..].fill(0.0);
                        }
                    }
                });
            });
        }
        Self { values, buffers, offset, components, depth, width: padded, bf16 }
    }

    /// Rows of a matrix, or pairs of rows.
    #[inline(always)]
    fn rows(&self) -> usize {
        if self.bf16 { self.depth / 2 } else { self.depth }
    }

    #[inline(always)]
    fn component(&self, c: usize) -> Right<'_> {
        let len = self.rows() * self.width;
        let start = self.offset + c * len;
        Right { values: &self.values[start..start + len], row: PANEL, panel: self.rows() * PANEL }
    }
}

impl Drop for Panels<'_> {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.values));
    }
}

/// f32 values in a cache line. Matrices start on one, because wide loads would otherwise touch two.
const ALIGN: usize = 16;

fn misalignment(values: &[f32]) -> usize {
    values.as_ptr().align_offset(ALIGN * size_of::<f32>()).min(ALIGN)
}

/// Scratch memory that a thread keeps from one block to the next. Taking fresh pages instead would
/// cost a third of the time.
#[derive(Default)]
struct Scratch {
    values: Vec<f32>,
}

impl Scratch {
    fn take<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        let total: usize = lengths.iter().map(|l| l.next_multiple_of(ALIGN)).sum::<usize>() + ALIGN;
        if self.values.len() < total {
            self.values.resize(total, 0.0);
        }
        let offset = misalignment(&self.values);
        let mut rest = &mut self.values[offset..];
        lengths.map(|len| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(ALIGN));
            rest = tail;
            &mut head[..len]
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's scratch memory as slices of the given lengths, 64-byte aligned, with
/// arbitrary contents. `work` must not wait for other rayon jobs: the thread might run another job
/// meanwhile, which would ask for the same memory.
pub(super) fn with_scratch<R, const N: usize>(
    lengths: [usize; N],
    work: impl FnOnce([&mut [f32]; N]) -> R,
) -> R {
    SCRATCH.with_borrow_mut(|scratch| work(scratch.take(lengths)))
}

/// Distance between two matrices: their size plus a cache line. Without that line, the same row of
/// all matrices would fall into the same set of the cache.
fn padded_stride(rows: usize, width: usize) -> usize {
    (rows * width).next_multiple_of(ALIGN) + ALIGN
}

/// Number of tiles in a block, between 16 and 256: as many as keep the gathered matrices around a
/// megabyte, half of a core's second-level cache. `shared` values are read, or added to, once for
/// each block. Where they don't fit into that cache (`most`), a block has at least `least` tiles;
/// otherwise fetching them from memory would take longer than the products. Measured with 256
/// channels in and out: 2.7 times the speed for the kernel's gradient, twice for the image's.
fn block_tiles(values_per_tile: usize, shared: usize, most: usize, least: usize) -> usize {
    let tiles = ((1 << 18) / values_per_tile.max(1)).next_multiple_of(8).clamp(16, 256);
    if shared > most { tiles.max(least) } else { tiles }
}

/// `lowering · weights`, turned into pixels by `raising`.
pub(super) struct Product<'a, L, R> {
    pub(super) lowering: L,
    pub(super) weights: Panels<'a>,
    pub(super) raising: R,
}

impl<L: Lowering, R: Raising> Product<'_, L, R> {
    /// Computes the whole grid.
    pub(super) fn compute(&self, grid: Grid, out: [&mut [f32]; 2]) {
        let Panels { components, depth, width, .. } = self.weights;
        // Not larger, so that there is a block for every thread.
        let block =
            block_tiles(components * (depth + width), components * depth * width, 1 << 20, 64);
        let each = grid.images.div_ceil(rayon::current_num_threads());
        let shares = self.shares(grid, grid.strips(block, each), out);
        shares.into_par_iter().for_each(|mut share| {
            for tiles in grid.pieces(share.rows.clone(), block) {
                self.compute_block(&tiles, &mut share);
            }
        });
    }

    /// The results of consecutive ranges of tile rows, to be written by different threads.
    fn shares<'o>(
        &self,
        grid: Grid,
        ranges: impl Iterator<Item = Range<usize>>,
        [mut out_a, mut out_b]: [&'o mut [f32]; 2],
    ) -> Vec<Share<'o>> {
        let before = |row: usize| match grid.rows {
            0 => [0; 2],
            rows => self.raising.values_before(row / rows, row % rows),
        };
        let at_a_line = |out: &[f32]| out.is_empty() || misalignment(out) == 0;
        let far = out_a.len() + out_b.len() >= FAR && at_a_line(out_a) && at_a_line(out_b);
        let share = |rows: Range<usize>| {
            let (start, end) = (before(rows.start), before(rows.end));
            let (a, rest_a) = std::mem::take(&mut out_a).split_at_mut(end[0] - start[0]);
            let (b, rest_b) = std::mem::take(&mut out_b).split_at_mut(end[1] - start[1]);
            (out_a, out_b) = (rest_a, rest_b);
            Share { rows, before: start, out: [a, b], far }
        };
        ranges.map(share).collect()
    }

    fn compute_block(&self, tiles: &Tiles, share: &mut Share<'_>) {
        let Panels { components, depth, width, .. } = self.weights;
        assert_eq!(self.lowering.components(), components, "components differ");
        assert_eq!(self.lowering.depth(), depth, "depths differ");
        let (v_stride, m_stride) =
            (padded_stride(tiles.count(), depth), padded_stride(tiles.count(), width));
        with_scratch([components * v_stride, components * m_stride], |[v, m]| {
            dispatch(ProductBlock { product: self, tiles, v, v_stride, m, m_stride, share });
        });
    }
}

/// What one thread writes of the results.
pub(super) struct Share<'a> {
    /// Rows of tiles.
    rows: Range<usize>,
    /// Values of the batch before these.
    pub(super) before: [usize; 2],
    pub(super) out: [&'a mut [f32]; 2],
    /// Whether pixels can be, and should be, written past the caches ([`Simd::stream_ptr`]): the
    /// results begin at a cache line and are [`FAR`] values or more.
    pub(super) far: bool,
}

/// A result of this many values (16 MiB) has left the caches before it is read as a whole.
const FAR: usize = 1 << 22;

struct ProductBlock<'a, 'o, L, R> {
    product: &'a Product<'a, L, R>,
    tiles: &'a Tiles,
    v: &'a mut [f32],
    v_stride: usize,
    m: &'a mut [f32],
    m_stride: usize,
    share: &'a mut Share<'o>,
}

impl<L: Lowering, R: Raising> Kernel for ProductBlock<'_, '_, L, R> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Product { lowering, weights, raising } = self.product;
        assert!(S::BF16 || !weights.bf16, "the precision changed within a product");
        lowering.gather::<S>(self.tiles, self.v_stride, self.v);
        let count = self.tiles.count();
        let rows = weights.rows();
        let size = Size { m: count, n: weights.width, k: rows };
        for c in 0..weights.components {
            let values = &mut self.v[c * self.v_stride..][..self.v_stride];
            let to = &mut self.m[c * self.m_stride..];
            if S::BF16 && weights.bf16 {
                narrow::<S>(values, count * weights.depth);
                let left = Left { values, row: rows, column: 1 };
                multiply::<S, true>(size, left, weights.component(c), to, false);
            } else {
                let left = Left { values, row: rows, column: 1 };
                multiply::<S, false>(size, left, weights.component(c), to, false);
            }
        }
        raising.scatter::<S>(self.tiles, self.m_stride, self.m, self.share);
    }
}

/// Makes bfloat16 of the first `count` values, two in the place of one. What follows up to the next
/// multiple of two registers is read, and is there: matrices are apart ([`padded_stride`]).
#[inline(always)]
fn narrow<S: Simd>(values: &mut [f32], count: usize) {
    for from in (0..count).step_by(2 * S::LANES) {
        let (first, second) = (S::load(&values[from..]), S::load(&values[from + S::LANES..]));
        S::store(&mut values[from / 2..], S::narrow(first, second));
    }
}

/// Makes bfloat16 of `count` rows of `width` values, a multiple of a register: each value of two
/// rows in the place of one. After an odd number of rows, zeros follow.
#[inline(always)]
fn pair_rows<S: Simd>(values: &mut [f32], count: usize, width: usize) {
    for pair in 0..count.div_ceil(2) {
        let (first, second) = (2 * pair * width, (2 * pair + 1) * width);
        for lane in (0..width).step_by(S::LANES) {
            let above = S::load(&values[first + lane..]);
            let below = match 2 * pair + 1 < count {
                true => S::load(&values[second + lane..]),
                false => S::splat(0.0),
            };
            S::store(&mut values[pair * width + lane..], S::pair(above, below));
        }
    }
}

/// The sums over all tiles of `leftᵀ · right` for each component
/// (`[components][left depth][right depth]`), followed by the sums of the rows of `right`'s
/// matrix `bias`. Values after these are arbitrary. The vector belongs to `buffers`: give it
/// back.
pub(super) fn gradient(
    grid: Grid,
    left: &impl Lowering,
    right: &impl Lowering,
    bias: usize,
    buffers: &Buffers,
) -> Vec<f32> {
    let groups = Groups::new(grid, left, right);
    groups.sums(left, right, bias, buffers, vec![(); groups.count], |_, ()| {})
}

/// As [`gradient`], and `product` is computed in the same go. What both read, and what the product
/// reads of `left`'s image, comes from memory once then instead of twice: a large batch doesn't fit
/// into the cache, a block does.
pub(super) fn gradient_and_product(
    grid: Grid,
    left: &impl Lowering,
    right: &impl Lowering,
    bias: usize,
    product: &Product<'_, impl Lowering, impl Raising>,
    out: [&mut [f32]; 2],
    buffers: &Buffers,
) -> Vec<f32> {
    let groups = Groups::new(grid, left, right);
    let shares = product.shares(grid, (0..groups.count).map(|group| groups.rows(group)), out);
    let also = |tiles: &Tiles, share: &mut Share<'_>| product.compute_block(tiles, share);
    groups.sums(left, right, bias, buffers, shares, also)
}

/// The parts of a weight gradient's sum: consecutive strips. How many there are depends on sizes
/// only, so that the order of summation does too. With large images there are 16 ([`GROUPS`]).
struct Groups {
    grid: Grid,
    /// Tiles in a block.
    block: usize,
    /// Images in a strip, at most.
    images: usize,
    strips: usize,
    count: usize,
}

impl Groups {
    fn new(grid: Grid, left: &impl Lowering, right: &impl Lowering) -> Self {
        let (components, k, n) = (left.components(), left.depth(), right.depth());
        assert_eq!(components, right.components(), "components differ");
        let block = block_tiles(components * (k + n), components * k * n, 1 << 19, 128);
        // Small images are taken together, because the sums are gone through once for each block.
        // Four threads still have something to do.
        let images = grid.images.div_ceil(4);
        let strips = grid.strips(block, images).len();
        Self { grid, block, images, strips, count: strips.clamp(1, GROUPS) }
    }

    /// The strips of a group.
    fn strips(&self, group: usize) -> impl Iterator<Item = Range<usize>> {
        let [first, end] = [group, group + 1].map(|group| self.strips * group / self.count);
        self.grid.strips(self.block, self.images).take(end).skip(first)
    }

    /// Their rows of tiles.
    fn rows(&self, group: usize) -> Range<usize> {
        let mut strips = self.strips(group);
        let first = strips.next().unwrap_or_default();
        first.start..strips.last().map_or(first.end, |last| last.end)
    }

    /// The sums of [`gradient`]. `also` gets each block, too, with the group's value of `shares`.
    fn sums<T: Send>(
        &self,
        left: &impl Lowering,
        right: &impl Lowering,
        bias: usize,
        buffers: &Buffers,
        mut shares: Vec<T>,
        also: impl Fn(&Tiles, &mut T) + Sync,
    ) -> Vec<f32> {
        let (components, k, n) = (left.components(), left.depth(), right.depth());
        let len = components * k * n + n;
        // This many groups have memory at a time. It doesn't change the order in which they are
        // added to the total.
        let wave = self.count.min(2 * rayon::current_num_threads());

        let mut sums = buffers.take((1 + wave) * len);
        let (total, parts) = sums[..(1 + wave) * len].split_at_mut(len);
        for first in (0..self.count).step_by(wave) {
            let shares = &mut shares[first..self.count.min(first + wave)];
            let parts = &mut parts[..shares.len() * len];
            let groups = parts.par_chunks_mut(len).zip(shares).enumerate();
            groups.for_each(|(group, (sums, share))| {
                let (sums, bias_sums) = sums.split_at_mut(components * k * n);
                // The first block writes the sums, the others add to them.
                let mut accumulate = false;
                for strip in self.strips(first + group) {
                    for tiles in self.grid.pieces(strip, self.block) {
                        let count = tiles.count();
                        let left_stride = padded_stride(count, k);
                        let right_stride = padded_stride(count, n);
                        with_scratch(
                            [components * left_stride, right.matrices() * right_stride],
                            |[a, b]| {
                                dispatch(GradientBlock {
                                    tiles: &tiles,
                                    left,
                                    right,
                                    a,
                                    left_stride,
                                    b,
                                    right_stride,
                                    bias,
                                    sums: &mut *sums,
                                    bias_sums: &mut *bias_sums,
                                    accumulate,
                                });
                            },
                        );
                        accumulate = true;
                        also(&tiles, share);
                    }
                }
                if !accumulate {
                    sums.fill(0.0);
                    bias_sums.fill(0.0);
                }
            });
            const PIECE: usize = 4096;
            total.par_chunks_mut(PIECE).enumerate().for_each(|(piece, total)| {
                for (group, sums) in parts.chunks_exact(len).enumerate() {
                    let part = &sums[piece * PIECE..][..total.len()];
                    match first + group {
                        0 => total.copy_from_slice(part),
                        _ => total.iter_mut().zip(part).for_each(|(t, p)| *t += p),
                    }
                }
            });
        }
        sums
    }
}

/// Number of parts of a weight gradient's sum: the most threads that can work on it.
const GROUPS: usize = 16;

struct GradientBlock<'a, L, R> {
    tiles: &'a Tiles,
    left: &'a L,
    right: &'a R,
    a: &'a mut [f32],
    left_stride: usize,
    b: &'a mut [f32],
    right_stride: usize,
    bias: usize,
    sums: &'a mut [f32],
    bias_sums: &'a mut [f32],
    /// Whether the block is added to the sums; otherwise it is the first, and writes them.
    accumulate: bool,
}

impl<L: Lowering, R: Lowering> Kernel for GradientBlock<'_, L, R> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (k, n) = (self.left.depth(), self.right.depth());
        let count = self.tiles.count();
        self.left.gather::<S>(self.tiles, self.left_stride, self.a);
        self.right.gather::<S>(self.tiles, self.right_stride, self.b);
        // Before the matrices become others. Two levels of sums, the block's and the group's: a
        // single running sum over a million pixels would lose digits.
        let rows = &self.b[self.bias * self.right_stride..][..count * n];
        let mut j = 0;
        while j + S::LANES <= n {
            let mut sum = S::splat(0.0);
            for t in 0..count {
                sum = S::add(sum, S::load(&rows[t * n + j..]));
            }
            let to = &mut self.bias_sums[j..];
            if self.accumulate {
                sum = S::add(S::load(to), sum);
            }
            S::store(to, sum);
            j += S::LANES;
        }
        for c in 0..self.left.components() {
            let a = &mut self.a[c * self.left_stride..][..self.left_stride];
            let b = &mut self.b[c * self.right_stride..][..self.right_stride];
            let sums = &mut self.sums[c * k * n..][..k * n];
            // The transposed left matrix: rows are channels, columns are tiles, or pairs of them.
            if S::BF16 && k.is_multiple_of(S::LANES) {
                pair_rows::<S>(a, count, k);
                pair_rows::<S>(b, count, n);
                let left = Left { values: a, row: 1, column: k };
                let right = Right { values: b, row: n, panel: PANEL };
                let size = Size { m: k, n, k: count.div_ceil(2) };
                multiply::<S, true>(size, left, right, sums, self.accumulate);
            } else {
                let left = Left { values: a, row: 1, column: k };
                let right = Right { values: b, row: n, panel: PANEL };
                let size = Size { m: k, n, k: count };
                multiply::<S, false>(size, left, right, sums, self.accumulate);
            }
        }
    }
}
