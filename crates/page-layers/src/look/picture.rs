//! A PNG file that is either whole or absent.

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _, ImageError};
use tempfile::NamedTempFile;
use thiserror::Error;

use base::files::Replace;

/// A picture that could not be written.
#[derive(Debug, Error)]
#[error("{}: can't write the picture: {source}; check that the folder is writable and has \
    room", path.display())]
pub struct PictureError {
    /// The file.
    pub path: PathBuf,
    /// What the image crate said.
    pub source: image::ImageError,
}

/// A picture on disk that has not got its name yet. If it is dropped, it is removed.
#[derive(Debug)]
#[must_use = "the picture is removed when it is not given its name"]
pub struct Picture {
    path: PathBuf,
    file: NamedTempFile,
}

impl Picture {
    /// Writes `bytes` beside `path`, under a name that nobody else uses.
    pub(crate) fn draw(
        path: &Path,
        bytes: &[u8],
        width: usize,
        height: usize,
        colour: ExtendedColorType,
    ) -> Result<Self, PictureError> {
        let draw = || {
            let mut file = Replace::USERS.begin(path)?;
            let mut out = BufWriter::new(file.as_file_mut());
            PngEncoder::new_with_quality(&mut out, CompressionType::Fast, FilterType::Adaptive)
                .write_image(bytes, width as u32, height as u32, colour)?;
            out.flush()?;
            drop(out);
            Ok(file)
        };
        let failed = |source: ImageError| PictureError { path: path.to_owned(), source };
        Ok(Self { path: path.to_owned(), file: draw().map_err(failed)? })
    }

    /// Gives the picture its name, and replaces the file that had the name before.
    ///
    /// # Errors
    ///
    /// When the file can't be renamed; the file that had the name before is then still there.
    pub fn finish(self) -> Result<(), PictureError> {
        let Self { path, file } = self;
        let renamed = Replace::USERS.finish(file, &path);
        renamed.map_err(|error| PictureError { path, source: error.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn draw(path: &Path, grey: u8) -> Result<Picture, PictureError> {
        Picture::draw(path, &[grey; 6], 3, 2, ExtendedColorType::L8)
    }

    #[test]
    fn a_picture_is_there_when_it_is_finished_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.png");
        draw(&path, 7).unwrap().finish().unwrap();
        let next = draw(&path, 9).unwrap();
        assert_eq!(image::open(&path).unwrap().as_bytes(), [7; 6]);
        drop(next);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1, "what was dropped is gone");
        draw(&path, 9).unwrap().finish().unwrap();
        assert_eq!(image::open(&path).unwrap().as_bytes(), [9; 6]);
        let other = folder.path().join("other");
        std::fs::write(&other, "").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&other), "readable for whoever can read other files");
    }

    #[test]
    fn what_can_not_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = draw(&folder.path().join("gone/page.png"), 1).unwrap_err().to_string();
        assert!(error.contains("gone/page.png: can't write the picture"), "{error}");
        let path = folder.path().join("page.png");
        std::fs::create_dir(&path).unwrap();
        let error = draw(&path, 1).unwrap().finish().unwrap_err().to_string();
        assert!(error.contains("page.png: can't write the picture"), "{error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
