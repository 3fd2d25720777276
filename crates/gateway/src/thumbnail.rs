//! A small picture of a page with its layers in their colours.

use domain::layer_colour;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use page_layers::Page;

/// Its longer side in pixels.
const LONGEST: usize = 480;

/// Samples along each side of the piece of the page that becomes one pixel.
const SAMPLES: usize = 3;

/// Share of a layer's colour in its pixels.
const OPACITY: f32 = 0.6;

/// A small JPEG of a page; empty where it can't be drawn.
pub(crate) fn draw(page: &Page) -> Vec<u8> {
    let (width, height) = (page.width(), page.height());
    let longer = width.max(height).max(1);
    let scaled = |side: usize| (side * longer.min(LONGEST) / longer).max(1);
    let (columns, rows) = (scaled(width), scaled(height));
    let picture = RgbImage::from_fn(columns as u32, rows as u32, |column, row| {
        let mut sum = [0.0_f32; 3];
        for sample in 0..SAMPLES * SAMPLES {
            let at = |index: u32, part: usize, count: usize, side: usize| {
                ((index as usize * SAMPLES + part) * side / (count * SAMPLES)).min(side - 1)
            };
            let y = at(row, sample / SAMPLES, rows, height);
            let x = at(column, sample % SAMPLES, columns, width);
            for (sum, value) in sum.iter_mut().zip(colour(page, y, x)) {
                *sum += value;
            }
        }
        Rgb(sum.map(|sum| (sum / (SAMPLES * SAMPLES) as f32).round() as u8))
    });
    let mut jpeg = Vec::new();
    match JpegEncoder::new_with_quality(&mut jpeg, 85).encode_image(&picture) {
        Ok(()) => jpeg,
        Err(_) => Vec::new(),
    }
}

/// The colour of a pixel of the page, in which the layer that it belongs to shows.
fn colour(page: &Page, row: usize, column: usize) -> [f32; 3] {
    let at = 3 * (row * page.width() + column);
    let seen = match page.bgr().get(at..at + 3) {
        Some(bgr) => [f32::from(bgr[2]), f32::from(bgr[1]), f32::from(bgr[0])],
        None => [0.0; 3],
    };
    let drawn = page.layers().iter().find_map(|layer| {
        let (_, colour) = layer_colour(layer.layer)?;
        layer.mask.get(row, column).then_some(colour)
    });
    match drawn {
        Some(colour) => {
            std::array::from_fn(|i| OPACITY * f32::from(colour[i]) + (1.0 - OPACITY) * seen[i])
        }
        None => seen,
    }
}
