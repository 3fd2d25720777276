//! The layers that Rodan's classifier would make of a page: for each layer its pixels alone, as an
//! RGBA image.

use std::path::Path;

use image::ExtendedColorType;

use crate::look::picture::{Picture, PictureError};
use crate::look::segment::Segmentation;
use crate::page::page::Page;

/// Draws the pixels of the `index`-th layer of `found` as PNG: opaque, all others white and
/// transparent. Training takes such a file as a layer. Also returns the number of pixels of the
/// layer.
///
/// # Errors
///
/// When the file can't be written.
pub fn draw_cutout(
    path: &Path,
    page: &Page,
    index: usize,
    found: &Segmentation,
) -> Result<(u64, Picture), PictureError> {
    let mut pixels = 0;
    let mut rgba = vec![255; 4 * page.width() * page.height()];
    let rows =
        rgba.chunks_exact_mut(4 * page.width()).zip(page.bgr().chunks_exact(3 * page.width()));
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
    let picture =
        Picture::draw(path, &rgba, page.width(), page.height(), ExtendedColorType::Rgba8)?;
    Ok((pixels, picture))
}
