//! The files of a page: which of them the decoder takes, and what the store keeps of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base::files::Replace;
use domain::Layer;
use page_layers::{Page, PageError, PageInputs};
use thiserror::Error;

use crate::store::{NewPage, Objects, PageFile, Part};
use crate::thumbnail;

/// The small picture of a page, in the folder where it is drawn.
pub(crate) const THUMBNAIL: &str = "thumbnail.jpg";

/// The files of a page, by what they are.
pub(crate) type Files = BTreeMap<Part, PathBuf>;

/// Why the files of a page can't be kept.
#[derive(Debug, Error)]
pub(crate) enum KeepError {
    /// It is no page that can be trained.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What the decoder wants; `None` without an image, a background or a layer.
pub(crate) fn inputs(files: &Files) -> Option<PageInputs> {
    let file = |part: Part| files.get(&part).cloned();
    let layers: Vec<_> = (0..=9)
        .filter_map(|number| Some((Layer::Numbered(number), file(Part::Layer(number))?)))
        .collect();
    let (image, background) = (file(Part::Image)?, file(Part::Background)?);
    let regions = file(Part::Regions);
    (!layers.is_empty()).then_some(PageInputs { label: None, image, regions, background, layers })
}

/// Decodes a page as the trainer does, and keeps its files and a small picture of it, which is
/// drawn in `scratch`.
///
/// # Errors
/// [`KeepError`].
pub(crate) fn keep(
    objects: &Objects,
    inputs: &PageInputs,
    files: &Files,
    name: &str,
    scratch: &Path,
) -> Result<NewPage, KeepError> {
    let page = Page::load(inputs)?;
    let small = scratch.join(THUMBNAIL);
    let failed = |path: &Path, source| KeepError::File { path: path.to_owned(), source };
    // A file of its own: one that lies there may be another name of an object.
    let drawn = Replace::NOTE.write(&small, &thumbnail::draw(&page));
    drawn.map_err(|error| failed(&small, error))?;
    let keep = |path: &Path| objects.keep(path).map_err(|error| failed(path, error));
    let mut kept = Vec::with_capacity(files.len());
    for (part, path) in files {
        let layer = part.layer();
        let found = page.layers().iter().find(|found| Some(found.layer) == layer);
        kept.push(PageFile {
            part: *part,
            file: format!("{}.{}", part.name(), ending(path)),
            object: keep(path)?,
            pixels: found.map(|layer| layer.mask.count()),
        });
    }
    Ok(NewPage {
        name: base::text::printable(name, 200),
        width: page.width() as u64,
        height: page.height() as u64,
        files: kept,
        thumbnail: keep(&small)?,
    })
}

/// The ending of a file's name, by its first bytes.
pub(crate) fn ending(path: &Path) -> &'static str {
    let mut first = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut first));
    if read.is_ok() && first == [0xff, 0xd8] { "jpg" } else { "png" }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use image::{Rgba, RgbaImage};

    use super::*;
    use crate::store::{DataFolder, Store};

    #[test]
    fn a_second_page_of_a_folder_leaves_what_is_kept_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::at(&folder.path().join("data")).unwrap();
        let store = Store::open(&data).unwrap();
        let thumbnail_of = |shade: u8| {
            let draw = |part: Part| {
                let path = folder.path().join(format!("{}-{shade}.png", part.name()));
                let picture = RgbaImage::from_pixel(64, 48, Rgba([shade, shade, shade, 255]));
                picture.save(&path).unwrap();
                (part, path)
            };
            let files = Files::from([Part::Image, Part::Background, Part::Layer(0)].map(draw));
            let inputs = inputs(&files).unwrap();
            let page = keep(store.objects(), &inputs, &files, "page", folder.path()).unwrap();
            page.thumbnail
        };
        let first = thumbnail_of(200);
        let object = data.objects().join(&first.sha256[..2]).join(&first.sha256);
        let now = || (fs::metadata(&object).unwrap().ino(), fs::read(&object).unwrap());
        let before = now();
        assert_ne!(thumbnail_of(20), first);
        assert!(now() == before, "the object was written to");
    }
}
