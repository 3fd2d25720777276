//! Max pooling 2×2. The whole gradient goes to the first maximum of the window in row-major order,
//! as in TensorFlow. (candle's own max pooling divides it among four.)

use rayon::prelude::*;

/// Offsets of a window's four pixels, in values from the first.
fn corners(width: usize, channels: usize) -> [usize; 4] {
    [0, channels, width * channels, (width + 1) * channels]
}

/// Maximum of each 2×2 window: `x` is `[n, height, width, channels]`, `y` half as high and wide.
pub(super) fn forward(x: &[f32], width: usize, channels: usize, y: &mut [f32]) {
    let corners = corners(width, channels);
    let line = width / 2 * channels;
    y.par_chunks_mut(line).zip(x.par_chunks(4 * line)).for_each(|(y, x)| {
        for (column, y) in y.chunks_exact_mut(channels).enumerate() {
            let [a, b, c, d] = corners.map(|at| &x[2 * column * channels + at..][..channels]);
            for (i, y) in y.iter_mut().enumerate() {
                let mut best = a[i];
                for value in [b[i], c[i], d[i]] {
                    // A NaN must be passed on; otherwise a diverged training would not be noticed.
                    if value > best || value.is_nan() {
                        best = value;
                    }
                }
                *y = best;
            }
        }
    });
}

/// Gradient of `x` into `gx`, added to what is there when `add` says so.
pub(super) fn backward(
    x: &[f32],
    gy: &[f32],
    width: usize,
    channels: usize,
    gx: &mut [f32],
    add: bool,
) {
    let corners = corners(width, channels);
    let line = width / 2 * channels;
    gx.par_chunks_mut(4 * line).zip(x.par_chunks(4 * line)).zip(gy.par_chunks(line)).for_each(
        |((gx, x), gy)| {
            if !add {
                gx.fill(0.0);
            }
            let (above, below) = gx.split_at_mut(2 * line);
            let (above, below) =
                (above.chunks_exact_mut(2 * channels), below.chunks_exact_mut(2 * channels));
            for (column, (gy, (above, below))) in
                gy.chunks_exact(channels).zip(above.zip(below)).enumerate()
            {
                let first = 2 * column * channels;
                let [a, b, c, d] = corners.map(|at| &x[first + at..][..channels]);
                let (to_a, to_b) = above.split_at_mut(channels);
                let (to_c, to_d) = below.split_at_mut(channels);
                // All four are written, and none is chosen by its place: so the compiler takes
                // several channels at a time.
                for (i, &g) in gy.iter().enumerate() {
                    let best = a[i].max(b[i]).max(c[i]).max(d[i]);
                    let (is_a, is_b, is_c) = (a[i] == best, b[i] == best, c[i] == best);
                    let at_c = !is_a & !is_b;
                    to_a[i] += if is_a { g } else { 0.0 };
                    to_b[i] += if !is_a & is_b { g } else { 0.0 };
                    to_c[i] += if at_c & is_c { g } else { 0.0 };
                    to_d[i] += if at_c & !is_c { g } else { 0.0 };
                }
            }
        },
    );
}
