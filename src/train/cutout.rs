//! What Rodan's classifier makes of a page: for each layer its pixels alone, as an RGBA image.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _};

use super::page::Page;
use super::preview::PreviewError;
use super::segment::Segmentation;

/// Writes the pixels of the `index`-th layer of `found` as PNG, opaque; the others are white and transparent. Such a
/// file is a layer as training takes it. Returns how many pixels the layer has. The file is whole or not there.
///
/// # Errors
/// When the file can't be written.
pub fn write_cutout(
    path: &Path,
    page: &Page,
    index: usize,
    found: &Segmentation,
) -> Result<u64, PreviewError> {
    let mut pixels = 0;
    let mut rgba = vec![255; 4 * page.width() * page.height()];
    let rows = rgba.chunks_exact_mut(4 * page.width()).zip(page.bgr().chunks_exact(3 * page.width()));
    for (row, (out, bgr)) in rows.enumerate() {
        for (column, (out, bgr)) in out.chunks_exact_mut(4).zip(bgr.chunks_exact(3)).enumerate() {
            if found.label(row, column) == index {
                pixels += 1;
                out[..3].copy_from_slice(&[bgr[2], bgr[1], bgr[0]]);
            } else {
                out[3] = 0;
            }
        }
    }
    let failed = |source| PreviewError { path: path.to_owned(), source };
    let unfinished = path.with_extension("png.new");
    let written =
        File::create(&unfinished).map_err(image::ImageError::from).and_then(|file| {
            let mut file = BufWriter::new(file);
            let (width, height) = (page.width() as u32, page.height() as u32);
            PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Adaptive)
                .write_image(&rgba, width, height, ExtendedColorType::Rgba8)?;
            file.flush()?;
            Ok(fs::rename(&unfinished, path)?)
        });
    if written.is_err() {
        // What is left of it is of no use; that it can't be removed either says nothing new.
        let _ = fs::remove_file(&unfinished);
    }
    written.map(|()| pixels).map_err(failed)
}
