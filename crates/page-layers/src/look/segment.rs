//! The whole page as the trained networks see it: the layer of every pixel, and how well that
//! agrees with what was drawn.

use std::ops::Range;

use domain::{Layer, PatchShape, Score};

use crate::page::page::{Edge, Page};

/// How far the networks see, in pixels: nothing farther away from a pixel changes its probability.
const REACH: usize = 25;

/// Width of a large window's rim that is not used: [`REACH`], and a multiple of 4.
const RIM: usize = REACH.next_multiple_of(4);

/// Longest side of a large window, pixels. Larger ones save little more (their rim is a fifth of what
/// is computed) and take more memory.
const LONGEST: usize = 512;

/// The windows through which the networks look at a page. The outermost pixels of a window, for which
/// it is too narrow, are not used; beyond the page's edge lie its outermost pixels, repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Up to 512×512 pixels, whatever patches the networks have learned from. All of them begin at
    /// multiples of 4 pixels, as the two poolings group pixels by four; so what is seen does not
    /// depend on where a window begins.
    Large,
    /// Those of Rodan's classifier: as large as the patches, from 25 pixels before the page, in steps
    /// of 51 pixels less than a side, which must be larger than that.
    Classifier {
        /// Their size.
        shape: PatchShape,
        /// How many are looked at together.
        batch: usize,
    },
}

impl Windows {
    /// What [`Windows::Classifier`]'s side must exceed, pixels.
    pub const CLASSIFIER_RIMS: usize = 51;

    /// The size of the windows of a page, height and width in pixels; multiples of 4.
    pub fn sides(self, page: &Page) -> (usize, usize) {
        match self {
            Self::Large => (large(page.height()), large(page.width())),
            Self::Classifier { shape, .. } => (shape.height(), shape.width()),
        }
    }

    /// The windows along a direction in which they have `side` pixels and the page has `length`.
    fn along(self, length: usize, side: usize) -> Vec<Window> {
        let (rim, step) = match self {
            Self::Large => (RIM, side - 2 * RIM),
            Self::Classifier { .. } => (REACH, side.saturating_sub(Self::CLASSIFIER_RIMS).max(1)),
        };
        let window = |first: usize| {
            let used = first..(first + step).min(length);
            Window { start: first as isize - rim as isize, used }
        };
        (0..length).step_by(step).map(window).collect()
    }
}

/// Side of the large windows along `length` pixels: all of them alike, and no more of them than
/// needed.
fn large(length: usize) -> usize {
    let count = length.div_ceil(LONGEST - 2 * RIM).max(1);
    length.div_ceil(count).next_multiple_of(4) + 2 * RIM
}

/// The layer of every pixel: that of the most confident network; on a tie that of the first (the
/// background, if there is one), as NumPy's argmax does in the classifier. Takes a byte per pixel.
#[derive(Debug)]
pub struct Segmentation {
    width: usize,
    /// Place of the layer in the order of the networks.
    labels: Vec<u8>,
}

impl Segmentation {
    /// Every pixel in the first layer.
    pub fn new(page: &Page) -> Self {
        Self { width: page.width(), labels: vec![0; page.width() * page.height()] }
    }

    /// Cuts a page into the layers of so many `networks`, in one pass over it.
    ///
    /// `predict(network, images, (height, width))` gets windows (NHWC, as in
    /// [`Samples::write`](crate::Samples::write)) and returns the network's probability for each of
    /// their pixels.
    ///
    /// # Errors
    ///
    /// The first error of `predict`.
    pub fn cut<E>(
        page: &Page,
        windows: Windows,
        networks: usize,
        mut predict: impl FnMut(usize, &[f32], (usize, usize)) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut found = Self::new(page);
        let (height, width) = windows.sides(page);
        let columns = windows.along(page.width(), width);
        let rows = windows.along(page.height(), height);
        let all: Vec<_> =
            rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))).collect();
        let batch = match windows {
            Windows::Large => 1,
            Windows::Classifier { batch, .. } => batch.max(1),
        };
        let pixels = height * width;
        let mut images = vec![0.0; 3 * pixels * batch];
        for group in all.chunks(batch) {
            let images = &mut images[..3 * pixels * group.len()];
            for ((row, column), image) in group.iter().zip(images.chunks_exact_mut(3 * pixels)) {
                page.crop(row.start, column.start, (height, width), Edge::Replicate, image);
            }
            let mut best: Vec<f32> = Vec::new();
            for network in 0..networks {
                let seen = predict(network, images, (height, width))?;
                if network == 0 {
                    best = seen;
                    continue;
                }
                let windows = best.chunks_exact_mut(pixels).zip(seen.chunks_exact(pixels));
                for ((row, column), (best, seen)) in group.iter().zip(windows) {
                    found.take(row, column, width, network, best, seen);
                }
            }
        }
        Ok(found)
    }

    /// Gives the pixels of one window to `network` where it is surer than all before it.
    fn take(
        &mut self,
        row: &Window,
        column: &Window,
        width: usize,
        network: usize,
        best: &mut [f32],
        seen: &[f32],
    ) {
        // The used part lies on the page and in the window: neither difference is negative.
        let left = (column.used.start as isize - column.start) as usize;
        for y in row.used.clone() {
            let line = (y as isize - row.start) as usize * width + left;
            let labels = &mut self.labels[y * self.width..][column.used.clone()];
            let values = best[line..].iter_mut().zip(&seen[line..]);
            for (label, (best, seen)) in labels.iter_mut().zip(values) {
                // Greater, not equal: the first of equals keeps the pixel.
                if *seen > *best {
                    *best = *seen;
                    *label = network as u8;
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
                match (self.label(row, column) == index, drawn.is_some_and(|drawn| drawn.get(row, column))) {
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
    used: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::Device;
    use crate::look::predict::Predictor;
    use crate::net::init::initial_weights;
    use crate::page::decode::Input;
    use crate::page::mask::Mask;
    use crate::page::page::PageLayer;
    use domain::InputKind;

    fn classifier(height: usize, width: usize, batch: usize) -> Windows {
        Windows::Classifier { shape: PatchShape::new(height, width).unwrap(), batch }
    }

    /// `along` for a page of so many pixels, with the windows' side.
    fn along(windows: Windows, length: usize) -> (usize, Vec<Window>) {
        let page = Page::from_parts(length, 1, vec![0; 3 * length], Vec::new());
        let (_, side) = windows.sides(&page);
        (side, windows.along(length, side))
    }

    #[test]
    fn windows_cover_the_page_once_and_none_is_used_near_its_edge() {
        for plan in [Windows::Large, classifier(256, 256, 1), classifier(64, 64, 1), classifier(52, 52, 1)] {
            for length in [1, 4, 7, 205, 206, 412, 413, 456, 457, 1000, 5003] {
                let (side, windows) = along(plan, length);
                assert!(side.is_multiple_of(4) && side <= LONGEST);
                let covered: Vec<_> = windows.iter().flat_map(|w| w.used.clone()).collect();
                assert_eq!(covered, (0..length).collect::<Vec<_>>());
                for window in &windows {
                    let used = [window.used.start, window.used.end].map(|at| at as isize - window.start);
                    let last = side as isize - REACH as isize;
                    assert!(used[0] >= REACH as isize && used[1] <= last, "{plan:?}, {length}: {window:?}");
                    assert!(plan != Windows::Large || window.start % 4 == 0);
                }
            }
        }
    }

    #[test]
    fn large_windows_are_alike_and_waste_little() {
        assert_eq!(along(Windows::Large, 1), (60, vec![Window { start: -28, used: 0..1 }]));
        assert_eq!(along(Windows::Large, 456).0, 512);
        let (side, windows) = along(Windows::Large, 460);
        assert_eq!((side, windows.len()), (232 + 56, 2));
        let (side, windows) = along(Windows::Large, 9000);
        assert!(side * windows.len() <= 9000 * 8 / 7, "{side} {}", windows.len());
    }

    #[test]
    fn the_classifiers_windows_are_rodans() {
        let (side, windows) = along(classifier(256, 256, 1), 1000);
        assert_eq!(side, 256);
        let starts: Vec<_> = windows.iter().map(|window| window.start).collect();
        assert_eq!(starts, [-25, 180, 385, 590, 795]);
        assert_eq!(windows[1].used, 205..410);
    }

    #[test]
    fn each_pixel_goes_to_the_surest_layer() {
        // The blue byte is 0 in the left part, so the input is 1 there; one network answers with it, the
        // other with a constant.
        let (width, height) = (90, 50);
        let bgr = (0..width * height).flat_map(|i| [if i % width < 40 { 0 } else { 255 }, 9, 9]).collect();
        let left = Mask::from_fn(width, height, |_, c| c < 40);
        let right = Mask::from_fn(width, height, |_, c| c >= 45);
        let layers = [(Layer::Background, left), (Layer::Numbered(0), right)].map(|(layer, mask)| {
            let input = Input { kind: InputKind::Layer(layer), path: "x.png".into() };
            PageLayer { layer, input, mask }
        });
        let page = Page::from_parts(width, height, bgr, layers.into());
        for (plan, most) in [(Windows::Large, 1), (classifier(72, 64, 3), 3)] {
            let mut largest = 0;
            let found = Segmentation::cut(&page, plan, 2, |network, images, (height, width)| {
                assert_eq!((height, width), plan.sides(&page));
                largest = largest.max(images.len() / (3 * height * width));
                Ok::<_, ()>(images.chunks_exact(3).map(|bgr| [bgr[0], 0.5][network]).collect())
            })
            .unwrap();
            assert_eq!(largest, most);
            assert!((0..height).all(|r| (0..width).all(|c| found.label(r, c) == usize::from(c >= 40))));
            let score = found.score(&page, 0, Layer::Background);
            assert_eq!(score, Score { hits: 40 * 50, extra: 0, missed: 0 });
            let score = found.score(&page, 1, Layer::Numbered(0));
            assert_eq!(score, Score { hits: 45 * 50, extra: 5 * 50, missed: 0 });
            assert_eq!((score.precision(), score.recall()), (0.9, 1.0));
            assert!((score.f1() - 1.8 / 1.9).abs() < 1e-12);
        }
    }

    #[test]
    fn of_equally_sure_layers_the_first_gets_the_pixel() {
        let page = Page::from_parts(20, 10, vec![0; 600], Vec::new());
        let sure = [0.0, 0.0, 0.25, 0.25];
        let constant = |network: usize, images: &[f32], _| Ok::<_, ()>(vec![sure[network]; images.len() / 3]);
        let found = Segmentation::cut(&page, Windows::Large, 4, constant).unwrap();
        assert!((0..10).all(|r| (0..20).all(|c| found.label(r, c) == 2)));
    }

    /// What a network sees of a page through windows of one plan.
    fn seen(page: &Page, predictor: &Predictor, plan: Windows) -> Vec<f32> {
        let (height, width) = plan.sides(page);
        let mut probabilities = vec![f32::NAN; page.width() * page.height()];
        for row in plan.along(page.height(), height) {
            for column in plan.along(page.width(), width) {
                let mut image = vec![0.0; 3 * height * width];
                page.crop(row.start, column.start, (height, width), Edge::Replicate, &mut image);
                let found = predictor.predict(&image, height, width).unwrap();
                for y in row.used.clone() {
                    for x in column.used.clone() {
                        let [y_in, x_in] = [(y, &row), (x, &column)].map(|(at, w)| at as isize - w.start);
                        probabilities[y * page.width() + x] = found[y_in as usize * width + x_in as usize];
                    }
                }
            }
        }
        probabilities
    }

    #[test]
    fn a_window_sees_what_any_other_that_begins_at_the_same_remainder_sees() {
        let page = Page::made_up(230, 150);
        let predictor = Predictor::new(&initial_weights(5).unwrap(), Device::Cpu).unwrap();
        // One window holds the whole page.
        let whole = seen(&page, &predictor, Windows::Large);
        let differ = |other: &[f32], at: &dyn Fn(usize) -> bool| {
            let pairs = whole.iter().zip(other).enumerate().filter(|(i, _)| at(i % 230));
            pairs.map(|(_, (a, b))| (a - b).abs()).fold(0.0, f32::max)
        };
        // 104 − 56 is a multiple of 4: windows of 104 pixels, moved by their rim, begin at multiples of 4 too.
        let mut small = vec![f32::NAN; whole.len()];
        for top in (0..150usize).step_by(48) {
            for left in (0..230usize).step_by(48) {
                let mut image = vec![0.0; 3 * 104 * 104];
                let start = [top, left].map(|at| at as isize - RIM as isize);
                page.crop(start[0], start[1], (104, 104), Edge::Replicate, &mut image);
                let found = predictor.predict(&image, 104, 104).unwrap();
                for y in 0..48.min(150 - top) {
                    for x in 0..48.min(230 - left) {
                        small[(top + y) * 230 + left + x] = found[(y + RIM) * 104 + x + RIM];
                    }
                }
            }
        }
        let difference = differ(&small, &|_| true);
        assert!(difference < 1e-5, "{difference}");
        // The classifier's windows begin elsewhere, and see something else, by little.
        let rodans = seen(&page, &predictor, classifier(128, 128, 1));
        let difference = differ(&rodans, &|_| true);
        assert!(difference > 1e-5, "{difference}: the poolings' remainder would not matter");
    }

    #[test]
    fn a_layer_never_found_scores_zero() {
        let score = Score { hits: 0, extra: 0, missed: 7 };
        assert_eq!((score.precision(), score.recall(), score.f1()), (0.0, 0.0, 0.0));
    }
}
