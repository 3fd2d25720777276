//! The whole page as the trained networks see it: the layer of every pixel, and how well that
//! agrees with what was drawn.

use std::ops::Range;

use domain::{Layer, PatchShape, Score};

use crate::page::page::{Edge, Page};

/// How far the networks see, in pixels: upwards and to the left, downwards and to the right. What
/// is farther away does not change a pixel's probability, be it the page or the end of the window.
/// The two differ because the 2×2 convolutions read to the right and below only.
const REACH: (usize, usize) = (24, 27);

/// Width of a large window's rim, which is not used: what the networks see, and a multiple of 4.
const RIM: usize = REACH.1.next_multiple_of(4);

/// Longest side of a large window, pixels. Larger ones would save little (the rims are a fifth of
/// what is computed) and take more memory: one such window has as many pixels as four of 256×256.
const LONGEST: usize = 512;

/// How far the windows of Rodan's classifier reach beyond the page, and how wide their rim is.
const CLASSIFIER_RIM: usize = 25;

/// The windows through which the networks look at a page. The outermost pixels of a window, for
/// which it is too narrow, are not used; beyond the page's edge lie its outermost pixels, repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Up to 512×512 pixels, whatever patches the networks have learned from. All of them begin at
    /// multiples of 4 pixels, as the two poolings group pixels by four, and their rims are as wide
    /// as the networks see: every pixel gets what a single window of the whole page would give it.
    Large,
    /// Those of Rodan's classifier: as large as the patches, with rims of 25 pixels, in steps of 51
    /// pixels less than their side. They reach 25 pixels beyond the page and no farther: the last
    /// one is moved back to that. A page for which one window is too large, which the classifier
    /// can't cut, has just this one.
    Classifier {
        /// Their size; larger than 51×51.
        shape: PatchShape,
        /// How many are looked at together.
        batch: usize,
    },
}

impl Windows {
    /// What the sides of [`Windows::Classifier`] must exceed, pixels.
    pub const CLASSIFIER_RIMS: usize = 2 * CLASSIFIER_RIM + 1;

    /// The size of the windows of a page, height and width in pixels; multiples of 4.
    pub fn sides(self, page: &Page) -> (usize, usize) {
        match self {
            Self::Large => (large(page.height()), large(page.width())),
            Self::Classifier { shape, .. } => (shape.height(), shape.width()),
        }
    }

    /// Width of the windows' rims, which are not used.
    pub fn rim(self) -> usize {
        match self {
            Self::Large => RIM,
            Self::Classifier { .. } => CLASSIFIER_RIM,
        }
    }

    /// The windows along a direction in which they have `side` pixels and the page has `length`.
    fn along(self, length: usize, side: usize) -> Vec<Window> {
        // The first pixels of the page that each window may be used for.
        let rim = self.rim();
        let firsts: Vec<usize> = match self {
            Self::Large => (0..length).step_by(side - 2 * RIM).collect(),
            Self::Classifier { .. } => {
                let last = (length + 2 * CLASSIFIER_RIM).saturating_sub(side);
                let step = side.saturating_sub(Self::CLASSIFIER_RIMS).max(1);
                (0..last).step_by(step).chain([last]).collect()
            }
        };
        // Where windows overlap the later one counts: it is the one that the classifier writes
        // over the others.
        let ends = firsts.iter().skip(1).copied().chain([length]);
        let window = |(first, end): (&usize, usize)| {
            let start = *first as isize - rim as isize;
            Window { start, used: *first..end }
        };
        firsts.iter().zip(ends).map(window).collect()
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

    /// Cuts a page into the layers of so many `networks`, in one pass over it: each group of
    /// windows is shown to all of them.
    ///
    /// `predict(network, images, (height, width))` gets windows (NHWC, as in
    /// [`Samples::write`](crate::Samples::write)) and returns the network's probability for each of
    /// their pixels; those in the rims ([`Windows::rim`]) are not read.
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

    /// The pixel's layer, as its index in the order of the networks.
    pub fn label(&self, row: usize, column: usize) -> usize {
        usize::from(self.labels[row * self.width + column])
    }

    /// How well `layer`, whose network is the `index`-th, was found on the page inside the selected
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
    used: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::Device;
    use crate::look::predict::Predictor;
    use crate::net::init::initial_weights;
    use crate::net::module::{PageNetwork, variables};
    use crate::page::decode::Input;
    use crate::page::mask::Mask;
    use crate::page::page::PageLayer;
    use candle_core::{DType, Tensor};
    use candle_nn::{Module, VarBuilder};
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

    const LENGTHS: [usize; 15] =
        [1, 4, 7, 27, 28, 153, 154, 205, 206, 207, 456, 457, 913, 1000, 5003];

    #[test]
    fn windows_cover_the_page_once_and_none_is_used_in_its_rim() {
        for (plan, rim) in [
            (Windows::Large, RIM),
            (classifier(256, 256, 1), 25),
            (classifier(64, 64, 1), 25),
            (classifier(52, 52, 1), 25),
        ] {
            for length in LENGTHS {
                let (side, windows) = along(plan, length);
                assert!(side.is_multiple_of(4) && side <= LONGEST);
                let covered: Vec<_> = windows.iter().flat_map(|w| w.used.clone()).collect();
                assert_eq!(covered, (0..length).collect::<Vec<_>>());
                for window in &windows {
                    let [from, to] =
                        [window.used.start, window.used.end].map(|at| at as isize - window.start);
                    let last = side as isize - rim as isize;
                    let named = format!("{plan:?}, {length}: {window:?}");
                    assert!(rim as isize <= from && from < to && to <= last, "{named}");
                    assert!(plan != Windows::Large || window.start % 4 == 0, "{named}");
                }
            }
        }
    }

    #[test]
    fn large_windows_are_alike_and_waste_little() {
        let only = Window { start: -28, used: 0..1 };
        assert_eq!(along(Windows::Large, 1), (60, vec![only]));
        assert_eq!(along(Windows::Large, 456).0, 512);
        let (side, windows) = along(Windows::Large, 460);
        assert_eq!((side, windows.len()), (232 + 56, 2));
        let (side, windows) = along(Windows::Large, 9000);
        assert!(side * windows.len() <= 9000 * 8 / 7, "{side} {}", windows.len());
    }

    /// For each pixel along a direction, where the window begins whose result Rodan's classifier
    /// keeps for it: the classifier's own loop, with the page's first pixel at 0.
    fn rodans(length: usize, side: usize) -> Vec<isize> {
        let padded = length + 50;
        let mut kept = vec![isize::MIN; padded];
        for row in (0..padded).step_by(side - 25 * 2 - 1) {
            let row = row.min(padded - side);
            kept[row + 25..row + side - 25].fill(row as isize - 25);
        }
        kept[25..25 + length].to_vec()
    }

    #[test]
    fn the_classifiers_windows_are_rodans() {
        for side in [52, 64, 128, 256] {
            for length in LENGTHS {
                if length + 50 < side {
                    // The classifier fails here: nothing to be equal to.
                    let only = Window { start: -25, used: 0..length };
                    assert_eq!(along(classifier(side, side, 1), length).1, [only]);
                    continue;
                }
                let (_, windows) = along(classifier(side, side, 1), length);
                let ours: Vec<_> =
                    windows.iter().flat_map(|w| w.used.clone().map(|_| w.start)).collect();
                assert_eq!(ours, rodans(length, side), "{side} {length}");
            }
        }
        let (_, windows) = along(classifier(256, 256, 1), 1000);
        let starts: Vec<_> = windows.iter().map(|window| window.start).collect();
        assert_eq!(starts, [-25, 180, 385, 590, 769]);
        assert_eq!(windows[3].used, 615..794);
    }

    #[test]
    fn each_pixel_goes_to_the_surest_layer() {
        // The blue byte is 0 in the left part, so the input is 1 there; one network answers with
        // it, the other with a constant.
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
        for (plan, most) in [(Windows::Large, 1), (classifier(72, 64, 3), 3)] {
            let mut largest = 0;
            let found = Segmentation::cut(&page, plan, 2, |network, images, (height, width)| {
                assert_eq!((height, width), plan.sides(&page));
                largest = largest.max(images.len() / (3 * height * width));
                Ok::<_, ()>(images.chunks_exact(3).map(|bgr| [bgr[0], 0.5][network]).collect())
            })
            .unwrap();
            assert_eq!(largest, most);
            assert!(
                (0..height).all(|r| (0..width).all(|c| found.label(r, c) == usize::from(c >= 40)))
            );
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
        let constant =
            |network: usize, images: &[f32], _| Ok::<_, ()>(vec![sure[network]; images.len() / 3]);
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
                let place = (row.start, column.start);
                page.crop(place.0, place.1, (height, width), Edge::Replicate, &mut image);
                let found = predictor.predict_within(&image, (height, width), plan.rim()).unwrap();
                for y in row.used.clone() {
                    for x in column.used.clone() {
                        let [y_in, x_in] = [y as isize - place.0, x as isize - place.1];
                        let at = y_in as usize * width + x_in as usize;
                        probabilities[y * page.width() + x] = found[at];
                    }
                }
            }
        }
        probabilities
    }

    /// The whole page at once, with `beyond` pixels around it.
    fn whole(page: &Page, predictor: &Predictor, beyond: usize) -> Vec<f32> {
        let side = |length: usize| (length + 2 * beyond).next_multiple_of(4);
        let (height, width) = (side(page.height()), side(page.width()));
        let mut image = vec![0.0; 3 * height * width];
        let start = -(beyond as isize);
        page.crop(start, start, (height, width), Edge::Replicate, &mut image);
        let found = predictor.predict(&image, height, width).unwrap();
        let line = |y: usize| &found[(y + beyond) * width + beyond..][..page.width()];
        (0..page.height()).flat_map(line).copied().collect()
    }

    fn difference(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    fn predictor(seed: u64) -> Predictor {
        Predictor::new(&initial_weights(seed).unwrap(), Device::Cpu).unwrap()
    }

    #[test]
    fn large_windows_give_what_one_window_of_the_whole_page_gives() {
        // Pages of one window, of several in one direction or in both, and smaller than a rim.
        for (width, height) in
            [(1, 1), (5, 3), (27, 30), (203, 150), (460, 20), (31, 500), (470, 465)]
        {
            let page = Page::made_up(width, height);
            let network = predictor(5);
            let large = seen(&page, &network, Windows::Large);
            // More around the page changes nothing: the rim is wide enough at the page's edge too.
            let difference = difference(&large, &whole(&page, &network, 48));
            assert!(difference < 2e-6, "{width}x{height}: {difference}");
        }
    }

    #[test]
    fn the_classifiers_windows_differ_by_little() {
        let page = Page::made_up(230, 150);
        let network = predictor(5);
        let large = seen(&page, &network, Windows::Large);
        let rodans = seen(&page, &network, classifier(128, 128, 1));
        let difference = difference(&large, &rodans);
        assert!((1e-5..0.2).contains(&difference), "{difference}");
    }

    #[test]
    fn the_networks_see_as_far_as_is_said_and_no_farther() {
        // One row of an image is changed, and the rows are counted whose result changes. Where a
        // row lies in the windows of the two poolings repeats every 4 rows.
        let cpu = candle_core::Device::Cpu;
        let (side, width) = (96, 8);
        let gray: Vec<f32> =
            (0..3 * side * width).map(|i| (i * 7919 % 251) as f32 / 250.0).collect();
        let (mut up, mut down) = (0, 0);
        for seed in [1, 5] {
            // By candle's direct sums: with fewer products, what is farther away would change a
            // pixel's last bits by rounding.
            let map = variables(&initial_weights(seed).unwrap(), &cpu).unwrap();
            let network =
                PageNetwork::new(&VarBuilder::from_varmap(&map, DType::F32, &cpu)).unwrap();
            let see = |image: &[f32]| {
                let x = Tensor::from_slice(image, (1, side, width, 3), &cpu).unwrap();
                let logits = network.forward(&x).unwrap();
                logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            let before = see(&gray);
            for changed in 44..48 {
                let mut image = gray.clone();
                let row = &mut image[3 * width * changed..][..3 * width];
                row.iter_mut().for_each(|value| *value = 40.0 * (1.0 - *value));
                let after = see(&image);
                for y in 0..side {
                    let at = y * width..(y + 1) * width;
                    if before[at.clone()] != after[at] {
                        up = up.max(y.saturating_sub(changed));
                        down = down.max(changed.saturating_sub(y));
                    }
                }
            }
        }
        assert_eq!((up, down), REACH);
    }

    #[test]
    fn cut_is_the_argmax_of_what_each_network_sees() {
        let page = Page::made_up(90, 80);
        let weights = [1, 2, 3].map(|seed| initial_weights(seed).unwrap());
        let networks = Predictor::of_all(&weights, &Device::Cpu).unwrap();
        for plan in [Windows::Large, classifier(64, 72, 1), classifier(64, 72, 5)] {
            let by_itself: Vec<Vec<f32>> = weights
                .iter()
                .map(|one| seen(&page, &Predictor::new(one, Device::Cpu).unwrap(), plan))
                .collect();
            let predict = |network: usize, images: &[f32], sides| {
                networks[network].predict_within(images, sides, plan.rim())
            };
            let found = Segmentation::cut(&page, plan, 3, predict).unwrap();
            for (at, label) in found.labels.iter().enumerate() {
                let mut surest = 0;
                for other in 1..3 {
                    if by_itself[other][at] > by_itself[surest][at] {
                        surest = other;
                    }
                }
                assert_eq!(usize::from(*label), surest, "{plan:?}, pixel {at}");
            }
        }
    }

    #[test]
    fn a_layer_never_found_scores_zero() {
        let score = Score { hits: 0, extra: 0, missed: 7 };
        assert_eq!((score.precision(), score.recall(), score.f1()), (0.0, 0.0, 0.0));
    }
}
