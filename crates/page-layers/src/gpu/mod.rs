//! The network on a GPU: cuDNN's convolutions, own kernels for everything else. The host gives its
//! orders some steps ahead of the GPU, and then waits for the loss of the earliest of them. Copying
//! pages, samples and parameters waits for all orders before it; samples that are cut out of pages
//! on the GPU need no copy between two steps.

mod card;
mod check;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cudnn;
pub(crate) mod device;
mod engine;
mod layout;
mod machine;
mod pages;
mod steps;
#[cfg(test)]
mod tests;
mod trainer;
#[cfg(test)]
mod twin;

pub use card::Card;
pub use check::{Finding, StepTime};
pub use machine::{GpuError, Precision};
use pages::Cut;
pub(crate) use trainer::{Inference, Trainer};
