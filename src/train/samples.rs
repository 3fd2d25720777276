//! What the training loop sees of a page: numbered samples that are cut out when a batch needs them.

use thiserror::Error;

/// Height and width of a patch in pixels; both are positive multiples of 4, because the network halves the
/// image twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchShape {
    height: usize,
    width: usize,
}

/// A patch size that the network can't take.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "patch {height}x{width}: height and width must be multiples of 4 and at least 4 (the network halves the image twice)"
)]
pub struct PatchShapeError {
    /// Height asked for, pixels.
    pub height: usize,
    /// Width asked for, pixels.
    pub width: usize,
}

impl PatchShape {
    /// Takes a height and a width in pixels.
    ///
    /// # Errors
    /// When one of them is zero or not a multiple of 4.
    pub fn new(height: usize, width: usize) -> Result<Self, PatchShapeError> {
        if height == 0 || width == 0 || !height.is_multiple_of(4) || !width.is_multiple_of(4) {
            return Err(PatchShapeError { height, width });
        }
        Ok(Self { height, width })
    }

    /// Height in pixels.
    pub fn height(self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(self) -> usize {
        self.width
    }

    /// Pixels in one patch.
    pub fn pixels(self) -> usize {
        self.height * self.width
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
}
