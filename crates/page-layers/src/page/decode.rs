//! From an image file to the bytes that training sees: what OpenCV gave the original trainer.

use std::io::{self, BufRead as _};
use std::path::PathBuf;

use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};
use thiserror::Error;

use crate::page::jpeg::{self, JpegError};
use crate::page::mask::Mask;
use crate::page::source::{Source, source};
use domain::InputKind;

/// Largest image that is decoded, in pixels. A 600 dpi folio is about 40 megapixels; the limit
/// keeps a forged header from taking a node's memory (3 bytes a pixel stay, 8 while a 16-bit layer
/// is decoded).
pub const MAX_PIXELS: u64 = 150_000_000;

/// One image of a page: what its user calls it and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is; errors begin with the wire's name for it, such as `rgba PNG - Layer 1`.
    pub kind: InputKind,
    /// The file.
    pub path: PathBuf,
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A downloaded file has a name of our own, without an extension, which says nothing to
        // whoever sent the job.
        match self.path.extension() {
            Some(_) => write!(f, "{} ({})", self.kind, self.path.display()),
            None => write!(f, "the input \"{}\"", self.kind),
        }
    }
}

/// An image that can't be used.
#[derive(Debug, Error)]
pub enum PageError {
    /// The file is missing or can't be read.
    #[error("{input}: can't be read: {source}")]
    Open {
        /// The image.
        input: Input,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is neither PNG nor JPEG.
    #[error("{input}: is neither a PNG nor a JPEG image; export it as PNG")]
    Format {
        /// The image.
        input: Input,
    },
    /// The image is damaged, or a form of PNG or JPEG that can't be decoded.
    #[error("{input}: can't be decoded ({source}); export it again")]
    Decode {
        /// The image.
        input: Input,
        /// What the decoder said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file ends early.
    #[error(
        "{input}: ends before the page does; export it again, and compare its size before and \
        after it is sent"
    )]
    Truncated {
        /// The image.
        input: Input,
    },
    /// A form of JPEG that is not decoded.
    #[error(
        "{input}: is a JPEG with {form}, which is not read here; export it again, as PNG or as an \
        ordinary JPEG"
    )]
    JpegForm {
        /// The image.
        input: Input,
        /// What is uncommon about it.
        form: String,
    },
    /// The image has more than [`MAX_PIXELS`] pixels.
    #[error(
        "{input}: {width}x{height} pixels are too many (limit: {} megapixels); scale the page and \
        its layers down",
        MAX_PIXELS / 1_000_000
    )]
    TooLarge {
        /// The image.
        input: Input,
        /// Its width, pixels.
        width: u32,
        /// Its height, pixels.
        height: u32,
    },
    /// A layer has no alpha channel, so that no pixel can be told from another.
    #[error(
        "{input}: has no alpha channel; export the layer as RGBA PNG, opaque where a pixel belongs \
        to it"
    )]
    NoAlpha {
        /// The layer.
        input: Input,
    },
    /// A layer has another size than the page.
    #[error(
        "{input}: is {}x{} pixels, but the page is {}x{}; export every layer at the page's size",
        found.0, found.1, page.0, page.1
    )]
    Size {
        /// The layer.
        input: Input,
        /// Its width and height, pixels.
        found: (usize, usize),
        /// The page's width and height, pixels.
        page: (usize, usize),
    },
}

/// A decoded page: width, height, and rows of BGR bytes.
pub struct Bgr {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Rows of blue, green and red.
    pub bytes: Vec<u8>,
}

/// Decodes the page as OpenCV's default `imread` does: alpha dropped, grey and palette expanded, 16
/// bits cut to the upper 8, turned as its EXIF data says.
pub(crate) fn page(input: &Input) -> Result<Bgr, PageError> {
    Ok(bgr(decode(input)?))
}

fn bgr((mut image, orientation): (DynamicImage, Orientation)) -> Bgr {
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut bytes = match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        // The `image` crate would round 16 bits; OpenCV (libpng's strip_16) cuts them.
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high_byte).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.pixels().flat_map(|p| [p[0], p[1], p[2]].map(high_byte)).collect()
        }
        DynamicImage::ImageLuma16(image) => {
            image.pixels().flat_map(|p| [high_byte(p[0]); 3]).collect()
        }
        DynamicImage::ImageLumaA16(image) => {
            image.pixels().flat_map(|p| [high_byte(p[0]); 3]).collect()
        }
        other => other.into_rgb8().into_raw(),
    };
    for pixel in bytes.chunks_exact_mut(3) {
        pixel.swap(0, 2);
    }
    Bgr { width, height, bytes }
}

/// Decodes a layer: the pixels whose alpha is exactly 255. EXIF is left alone, as OpenCV does for
/// images that are read with their alpha.
pub(crate) fn layer(input: &Input) -> Result<Mask, PageError> {
    mask(input, &decode(input)?.0)
}

fn mask(input: &Input, image: &DynamicImage) -> Result<Mask, PageError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    // Index of alpha and of the next pixel; 16-bit alpha is opaque when its upper byte is.
    let mask = match image {
        DynamicImage::ImageRgba8(image) => {
            let bytes = image.as_raw();
            Mask::from_fn(width, height, |r, c| bytes[4 * (r * width + c) + 3] == 255)
        }
        DynamicImage::ImageLumaA8(image) => {
            let bytes = image.as_raw();
            Mask::from_fn(width, height, |r, c| bytes[2 * (r * width + c) + 1] == 255)
        }
        DynamicImage::ImageRgba16(image) => {
            let values = image.as_raw();
            Mask::from_fn(width, height, |r, c| high_byte(values[4 * (r * width + c) + 3]) == 255)
        }
        DynamicImage::ImageLumaA16(image) => {
            let values = image.as_raw();
            Mask::from_fn(width, height, |r, c| high_byte(values[2 * (r * width + c) + 1]) == 255)
        }
        _ => return Err(PageError::NoAlpha { input: input.clone() }),
    };
    Ok(mask)
}

fn high_byte(value: u16) -> u8 {
    (value >> 8) as u8
}

fn decode(input: &Input) -> Result<(DynamicImage, Orientation), PageError> {
    let open = |source| PageError::Open { input: input.clone(), source };
    let file = std::fs::File::open(&input.path).map_err(open)?;
    decode_reader(input, source(file), MAX_PIXELS)
}

/// [`page`] and [`layer`] of an image with at most `most` pixels, for the fuzz targets.
#[doc(hidden)]
pub fn of_bytes(input: &Input, bytes: &[u8], most: u64) -> Result<(Bgr, Option<Mask>), PageError> {
    let decoded = decode_reader(input, source(io::Cursor::new(bytes)), most)?;
    let mask = match mask(input, &decoded.0) {
        Err(PageError::NoAlpha { .. }) => None,
        mask => Some(mask?),
    };
    Ok((bgr(decoded), mask))
}

fn decode_reader(
    input: &Input,
    mut reader: Source<'_>,
    most: u64,
) -> Result<(DynamicImage, Orientation), PageError> {
    let open = |source| PageError::Open { input: input.clone(), source };
    // By content, never by name: an upload's name says nothing.
    match image::guess_format(reader.fill_buf().map_err(open)?) {
        Ok(ImageFormat::Png) => {}
        Ok(ImageFormat::Jpeg) => {
            return jpeg::decode(reader, most).map_err(|error| jpeg_error(input.clone(), error));
        }
        _ => return Err(PageError::Format { input: input.clone() }),
    }
    let failed = |error: ImageError| match is_early_end(&error) {
        true => PageError::Truncated { input: input.clone() },
        false => PageError::Decode { input: input.clone(), source: error.into() },
    };
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(most * 8 + (64 << 20));
    let mut decoder = PngDecoder::with_limits(reader, limits.clone()).map_err(failed)?;
    decoder.set_limits(limits).map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > most {
        return Err(PageError::TooLarge { input: input.clone(), width, height });
    }
    // A damaged EXIF block is no reason to refuse a page: OpenCV ignores it too.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(failed)?, orientation))
}

fn jpeg_error(input: Input, error: JpegError) -> PageError {
    match error {
        JpegError::Truncated => PageError::Truncated { input },
        JpegError::Form(form) => PageError::JpegForm { input, form },
        JpegError::TooLarge(width, height) => PageError::TooLarge { input, width, height },
        JpegError::Read(source) => PageError::Open { input, source },
        JpegError::Damaged(_) => PageError::Decode { input, source: error.into() },
    }
}

/// Whether a decoder failed because the file has no more bytes.
fn is_early_end(error: &ImageError) -> bool {
    // The error's own causes leave it out.
    if matches!(error, ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof) {
        return true;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;
    use domain::Layer;

    /// A file in a folder that lives as long as the test.
    fn file(bytes: &[u8]) -> (tempfile::TempDir, Input) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.png");
        std::fs::write(&path, bytes).unwrap();
        (folder, Input { kind: InputKind::Layer(Layer::Numbered(1)), path })
    }

    fn png(bytes: &[u8], width: u32, height: u32, colour: ExtendedColorType) -> Vec<u8> {
        let mut out = Vec::new();
        PngEncoder::new(&mut out).write_image(bytes, width, height, colour).unwrap();
        out
    }

    fn page_of(bytes: &[u8]) -> Bgr {
        let (_folder, input) = file(bytes);
        page(&input).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn every_kind_of_png_becomes_bgr_bytes() {
        let rgb = page_of(&png(&[1, 2, 3, 4, 5, 6], 2, 1, ExtendedColorType::Rgb8));
        assert_eq!((rgb.width, rgb.height, rgb.bytes), (2, 1, vec![3, 2, 1, 6, 5, 4]));
        let rgba = page_of(&png(&[1, 2, 3, 0, 4, 5, 6, 9], 2, 1, ExtendedColorType::Rgba8));
        assert_eq!(rgba.bytes, [3, 2, 1, 6, 5, 4], "alpha is dropped, not blended");
        let grey = page_of(&png(&[7, 200], 2, 1, ExtendedColorType::L8));
        assert_eq!(grey.bytes, [7, 7, 7, 200, 200, 200]);
        let grey_alpha = page_of(&png(&[7, 0, 200, 9], 2, 1, ExtendedColorType::La8));
        assert_eq!(grey_alpha.bytes, [7, 7, 7, 200, 200, 200]);
    }

    #[test]
    fn sixteen_bits_are_cut_as_opencv_cuts_them() {
        // 0x01ff would be rounded to 2.
        let values: Vec<u8> =
            [0x01ffu16, 0x8080, 0xffff].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(page_of(&png(&values, 1, 1, ExtendedColorType::Rgb16)).bytes, [255, 128, 1]);
        assert_eq!(page_of(&png(&values[..2], 1, 1, ExtendedColorType::L16)).bytes, [1, 1, 1]);
    }

    #[test]
    fn a_palette_is_expanded() {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, 4, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Two);
        encoder.set_palette(vec![1, 2, 3, 40, 50, 60]);
        encoder.write_header().unwrap().write_image_data(&[0b00_01_01_00]).unwrap();
        assert_eq!(page_of(&out).bytes, [3, 2, 1, 60, 50, 40, 60, 50, 40, 3, 2, 1]);
    }

    #[test]
    fn a_jpeg_is_read_and_turned_as_its_exif_says() {
        // A 16×8 image, left half black, right half white; orientation 6: turn it clockwise to view
        // it.
        let pixels: Vec<u8> =
            (0..16 * 8).flat_map(|i| [if i % 16 < 8 { 0 } else { 255 }; 3]).collect();
        let exif = [
            &b"II*\0\x08\0\0\0\x01\0"[..],
            &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0],
            &[0, 0, 0, 0],
        ]
        .concat();
        let mut out = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(Cursor::new(&mut out), 100);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&pixels, 16, 8, ExtendedColorType::Rgb8).unwrap();
        let turned = page_of(&out);
        assert_eq!((turned.width, turned.height), (8, 16));
        // The left half is now the upper one.
        assert!(turned.bytes[..3 * 8 * 7].iter().all(|v| *v < 20));
        assert!(turned.bytes[3 * 8 * 9..].iter().all(|v| *v > 235));
    }

    #[test]
    fn a_file_cut_off_ends_before_the_page() {
        let mut jpeg = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut jpeg, 90);
        encoder.write_image(&[90; 3 * 64 * 64], 64, 64, ExtendedColorType::Rgb8).unwrap();
        let png = png(&[7; 3 * 64 * 64], 64, 64, ExtendedColorType::Rgb8);
        for whole in [jpeg, png] {
            for length in [whole.len() / 2, whole.len() - 20] {
                let (_folder, input) = file(&whole[..length]);
                let error = page(&input).map(|page| page.width).unwrap_err().to_string();
                assert!(error.contains("ends before the page does; export it again"), "{error}");
            }
        }
    }

    #[test]
    fn only_full_alpha_belongs_to_a_layer() {
        let bytes = png(
            &[0, 0, 0, 255, 0, 0, 0, 254, 9, 9, 9, 0, 9, 9, 9, 255],
            4,
            1,
            ExtendedColorType::Rgba8,
        );
        let (_folder, input) = file(&bytes);
        let mask = layer(&input).unwrap();
        assert_eq!([0, 1, 2, 3].map(|c| mask.get(0, c)), [true, false, false, true]);
    }

    #[test]
    fn a_layer_without_alpha_is_refused() {
        let (_folder, input) = file(&png(&[1, 2, 3], 1, 1, ExtendedColorType::Rgb8));
        let error = layer(&input).unwrap_err().to_string();
        assert!(
            error.starts_with("rgba PNG - Layer 1 (") && error.contains("no alpha channel"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let (_folder, input) = file(b"<html>404</html>");
        assert!(matches!(layer(&input), Err(PageError::Format { .. })));
        let whole = png(&[0; 4 * 64 * 64], 64, 64, ExtendedColorType::Rgba8);
        let (_folder, input) = file(&whole[..whole.len() / 2]);
        let error = layer(&input).unwrap_err().to_string();
        assert!(error.contains("ends before the page does"), "{error}");
        let (folder, input) = file(b"");
        folder.close().unwrap();
        assert!(matches!(layer(&input), Err(PageError::Open { .. })));
    }

    #[test]
    fn a_forged_size_is_refused_before_it_is_decoded() {
        let mut bytes = png(&[0; 4], 1, 1, ExtendedColorType::Rgba8);
        bytes[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let header_sum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&header_sum.to_be_bytes());
        let (_folder, input) = file(&bytes);
        let error = layer(&input).unwrap_err().to_string();
        assert!(error.contains("16384x16384 pixels are too many"), "{error}");
    }

    /// PNG's checksum, bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |s, _| {
                if s & 1 == 1 { s >> 1 ^ 0xedb8_8320 } else { s >> 1 }
            })
        })
    }
}
