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
    pub(super) fn take(&self, len: usize) -> Vec<f32> {
        self.find(len, len.saturating_mul(SHARE))
    }

    /// As [`Self::take`], of exactly this length: for vectors kept beyond the step, so that no
    /// larger one is tied up.
    pub(super) fn take_exactly(&self, len: usize) -> Vec<f32> {
        self.find(len, len)
    }

    fn find(&self, len: usize, most: usize) -> Vec<f32> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.range_mut(len..=most).filter_map(|(_, vectors)| vectors.pop()).next();
        drop(free);
        found.unwrap_or_else(|| vec![0.0; len])
    }

    /// Keeps a vector for a later [`Self::take`].
    pub(super) fn give(&self, values: Vec<f32>) {
        if !values.is_empty() {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(values.len()).or_default().push(values);
        }
    }

    /// Takes the memory out of a tensor that nobody will read again. Clones of the tensor are empty
    /// afterwards. Tensors on other devices than the CPU are left alone.
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

/// A tensor of the first values of a vector. The tensor owns the whole vector.
pub(super) fn to_tensor(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_vector_that_fits_is_used_again() {
        let buffers = Buffers::default();
        for len in [100, 40, 1000, 120] {
            buffers.give(vec![1.0; len]);
        }
        assert_eq!(buffers.take_exactly(30).len(), 30);
        assert_eq!(buffers.take(30).len(), 40);
        assert_eq!(buffers.take(30).len(), 100);
        assert_eq!(buffers.take_exactly(120).len(), 120);
        assert_eq!(buffers.take(30).len(), 30, "1000 values are too good for 30");
        assert_eq!(buffers.take(1000).len(), 1000);
    }

    #[test]
    fn a_tensor_gives_all_of_its_memory_back() {
        let buffers = Buffers::default();
        let tensor = to_tensor(vec![1.0, 2.0, 3.0, 4.0, 9.0], &(2, 2).into()).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);
        buffers.reclaim(tensor).unwrap();
        assert_eq!(buffers.take(4).len(), 5);
    }
}
