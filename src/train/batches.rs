//! Batches of samples, cut by another thread while the last one is trained on.

use std::sync::mpsc::sync_channel;
use std::thread;

use super::samples::Samples;

/// Samples as the network takes them.
pub(super) struct Batch {
    /// Number of samples.
    pub(super) len: usize,
    /// `[len, height, width, 3]`.
    pub(super) images: Vec<f32>,
    /// `[len, height, width, 1]`.
    pub(super) targets: Vec<f32>,
}

/// The samples of these numbers.
pub(super) fn cut(samples: &dyn Samples, indices: &[usize]) -> Batch {
    let pixels = samples.shape().pixels();
    let mut images = vec![0.0; indices.len() * 3 * pixels];
    let mut targets = vec![0.0; indices.len() * pixels];
    let parts = images.chunks_exact_mut(3 * pixels).zip(targets.chunks_exact_mut(pixels));
    for (&index, (image, target)) in indices.iter().zip(parts) {
        samples.write(index, image, target);
    }
    Batch { len: indices.len(), images, targets }
}

/// Calls `work` with the samples of `order`, `size` at a time (the last batch may be smaller), until it answers
/// `false` or fails.
pub(super) fn for_each<E>(
    samples: &dyn Samples,
    order: &[usize],
    size: usize,
    mut work: impl FnMut(Batch) -> Result<bool, E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        // One batch waits in the channel while the next is cut: memory for three at most.
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            for indices in order.chunks(size.max(1)) {
                // The receiver is gone when the work was broken off.
                if sender.send(cut(samples, indices)).is_err() {
                    break;
                }
            }
        });
        for batch in receiver {
            if !work(batch)? {
                break;
            }
        }
        Ok(())
    })
}
