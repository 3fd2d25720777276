//! Images as the convolutions read them: NHWC batches, optionally multiplied by the derivative of a
//! ReLU, or joined from two.

use super::grid::{Place, Tiles};
use super::simd::Simd;

/// A batch of images, NHWC.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    /// `[n, height, width, channels]`.
    pub(super) values: &'a [f32],
    /// Outputs of a ReLU in the same shape: the image reads as 0 where they are not positive.
    pub(super) gate: Option<&'a [f32]>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl<'a> Image<'a> {
    /// A plain batch of shape `[n, height, width, channels]`.
    pub(super) fn new(values: &'a [f32], height: usize, width: usize, channels: usize) -> Self {
        Self { values, gate: None, height, width, channels }
    }

    /// The same, multiplied by the derivative of a ReLU with the outputs `gate` (TensorFlow's: 0 at
    /// 0).
    pub(super) fn gated(self, gate: Option<&'a [f32]>) -> Self {
        Self { gate, ..self }
    }

    /// Place of pixel `(row, column)` of image `image`.
    #[inline(always)]
    pub(super) fn at(&self, image: usize, row: usize, column: usize) -> usize {
        ((image * self.height + row) * self.width + column) * self.channels
    }

    /// Values from `at` on, after the gate.
    #[inline(always)]
    pub(super) fn load<S: Simd>(&self, at: usize) -> S::V {
        let v = S::load(&self.values[at..]);
        match self.gate {
            Some(gate) => S::where_positive(S::load(&gate[at..]), v),
            None => v,
        }
    }

    /// The value at `at`, after the gate.
    #[inline(always)]
    pub(super) fn value(&self, at: usize) -> f32 {
        let open = self.gate.is_none_or(|gate| gate[at] > 0.0);
        if open { self.values[at] } else { 0.0 }
    }

    /// As [`Self::load`] for the pixel at `(row, column) + (down, right)`, or zeros outside of the
    /// image.
    #[inline(always)]
    pub(super) fn load_padded<S: Simd>(
        &self,
        image: usize,
        (row, column): (isize, isize),
        channel: usize,
    ) -> S::V {
        if row < 0 || column < 0 || row >= self.height as isize || column >= self.width as isize {
            S::splat(0.0)
        } else {
            self.load::<S>(self.at(image, row as usize, column as usize) + channel)
        }
    }

    /// Copies the rows of tiles that are single pixels; `to` has rows of `depth`.
    #[inline(always)]
    pub(super) fn copy_pixels<S: Simd>(&self, tiles: &Tiles, depth: usize, to: &mut [f32]) {
        for Place { index, image, row, column } in tiles.iter() {
            let from = self.at(image, row, column);
            let to = &mut to[index * depth..(index + 1) * depth];
            let mut ch = 0;
            while ch + S::LANES <= self.channels {
                S::store(&mut to[ch..], self.load::<S>(from + ch));
                ch += S::LANES;
            }
            while ch < self.channels {
                to[ch] = self.value(from + ch);
                ch += 1;
            }
            to[self.channels..].fill(0.0);
        }
    }
}
