//! What a training hands to its report.

use domain::{Layer, Score};
use page_layers::{Page, Segmentation, TrainedLayer, TrainingJob, reduced_preview};
use report::{LayerPart, PagePart, Picture};

/// Longer side of a page in a report, in pixels.
const LONGEST_SIDE: usize = 1200;

/// The parts of the layers. `scores` are those of the same layers, or empty.
pub fn layer_parts<'a>(trained: &'a [TrainedLayer], scores: &[Score]) -> Vec<LayerPart<'a>> {
    let part = |(index, layer): (usize, &'a TrainedLayer)| LayerPart {
        layer: layer.layer,
        samples: layer.samples,
        course: &layer.course,
        time: layer.times.whole,
        score: scores.get(index).copied(),
    };
    trained.iter().enumerate().map(part).collect()
}

/// The pages of a training, with the labels that their inputs had.
pub fn page_parts<'a>(job: &TrainingJob, labels: &'a [Option<String>]) -> Vec<PagePart<'a>> {
    let label = |index: usize| labels.get(index).and_then(Option::as_deref);
    let pages = job.pages().iter().enumerate();
    pages
        .map(|(index, page)| PagePart {
            label: label(index),
            height: page.height(),
            width: page.width(),
        })
        .collect()
}

/// The picture of a page for a report.
///
/// # Errors
/// When the image crate can't compress it.
pub fn picture(
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<Picture, image::ImageError> {
    Picture::new(&reduced_preview(page, layers, found, LONGEST_SIDE))
}
