//! What the training loop sees of pages: numbered samples that are cut out when a batch needs them.

use std::sync::Arc;

use domain::PatchShape;

use crate::page::page::{Edge, Page};

/// Where a sample lies on its page, and how it is varied: all that a GPU needs once it has the
/// page.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The page.
    pub page: &'a Arc<Page>,
    /// Index of its layer in [`Page::layers`].
    pub layer: usize,
    /// Row of its first pixel; beyond its edges the page is mirrored.
    pub top: isize,
    /// Column of its first pixel.
    pub left: isize,
    /// Whether left and right are exchanged.
    pub left_right: bool,
    /// Whether top and bottom are exchanged.
    pub up_down: bool,
    /// What is subtracted from the image's values, which stay in 0..=1.
    pub lighter: f32,
}

impl Place<'_> {
    /// Writes the sample as [`Samples::write`] does.
    pub fn write(&self, shape: PatchShape, image: &mut [f32], target: &mut [f32]) {
        self.page.crop(self.top, self.left, (shape.height(), shape.width()), Edge::Mirror, image);
        self.page.crop_target(self.layer, self.top, self.left, shape, Edge::Mirror, target);
        vary(image, target, shape.width(), (self.left_right, self.up_down), self.lighter);
    }
}

/// Samples of one layer, numbered from 0. They are cut out of the page only when they are needed.
pub trait Samples: Sync {
    /// Size of every sample.
    fn shape(&self) -> PatchShape;

    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes sample `index` to `image` (HWC, BGR, `(255 - value) / 255`; length `3 * pixels`) and
    /// its target to `target` (HW, 1.0 where the pixel belongs to the layer, else 0.0; length
    /// `pixels`).
    fn write(&self, index: usize, image: &mut [f32], target: &mut [f32]) {
        self.write_shifted(index, (0, 0), image, target);
    }

    /// [`Samples::write`] for the patch that lies `shift` rows further down and columns further
    /// right.
    fn write_shifted(
        &self,
        index: usize,
        shift: (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    );

    /// Where the sample that [`Samples::write_shifted`] writes lies on its page; `None` if it is
    /// not cut out of one.
    fn place(&self, index: usize, shift: (isize, isize)) -> Option<Place<'_>> {
        let _ = (index, shift);
        None
    }
}

/// Mirrors a sample of `width` columns and makes it lighter.
pub(crate) fn vary(
    image: &mut [f32],
    target: &mut [f32],
    width: usize,
    (left_right, up_down): (bool, bool),
    lighter: f32,
) {
    if left_right {
        mirror_rows(image, 3, width);
        mirror_rows(target, 1, width);
    }
    if up_down {
        swap_rows(image, 3 * width);
        swap_rows(target, width);
    }
    if lighter != 0.0 {
        // Samples are negatives: 0 is white.
        image.iter_mut().for_each(|value| *value = (*value - lighter).clamp(0.0, 1.0));
    }
}

/// Mirrors each row of `width` pixels with `channels` values each.
fn mirror_rows(values: &mut [f32], channels: usize, width: usize) {
    for row in values.chunks_exact_mut(channels * width) {
        row.reverse();
        row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
    }
}

/// Turns the order of the rows, of `length` values each, upside down.
fn swap_rows(values: &mut [f32], length: usize) {
    let rows = values.len() / length;
    let (upper, lower) = values.split_at_mut((rows / 2) * length);
    for (one, other) in upper.chunks_exact_mut(length).zip(lower.chunks_exact_mut(length).rev()) {
        one.swap_with_slice(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_keep_their_order_when_rows_are_mirrored() {
        let mut row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        mirror_rows(&mut row, 3, 2);
        assert_eq!(row, [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    }
}
