//! Memory that passes from one training step to the next. A step writes several GB of intermediate images, always
//! of the same sizes; asking the system for them anew costs a third of the step in page faults.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

/// Vectors given back, by length. Clones share one store.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    free: Arc<Mutex<HashMap<usize, Vec<Vec<f32>>>>>,
}

impl Buffers {
    /// A vector of `len` values whose contents are arbitrary: the caller writes all of it.
    pub(super) fn take(&self, len: usize) -> Vec<f32> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.get_mut(&len).and_then(Vec::pop);
        drop(free);
        found.unwrap_or_else(|| vec![0.0; len])
    }

    /// Keeps a vector for the next [`Self::take`] of its length.
    pub(super) fn give(&self, values: Vec<f32>) {
        if !values.is_empty() {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(values.len()).or_default().push(values);
        }
    }

    /// Takes the memory out of a tensor that nobody will read again; clones of the tensor are empty afterwards.
    /// Does nothing on other devices than the CPU.
    ///
    /// # Errors
    /// When the tensor is a view.
    pub fn reclaim(&self, tensor: Tensor) -> Result<()> {
        if tensor.device().is_cpu() { tensor.inplace_op1(&Reclaim(self)) } else { Ok(()) }
    }

    /// Frees everything that is not in use.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Candle has no way to get a tensor's vector back, but an operation in place may exchange it.
struct Reclaim<'a>(&'a Buffers);

impl InplaceOp1 for Reclaim<'_> {
    fn name(&self) -> &'static str {
        "reclaim"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        if let CpuStorage::F32(values) = storage {
            self.0.give(std::mem::take(values));
        }
        Ok(())
    }
}
