//! What a step of the network gives, and what keeps it from being computed, on the CPU or on a GPU.

use candle_core::Tensor;
use thiserror::Error;

use crate::keras::WeightsError;

/// Loss and gradients of one batch.
pub struct Step {
    /// Mean loss over all pixels.
    pub loss: f32,
    /// Gradient of each layer's parameters, in the order and shape of
    /// [`Network::parameters`](crate::Network::parameters).
    pub gradients: Vec<Tensor>,
}

/// Something that the network can't compute.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// Candle failed, for example because the device has too little memory.
    #[error("the network's computation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// The GPU failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The weights in the device's memory are not finite.
    #[error("the network's weights are unusable: {0}")]
    Weights(#[from] WeightsError),
    /// An image whose sides are not positive multiples of 4, or not of three channels.
    #[error(
        "the network takes images [n, h, w, 3] whose height and width are multiples of 4, not {0:?}"
    )]
    Shape(Vec<usize>),
}

/// Something that the GPU or its libraries can't do.
#[derive(Debug, Error)]
pub enum GpuError {
    /// One of CUDA's libraries is not on this machine.
    #[error(
        "{0} is not found; load the site's modules for CUDA 12 or 13 and cuDNN 9, or set \
        LD_LIBRARY_PATH"
    )]
    Library(&'static str),
    /// A library is too old.
    #[error("cuDNN {0} is too old, version 9 is needed")]
    Version(usize),
    /// The driver refused.
    #[error("CUDA, {call}: {text}")]
    Driver {
        /// The call.
        call: &'static str,
        /// The driver's answer.
        text: String,
    },
    /// The GPU has too little memory.
    #[error(
        "the GPU has no {megabytes} MB left; choose a smaller batch or patch, or a GPU with more \
        memory"
    )]
    Memory {
        /// What was asked for.
        megabytes: usize,
    },
    /// cuDNN refused.
    #[error("cuDNN, {call}: {text}")]
    Cudnn {
        /// The call.
        call: &'static str,
        /// cuDNN's answer.
        text: String,
    },
    /// The kernels can't be compiled for this GPU.
    #[error("the kernels can't be compiled for {architecture}: {log}")]
    Compile {
        /// The architecture, such as `sm_90`.
        architecture: String,
        /// The compiler's log.
        log: String,
    },
    /// The GPU's results differ from the CPU's.
    #[error("the GPU's results differ from the CPU's: {0}")]
    Differs(String),
    /// A fault of the program: a buffer is smaller than what a kernel would touch.
    #[error("{what} needs {needed} bytes of memory and has {found}")]
    Extent {
        /// Which buffer.
        what: &'static str,
        /// Bytes that are needed.
        needed: usize,
        /// Bytes that it has.
        found: usize,
    },
    /// The program's fault: a network that was put on the card to predict is asked for training.
    #[error("the network was put on the GPU to predict only")]
    NotForTraining,
    /// The program's fault: a node of the network has no image of its own.
    #[error("{0} has no image of its own on the GPU")]
    NoImage(&'static str),
    /// The batch is too large for 32-bit numbers of pixels and values.
    #[error(
        "{0} images of {1}x{2} are too many for one batch on the GPU; choose a smaller batch or \
        patch"
    )]
    Batch(usize, usize, usize),
}
