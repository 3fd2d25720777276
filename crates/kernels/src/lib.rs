//! The network's operations with TensorFlow's gradients: convolution with bias and ReLU, max
//! pooling, upsampling, loss.
//!
//! Images are NHWC, kernels HWIO, as in Keras. They are candle custom operations with their own
//! kernels, for the CPU; `PageNetwork` of `page-layers` spells the network with candle's own
//! operations. Their tests stand there too, which compare the two: so the kernels, which take the
//! compiler longest, are compiled once.

mod buffers;
mod conv;
mod custom;
mod direct;
mod engine;
mod gemm;
pub mod grid;
mod image;
mod level;
mod loss;
mod pointwise;
mod pool;
mod precision;
mod simd;
mod upsample;
mod winograd;

pub use buffers::{Buffers, to_tensor};
pub use conv::Conv;
pub use custom::{AddPoolGradient, AddTo, BinaryCrossEntropy, Inner, MaxPool, with_host};
pub use loss::{pixel as pixel_loss, sigmoid};
pub use precision::Precision;
