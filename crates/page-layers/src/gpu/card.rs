//! A GPU as the rest of the program sees it.

use std::sync::Arc;

use super::machine::{GpuError, Machine, Precision};

/// A GPU that is ready to compute.
#[derive(Clone, Debug)]
pub struct Card(pub(super) Arc<dyn Machine>);

impl Card {
    /// Opens GPU number `index` for a precision, or for the fastest precision that it has.
    ///
    /// # Errors
    ///
    /// When there is no such GPU, CUDA or cuDNN are missing, or the program was built without them.
    #[cfg(feature = "cuda")]
    pub fn open(index: usize, precision: Option<Precision>) -> Result<Self, GpuError> {
        Ok(Self(Arc::new(super::cuda::Cuda::open(index, precision)?)))
    }

    /// Opens a GPU: always fails, because the feature `cuda` is off.
    ///
    /// # Errors
    ///
    /// Always.
    #[cfg(not(feature = "cuda"))]
    pub fn open(_index: usize, _precision: Option<Precision>) -> Result<Self, GpuError> {
        Err(GpuError::Library("this program was built without the feature cuda; CUDA"))
    }

    /// The precision that it computes in.
    pub fn precision(&self) -> Precision {
        self.0.precision()
    }

    /// Its name for people, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> String {
        self.0.name()
    }
}
