//! The picture of what was learned: the page with each found layer in a colour of its own.

use std::path::Path;

use image::{ExtendedColorType, Rgb, RgbImage};

use super::page::Page;
use super::picture::{Picture, PictureError};
use super::segment::Segmentation;
use crate::wire::Layer;

/// Name and colour of each layer but the background, in their order: Okabe and Ito's palette, which people
/// with any colour vision can tell apart (its vermillion called red), then Paul Tol's wine, olive and grey for
/// the rest of ten layers.
const PALETTE: [(&str, [u8; 3]); 10] = [
    ("blue", [0, 114, 178]),
    ("red", [213, 94, 0]),
    ("green", [0, 158, 115]),
    ("purple", [204, 121, 167]),
    ("sky blue", [86, 180, 233]),
    ("orange", [230, 159, 0]),
    ("yellow", [240, 228, 66]),
    ("wine", [136, 34, 85]),
    ("olive", [153, 153, 51]),
    ("grey", [90, 90, 90]),
];

/// Share of the layer's colour in the picture; the rest is the page, so that the strokes stay visible.
const OPACITY: f32 = 0.8;

/// The name of the colour in which a layer is drawn; none for the background.
pub fn colour_name(layer: Layer) -> Option<&'static str> {
    colour(layer).map(|(name, _)| name)
}

fn colour(layer: Layer) -> Option<(&'static str, [u8; 3])> {
    match layer {
        Layer::Background => None,
        // A number keeps its colour when a layer before it is missing.
        Layer::Numbered(number) => Some(PALETTE[usize::from(number) % PALETTE.len()]),
        Layer::Music => Some(PALETTE[0]),
        Layer::Staff => Some(PALETTE[1]),
        Layer::Text => Some(PALETTE[2]),
    }
}

/// Writes what [`draw_preview`] draws, whole or not at all.
///
/// # Errors
/// When the file can't be written.
pub fn write_preview(
    path: &Path,
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<(), PictureError> {
    draw_preview(path, page, layers, found)?.finish()
}

/// Draws the page with the found layers in colours as PNG; the background is left as it is. `layers` are those of
/// `found` in their order.
///
/// # Errors
/// When the file can't be written.
pub fn draw_preview(
    path: &Path,
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<Picture, PictureError> {
    let colours: Vec<_> = layers.iter().copied().map(colour).collect();
    let mut picture = RgbImage::new(page.width() as u32, page.height() as u32);
    for ((column, row, pixel), bgr) in picture.enumerate_pixels_mut().zip(page.bgr().chunks_exact(3)) {
        let seen = [bgr[2], bgr[1], bgr[0]];
        *pixel = Rgb(match colours[found.label(row as usize, column as usize)] {
            None => seen,
            Some((_, colour)) => std::array::from_fn(|i| {
                (OPACITY * f32::from(colour[i]) + (1.0 - OPACITY) * f32::from(seen[i])).round() as u8
            }),
        });
    }
    Picture::draw(path, picture.as_raw(), page.width(), page.height(), ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_differ_clearly() {
        for (index, (_, left)) in PALETTE.iter().enumerate() {
            for (_, right) in &PALETTE[index + 1..] {
                let distance: u32 = left.iter().zip(right).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                assert!(distance > 60, "{left:?} {right:?}");
            }
        }
    }
}
