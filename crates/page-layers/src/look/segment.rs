//! The whole page as the trained networks see it: the layer of every pixel, and how well that
//! agrees with what was drawn.

use crate::page::page::{Edge, Page};
use domain::Layer;
use domain::{PatchShape, Score};

/// Width of the unused rim of a window, in pixels, as in Rodan's classifier: near its edge the
/// network sees too little. In small windows the rim is an eighth of the side, so that enough of
/// them is left.
const RIM: usize = 25;

/// The layer of every pixel: that of the most confident network; on a tie that of the one which was
/// added first (the background, if there is one), as NumPy's argmax does in the classifier. Takes
/// five bytes per pixel.
#[derive(Debug)]
pub struct Segmentation {
    width: usize,
    /// Index of the layer in the order in which layers were added.
    labels: Vec<u8>,
    /// The highest probability so far, which decided the layer.
    best: Vec<f32>,
    added: u8,
}

impl Segmentation {
    /// A segmentation without any layer yet.
    pub fn new(page: &Page) -> Self {
        let pixels = page.width() * page.height();
        Self { width: page.width(), labels: vec![0; pixels], best: vec![-1.0; pixels], added: 0 }
    }

    /// Adds the next layer's network.
    ///
    /// `predict(images)` is called with up to `batch` windows (NHWC, as in
    /// [`Samples::write`](crate::Samples::write)) and returns one probability for each pixel.
    ///
    /// # Errors
    ///
    /// The first error of `predict`.
    pub fn add_layer<E>(
        &mut self,
        page: &Page,
        shape: PatchShape,
        batch: usize,
        mut predict: impl FnMut(&[f32]) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        let rows = windows(page.height(), shape.height());
        let columns = windows(page.width(), shape.width());
        let all: Vec<_> =
            rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))).collect();
        let batch = batch.max(1);
        let mut images = vec![0.0; 3 * shape.pixels() * batch];
        for group in all.chunks(batch) {
            for ((row, column), image) in
                group.iter().zip(images.chunks_exact_mut(3 * shape.pixels()))
            {
                page.crop(row.start, column.start, shape, Edge::Replicate, image);
            }
            let seen = predict(&images[..3 * shape.pixels() * group.len()])?;
            for ((row, column), seen) in group.iter().zip(seen.chunks_exact(shape.pixels())) {
                self.take(row, column, shape, seen);
            }
        }
        self.added += 1;
        Ok(())
    }

    /// Takes the used part of one window.
    fn take(&mut self, row: &Window, column: &Window, shape: PatchShape, seen: &[f32]) {
        for y in row.used.clone() {
            // The used part lies on the page and in the window: neither difference is negative.
            let line = (y as isize - row.start) as usize * shape.width();
            for x in column.used.clone() {
                let probability = seen[line + (x as isize - column.start) as usize];
                let at = y * self.width + x;
                // Greater, not equal: on a tie the first layer keeps the pixel.
                if probability > self.best[at] {
                    self.best[at] = probability;
                    self.labels[at] = self.added;
                }
            }
        }
    }

    /// The pixel's layer, as its index in the order in which layers were added.
    pub fn label(&self, row: usize, column: usize) -> usize {
        usize::from(self.labels[row * self.width + column])
    }

    /// How well `layer`, the `index`-th that was added, was found on the page inside the selected
    /// regions.
    pub fn score(&self, page: &Page, index: usize, layer: Layer) -> Score {
        let mut score = Score::default();
        let drawn = page.index_of(layer).map(|index| &page.layers()[index].mask);
        for row in 0..page.height() {
            for column in 0..page.width() {
                if !page.regions().get(row, column) {
                    continue;
                }
                match (
                    self.label(row, column) == index,
                    drawn.is_some_and(|drawn| drawn.get(row, column)),
                ) {
                    (true, true) => score.hits += 1,
                    (true, false) => score.extra += 1,
                    (false, true) => score.missed += 1,
                    (false, false) => {}
                }
            }
        }
        score
    }
}

/// One window in one direction.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    /// Its first pixel, which may lie before the page.
    start: isize,
    /// The pixels of the page for which it is used.
    used: std::ops::Range<usize>,
}

/// Windows of `side` pixels whose used parts cover `0..length` once.
fn windows(length: usize, side: usize) -> Vec<Window> {
    let rim = RIM.min(side / 8);
    let step = side - 2 * rim;
    (0..length)
        .step_by(step)
        .map(|first| Window {
            start: first as isize - rim as isize,
            used: first..(first + step).min(length),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::decode::Input;
    use crate::page::mask::Mask;
    use crate::page::page::PageLayer;
    use domain::InputKind;

    #[test]
    fn windows_cover_the_page_once() {
        for (length, side) in [(1, 4), (7, 4), (100, 256), (1000, 256), (412, 256), (413, 64)] {
            let windows = windows(length, side);
            let covered: Vec<_> = windows.iter().flat_map(|w| w.used.clone()).collect();
            assert_eq!(covered, (0..length).collect::<Vec<_>>());
            for window in &windows {
                let rim = RIM.min(side / 8);
                assert_eq!(window.start + rim as isize, window.used.start as isize);
                assert!(window.used.end as isize <= window.start + (side - rim) as isize);
            }
        }
        assert_eq!(windows(256, 256)[0], Window { start: -25, used: 0..206 });
    }

    #[test]
    fn each_pixel_goes_to_the_surest_layer() {
        // The blue byte is 0 in the left part, so the input is 1 there. One network returns it, the
        // other a constant.
        let (width, height) = (90, 50);
        let bgr = (0..width * height)
            .flat_map(|i| [if i % width < 40 { 0 } else { 255 }, 9, 9])
            .collect();
        let left = Mask::from_fn(width, height, |_, c| c < 40);
        let right = Mask::from_fn(width, height, |_, c| c >= 45);
        let layers =
            [(Layer::Background, left), (Layer::Numbered(0), right)].map(|(layer, mask)| {
                let input = Input { kind: InputKind::Layer(layer), path: "x.png".into() };
                PageLayer { layer, input, mask }
            });
        let page = Page::from_parts(width, height, bgr, layers.into());
        let shape = PatchShape::new(32, 16).unwrap();
        let mut found = Segmentation::new(&page);
        let mut largest = 0;
        found
            .add_layer(&page, shape, 3, |images| {
                largest = largest.max(images.len() / shape.pixels() / 3);
                Ok::<_, ()>(images.chunks_exact(3).map(|bgr| bgr[0]).collect())
            })
            .unwrap();
        found
            .add_layer(&page, shape, 3, |images| Ok::<_, ()>(vec![0.5; images.len() / 3]))
            .unwrap();
        assert_eq!(largest, 3);
        assert!((0..height).all(|r| (0..width).all(|c| found.label(r, c) == usize::from(c >= 40))));
        assert_eq!(
            found.score(&page, 0, Layer::Background),
            Score { hits: 40 * 50, extra: 0, missed: 0 }
        );
        assert_eq!(
            found.score(&page, 1, Layer::Numbered(0)),
            Score { hits: 45 * 50, extra: 5 * 50, missed: 0 }
        );
        let score = found.score(&page, 1, Layer::Numbered(0));
        assert_eq!((score.precision(), score.recall()), (0.9, 1.0));
        assert!((score.f1() - 1.8 / 1.9).abs() < 1e-12);
    }

    #[test]
    fn of_equally_sure_layers_the_first_gets_the_pixel() {
        let page = Page::from_parts(20, 10, vec![0; 600], Vec::new());
        let mut found = Segmentation::new(&page);
        for probability in [0.0, 0.0, 0.25, 0.25] {
            let constant = |images: &[f32]| Ok::<_, ()>(vec![probability; images.len() / 3]);
            found.add_layer(&page, PatchShape::new(16, 16).unwrap(), 1, constant).unwrap();
        }
        assert!((0..10).all(|r| (0..20).all(|c| found.label(r, c) == 2)));
    }

    #[test]
    fn a_layer_never_found_scores_zero() {
        let score = Score { hits: 0, extra: 0, missed: 7 };
        assert_eq!((score.precision(), score.recall(), score.f1()), (0.0, 0.0, 0.0));
    }
}
