//! A page in the report: scaled down, and inside the file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

/// Most pages that are shown: the report has to stay a file that can be sent.
pub const MOST_PICTURES: usize = 4;

/// JPEG quality, of 100: at this quality thin coloured strokes have no visible rims, at a third of
/// a PNG's size.
const QUALITY: u8 = 88;

/// A page as a JPEG.
#[derive(Debug)]
pub struct Picture {
    width: u32,
    height: u32,
    jpeg: Vec<u8>,
}

impl Picture {
    /// Compresses a picture.
    ///
    /// # Errors
    /// When the image crate can't.
    pub fn new(image: &RgbImage) -> Result<Self, image::ImageError> {
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(image)?;
        Ok(Self { width: image.width(), height: image.height(), jpeg })
    }

    /// The element that shows it; `alt`, already escaped, describes it.
    pub fn element(&self, alt: &str) -> String {
        let Self { width, height, jpeg } = self;
        let data = STANDARD.encode(jpeg);
        format!(
            "<img src=\"data:image/jpeg;base64,{data}\" width=\"{width}\" height=\"{height}\" alt=\"{alt}\">"
        )
    }
}
