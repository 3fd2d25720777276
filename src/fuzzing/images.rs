//! Pages and layers, alone and in zips.

use std::fs;
use std::path::Path;

use super::assert_shown;
use domain::{InputKind, Layer};
use page_layers::{Input, decode_bytes, unpack};

/// Most pixels of an image here; the product accepts 150 megapixels, by the same rule.
const PIXELS: u64 = 1 << 20;

/// Most bytes of one image in a zip.
const LIMIT: u64 = 4096;

/// An image file.
pub(super) fn image(data: &[u8]) {
    let input = Input { kind: InputKind::Layer(Layer::Numbered(3)), path: "layer_3".into() };
    let (page, mask) = match decode_bytes(&input, data, PIXELS) {
        Ok(decoded) => decoded,
        Err(error) => return assert_shown(&error.to_string()),
    };
    assert!(page.width > 0 && page.height > 0 && (page.width * page.height) as u64 <= PIXELS);
    assert_eq!(page.bytes.len(), 3 * page.width * page.height);
    let Some(mut mask) = mask else { return };
    // The page is turned as its EXIF data says; the layer is not.
    let (size, turned) = ((mask.width(), mask.height()), (mask.height(), mask.width()));
    assert!([size, turned].contains(&(page.width, page.height)));
    let counted = (0..mask.height())
        .map(|row| (0..mask.width()).filter(|column| mask.get(row, *column)).count() as u64)
        .sum::<u64>();
    assert_eq!(mask.count(), counted);
    assert!(!mask.get(mask.height(), 0) && !mask.get(0, mask.width()));
    let before = mask.clone();
    mask.intersect(&before);
    assert_eq!(mask, before);
}

/// A zip of pages.
pub(super) fn archive(data: &[u8]) {
    let outer = tempfile::tempdir().unwrap();
    let (file, folder) = (outer.path().join("sample"), outer.path().join("pages"));
    fs::write(&file, data).unwrap();
    for kind in [InputKind::Sample(1), InputKind::MultiSample] {
        let pages = unpack(kind, &file, &folder, LIMIT);
        let mut bytes = 0;
        let files = files_in(&folder, &mut bytes);
        // One file may have been written up to one piece beyond the limit.
        assert!(bytes <= 4 * LIMIT, "{bytes} bytes were unpacked");
        assert!(
            fs::read_dir(outer.path()).unwrap().count() <= 2,
            "something lies beside the folder"
        );
        match pages {
            Ok(pages) => {
                assert!(
                    !pages.is_empty()
                        && pages.len() <= if kind == InputKind::MultiSample { 100 } else { 1 }
                );
                let mut named = 0;
                for page in &pages {
                    assert!(!page.layers.is_empty());
                    let layers = page.layers.iter().map(|(_, path)| path);
                    for path in [&page.image, &page.background]
                        .into_iter()
                        .chain(&page.regions)
                        .chain(layers)
                    {
                        assert!(path.starts_with(&folder) && path.is_file(), "{}", path.display());
                        named += 1;
                    }
                    page.label.iter().for_each(|label| assert_shown(label));
                }
                assert_eq!(named, files);
            }
            Err(error) => {
                assert!(error.is_input(), "{error}");
                assert_shown(&error.to_string());
            }
        }
        let _ = fs::remove_dir_all(&folder); // it may not be there
    }
}

/// Counts the files in a folder and its folders; each file has one of our own names.
fn files_in(folder: &Path, bytes: &mut u64) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (kind, name) = (entry.file_type().unwrap(), entry.file_name().into_string().unwrap());
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name:?}");
        if kind.is_dir() {
            count += files_in(&entry.path(), bytes);
        } else {
            assert!(kind.is_file());
            *bytes += entry.metadata().unwrap().len();
            count += 1;
        }
    }
    count
}
