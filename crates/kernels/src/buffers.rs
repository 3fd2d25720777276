//! Memory that is kept from one training step to the next. A step writes several GB of intermediate
//! images, always of the same sizes; taking the memory from the system each time would cost a third
//! of the step in page faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Tensor};

/// A request may get a vector up to this many times as long as it asks for. In the backward pass
/// the large images are free when the smaller gradients are needed; but small requests must not use
/// up large vectors.
const SHARE: usize = 4;

/// Vectors that were given back, by length. Clones share one store.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    free: Arc<Mutex<BTreeMap<usize, Vec<Vec<f32>>>>>,
}

impl Buffers {
    /// A vector of at least `len` values with arbitrary contents: the caller writes the first
    /// `len`, and nobody reads the others. It is the shortest stored vector that is not too long.
    pub fn take(&self, len: usize) -> Vec<f32> {
        self.find(len, len.saturating_mul(SHARE))
    }

    /// As [`Self::take`], of exactly this length: for vectors kept beyond the step, so that no
    /// larger one is tied up.
    pub fn take_exactly(&self, len: usize) -> Vec<f32> {
        self.find(len, len)
    }

    fn find(&self, len: usize, most: usize) -> Vec<f32> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.range_mut(len..=most).filter_map(|(_, vectors)| vectors.pop()).next();
        drop(free);
        found.unwrap_or_else(|| {
            // `vec![0.0; len]` would ask for zeroed memory, which `base::wipe::Wiping` does not
            // begin at a cache line; with `with_capacity` it does. Streaming stores need that.
            let mut values = Vec::with_capacity(len);
            values.resize(len, 0.0);
            values
        })
    }

    /// Keeps a vector for a later [`Self::take`].
    pub fn give(&self, values: Vec<f32>) {
        if !values.is_empty() {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(values.len()).or_default().push(values);
        }
    }

    /// Takes the whole storage of a tensor that nobody will read again, also where the tensor is a
    /// view of a part of it: every tensor that shares it is empty afterwards. Tensors on other
    /// devices than the CPU are left alone.
    ///
    /// # Errors
    /// When the tensor repeats elements (a broadcast).
    pub fn reclaim(&self, tensor: Tensor) -> Result<()> {
        if tensor.device().is_cpu() { tensor.inplace_op1(&Reclaim(self)) } else { Ok(()) }
    }

    /// Frees everything that is not in use.
    pub fn clear(&self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A tensor of the first values of a vector. The tensor owns the whole vector.
///
/// # Errors
/// When the vector has fewer values than the shape.
pub fn to_tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    let (len, count) = (values.len(), shape.elem_count());
    let whole = Tensor::from_vec(values, len, &Device::Cpu)?;
    let used = if len == count { whole } else { whole.narrow(0, 0, count)? };
    used.reshape(shape)
}

/// Candle can't give a tensor's vector back, but an in-place operation may exchange it.
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
