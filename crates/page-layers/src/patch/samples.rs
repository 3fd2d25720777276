//! What the training loop sees of a page: numbered samples that are cut out when a batch needs them.

use std::sync::Arc;

use domain::PatchShape;

use crate::page::page::{Edge, Page};
use crate::patch::augment::vary;

/// Where a sample lies on its page, and how it is varied: all that a card needs that has the page.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The page.
    pub page: &'a Arc<Page>,
    /// Place of its layer in [`Page::layers`].
    pub layer: usize,
    /// Row of its first pixel; beyond its edges the page is mirrored.
    pub top: isize,
    /// Column of its first pixel.
    pub left: isize,
    /// Whether left and right are exchanged.
    pub left_right: bool,
    /// Whether top and bottom are exchanged.
    pub up_down: bool,
    /// What is taken from the image's values, which stay in 0..=1.
    pub lighter: f32,
}

impl Place<'_> {
    /// Writes the sample as [`Samples::write`] does.
    pub fn write(&self, shape: PatchShape, image: &mut [f32], target: &mut [f32]) {
        self.page.crop(self.top, self.left, shape, Edge::Mirror, image);
        self.page.crop_target(self.layer, self.top, self.left, shape, Edge::Mirror, target);
        vary(image, target, shape.width(), (self.left_right, self.up_down), self.lighter);
    }
}

/// Samples of one layer, numbered from 0, cut out of the page only when asked for.
pub trait Samples: Sync {
    /// Size of every sample.
    fn shape(&self) -> PatchShape;

    /// Number of samples.
    fn len(&self) -> usize;

    /// True when there is no sample.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes sample `index` to `image` (HWC, BGR, `(255 - value) / 255`; length `3 * pixels`) and its target
    /// to `target` (HW, 1.0 where the pixel belongs to the layer, else 0.0; length `pixels`).
    fn write(&self, index: usize, image: &mut [f32], target: &mut [f32]) {
        self.write_shifted(index, (0, 0), image, target);
    }

    /// [`Samples::write`] of what lies so many rows farther down and columns farther right.
    fn write_shifted(&self, index: usize, shift: (isize, isize), image: &mut [f32], target: &mut [f32]);

    /// Where the sample that [`Samples::write_shifted`] writes lies on its page; nothing when it is not cut out of one.
    fn place(&self, index: usize, shift: (isize, isize)) -> Option<Place<'_>> {
        let _ = (index, shift);
        None
    }
}
