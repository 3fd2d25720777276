//! The pages of a training as its models see them.

use domain::Score;

use crate::fit::outcome::TrainedLayer;
use crate::gpu::device::Device;
use crate::job::TrainingJob;
use crate::look::predict::Predictor;
use crate::look::segment::{Segmentation, Windows};
use crate::net::error::NetworkError;
use crate::page::page::Page;

/// Predicts the first `pages` pages with the models that were trained on them, and hands each to
/// `seen` with the number of the page, from 0. Returns how well each layer was found on all of
/// these pages together. `go_on` is asked before each network looks through a window.
///
/// # Errors
///
/// The first error of `go_on` or `seen`, or a network that can't be computed.
pub fn look<E: From<NetworkError>>(
    job: &TrainingJob,
    trained: &[TrainedLayer],
    device: &Device,
    pages: usize,
    go_on: &dyn Fn() -> Result<(), E>,
    mut seen: impl FnMut(usize, &Page, &Segmentation) -> Result<(), E>,
) -> Result<Vec<Score>, E> {
    let mut scores = vec![Score::default(); trained.len()];
    let predictors = Predictor::of_all(trained.iter().map(|layer| &layer.weights), device)?;
    for (number, page) in job.pages().iter().enumerate().take(pages) {
        let windows = Windows::Large;
        let see = |network: usize, images: &[f32], sides| {
            go_on()?;
            Ok::<_, E>(predictors[network].predict_within(images, sides, windows.rim())?)
        };
        let found = Segmentation::cut(page, windows, trained.len(), see)?;
        seen(number, page, &found)?;
        for (index, (score, layer)) in scores.iter_mut().zip(trained).enumerate() {
            *score += found.score(page, index, layer.layer);
        }
    }
    Ok(scores)
}
