//! The matrix product under every convolution: `C (m × n) = A (m × k) · B (k × n)`.
//!
//! The products here are small, and the code that fills their operands lays them out, so nothing is
//! packed or copied. Each value of `C` is one sum in the order of `k`: the result does not depend
//! on how the work is cut into blocks of rows, nor on the number of threads.

use super::simd::Simd;

/// Columns of `C` are computed in panels of this width; every width the network multiplies is a
/// multiple of it or padded to one.
pub(super) const PANEL: usize = 32;

/// Rows of `C` held in registers together where there are 32 registers: 12 × 2 of sums, 2 of `B`,
/// one of `A`.
const MANY_ROWS: usize = 12;

/// The same with 16 registers.
const ROWS: usize = 8;

/// `A`: value `(i, p)` is at `i * row + p * column`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// `B`: value `(p, j)` is at `(j / PANEL) * panel + p * row + j % PANEL`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) panel: usize,
}

/// Sizes of one product; `n` is a multiple of [`PANEL`].
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Writes (or with `accumulate` adds) `A · B` to `c`, row-major with rows of `size.n`. With `BF16`
/// each value of `A` and `B` has the bits of two bfloat16, which belong to two successive `p` of
/// the sum: `size.k` is half of their number.
#[inline(always)]
pub(super) fn multiply<S: Simd, const BF16: bool>(
    size: Size,
    a: Left<'_>,
    b: Right<'_>,
    c: &mut [f32],
    accumulate: bool,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(n.is_multiple_of(PANEL), "width {n} is no multiple of {PANEL}");
    assert!((m - 1) * a.row + (k - 1) * a.column < a.values.len(), "A is too short");
    assert!(
        (n / PANEL - 1) * b.panel + (k - 1) * b.row + PANEL <= b.values.len(),
        "B is too short"
    );
    assert!(m * n <= c.len(), "C is too short");

    let step = 2 * S::LANES;
    for j in (0..n).step_by(step) {
        let right = b.values[(j / PANEL) * b.panel + j % PANEL..].as_ptr();
        let mut i = 0;
        while i < m {
            let left = a.values[i * a.row..].as_ptr();
            let out = c[i * n + j..].as_mut_ptr();
            // Where panels lie one behind the other, each is fetched while the one before it is
            // multiplied by the first rows.
            let ahead = match i / MANY_ROWS {
                half @ 0..2 if b.panel == k * PANEL => {
                    right.wrapping_add(b.panel + half * k * S::LANES)
                }
                _ => right,
            };
            let at = Tile {
                k,
                left,
                left_row: a.row,
                left_column: a.column,
                right,
                right_row: b.row,
                out,
                n,
                ahead,
            };
            let rows = match m - i {
                MANY_ROWS.. if S::MANY_REGISTERS => MANY_ROWS,
                ROWS.. => ROWS,
                4..ROWS => 4,
                left => left,
            };
            // SAFETY: `block::<R>` reads A at rows i..i+R and all k columns, B at all k rows and
            // columns j..j+step, and touches C at rows i..i+R, columns j..j+step. R <= m - i and j
            // + step <= n (n is a multiple of PANEL, PANEL of step), so the asserts above cover all
            // of it.
            unsafe {
                match rows {
                    1 => block::<S, BF16, 1>(at, accumulate),
                    2 => block::<S, BF16, 2>(at, accumulate),
                    3 => block::<S, BF16, 3>(at, accumulate),
                    4 => block::<S, BF16, 4>(at, accumulate),
                    ROWS => block::<S, BF16, ROWS>(at, accumulate),
                    _ => block::<S, BF16, MANY_ROWS>(at, accumulate),
                }
            }
            i += rows;
        }
    }
}

#[derive(Clone, Copy)]
struct Tile {
    k: usize,
    left: *const f32,
    left_row: usize,
    left_column: usize,
    right: *const f32,
    right_row: usize,
    out: *mut f32,
    n: usize,
    /// What is read soon; perhaps outside of `B`.
    ahead: *const f32,
}

/// The same for each row of sums, written out: a loop over twelve of them is left as a loop at
/// `opt-level = 2`, and the sums are then in memory.
macro_rules! each_row {
    ($sums:ident, |$i:ident, $sum:ident| $body:block) => {
        each_row!(@ $sums $i $sum $body 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $sums:ident $i:ident $sum:ident $body:block $($row:literal)*) => {
        $(if let Some($sum) = $sums.get_mut($row) {
            let $i: usize = $row;
            $body
        })*
    };
}

const _: () = assert!(MANY_ROWS <= 12 && ROWS <= MANY_ROWS);

/// `R` rows by two registers of columns.
///
/// # Safety
/// All that the tile names must lie inside the operands (see [`multiply`]).
#[inline(always)]
unsafe fn block<S: Simd, const BF16: bool, const R: usize>(t: Tile, accumulate: bool) {
    let mut sums = [[S::splat(0.0); 2]; R];
    let (mut left, mut right) = (t.left, t.right);
    for p in 0..t.k {
        // SAFETY: row p of B and column p of A, inside the operands by this function's contract.
        // The pointers advance only between rows, so that none is formed past the end.
        unsafe {
            if p > 0 {
                left = left.add(t.left_column);
                right = right.add(t.right_row);
            }
            if S::MANY_REGISTERS {
                S::prefetch(t.ahead.wrapping_add(p * S::LANES));
            }
            let b0 = S::load_ptr(right);
            let b1 = S::load_ptr(right.add(S::LANES));
            each_row!(sums, |i, sum| {
                let a = S::splat(*left.add(i * t.left_row));
                if BF16 {
                    sum[0] = S::dot(a, b0, sum[0]);
                    sum[1] = S::dot(a, b1, sum[1]);
                } else {
                    sum[0] = S::fma(a, b0, sum[0]);
                    sum[1] = S::fma(a, b1, sum[1]);
                }
            });
        }
    }
    each_row!(sums, |i, sum| {
        // SAFETY: row i of the tile of C.
        unsafe {
            let out = t.out.add(i * t.n);
            let [mut s0, mut s1] = *sum;
            if accumulate {
                s0 = S::add(s0, S::load_ptr(out));
                s1 = S::add(s1, S::load_ptr(out.add(S::LANES)));
            }
            S::store_ptr(out, s0);
            S::store_ptr(out.add(S::LANES), s1);
        }
    });
}
