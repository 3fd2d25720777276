//! The network's operations with TensorFlow's gradients: convolution with bias and ReLU, max
//! pooling, upsampling, loss.
//!
//! Images are NHWC, kernels HWIO, as in Keras. They are candle custom operations with their own
//! kernels, for the CPU; [`PageNetwork`](crate::PageNetwork) spells the network with candle's
//! operations.

mod buffers;
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
pub(crate) use custom::{AddPoolGradient, Inner, with_host};
pub use custom::{BinaryCrossEntropy, MaxPool};
pub(crate) use loss::{pixel as pixel_loss, sigmoid};
