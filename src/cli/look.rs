//! The pages of a training as its models see them.

use crate::train::{
    Device, NetworkError, Page, Predictor, Score, Segmentation, TrainedLayer, TrainingJob, reduced_preview,
};
use crate::wire::Layer;

use super::report_html::Picture;

/// Longer side of a page in a report, in pixels.
const LONGEST_SIDE: usize = 1200;

/// Predicts the first `pages` pages with the models that were trained on them, and hands each to `seen` with the number of
/// the page, from 0; returns how well each layer was found, on all of them together. `go_on` is asked between any two
/// batches of windows.
///
/// # Errors
/// The first error of `go_on` or `seen`, or a network that can't be computed.
pub(super) fn look<E: From<NetworkError>>(
    job: &TrainingJob,
    trained: &[TrainedLayer],
    device: &Device,
    (pages, batch): (usize, usize),
    go_on: &dyn Fn() -> Result<(), E>,
    mut seen: impl FnMut(usize, &Page, &Segmentation) -> Result<(), E>,
) -> Result<Vec<Score>, E> {
    let mut scores = vec![Score::default(); trained.len()];
    for (number, page) in job.pages().iter().enumerate().take(pages) {
        let mut found = Segmentation::new(page);
        for layer in trained {
            let predictor = Predictor::new(&layer.weights, device)?;
            found.add_layer(page, job.shape(), batch, |images| {
                go_on()?;
                Ok::<_, E>(predictor.predict(images, job.shape().height(), job.shape().width())?)
            })?;
        }
        seen(number, page, &found)?;
        for (index, (score, layer)) in scores.iter_mut().zip(trained).enumerate() {
            *score += found.score(page, index, layer.layer);
        }
    }
    Ok(scores)
}

/// The picture of a page for a report.
///
/// # Errors
/// When the image crate can't compress it.
pub(super) fn picture(
    page: &Page,
    layers: &[Layer],
    found: &Segmentation,
) -> Result<Picture, image::ImageError> {
    Picture::new(&reduced_preview(page, layers, found, LONGEST_SIDE))
}
