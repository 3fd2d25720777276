//! Adam's numbers, as Rodan's original trainer set them but for one, and how often a layer starts
//! again.
//!
//! Each is written here once. The optimiser, the kernels for GPUs (which get them as macros) and
//! the Keras file's `training_config` are made from them.

/// Adam's learning rate for a model that goes on from an earlier one, and in the Keras file.
pub const LEARNING_RATE: f64 = 1e-4;

/// Adam's learning rate for a network that starts anew, three times the original's: with
/// standardised channels a network bears it, and finds more of the layers after the same number of
/// steps (`docs/quality.md`).
pub const LEARNING_RATE_FROM_SCRATCH: f64 = 3e-4;

/// How slowly Adam's mean of the gradients forgets.
pub const BETA_1: f64 = 0.9;

/// How slowly Adam's mean of the squared gradients forgets.
pub const BETA_2: f64 = 0.999;

/// What Adam adds to the root of the mean square, before the bias correction. Keras adds ε to `√v`
/// (`w -= α·m / (√v + ε)` with the correction inside α); candle's AdamW and the paper's first form
/// add it to the corrected `√v̂`. Early on that is another step by up to a factor of 30 for
/// gradients around 1e-7.
pub const EPSILON: f64 = 1e-7;

/// How often a layer that learns nothing is started again from other weights.
pub const MAX_RESTARTS: usize = 3;
