//! A page in memory: its pixels once, and one bit mask for each layer.

use std::path::{Path, PathBuf};

use crate::page::decode::{self, Input, PageError};
use crate::page::mask::Mask;
use domain::PatchShape;
use domain::{InputKind, Layer};
use serde::{Deserialize, Serialize};

/// What a training starts from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TrainingInputs {
    /// The pages, at least one.
    pub pages: Vec<PageInputs>,
    /// Keras models of layers that don't start from random weights.
    pub models: Vec<(Layer, PathBuf)>,
}

impl TrainingInputs {
    /// One page, from random weights.
    pub fn of_page(page: PageInputs) -> Self {
        Self { pages: vec![page], models: Vec::new() }
    }
}

/// The images of one page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageInputs {
    /// The user's name for the page, where there are several: errors begin with it.
    pub label: Option<String>,
    /// The page itself, PNG or JPEG.
    pub image: PathBuf,
    /// Where the layers (but not the background) count; the whole page when absent.
    pub regions: Option<PathBuf>,
    /// The background: RGBA, a pixel belongs to it when its alpha is 255.
    pub background: PathBuf,
    /// The other layers in their order, likewise.
    pub layers: Vec<(Layer, PathBuf)>,
}

/// A layer of a decoded page.
#[derive(Clone, Debug)]
pub struct PageLayer {
    /// Which layer it is.
    pub layer: Layer,
    /// Where it came from.
    pub input: Input,
    /// Its pixels, already cut to the selected regions (except for the background).
    pub mask: Mask,
}

/// A decoded page with its layers. All samples share it: patches are cut out of it when they are
/// needed.
#[derive(Debug)]
pub struct Page {
    width: usize,
    height: usize,
    /// Rows of BGR bytes.
    bgr: Vec<u8>,
    regions: Mask,
    layers: Vec<PageLayer>,
}

impl Page {
    /// Decodes and checks all images of a page.
    ///
    /// # Errors
    /// [`PageError`], naming the input: a missing file, another format, a layer without alpha or of
    /// another size.
    pub fn load(inputs: &PageInputs) -> Result<Self, PageError> {
        let page = decode::page(&Input { kind: InputKind::Image, path: inputs.image.clone() })?;
        let size = (page.width, page.height);
        let mask = |input: &Input| {
            let mask = decode::layer(input)?;
            let found = (mask.width(), mask.height());
            if found != size {
                return Err(PageError::Size { input: input.clone(), found, page: size });
            }
            Ok(mask)
        };
        let regions = match &inputs.regions {
            Some(path) => mask(&Input { kind: InputKind::Regions, path: path.clone() })?,
            None => Mask::from_fn(size.0, size.1, |_, _| true),
        };
        let background = (Layer::Background, inputs.background.clone());
        let mut layers = Vec::with_capacity(1 + inputs.layers.len());
        for (layer, path) in std::iter::once(&background).chain(&inputs.layers) {
            let input = Input { kind: InputKind::Layer(*layer), path: path.clone() };
            let mut mask = mask(&input)?;
            // The background alone is learned from the whole page.
            if *layer != Layer::Background {
                mask.intersect(&regions);
            }
            layers.push(PageLayer { layer: *layer, input, mask });
        }
        Ok(Self { width: page.width, height: page.height, bgr: page.bytes, regions, layers })
    }

    /// An image without layers, for prediction.
    ///
    /// # Errors
    ///
    /// [`PageError`], when the file is missing, of another format, damaged or too large.
    pub fn of_image(path: &Path) -> Result<Self, PageError> {
        let page = decode::page(&Input { kind: InputKind::Image, path: path.to_owned() })?;
        let regions = Mask::from_fn(page.width, page.height, |_, _| true);
        Ok(Self {
            width: page.width,
            height: page.height,
            bgr: page.bytes,
            regions,
            layers: Vec::new(),
        })
    }

    /// A page of the given size with a pattern on it and one layer, the background: for measuring
    /// and comparing.
    pub(crate) fn made_up(width: usize, height: usize) -> Self {
        let bgr = (0..3 * width * height).map(|i| (i * 7919 % 251) as u8).collect();
        let (layer, kind) = (Layer::Background, InputKind::Layer(Layer::Background));
        let mask = Mask::from_fn(width, height, |row, column| (row / 5 + column / 7) % 3 == 0);
        let layers = vec![PageLayer { layer, input: Input { kind, path: PathBuf::new() }, mask }];
        Self { width, height, bgr, regions: Mask::from_fn(width, height, |_, _| true), layers }
    }

    /// A page from what is already in memory: `bgr` holds `3 · width · height` bytes, each mask has
    /// that size.
    #[cfg(test)]
    pub(crate) fn from_parts(
        width: usize,
        height: usize,
        bgr: Vec<u8>,
        layers: Vec<PageLayer>,
    ) -> Self {
        assert_eq!(bgr.len(), 3 * width * height);
        Self { width, height, bgr, regions: Mask::from_fn(width, height, |_, _| true), layers }
    }

    /// The same page with these regions, which have its size; its layers are left as they are.
    #[cfg(test)]
    pub(crate) fn with_regions(self, regions: Mask) -> Self {
        assert_eq!((regions.width(), regions.height()), (self.width, self.height));
        Self { regions, ..self }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Rows of BGR bytes.
    pub fn bgr(&self) -> &[u8] {
        &self.bgr
    }

    /// Where the layers count.
    pub fn regions(&self) -> &Mask {
        &self.regions
    }

    /// Index of a layer in [`Page::layers`], if the page has it.
    pub fn index_of(&self, layer: Layer) -> Option<usize> {
        self.layers.iter().position(|l| l.layer == layer)
    }

    /// The background, then the other layers in their order.
    pub fn layers(&self) -> &[PageLayer] {
        &self.layers
    }

    /// Writes the part of `height`×`width` pixels whose upper left pixel is (`top`, `left`) as the
    /// network's input: HWC, BGR, `(255 − value) / 255`.
    pub(crate) fn crop(
        &self,
        top: isize,
        left: isize,
        (height, width): (usize, usize),
        edge: Edge,
        image: &mut [f32],
    ) {
        let columns = Columns::new(left, width, self.width);
        for (y, out) in image.chunks_exact_mut(3 * width).take(height).enumerate() {
            let row = edge.inside(top + y as isize, self.height) * self.width;
            match columns {
                Columns::Inside(start) => {
                    let bytes = &self.bgr[3 * (row + start)..][..out.len()];
                    for (value, byte) in out.iter_mut().zip(bytes) {
                        *value = network_value(*byte);
                    }
                }
                Columns::Beyond => {
                    for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                        let at = 3 * (row + edge.inside(left + x as isize, self.width));
                        for (value, byte) in pixel.iter_mut().zip(&self.bgr[at..at + 3]) {
                            *value = network_value(*byte);
                        }
                    }
                }
            }
        }
    }

    /// Writes the target of the same patch for layer `index`: 1.0 where the pixel belongs to it,
    /// else 0.0.
    pub(crate) fn crop_target(
        &self,
        index: usize,
        top: isize,
        left: isize,
        shape: PatchShape,
        edge: Edge,
        target: &mut [f32],
    ) {
        let mask = &self.layers[index].mask;
        for (y, out) in target.chunks_exact_mut(shape.width()).enumerate() {
            let row = edge.inside(top + y as isize, self.height);
            for (x, value) in out.iter_mut().enumerate() {
                *value =
                    f32::from(u8::from(mask.get(row, edge.inside(left + x as isize, self.width))));
            }
        }
    }
}

/// The network's input for one byte. The quotient is rounded once, so that it equals NumPy's.
pub(crate) fn network_value(byte: u8) -> f32 {
    f32::from(255 - byte) / 255.0
}

/// Whether all columns of a patch lie on the page. For most patches they do, and each row is copied
/// at once.
#[derive(Clone, Copy)]
enum Columns {
    Inside(usize),
    Beyond,
}

impl Columns {
    fn new(left: isize, width: usize, page_width: usize) -> Self {
        match usize::try_from(left) {
            Ok(start) if start + width <= page_width => Self::Inside(start),
            _ => Self::Beyond,
        }
    }
}

/// What a patch sees beyond the page's edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// The page mirrored, again and again where the patch is larger than the page: for training.
    Mirror,
    /// The outermost pixels repeated: what Rodan's classifier shows the network.
    Replicate,
}

impl Edge {
    /// The position inside `0..length` that is seen at `index`.
    fn inside(self, index: isize, length: usize) -> usize {
        match self {
            Self::Replicate => index.clamp(0, length as isize - 1) as usize,
            Self::Mirror => {
                let period = 2 * length;
                // The remainder lies in 0..period, so it is not negative.
                let place = index.rem_euclid(period as isize) as usize;
                if place < length { place } else { period - 1 - place }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_edge_lies_what_was_asked_for() {
        let seen: Vec<_> = (-4..7).map(|i| Edge::Mirror.inside(i, 3)).collect();
        assert_eq!(seen, [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]);
        assert_eq!(Edge::Mirror.inside(-100, 1), 0);
        let seen: Vec<_> = (-2..5).map(|i| Edge::Replicate.inside(i, 3)).collect();
        assert_eq!(seen, [0, 0, 0, 1, 2, 2, 2]);
    }

    #[test]
    fn values_are_those_of_the_classifier() {
        assert_eq!((network_value(255), network_value(0)), (0.0, 1.0));
        // Dividing in f64 and rounding, as NumPy may, gives the same f32.
        for byte in 0..=255u8 {
            assert_eq!(network_value(byte), ((255.0 - f64::from(byte)) / 255.0) as f32);
        }
    }

    #[test]
    fn a_patch_inside_is_cut_out_and_one_outside_is_mirrored() {
        let bgr = (0..5 * 4 * 3).map(|i| i as u8).collect();
        let mask = Mask::from_fn(5, 4, |r, c| r == 1 && c == 2);
        let input = Input { kind: InputKind::Layer(Layer::Background), path: "b.png".into() };
        let page =
            Page::from_parts(5, 4, bgr, vec![PageLayer { layer: Layer::Background, input, mask }]);
        let shape = PatchShape::new(4, 4).unwrap();
        let (mut image, mut target) = (vec![0.0; 48], vec![0.0; 16]);
        page.crop(0, 1, (4, 4), Edge::Mirror, &mut image);
        page.crop_target(0, 0, 1, shape, Edge::Mirror, &mut target);
        assert_eq!(image[0], network_value(3));
        assert_eq!(image[12], network_value(15 + 3));
        assert_eq!(target.iter().position(|v| *v == 1.0), Some(4 + 1));
        page.crop(-2, -2, (4, 4), Edge::Mirror, &mut image);
        assert_eq!(image[0], network_value(15 + 3), "row 1, column 1 is seen at -2, -2");
    }
}
