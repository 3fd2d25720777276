//! What was found on a page beside what is drawn on it: figures, confusion, and a picture of the
//! errors.

use std::path::Path;

use image::ExtendedColorType;

use crate::look::picture::{Picture, PictureError};
use crate::look::segment::Segmentation;
use crate::page::page::Page;
use domain::{Layer, Score, layer_colour};

/// How much of the page is left in the picture of the errors where nothing is wrong; the rest is
/// white.
const FADED: f32 = 0.3;

/// The colour of a wrong pixel that was given to the background, which has no colour of its own.
const BACKGROUND: [u8; 3] = [0, 0, 0];

/// How a page was cut, beside what is drawn on it, inside the selected regions.
///
/// A pixel is given to one layer only. It may be drawn in several layers, or in none: it is right
/// when it is drawn in the layer that it was given to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The layers that have a model, in the order of the models.
    pub models: Vec<Layer>,
    /// All layers that are drawn or have a model, in their order.
    pub layers: Vec<LayerEvaluation>,
    /// How many of the pixels that are drawn in no layer each model got.
    pub undrawn: Vec<u64>,
    /// Pixels inside the selected regions.
    pub pixels: u64,
    /// How many of them are right.
    pub right: u64,
}

/// A layer in an [`Evaluation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEvaluation {
    /// Which layer.
    pub layer: Layer,
    /// Whether there is a model for it.
    pub has_model: bool,
    /// Whether the page has it.
    pub is_drawn: bool,
    /// How well it was found.
    pub score: Score,
    /// How many of the pixels that are drawn in it each model got.
    pub given: Vec<u64>,
}

impl Evaluation {
    /// Compares `found` with the layers of `page`; `models` are the layers of `found` in their
    /// order.
    pub fn new(page: &Page, models: &[Layer], found: &Segmentation) -> Self {
        let mut all: Vec<Layer> = models.to_vec();
        all.extend(page.layers().iter().map(|drawn| drawn.layer));
        all.sort();
        all.dedup();
        let masks: Vec<_> = all
            .iter()
            .map(|layer| page.index_of(*layer).map(|index| &page.layers()[index].mask))
            .collect();
        let own: Vec<_> =
            all.iter().map(|layer| models.iter().position(|model| model == layer)).collect();
        let mut layers: Vec<_> = all
            .iter()
            .zip(masks.iter().zip(&own))
            .map(|(layer, (mask, own))| LayerEvaluation {
                layer: *layer,
                has_model: own.is_some(),
                is_drawn: mask.is_some(),
                score: Score::default(),
                given: vec![0; models.len()],
            })
            .collect();
        let (mut undrawn, mut pixels, mut right) = (vec![0; models.len()], 0, 0);
        for row in 0..page.height() {
            for column in 0..page.width() {
                if !page.regions().get(row, column) {
                    continue;
                }
                let label = found.label(row, column);
                let (mut is_drawn, mut is_right) = (false, false);
                for ((layer, mask), own) in layers.iter_mut().zip(&masks).zip(&own) {
                    let drawn = mask.is_some_and(|mask| mask.get(row, column));
                    let given = *own == Some(label);
                    layer.score.hits += u64::from(drawn && given);
                    layer.score.extra += u64::from(given && !drawn);
                    layer.score.missed += u64::from(drawn && !given);
                    layer.given[label] += u64::from(drawn);
                    is_drawn |= drawn;
                    is_right |= drawn && given;
                }
                undrawn[label] += u64::from(!is_drawn);
                right += u64::from(is_right);
                pixels += 1;
            }
        }
        Self { models: models.to_vec(), layers, undrawn, pixels, right }
    }

    /// Mean F1 of the layers that are drawn and have a model; `None` when there is no such layer.
    pub fn mean_f1(&self) -> Option<f64> {
        let scores: Vec<f64> = self
            .layers
            .iter()
            .filter(|layer| layer.has_model && layer.is_drawn)
            .map(|layer| layer.score.f1())
            .collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }
}

/// Draws the page faded, and on it each wrong pixel in the colour of the layer that it was given
/// to; black where that is the background. `models` are the layers of `found` in their order.
///
/// # Errors
///
/// When the file can't be written.
pub fn draw_errors(
    path: &Path,
    page: &Page,
    models: &[Layer],
    found: &Segmentation,
) -> Result<Picture, PictureError> {
    let pixels = errors(page, models, found);
    Picture::draw(path, &pixels, page.width(), page.height(), ExtendedColorType::Rgb8)
}

/// The pixels of [`draw_errors`], RGB.
fn errors(page: &Page, models: &[Layer], found: &Segmentation) -> Vec<u8> {
    let faded = |value: u8| (FADED * f32::from(value) + (1.0 - FADED) * 255.0).round() as u8;
    let colours: Vec<_> = models
        .iter()
        .map(|layer| layer_colour(*layer).map_or(BACKGROUND, |(_, colour)| colour))
        .collect();
    let masks: Vec<_> = models
        .iter()
        .map(|layer| page.index_of(*layer).map(|index| &page.layers()[index].mask))
        .collect();
    let mut rgb = Vec::with_capacity(page.bgr().len());
    for (at, bgr) in page.bgr().chunks_exact(3).enumerate() {
        let (row, column) = (at / page.width(), at % page.width());
        let label = found.label(row, column);
        let right = masks[label].is_some_and(|mask| mask.get(row, column));
        if page.regions().get(row, column) && !right {
            rgb.extend(colours[label]);
        } else {
            rgb.extend([bgr[2], bgr[1], bgr[0]].map(faded));
        }
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::segment::Windows;
    use crate::page::decode::Input;
    use crate::page::mask::Mask;
    use crate::page::page::PageLayer;
    use domain::InputKind;

    /// What each of the pixels of a page of 5×2 was drawn as and given to. The layers are the
    /// background, 0 and 2; there are models for the background, 0 and 3.
    ///
    /// | column | 0 | 1 | 2 | 3 | 4 |
    /// |---|---|---|---|---|---|
    /// | drawn, row 0 | background | background | 0 | 0 | nothing |
    /// | given, row 0 | background | 0 | 0 | background | 0 |
    /// | drawn, row 1 | 0 and 2 | 2 | 2 | background | 0 |
    /// | given, row 1 | 0 | background | 3 | background | 0 |
    fn evaluated() -> (Page, Vec<Layer>, Segmentation) {
        let drawn = |layer: Layer, pixels: &'static [(usize, usize)]| PageLayer {
            layer,
            input: Input { kind: InputKind::Layer(layer), path: "x.png".into() },
            mask: Mask::from_fn(5, 2, |row, column| pixels.contains(&(row, column))),
        };
        let layers = vec![
            drawn(Layer::Background, &[(0, 0), (0, 1), (1, 3)]),
            drawn(Layer::Numbered(0), &[(0, 2), (0, 3), (1, 0), (1, 4)]),
            drawn(Layer::Numbered(2), &[(1, 0), (1, 1), (1, 2)]),
        ];
        // The blue byte names the model that gets the pixel.
        let given = [0, 1, 1, 0, 1, 1, 0, 2, 0, 1];
        let bgr = given.iter().flat_map(|model| [255 - 10 * model, 100, 200]).collect();
        let page = Page::from_parts(5, 2, bgr, layers);
        let models = vec![Layer::Background, Layer::Numbered(0), Layer::Numbered(3)];
        let predict = |network: usize, images: &[f32], _| {
            let own = 10.0 * network as f32 / 255.0;
            let sure = |bgr: &[f32]| if (bgr[0] - own).abs() < 0.01 { 0.9 } else { 0.1 };
            Ok::<_, ()>(images.chunks_exact(3).map(sure).collect())
        };
        let found = Segmentation::cut(&page, Windows::Large, 3, predict).unwrap();
        (page, models, found)
    }

    #[test]
    fn figures_are_those_counted_by_hand() {
        let (page, models, found) = evaluated();
        let evaluation = Evaluation::new(&page, &models, &found);
        let layer =
            |layer, has_model, is_drawn, [hits, extra, missed]: [u64; 3], given: [u64; 3]| {
                let score = Score { hits, extra, missed };
                LayerEvaluation { layer, has_model, is_drawn, score, given: given.to_vec() }
            };
        let expected = [
            // Right: (0, 0), (1, 3); taken from others: (0, 3), (1, 1); lost: (0, 1).
            layer(Layer::Background, true, true, [2, 2, 1], [2, 1, 0]),
            // Right: (0, 2), (1, 0), (1, 4); taken: (0, 1), (0, 4); lost: (0, 3).
            layer(Layer::Numbered(0), true, true, [3, 2, 1], [1, 3, 0]),
            // It has no model: all of its pixels are lost.
            layer(Layer::Numbered(2), false, true, [0, 0, 3], [1, 1, 1]),
            // It is not drawn: all that it got is taken from others.
            layer(Layer::Numbered(3), true, false, [0, 1, 0], [0, 0, 0]),
        ];
        assert_eq!(evaluation.layers, expected);
        assert_eq!(evaluation.undrawn, [0, 1, 0]);
        assert_eq!((evaluation.pixels, evaluation.right), (10, 5));
        // 2·2/(4+3) and 2·3/(6+3).
        let mean = evaluation.mean_f1().unwrap();
        assert!((mean - f64::midpoint(4.0 / 7.0, 6.0 / 9.0)).abs() < 1e-12, "{mean}");
        for (index, layer) in models.iter().enumerate() {
            let scored = evaluation.layers.iter().find(|one| one.layer == *layer).unwrap().score;
            assert_eq!(found.score(&page, index, *layer), scored, "as the report counts it");
        }
    }

    #[test]
    fn wrong_pixels_have_the_colour_of_the_layer_that_got_them() {
        let (page, models, found) = evaluated();
        let rgb = errors(&page, &models, &found);
        let pixel = |row: usize, column: usize| &rgb[3 * (5 * row + column)..][..3];
        let [blue, purple] = [0, 3].map(|number| layer_colour(Layer::Numbered(number)).unwrap().1);
        // 0.3 · 200 + 178.5, 0.3 · 100 + 178.5, 0.3 · 255 + 178.5
        assert_eq!(pixel(0, 0), [239, 209, 255]);
        assert_eq!((pixel(0, 1), pixel(0, 4)), (&blue[..], &blue[..]));
        assert_eq!((pixel(0, 3), pixel(1, 1)), (&[0; 3][..], &[0; 3][..]));
        assert_eq!(pixel(1, 2), purple);
        assert!(pixel(1, 0)[0] > 200, "drawn in two layers, and given to one of them");
    }
}
