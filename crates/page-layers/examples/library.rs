//! Trains one network per layer of a page, and cuts another page into layers with them.
//!
//! `library PAGE BACKGROUND LAYER OTHER_PAGE OUT`: BACKGROUND and LAYER are PNGs as large as PAGE
//! that are transparent where the layer is not. The models and the layers of OTHER_PAGE are written
//! to the folder OUT.

#![allow(clippy::print_stdout, reason = "an example that shows its result")]

use std::path::{Path, PathBuf};

use page_layers::{
    JobObserver, Layer, Page, PageInputs, Predictor, Segmentation, TrainingInputs, TrainingJob,
    TrainingSettings, Windows, choose_device, draw_cutout,
};

/// Watches nothing.
struct Quiet;
impl JobObserver for Quiet {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<PathBuf> = std::env::args().skip(1).map(PathBuf::from).collect();
    let [image, background, layer, other, out] =
        paths.try_into().map_err(|_| "five paths are needed")?;
    let layers = vec![(Layer::Numbered(0), layer)];
    let page = PageInputs { label: None, image, regions: None, background, layers };
    let defaults = TrainingSettings::from_local(&serde_json::Map::new())?;
    let settings = TrainingSettings { epochs: 5, max_samples: 100, ..defaults };
    let job = TrainingJob::prepare(&TrainingInputs::of_page(page), &settings)?;
    let (device, _) = choose_device();
    let trained = job.train(&device, &out, &mut Quiet)?;

    let page = Page::of_image(&other)?;
    let predictors = Predictor::of_all(trained.iter().map(|layer| &layer.weights), &device)?;
    let predict = |network: usize, images: &[f32], (height, width)| {
        predictors[network].predict(images, height, width)
    };
    let found = Segmentation::cut(&page, Windows::Large, trained.len(), predict)?;
    for (index, layer) in trained.iter().enumerate() {
        let (pixels, picture) = draw_cutout(&file(&out, layer.layer), &page, index, &found)?;
        picture.finish()?;
        println!("{}: {pixels} pixels", layer.layer.model_name());
    }
    Ok(())
}

fn file(out: &Path, layer: Layer) -> PathBuf {
    out.join(format!("{}.png", layer.input_name()))
}
