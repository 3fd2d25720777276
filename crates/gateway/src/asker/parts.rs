//! The parts of a model on their way. Each is on the disk before its message is acknowledged, so
//! that the others may come to the next gateway.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base::files::write_atomic;
use contract::wire::conversation::{Collector, ModelPart, PartError};
use thiserror::Error;

/// A part that can't be taken.
#[derive(Debug, Error)]
pub(super) enum PartsError {
    /// It does not fit. What had come of the model is gone.
    #[error(transparent)]
    Unfit(#[from] PartError),
    /// The disk does not take it: it may come again.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The folder of the parts of one run's models.
#[derive(Debug)]
pub(super) struct Parts(PathBuf);

impl Parts {
    /// In the folder of a run.
    pub(super) fn of(run: &Path) -> Self {
        Self(run.join("parts"))
    }

    /// Takes a part; with the last one, the model is a file, whole and compared with its SHA-256.
    pub(super) fn take(
        &self,
        part: &ModelPart,
        body: &[u8],
    ) -> Result<Option<PathBuf>, PartsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| PartsError::File { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(failed(&self.0))?;
        if body.len() as u64 > part.size {
            let (name, number, parts) = (part.name.clone(), part.part, part.parts);
            return Err(PartError::Other { name, part: number, parts }.into());
        }
        let of = |number: u32| self.0.join(format!("{}-{}-{number}", part.sha256, part.parts));
        if part.parts > 1 {
            let path = of(part.part);
            write_atomic(&path, body).map_err(failed(&path))?;
            base::crash::point("after keeping a part");
            if !(1..=part.parts).all(|number| of(number).exists()) {
                return Ok(None);
            }
        }
        let mut collector = Collector::default();
        let mut whole = None;
        for number in 1..=part.parts {
            let one = ModelPart { part: number, ..part.clone() };
            let taken = match part.parts {
                1 => collector.take(&one, body),
                _ => {
                    let path = of(number);
                    collector.take(&one, &fs::read(&path).map_err(failed(&path))?)
                }
            };
            match taken {
                Ok(model) => whole = model,
                Err(error) => {
                    self.forget(part);
                    return Err(error.into());
                }
            }
        }
        let Some(model) = whole else { return Ok(None) };
        let path = self.0.join(&part.sha256);
        write_atomic(&path, &model.file).map_err(failed(&path))?;
        Ok(Some(path))
    }

    /// Removes what has come of a model: it is kept elsewhere, or it does not fit.
    pub(super) fn forget(&self, part: &ModelPart) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&part.sha256) {
                // What stays goes with the run's folder.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::wire::conversation::model_messages;
    use jiff::Timestamp;

    use super::*;

    fn parts_of(file: &[u8], most: usize) -> Vec<(ModelPart, Vec<u8>)> {
        let messages = model_messages("c", "Model 0", Timestamp::UNIX_EPOCH, file, Some(most));
        let read = |message: contract::wire::conversation::Message<'_>| {
            let headers = message.headers.clone();
            let get = |name: &str| {
                headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
            };
            (ModelPart::read(get).unwrap(), message.body.into_owned())
        };
        messages.into_iter().map(read).collect()
    }

    #[test]
    fn a_model_is_whole_with_its_last_part_whoever_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = b"0123456789".to_vec();
        for (most, order) in [(100, &[0][..]), (4, &[0, 1, 2]), (4, &[2, 0, 0, 1])] {
            let parts = parts_of(&file, most);
            let mut whole = None;
            for index in order {
                assert!(whole.is_none());
                // Another gateway each time.
                let (part, body) = &parts[*index];
                whole = Parts::of(folder.path()).take(part, body).unwrap();
            }
            assert_eq!(fs::read(whole.unwrap()).unwrap(), file);
            Parts::of(folder.path()).forget(&parts[0].0);
            assert!(fs::read_dir(folder.path().join("parts")).unwrap().next().is_none());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let parts = Parts::of(folder.path());
        let sent = parts_of(b"0123456789", 4);
        assert!(parts.take(&sent[0].0, b"0123").unwrap().is_none());
        assert!(parts.take(&sent[1].0, b"4567").unwrap().is_none());
        let error = parts.take(&sent[2].0, b"98").unwrap_err();
        assert!(matches!(error, PartsError::Unfit(PartError::Content { .. })), "{error}");
        assert!(fs::read_dir(folder.path().join("parts")).unwrap().next().is_none());
        let error = parts.take(&sent[0].0, &[0; 11]).unwrap_err();
        assert!(matches!(error, PartsError::Unfit(PartError::Other { .. })), "{error}");
        let one = parts_of(b"0123456789", 100);
        assert!(parts.take(&one[0].0, b"0123456780").is_err());
    }
}
