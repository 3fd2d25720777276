//! The size of a patch.

use thiserror::Error;

/// Most pixels of a batch that the CPU goes through at a time, unless a single patch has more: 8
/// patches of 256×256. The gradients of a batch's parts are summed. So the memory of a training
/// does not grow with its batch, and smaller parts would take longer.
pub const PIXELS_AT_A_TIME: usize = 8 * 256 * 256;

/// Height and width of a patch in pixels; both are positive multiples of 4, because the network
/// halves the image twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchShape {
    height: usize,
    width: usize,
}

/// A patch size that the network can't have.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "patch {width}x{height}: width and height must be multiples of 4 and at least 4 (the network \
    halves the image twice)"
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

    /// The smallest patch.
    pub const SMALLEST: Self = Self { height: 4, width: 4 };

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
