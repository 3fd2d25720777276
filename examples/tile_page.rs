//! Makes a page of another size out of a page folder, for `bench/memory`:
//! `cargo run --example tile_page PAGE_DIR OUT WIDTHxHEIGHT [MARGIN]`.
//!
//! The page is repeated, mirrored, until it fills the size. So that each layer has pixels enough
//! for any number of samples, the background's are added to every other layer; none has a pixel
//! nearer than MARGIN to the edge, where training would not put a patch's centre. The layers are of
//! no use but for being measured with.

use std::error::Error;
use std::path::Path;

use image::{Rgba, RgbaImage};

/// The pixel of a row, or the row, that is seen at `index` when `length` of them are repeated,
/// every second time mirrored.
fn mirrored(index: u32, length: u32) -> u32 {
    let place = index % (2 * length);
    if place < length { place } else { 2 * length - 1 - place }
}

fn tile(source: &RgbaImage, width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        *source.get_pixel(mirrored(x, source.width()), mirrored(y, source.height()))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, out, size, margin) = match &arguments[..] {
        [folder, out, size] => (Path::new(folder), Path::new(out), size, 0),
        [folder, out, size, margin] => (Path::new(folder), Path::new(out), size, margin.parse()?),
        _ => return Err("usage: tile_page PAGE_DIR OUT WIDTHxHEIGHT [MARGIN]".into()),
    };
    let (width, height) = size.split_once('x').ok_or("the size is written as 2000x1500")?;
    let (width, height): (u32, u32) = (width.parse()?, height.parse()?);
    let read = |name: &str| -> Result<RgbaImage, Box<dyn Error>> {
        let path = folder.join(name);
        Ok(image::open(&path).map_err(|error| format!("{}: {error}", path.display()))?.into_rgba8())
    };
    let image = ["image.png", "image.jpg", "image.jpeg"]
        .into_iter()
        .find(|name| folder.join(name).exists());
    std::fs::create_dir_all(out)?;
    let page = tile(&read(image.unwrap_or("image.png"))?, width, height);
    image::DynamicImage::ImageRgba8(page).into_rgb8().save(out.join("image.png"))?;

    let background = read("background.png")?;
    let layers = (0..=9)
        .map(|number| format!("layer_{number}.png"))
        .filter(|name| folder.join(name).exists());
    for name in std::iter::once("background.png".to_owned()).chain(layers) {
        let mut layer = read(&name)?;
        if (layer.width(), layer.height()) != (background.width(), background.height()) {
            return Err(format!("{name} and background.png differ in size").into());
        }
        for (pixel, below) in layer.pixels_mut().zip(background.pixels()) {
            *pixel = if below[3] == 255 { *below } else { *pixel };
        }
        let mut layer = tile(&layer, width, height);
        for (x, y, pixel) in layer.enumerate_pixels_mut() {
            if x.min(y) < margin || x + margin >= width || y + margin >= height {
                *pixel = Rgba([0; 4]);
            }
        }
        layer.save(out.join(name))?;
    }
    Ok(())
}
