//! The network's operations with TensorFlow's gradients: convolution with bias and ReLU, max
//! pooling, upsampling, loss.
//!
//! Images are NHWC, kernels HWIO, as in Keras. The operations are candle custom operations with
//! kernels of our own for the CPU. `composed` builds the same operations from candle's own; the
//! tests compare the two.

mod buffers;
pub(crate) mod composed;
mod conv;
mod custom;
mod direct;
mod engine;
mod gemm;
mod image;
mod loss;
mod pointwise;
mod pool;
mod simd;
#[cfg(test)]
mod tests;
mod upsample;
mod winograd;

pub use buffers::Buffers;
pub use conv::Conv;
pub(crate) use custom::{AddPoolGradient, with_host};
pub use custom::{BinaryCrossEntropy, MaxPool};
pub(crate) use loss::{pixel as pixel_loss, sigmoid};
