//! Pages in a zip, as Rodan's newer trainer sends them: `Sample N` holds one page,
//! `Multi-Sample Zip` a folder for each.
//!
//! A zip comes from a stranger. Names in it only select from a fixed set of files and are used for
//! nothing else; sizes are believed only after the bytes have been counted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zip::{CompressionMethod, ZipArchive};

use crate::page::page::PageInputs;
use base::text::printable;
use domain::{InputKind, Layer};

/// Most files in a zip: 100 pages have at most 1,600; the rest is for folders and hidden files.
const MAX_FILES: usize = 10_000;

/// Most pages in a zip. All are held in memory during the training.
const MAX_PAGES: usize = 100;

/// All files of a zip together may have this many times the bytes that one file may have.
const MAX_TOTAL: u64 = 4;

/// A zip that can't be used.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file is not a zip, or a damaged one.
    #[error("the input \"{archive}\" is not a zip that can be read ({detail}); make it again")]
    Zip {
        /// Which zip.
        archive: InputKind,
        /// What the reader says.
        detail: String,
    },
    /// A file in the zip that does not belong to a page.
    #[error("the input \"{archive}\": {name} {problem}")]
    Entry {
        /// Which zip.
        archive: InputKind,
        /// Its name in the zip, made printable.
        name: String,
        /// What is wrong with it, and what to change.
        problem: String,
    },
    /// More files, pages or bytes than the limit.
    #[error(
        "the input \"{archive}\" has more than {limit}; send the pages in several zips, or fewer \
        of them"
    )]
    TooLarge {
        /// Which zip.
        archive: InputKind,
        /// The limit and its unit.
        limit: String,
    },
    /// A page lacks an image, or there is no page at all.
    #[error("the input \"{archive}\": {problem}")]
    Page {
        /// Which zip.
        archive: InputKind,
        /// What is missing, and what to change.
        problem: String,
    },
    /// The images can't be written on the compute node.
    #[error("the input \"{archive}\" can't be unpacked on the compute node: {source}")]
    Store {
        /// Which zip.
        archive: InputKind,
        /// What the system says.
        source: io::Error,
    },
}

impl ArchiveError {
    /// True when the zip is at fault, and not the machine.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Store { .. })
    }
}

/// Unpacks the images of the zip `file` into the new `folder`, and returns its pages in the order
/// of their folders' names. `limit` is the most bytes that one image may have.
///
/// The images of a page have Rodan's names ([`InputKind::from_image_name`]), with any extension,
/// and lie beside each other, at the top or in a folder. Hidden files and `__MACOSX` are ignored.
///
/// # Errors
///
/// [`ArchiveError`], with the name of the zip and of what can't be used in it.
pub fn unpack(
    archive: InputKind,
    file: &Path,
    folder: &Path,
    limit: u64,
) -> Result<Vec<PageInputs>, ArchiveError> {
    let mut unpacker = Unpacker { archive, limit, left: limit.saturating_mul(MAX_TOTAL) };
    let damaged =
        |error: &dyn std::fmt::Display| ArchiveError::Zip { archive, detail: error.to_string() };
    let reader =
        BufReader::new(File::open(file).map_err(|source| ArchiveError::Store { archive, source })?);
    let mut zip = ZipArchive::new(reader).map_err(|error| damaged(&error))?;
    if zip.len() > MAX_FILES {
        return Err(ArchiveError::TooLarge { archive, limit: format!("{MAX_FILES} files") });
    }
    let mut found: BTreeMap<String, BTreeMap<InputKind, usize>> = BTreeMap::new();
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|error| damaged(&error))?;
        let Some((place, kind)) = unpacker.place_of(&entry)? else { continue };
        if found.entry(place).or_default().insert(kind, index).is_some() {
            return Err(unpacker
                .refuse(&name_of(&entry), "is there twice, under two of its names; leave one"));
        }
    }
    if found.is_empty() {
        let problem = "there is no page in it; a page needs Image, rgba PNG - Background layer and \
            rgba PNG - Layer 0";
        return Err(ArchiveError::Page { archive, problem: problem.into() });
    }
    let most = if archive == InputKind::MultiSample { MAX_PAGES } else { 1 };
    if found.len() > most {
        let limit = if most == 1 { "one page".into() } else { format!("{most} pages") };
        return Err(ArchiveError::TooLarge { archive, limit });
    }
    let mut pages = Vec::with_capacity(found.len());
    for (number, (place, images)) in found.iter().enumerate() {
        let name = if place.is_empty() {
            String::new()
        } else {
            format!(", folder {}", printable(place, 60))
        };
        let label = format!("{archive}{name}");
        let directory = folder.join(format!("page_{number}"));
        fs::create_dir_all(&directory).map_err(|source| ArchiveError::Store { archive, source })?;
        let mut paths = BTreeMap::new();
        for (kind, index) in images {
            let path = directory.join(kind.file_stem());
            unpacker.write(&mut zip, *index, &path)?;
            paths.insert(*kind, path);
        }
        pages.push(page(label, paths).map_err(|missing| ArchiveError::Page {
            archive,
            problem: format!("a page{name} has no {missing}; add it under this name"),
        })?);
    }
    Ok(pages)
}

/// The images as a page, or the name of the image that is missing.
fn page(
    label: String,
    mut paths: BTreeMap<InputKind, PathBuf>,
) -> Result<PageInputs, &'static str> {
    let image = paths.remove(&InputKind::Image).ok_or("Image")?;
    let background =
        paths.remove(&InputKind::Layer(Layer::Background)).ok_or("rgba PNG - Background layer")?;
    let regions = paths.remove(&InputKind::Regions);
    let layer = |(kind, path)| match kind {
        InputKind::Layer(layer) => Some((layer, path)),
        _ => None,
    };
    let layers: Vec<_> = paths.into_iter().filter_map(layer).collect();
    if layers.is_empty() {
        return Err("rgba PNG - Layer 0");
    }
    Ok(PageInputs { label: Some(label), image, regions, background, layers })
}

/// An entry's name. A name that can't be decoded is refused like any unknown name.
fn name_of<R: io::Read + ?Sized>(entry: &zip::read::ZipFile<'_, R>) -> String {
    entry.name().map_or_else(|_| "?".into(), std::borrow::Cow::into_owned)
}

/// The name of a method by which a file is packed, where it can't be unpacked here.
fn unread_method(method: CompressionMethod) -> Option<&'static str> {
    const DEFLATE64: CompressionMethod = CompressionMethod::DEFLATE64;
    const BZIP2: CompressionMethod = CompressionMethod::BZIP2;
    const LZMA: CompressionMethod = CompressionMethod::LZMA;
    const ZSTD: CompressionMethod = CompressionMethod::ZSTD;
    const XZ: CompressionMethod = CompressionMethod::XZ;
    match method {
        CompressionMethod::Stored | CompressionMethod::Deflated => None,
        DEFLATE64 => Some("Deflate64"),
        BZIP2 => Some("bzip2"),
        LZMA => Some("LZMA"),
        ZSTD => Some("Zstandard"),
        XZ => Some("xz"),
        _ => Some("a rare method"),
    }
}

struct Unpacker {
    archive: InputKind,
    /// Most bytes of one file.
    limit: u64,
    /// Bytes that may still be written.
    left: u64,
}

impl Unpacker {
    fn refuse(&self, name: &str, problem: &str) -> ArchiveError {
        let name = format!("{:?}", printable(name, 80));
        ArchiveError::Entry { archive: self.archive, name, problem: problem.into() }
    }

    /// The folder of the page that an entry belongs to, and which image it is; `None` for what is
    /// not an image.
    fn place_of<R: io::Read + ?Sized>(
        &self,
        entry: &zip::read::ZipFile<'_, R>,
    ) -> Result<Option<(String, InputKind)>, ArchiveError> {
        let name = &*name_of(entry);
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        let inner = name.strip_suffix('/').unwrap_or(name);
        if inner.split('/').any(odd) || name.contains(['\\', '\0']) || inner.contains(':') {
            return Err(
                self.refuse(name, "is no name of a file inside the zip; make the zip again")
            );
        }
        let parts: Vec<&str> = inner.split('/').collect();
        if entry.is_dir() || parts.iter().any(|part| part.starts_with('.') || *part == "__MACOSX") {
            return Ok(None);
        }
        if entry.is_symlink() {
            return Err(self.refuse(name, "is a link; put the file itself into the zip"));
        }
        if entry.encrypted() {
            return Err(self.refuse(name, "is encrypted; make the zip without a password"));
        }
        if let Some(method) = unread_method(entry.compression()) {
            let problem = format!(
                "is packed by {method}, which is not read here; pack the page by Deflate, the \
                common method of zips, or without compression"
            );
            return Err(self.refuse(name, &problem));
        }
        let (folders, file) = parts.split_at(parts.len() - 1);
        let stem = file[0].rsplit_once('.').map_or(file[0], |(stem, _)| stem);
        match InputKind::from_image_name(stem) {
            Some(kind) => Ok(Some((folders.join("/"), kind))),
            None => Err(self.refuse(
                name,
                "is no image of a page; name them Image, rgba PNG - Selected regions, rgba PNG - \
                Background layer and rgba PNG - Layer 0 to 9",
            )),
        }
    }

    /// Writes one file, counting its bytes: the size that the zip declares may be false.
    fn write<R: io::Read + io::Seek>(
        &mut self,
        zip: &mut ZipArchive<R>,
        index: usize,
        path: &Path,
    ) -> Result<(), ArchiveError> {
        let archive = self.archive;
        let damaged = |error: &dyn std::fmt::Display| ArchiveError::Zip {
            archive,
            detail: error.to_string(),
        };
        let entry = zip.by_index(index).map_err(|error| damaged(&error))?;
        let name = name_of(&entry);
        let most = self.limit.min(self.left);
        let mut out =
            File::create_new(path).map_err(|source| ArchiveError::Store { archive, source })?;
        let mut bytes = entry.take(most.saturating_add(1));
        let mut piece = vec![0; 1 << 16];
        let mut written = 0u64;
        loop {
            // A read fails where the data are damaged, a write where the disk is full: these are
            // two different errors.
            let length = bytes.read(&mut piece).map_err(|error| damaged(&error))?;
            if length == 0 {
                break;
            }
            written += length as u64;
            if written > most && self.left < self.limit {
                let total = self.limit.saturating_mul(MAX_TOTAL);
                return Err(ArchiveError::TooLarge {
                    archive,
                    limit: format!("{total} bytes of images"),
                });
            }
            if written > most {
                let problem =
                    format!("has more bytes than are taken ({most}); make the image smaller");
                return Err(self.refuse(&name, &problem));
            }
            io::Write::write_all(&mut out, &piece[..length])
                .map_err(|source| ArchiveError::Store { archive, source })?;
        }
        self.left -= written;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write as _};

    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    const PAGE: [&str; 4] = [
        "Image.png",
        "rgba PNG - Selected regions.png",
        "rgba PNG - Layer 0 (Background).png",
        "rgba PNG - Layer 1.png",
    ];

    type Writer = ZipWriter<Cursor<Vec<u8>>>;

    fn put(zip: &mut Writer, name: &str, bytes: &[u8]) {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }

    /// Unpacks a zip; each file may have 1000 bytes. Whatever is outside the pages' folder must
    /// stay unchanged.
    fn unpacked(archive: InputKind, bytes: &[u8]) -> Result<Vec<PageInputs>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("in/sample_1");
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::write(&file, bytes).unwrap();
        let pages = unpack(archive, &file, &folder.path().join("in/pages"), 1000);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for page in pages.iter().flatten() {
            for path in [&page.image, &page.background]
                .into_iter()
                .chain(page.layers.iter().map(|(_, p)| p))
            {
                assert!(path.starts_with(folder.path().join("in/pages")), "{}", path.display());
                assert!(fs::metadata(path).unwrap().len() > 0);
            }
        }
        pages.map_err(|error| error.to_string())
    }

    fn made(fill: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        fill(&mut zip);
        zip.finish().unwrap().into_inner()
    }

    fn of_names(names: &[&str]) -> Vec<u8> {
        made(|zip| names.iter().for_each(|name| put(zip, name, name.as_bytes())))
    }

    #[track_caller]
    fn refused(archive: InputKind, bytes: &[u8], parts: &[&str]) {
        let error = unpacked(archive, bytes).unwrap_err();
        for part in parts.iter().chain([&archive.to_string().as_str()]) {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn a_sample_is_a_page_at_the_top_or_in_a_folder() {
        let pages = unpacked(InputKind::Sample(3), &of_names(&PAGE)).unwrap();
        assert_eq!((pages.len(), pages[0].label.as_deref()), (1, Some("Sample 3")));
        assert_eq!(pages[0].layers[0].0, Layer::Numbered(1));
        assert!(pages[0].regions.is_some());
        let inner = PAGE.map(|name| format!("My page/{name}"));
        let hidden = ["__MACOSX/My page/._Image.png", "My page/.DS_Store"];
        let names: Vec<_> = inner.iter().map(String::as_str).chain(hidden).collect();
        let pages = unpacked(InputKind::Sample(3), &of_names(&names)).unwrap();
        assert_eq!(pages[0].label.as_deref(), Some("Sample 3, folder My page"));
    }

    #[test]
    fn a_multi_sample_zip_has_a_page_in_each_folder() {
        let names: Vec<_> = ["zip2", "zip1"]
            .iter()
            .flat_map(|folder| PAGE.map(|name| format!("{folder}/{name}")))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let pages = unpacked(InputKind::MultiSample, &of_names(&names)).unwrap();
        let labels: Vec<_> = pages.iter().filter_map(|page| page.label.as_deref()).collect();
        assert_eq!(labels, ["Multi-Sample Zip, folder zip1", "Multi-Sample Zip, folder zip2"]);
        refused(InputKind::Sample(1), &of_names(&names), &["more than one page"]);
    }

    #[test]
    fn odd_names_are_refused() {
        for name in
            ["../Image.png", "/etc/Image.png", "a/../../Image.png", "a\\Image.png", "c:Image.png"]
        {
            let names = [&PAGE[1..], &[name]].concat();
            refused(InputKind::Sample(1), &of_names(&names), &["no name of a file inside the zip"]);
        }
        for name in ["rgba PNG - Layer 10.png", "notes.txt", "Model 0.hdf5", "\u{1b}[31m.png"] {
            let names = [&PAGE[..], &[name]].concat();
            refused(InputKind::Sample(1), &of_names(&names), &["is no image of a page"]);
        }
        let escape = unpacked(InputKind::Sample(1), &of_names(&["\u{1b}[31m.png"])).unwrap_err();
        assert!(!escape.contains('\u{1b}'));
        let link = made(|zip| {
            zip.add_symlink("Image.png", "/etc/passwd", SimpleFileOptions::default()).unwrap()
        });
        refused(InputKind::Sample(1), &link, &["is a link"]);
    }

    #[test]
    fn a_method_that_is_not_read_is_named_with_one_that_is() {
        for (method, name) in
            [(9u16, "Deflate64"), (12, "bzip2"), (14, "LZMA"), (93, "Zstandard"), (6, "rare")]
        {
            let mut zip = of_names(&PAGE);
            // The method stands at the same place behind the signature of a file, and of its entry
            // in the directory.
            for (signature, offset) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
                let at = zip.windows(4).position(|four| four == signature).unwrap() + offset;
                assert_eq!(zip[at..at + 2], [8, 0]);
                zip[at..at + 2].copy_from_slice(&method.to_le_bytes());
            }
            refused(
                InputKind::Sample(1),
                &zip,
                &["Image.png", name, "pack the page by Deflate, the common method"],
            );
        }
    }

    #[test]
    fn a_page_needs_its_images_once() {
        for (missing, name) in
            [(0, "Image"), (2, "rgba PNG - Background layer"), (3, "rgba PNG - Layer 0")]
        {
            let names: Vec<_> =
                PAGE.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, n)| *n).collect();
            refused(InputKind::Sample(1), &of_names(&names), &["has no", name]);
        }
        let twice = [&PAGE[..], &["rgba PNG - Background layer.png"]].concat();
        refused(InputKind::Sample(1), &of_names(&twice), &["is there twice"]);
        refused(InputKind::MultiSample, &of_names(&[]), &["there is no page in it"]);
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let of_size = |size: usize| {
            made(|zip| {
                PAGE[1..].iter().for_each(|name| put(zip, name, b"x"));
                put(zip, PAGE[0], &vec![0; size]);
            })
        };
        assert_eq!(unpacked(InputKind::Sample(1), &of_size(1000)).unwrap().len(), 1);
        refused(
            InputKind::Sample(1),
            &of_size(1001),
            &["Image.png", "more bytes than are taken (1000)"],
        );
        // Each is within its limit, but together they exceed four times that.
        let pages = |last: usize| {
            made(|zip| {
                for (number, name) in PAGE.iter().chain(&["rgba PNG - Layer 2.png"]).enumerate() {
                    put(zip, name, &vec![1; if number < 4 { 999 } else { last }]);
                }
            })
        };
        assert_eq!(unpacked(InputKind::Sample(1), &pages(4)).unwrap().len(), 1);
        refused(InputKind::Sample(1), &pages(5), &["more than 4000 bytes of images"]);
        let whole = of_names(&PAGE);
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            refused(InputKind::Sample(1), &whole[..length], &["is not a zip"]);
        }
        let mut altered = made(|zip| PAGE.iter().for_each(|name| put(zip, name, &[7; 500])));
        let data = PAGE[0].len() + 32;
        altered[data] ^= 0xff;
        refused(InputKind::Sample(1), &altered, &["is not a zip"]);
    }
}
