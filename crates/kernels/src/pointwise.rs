//! The 1×1 convolution of the last layer: two channels in, one out. Too little work for matrices.

use rayon::prelude::*;

/// Pixels in one job, and in one partial sum of the gradient: a fixed number, so that sums don't
/// depend on the number of threads.
const PIXELS: usize = 16 * 1024;

/// `y = x · kernel + bias` for each pixel; `x` has `input` channels, `y` has `output`.
pub(super) fn forward(x: &[f32], kernel: &[f32], bias: &[f32], relu: bool, y: &mut [f32]) {
    let output = bias.len();
    let input = kernel.len() / output;
    y.par_chunks_mut(PIXELS * output).zip(x.par_chunks(PIXELS * input)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(output).zip(x.chunks_exact(input)) {
            for (o, y) in y.iter_mut().enumerate() {
                let sum = x
                    .iter()
                    .zip(kernel[o..].iter().step_by(output))
                    .map(|(x, k)| x * k)
                    .sum::<f32>()
                    + bias[o];
                // Not `max`, which would turn a NaN into 0 and hide a diverged training.
                *y = if relu && sum <= 0.0 { 0.0 } else { sum };
            }
        }
    });
}

/// Gradients of the input (to `gx`), and of kernel and bias (returned one after the other). The
/// gates are results of ReLUs: the first is the layer's own, whose derivative is not yet in `gy`;
/// the second is that of the layer before, whose derivative has to be in `gx`.
pub(super) fn backward(
    x: &[f32],
    kernel: &[f32],
    (gate, input_gate): (Option<&[f32]>, Option<&[f32]>),
    gy: &[f32],
    output: usize,
    gx: &mut [f32],
) -> Vec<f32> {
    let input = kernel.len() / output;
    let gated = |at: usize| match gate {
        Some(y) if y[at] <= 0.0 => 0.0,
        _ => gy[at],
    };
    let parts: Vec<Vec<f32>> = gx
        .par_chunks_mut(PIXELS * input)
        .zip(x.par_chunks(PIXELS * input))
        .enumerate()
        .map(|(part, (gx, x))| {
            let mut sums = vec![0.0; kernel.len() + output];
            for (p, (gx, x)) in gx.chunks_exact_mut(input).zip(x.chunks_exact(input)).enumerate() {
                gx.fill(0.0);
                for o in 0..output {
                    let g = gated((part * PIXELS + p) * output + o);
                    for i in 0..input {
                        gx[i] += g * kernel[i * output + o];
                        sums[i * output + o] += g * x[i];
                    }
                    sums[kernel.len() + o] += g;
                }
                if let Some(gate) = input_gate {
                    let gate = &gate[(part * PIXELS + p) * input..][..input];
                    gx.iter_mut().zip(gate).for_each(|(g, y)| *g = if *y > 0.0 { *g } else { 0.0 });
                }
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; kernel.len() + output];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    total
}
