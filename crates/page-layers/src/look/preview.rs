//! The picture of what was learned: the page with each layer that was found in a colour of its own.

use std::path::Path;

use image::{ExtendedColorType, Rgb, RgbImage};

use crate::look::picture::{Picture, PictureError};
use crate::look::segment::Segmentation;
use crate::page::page::Page;
use domain::{Layer, layer_colour};

/// How opaque the layer's colour is in the picture; the rest is the page, so that the strokes stay
/// visible.
const OPACITY: f32 = 0.8;

/// Writes the picture of [`draw_preview`], whole or not at all.
///
/// # Errors
///
/// When the file can't be written.
pub fn write_preview(
    path: &Path,
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<(), PictureError> {
    draw_preview(path, page, layers, found)?.finish()
}

/// Draws the page with the found layers in colours as PNG; the background is left as it is.
/// `layers` are those of `found` in their order.
///
/// # Errors
/// When the file can't be written.
pub fn draw_preview(
    path: &Path,
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<Picture, PictureError> {
    let colours = colours(layers);
    let mut picture = RgbImage::new(page.width() as u32, page.height() as u32);
    for ((column, row, pixel), bgr) in
        picture.enumerate_pixels_mut().zip(page.bgr().chunks_exact(3))
    {
        *pixel = Rgb(painted(bgr, colours[found.label(row as usize, column as usize)]));
    }
    Picture::draw(path, picture.as_raw(), page.width(), page.height(), ExtendedColorType::Rgb8)
}

/// The picture of [`draw_preview`] with at most `most` pixels on its longer side: each pixel is the
/// mean of those that fall into it. The whole picture is never in memory.
pub fn reduced_preview(
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
    most: usize,
) -> RgbImage {
    let colours = colours(layers);
    let (width, height) = (page.width(), page.height());
    let longer = width.max(height);
    let scaled = |side: usize| (side * longer.min(most) / longer.max(1)).max(1);
    let (columns, rows) = (scaled(width), scaled(height));
    let mut picture = RgbImage::new(columns as u32, rows as u32);
    // Sums of the three colours, and the number of pixels in each sum.
    let mut sums = vec![[0u32; 4]; columns];
    for (row, line) in page.bgr().chunks_exact(3 * width).enumerate() {
        for (column, bgr) in line.chunks_exact(3).enumerate() {
            let sum = &mut sums[column * columns / width];
            let colour = painted(bgr, colours[found.label(row, column)]);
            (0..3).for_each(|i| sum[i] += u32::from(colour[i]));
            sum[3] += 1;
        }
        let target = row * rows / height;
        if row + 1 == height || (row + 1) * rows / height != target {
            for (column, sum) in sums.iter_mut().enumerate() {
                let mean = |i: usize| ((sum[i] + sum[3] / 2) / sum[3].max(1)) as u8;
                picture.put_pixel(column as u32, target as u32, Rgb([mean(0), mean(1), mean(2)]));
                *sum = [0; 4];
            }
        }
    }
    picture
}

fn colours(layers: &[Layer]) -> Vec<Option<[u8; 3]>> {
    layers.iter().map(|layer| layer_colour(*layer).map(|(_, colour)| colour)).collect()
}

/// A pixel of the page in the colour of its layer.
fn painted(bgr: &[u8], colour: Option<[u8; 3]>) -> [u8; 3] {
    let seen = [bgr[2], bgr[1], bgr[0]];
    let Some(colour) = colour else { return seen };
    std::array::from_fn(|i| {
        (OPACITY * f32::from(colour[i]) + (1.0 - OPACITY) * f32::from(seen[i])).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::segment::Windows;

    /// A page whose right half is dark; the dark pixels belong to a layer.
    fn page(width: usize, height: usize) -> (Page, Segmentation) {
        let bgr = (0..width * height)
            .flat_map(|i| [if i % width < width / 2 { 200 } else { 40 }; 3])
            .collect();
        let page = Page::from_parts(width, height, bgr, Vec::new());
        let predict = |network: usize, images: &[f32], _| {
            let surest = |v: &f32| if (*v > 0.5) == (network == 1) { 1.0 } else { 0.0 };
            Ok::<_, ()>(images.iter().step_by(3).map(surest).collect())
        };
        let found = Segmentation::cut(&page, Windows::Large, 2, predict).unwrap();
        (page, found)
    }

    #[test]
    fn a_picture_is_scaled_down_to_the_means_of_its_pixels_and_never_up() {
        let layers = [Layer::Background, Layer::Numbered(1)];
        let (page, found) = page(90, 31);
        let whole = reduced_preview(&page, &layers, &found, 1200);
        assert_eq!(whole.dimensions(), (90, 31));
        let colour = Rgb([178, 83, 8]); // four fifths of vermillion, one of the page's 40
        assert_eq!((whole.get_pixel(0, 30), whole.get_pixel(89, 0)), (&Rgb([200; 3]), &colour));
        let small = reduced_preview(&page, &layers, &found, 15);
        assert_eq!(small.dimensions(), (15, 5));
        assert_eq!((small.get_pixel(6, 4), small.get_pixel(8, 0)), (&Rgb([200; 3]), &colour));
        // The one in the middle has three columns of each kind.
        assert_eq!(small.get_pixel(7, 2), &Rgb([189, 142, 104]));
        assert_eq!(reduced_preview(&page, &layers, &found, 1).dimensions(), (1, 1));
    }
}
