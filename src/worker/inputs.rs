//! The inputs of a job once they are downloaded.

use std::io;
use std::path::{Path, PathBuf};

use domain::{InputKind, Inputs, Layer};
use page_layers::{ArchiveError, PageInputs, TrainingInputs, unpack};

/// The inputs that were downloaded into `folder`: the page, the pages in zips, and the models to
/// start from.
pub(super) fn local_inputs(
    inputs: &Inputs,
    folder: &Path,
    limit: u64,
) -> Result<TrainingInputs, ArchiveError> {
    let path = |kind: InputKind| folder.join(kind.file_stem());
    let mut pages = Vec::new();
    if inputs.has_page() {
        let has_regions = inputs.iter().any(|i| i.kind == InputKind::Regions);
        let layers = inputs.layers().filter(|layer| *layer != Layer::Background);
        pages.push(PageInputs {
            label: None,
            image: path(InputKind::Image),
            regions: has_regions.then(|| path(InputKind::Regions)),
            background: path(InputKind::Layer(Layer::Background)),
            layers: layers.map(|layer| (layer, path(InputKind::Layer(layer)))).collect(),
        });
    }
    for archive in inputs.archives() {
        let file = path(archive);
        pages.extend(unpack(archive, &file, &file.with_extension("pages"), limit)?);
    }
    let models = inputs.models().map(|layer| (layer, path(InputKind::Model(layer)))).collect();
    Ok(TrainingInputs { pages, models })
}

/// A private directory, on the node's own disk if there is one; it is removed at the end.
pub(super) fn scratch() -> io::Result<tempfile::TempDir> {
    let of_slurm = std::env::var_os("SLURM_TMPDIR").map(PathBuf::from).filter(|d| d.is_dir());
    tempfile::Builder::new().prefix("hpc-trainer-").tempdir_in(of_slurm.unwrap_or_else(std::env::temp_dir))
}
