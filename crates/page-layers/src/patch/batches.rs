//! Batches of samples. Another thread cuts the next batch while the last one is trained on.

use std::sync::mpsc::sync_channel;
use std::thread;

use crate::patch::samples::Samples;

/// Samples as the network takes them.
pub(crate) struct Batch {
    /// Number of samples.
    pub(crate) len: usize,
    /// `[len, height, width, 3]`.
    pub(crate) images: Vec<f32>,
    /// `[len, height, width, 1]`.
    pub(crate) targets: Vec<f32>,
}

/// Cuts the samples with these numbers.
pub(crate) fn cut(samples: &dyn Samples, indices: &[usize]) -> Batch {
    let pixels = samples.shape().pixels();
    let mut images = vec![0.0; indices.len() * 3 * pixels];
    let mut targets = vec![0.0; indices.len() * pixels];
    let parts = images.chunks_exact_mut(3 * pixels).zip(targets.chunks_exact_mut(pixels));
    for (&index, (image, target)) in indices.iter().zip(parts) {
        samples.write(index, image, target);
    }
    Batch { len: indices.len(), images, targets }
}

/// Calls `work` with the samples of `order`, `size` at a time (the last batch may be smaller),
/// until it returns `false` or fails.
pub(crate) fn for_each<E>(
    samples: &dyn Samples,
    order: &[usize],
    size: usize,
    mut work: impl FnMut(Batch) -> Result<bool, E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        // One batch waits in the channel while the next is being cut, so there is memory for three
        // batches at most.
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            for indices in order.chunks(size.max(1)) {
                // The receiver is gone when the work has ended early.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use domain::PatchShape;

    /// Counts the samples that were cut.
    struct Counted {
        cut: AtomicUsize,
    }

    impl Samples for Counted {
        fn shape(&self) -> PatchShape {
            PatchShape::new(4, 4).unwrap()
        }
        fn len(&self) -> usize {
            12
        }
        fn write_shifted(&self, index: usize, _: (isize, isize), image: &mut [f32], _: &mut [f32]) {
            image.fill(index as f32);
            self.cut.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_next_batch_is_cut_while_this_one_is_worked_on() {
        let samples = Counted { cut: AtomicUsize::new(0) };
        let order: Vec<usize> = (0..12).rev().collect();
        let mut batches = 0;
        for_each(&samples, &order, 4, |batch| {
            assert_eq!(batch.images[0], order[4 * batches] as f32, "in order");
            batches += 1;
            let end = Instant::now() + Duration::from_secs(20);
            while samples.cut.load(Ordering::SeqCst) < (4 * (batches + 1)).min(12) {
                assert!(Instant::now() < end, "nothing is cut while the work waits for it");
                thread::yield_now();
            }
            Ok::<_, Infallible>(true)
        })
        .unwrap();
        assert_eq!(batches, 3);
    }
}
