//! Which patches of a page a layer is learned from.
//!
//! The rule is the original trainer's: every pixel of the layer that lies a patch away from the
//! page's edge is visited with probability 1/100, and becomes a patch's centre with probability
//! min(1, 100·n/count), where `n` is the smaller of the wanted number of samples and the pixel
//! count of the smallest layer. In row order the last fifth (the lower part of the page) is for
//! validation. With several pages a layer's count is that of all of them, and each page's last
//! fifth is for validation. Three cases that the original can't handle are described at [`sample`].
//! With [`PatchSelection::Covering`] as many pixels are drawn, but first one in each cell of half a
//! patch by half a patch (`draw.rs`), so that the patches show the whole layer. In each epoch a
//! patch may then be cut up to `Augmentation: shift` pixels from there (`augment.rs`); beyond the
//! page's edge lies the page, mirrored.
//!
//! The original's patches show a network little of the other layers. It never learns that these are
//! not its own, and is as sure of them as of its own. So a share of the samples of each layer but
//! the background, [`Rule::around_others`], lies around pixels of the other layers instead.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use crate::page::decode::Input;
use crate::page::page::Page;
use crate::patch::draw::{Word, choose, cover, visit};
use crate::patch::samples::{Place, Samples};
use domain::PatchShape;
use domain::{InputKind, Layer, PatchSelection};

/// The original's probability of visiting a pixel.
const VISIT: f64 = 0.01;

/// A layer gets at least this many samples if it has that many pixels: 8 to learn from, 2 to
/// validate with.
const HANDFUL: u64 = 10;

/// A layer without a usable pixel.
#[derive(Debug, Error)]
pub enum SampleError {
    /// No pixel belongs to the layer.
    #[error(
        "{input}: no pixel belongs to this layer{}; mark at least some pixels in it (alpha 255) or \
        leave the layer out of the job",
        if *.cut { " inside the selected regions" } else { "" }
    )]
    Empty {
        /// The layer.
        input: Input,
        /// True when selected regions may have cut the layer's pixels off.
        cut: bool,
    },
    /// All pixels of the layer lie near the page's edge.
    #[error(
        "{input}: all {pixels} pixels of this layer lie less than a patch ({}x{}) from the page's \
        edge; choose a smaller patch",
        shape.width(), shape.height()
    )]
    NoCentre {
        /// The layer.
        input: Input,
        /// Number of its pixels.
        pixels: u64,
        /// The patch size.
        shape: PatchShape,
    },
}

/// A pixel around which a patch is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Centre {
    /// Index in [`LayerSamples::pages`].
    page: u32,
    row: u32,
    column: u32,
}

/// The samples of one layer: patches of its pages around given centres, cut out when they are
/// needed.
#[derive(Clone, Debug)]
pub struct LayerSamples {
    /// The pages that have the layer, and its index in each.
    pages: Vec<(Arc<Page>, usize)>,
    shape: PatchShape,
    /// The centres, page by page in row order.
    centres: Vec<Centre>,
}

impl LayerSamples {
    /// The upper left corners of the samples on a page; some may lie before the page's.
    pub(crate) fn corners_on(&self, page: &Arc<Page>) -> impl Iterator<Item = (isize, isize)> {
        let number = self.pages.iter().position(|(own, _)| Arc::ptr_eq(own, page));
        let on_it = move |centre: &&Centre| number == Some(centre.page as usize);
        self.centres.iter().filter(on_it).map(move |centre| self.corner(*centre))
    }

    fn corner(&self, centre: Centre) -> (isize, isize) {
        let top = centre.row as isize - (self.shape.height() / 2) as isize;
        (top, centre.column as isize - (self.shape.width() / 2) as isize)
    }
}

impl Samples for LayerSamples {
    fn shape(&self) -> PatchShape {
        self.shape
    }

    fn len(&self) -> usize {
        self.centres.len()
    }

    fn write_shifted(
        &self,
        index: usize,
        (rows, columns): (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    ) {
        if let Some(place) = self.place(index, (rows, columns)) {
            place.write(self.shape, image, target);
        }
    }

    fn place(&self, index: usize, (rows, columns): (isize, isize)) -> Option<Place<'_>> {
        let centre = self.centres[index];
        let (page, layer) = &self.pages[centre.page as usize];
        let (top, left) = self.corner(centre);
        Some(Place {
            page,
            layer: *layer,
            top: top + rows,
            left: left + columns,
            left_right: false,
            up_down: false,
            lighter: 0.0,
        })
    }
}

/// The samples that a layer is learned from, and those that it is judged by.
#[derive(Clone, Debug)]
pub struct Split {
    /// The upper part of each page.
    pub train: LayerSamples,
    /// The last 20 % of each page in row order.
    pub validation: LayerSamples,
    /// Number of cells of the pages that got no patch of their own although
    /// [`PatchSelection::Covering`] was asked for, because there are too few patches. Those of
    /// other cells may show them.
    pub not_covered: usize,
}

/// All layers that are on some page, in their order.
pub(crate) fn layers_of(pages: &[Arc<Page>]) -> BTreeSet<Layer> {
    pages.iter().flat_map(|page| page.layers()).map(|layer| layer.layer).collect()
}

/// The number `n` of the patch rule: the wanted number of samples, but not more than the smallest
/// layer has pixels on all pages.
pub fn samples_per_layer(pages: &[Arc<Page>], max_samples: u32) -> u64 {
    let count = |layer| -> u64 {
        with_layer(pages, layer).map(|(page, i)| page.layers()[i].mask.count()).sum()
    };
    layers_of(pages).into_iter().map(count).min().unwrap_or(0).min(u64::from(max_samples))
}

fn with_layer(pages: &[Arc<Page>], layer: Layer) -> impl Iterator<Item = (&Arc<Page>, usize)> {
    pages.iter().filter_map(move |page| Some((page, page.index_of(layer)?)))
}

/// True when the page is so small that it is mirrored at its edges to complete patches.
pub fn is_mirrored(page: &Page, shape: PatchShape) -> bool {
    centres_along(page.height(), shape.height()).1 || centres_along(page.width(), shape.width()).1
}

/// How the samples of a layer are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// [`samples_per_layer`]'s number.
    pub n: u64,
    /// Size of the samples.
    pub shape: PatchShape,
    /// Which pixels of the layer become centres.
    pub selection: PatchSelection,
    /// How many percent of the samples lie around pixels of the other layers.
    pub around_others: u32,
    /// Where fewer samples are expected, their number is not left to chance.
    pub exact_below: usize,
}

/// Draws the samples of a layer from the pages that have it.
///
/// Where the original fails or leaves it to chance:
/// - In a direction in which a page is not larger than two patches, no centre would be left. There
///   every pixel may be a centre, and patches are completed by mirroring the page at its edge.
/// - When fewer than `exact_below` samples are expected (two batches), their number is not left to
///   chance. At least ten lie around the layer's own pixels, if it has that many, so that a rare
///   layer, and the layers beside it, still learn.
/// - Both parts get at least one sample; a single sample is used for both.
///
/// # Errors
/// [`SampleError`] when the layer has no pixel, or none that may be a centre.
pub fn sample(
    pages: &[Arc<Page>],
    layer: Layer,
    rule: &Rule,
    rng: &mut ChaCha8Rng,
) -> Result<Split, SampleError> {
    let Rule { n, shape, .. } = *rule;
    let pages: Vec<(Arc<Page>, usize)> =
        with_layer(pages, layer).map(|(p, i)| (Arc::clone(p), i)).collect();
    let masks: Vec<_> = pages.iter().map(|(page, index)| &page.layers()[*index]).collect();
    let input = || {
        let unknown = || Input { kind: InputKind::Layer(layer), path: PathBuf::new() };
        masks.first().map_or_else(unknown, |layer| layer.input.clone())
    };
    let pixels = masks.iter().map(|layer| layer.mask.count()).sum();
    if pixels == 0 {
        let has_regions =
            |page: &Page| page.regions().count() < (page.width() * page.height()) as u64;
        let cut = layer != Layer::Background && pages.iter().any(|(page, _)| has_regions(page));
        return Err(SampleError::Empty { input: input(), cut });
    }
    let own = Pixels::new(&pages, layer, shape, rows_of_centres(&pages, shape));
    if own.count == 0 {
        return Err(SampleError::NoCentre { input: input(), pixels, shape });
    }

    let chance = VISIT * (n as f64 / VISIT / pixels as f64).min(1.0);
    let expected = own.count as f64 * chance;
    let count = (expected.round() as u64).max(HANDFUL.min(n.max(1))).min(own.count);
    let others = around_others(&own, rule, count, rng);
    let left = count.saturating_sub(others.len() as u64).max(HANDFUL.min(count));
    let chance = chance * left as f64 / count as f64;
    let (ranks, not_covered) = match rule.selection {
        PatchSelection::Covering => cover(own.words(), shape, left, own.count, rng),
        PatchSelection::Random if expected < rule.exact_below as f64 => {
            (choose(left, own.count, rng), 0)
        }
        PatchSelection::Random => match visit(chance, own.count, rng) {
            // By chance, where few are wanted.
            none if none.is_empty() => (choose(1, own.count, rng), 0),
            ranks => (ranks, 0),
        },
    };
    let centres = own.at_ranks(&ranks);
    let (mut train, mut validation) = upper_and_lower(&centres);
    if train.is_empty() {
        // One sample on each page: the last page's sample validates what is learned from the
        // others.
        train = centres;
        validation = train.split_off(train.len() - 1);
        if train.is_empty() {
            train.clone_from(&validation);
        }
    }
    let (upper, lower) = upper_and_lower(&others);
    train.extend(upper);
    train.sort_unstable();
    validation.extend(lower);
    validation.sort_unstable();
    let samples = |centres| LayerSamples { pages: pages.clone(), shape, centres };
    Ok(Split { train: samples(train), validation: samples(validation), not_covered })
}

/// Centres in row order, divided: the last fifth of each page's is for validation.
fn upper_and_lower(centres: &[Centre]) -> (Vec<Centre>, Vec<Centre>) {
    let (mut train, mut validation) = (Vec::with_capacity(centres.len()), Vec::new());
    for of_page in centres.chunk_by(|left, right| left.page == right.page) {
        // Keras's `validation_split` rounds the training part down.
        let (upper, lower) = of_page.split_at(of_page.len() * 4 / 5);
        train.extend_from_slice(upper);
        validation.extend_from_slice(lower);
    }
    (train, validation)
}

/// Where centres may lie in one direction, and whether the page has to be mirrored for that.
fn centres_along(length: usize, patch: usize) -> (Range<usize>, bool) {
    if length > 2 * patch + 1 { (patch..length - patch - 1, false) } else { (0..length, true) }
}

/// The rows of each page in which centres may lie.
fn rows_of_centres(pages: &[(Arc<Page>, usize)], shape: PatchShape) -> Vec<Range<usize>> {
    pages.iter().map(|(page, _)| centres_along(page.height(), shape.height()).0).collect()
}

/// The pixels of a layer that may be centres, numbered page by page in row order.
struct Pixels<'a> {
    /// The pages of the layer that is learned.
    pages: &'a [(Arc<Page>, usize)],
    /// The layer whose pixels these are.
    layer: Layer,
    shape: PatchShape,
    /// The rows of each page in which they lie.
    rows: Vec<Range<usize>>,
    count: u64,
}

impl<'a> Pixels<'a> {
    fn new(
        pages: &'a [(Arc<Page>, usize)],
        layer: Layer,
        shape: PatchShape,
        rows: Vec<Range<usize>>,
    ) -> Self {
        let none = Self { pages, layer, shape, rows, count: 0 };
        let count = none.words().map(|word| u64::from(word.bits.count_ones())).sum();
        Self { count, ..none }
    }

    fn words(&self) -> impl Iterator<Item = Word> {
        let (layer, shape) = (self.layer, self.shape);
        let pages = self.pages.iter().zip(&self.rows).enumerate();
        let words =
            move |(place, ((page, _), rows)): (usize, (&'a (Arc<Page>, usize), &Range<_>))| {
                let mask = &page.layers()[page.index_of(layer)?].mask;
                let (columns, _) = centres_along(page.width(), shape.width());
                let words = move |row| {
                    let of_row = mask.row_words(row, columns.start, columns.end);
                    of_row.map(move |(start, bits)| Word { page: place, row, start, bits })
                };
                Some(rows.clone().flat_map(words))
            };
        pages.filter_map(words).flatten()
    }

    /// From the first to the last row of each page that has such a pixel.
    fn span(&self) -> Vec<Range<usize>> {
        let mut spans = vec![0..0; self.pages.len()];
        for Word { page, row, bits, .. } in self.words() {
            if let (Some(span), true) = (spans.get_mut(page), bits != 0) {
                let first = if span.end == 0 { row } else { span.start };
                *span = first..row + 1;
            }
        }
        spans
    }

    /// The pixels at these ascending ranks.
    fn at_ranks(&self, ranks: &[u64]) -> Vec<Centre> {
        let mut centres = Vec::with_capacity(ranks.len());
        let mut wanted = ranks.iter().copied().peekable();
        let mut passed = 0;
        for Word { page, row, start, mut bits } in self.words() {
            let end = passed + u64::from(bits.count_ones());
            while let Some(rank) = wanted.next_if(|rank| *rank < end) {
                while passed < rank {
                    bits &= bits - 1;
                    passed += 1;
                }
                let column = start as u32 + bits.trailing_zeros();
                centres.push(Centre { page: page as u32, row: row as u32, column });
            }
            passed = end;
            if wanted.peek().is_none() {
                break;
            }
        }
        centres
    }
}

/// The centres of those of a layer's `count` samples that show what it is not: pixels of the other
/// layers, of each as many. The background is left out on both sides: it lies around every pixel,
/// and its own patches show all layers.
///
/// Only on the pages that have the layer, between its first and its last row there. Elsewhere it
/// may just not have been drawn.
fn around_others(own: &Pixels<'_>, rule: &Rule, count: u64, rng: &mut ChaCha8Rng) -> Vec<Centre> {
    if own.layer == Layer::Background {
        return Vec::new();
    }
    let layers = own.pages.iter().flat_map(|(page, _)| page.layers()).map(|layer| layer.layer);
    let mut others: BTreeSet<Layer> = layers.collect();
    others.retain(|other| *other != own.layer && *other != Layer::Background);
    let of_each = count * u64::from(rule.around_others) / 100 / (others.len().max(1) as u64);
    let span = own.span();
    let draw = |other| {
        let pixels = Pixels::new(own.pages, other, rule.shape, span.clone());
        pixels.at_ranks(&choose(of_each.min(pixels.count), pixels.count, rng))
    };
    let mut centres: Vec<Centre> = others.into_iter().flat_map(draw).collect();
    centres.sort_unstable();
    centres
}

#[cfg(test)]
#[path = "patches_tests.rs"]
mod tests;
