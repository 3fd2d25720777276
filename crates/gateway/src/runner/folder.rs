//! The folder of a run while it is not over: its pages as `run_trainer --local` wants them, its
//! checkpoint, and what the training writes.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use base::files::Replace;
use domain::SettingsMap;
use tracing::warn;

use crate::page_files::THUMBNAIL;
use crate::store::{Image, Objects, Page, RunFile};

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at this path.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folders of its pages, in order.
    pub fn pages(&self) -> Vec<PathBuf> {
        let page = |number: usize| self.0.join("pages").join(number.to_string());
        (1..).map(page).take_while(|path| path.is_dir()).collect()
    }

    /// The image that the models are applied to, if that is to be done.
    pub fn image(&self) -> Option<PathBuf> {
        let image = |ending: &str| self.0.join(format!("image.{ending}"));
        [image("png"), image("jpg")].into_iter().find(|path| path.is_file())
    }

    /// The folder of the models to go on from or to apply, if there are any.
    pub fn models(&self) -> Option<PathBuf> {
        Some(self.0.join("models")).filter(|path| path.is_dir())
    }

    /// Where the training puts what it makes.
    pub fn out(&self) -> PathBuf {
        self.0.join("out")
    }

    /// Where the training has its checkpoint.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoint")
    }

    /// What the training logs. Its process holds a lock on it as long as it lives.
    pub fn log(&self) -> PathBuf {
        self.0.join("log.txt")
    }

    /// What the training tells.
    pub fn progress(&self) -> PathBuf {
        self.0.join("progress.jsonl")
    }

    /// Whether a training that was started here is still alive.
    ///
    /// # Errors
    /// When that can't be known.
    pub fn is_in_use(&self) -> io::Result<bool> {
        match File::open(self.log()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(log) => match log.try_lock() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error),
            },
        }
    }

    /// The log, locked, for a training that begins.
    ///
    /// # Errors
    /// When it can't be made, or a training holds it.
    pub fn open_log(&self) -> io::Result<File> {
        // A gateway that was killed may have kept it already, which nobody writes to any more.
        absent(fs::set_permissions(self.log(), fs::Permissions::from_mode(0o600)))?;
        let log = File::options().create(true).append(true).mode(0o600).open(self.log())?;
        log.try_lock().map_err(io::Error::from)?;
        Ok(log)
    }

    /// Makes the folder anew from the store; a checkpoint and the log of an earlier attempt stay.
    ///
    /// # Errors
    /// When a file can't be made, or its name is none.
    pub fn fill(
        &self,
        objects: &Objects,
        pages: &[Page],
        models: &[RunFile],
        settings: &SettingsMap,
        image: Option<&Image>,
    ) -> io::Result<()> {
        for name in ["pages", "models", "out"] {
            absent(fs::remove_dir_all(self.0.join(name)))?;
        }
        for name in [self.progress(), self.0.join(THUMBNAIL)] {
            absent(fs::remove_file(name))?;
        }
        make(&self.out())?;
        for (number, page) in (1..).zip(pages) {
            let folder = self.0.join("pages").join(number.to_string());
            make(&folder)?;
            for file in &page.files {
                objects.place(&file.object.sha256, &inside(&folder, &file.file)?)?;
            }
            // The trainer reads the settings of the first page only.
            let text = serde_json::to_vec(settings)?;
            Replace::NOTE.write(&folder.join("settings.json"), &text)?;
        }
        if let Some(image) = image {
            objects.place(&image.object.sha256, &inside(&self.0, &image.file)?)?;
        }
        if !models.is_empty() {
            let folder = self.0.join("models");
            make(&folder)?;
            for model in models {
                objects.place(&model.object.sha256, &inside(&folder, &model.name)?)?;
            }
        }
        Ok(())
    }

    /// What the training has made: names and paths.
    pub fn outputs(&self) -> Vec<(String, PathBuf)> {
        let mut files: Vec<_> = fs::read_dir(self.out())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .collect();
        files.sort();
        files
    }

    /// A text that names files as their user does, without the place of this folder.
    pub fn without_paths(&self, text: &str) -> String {
        let pages = self.0.join("pages").display().to_string() + "/";
        let own = self.0.display().to_string() + "/";
        text.replace(&pages, "page ").replace(&own, "")
    }

    /// Removes it.
    pub fn remove(&self) {
        if let Err(error) = absent(fs::remove_dir_all(&self.0)) {
            warn!("{}: can't be removed: {error}", self.0.display());
        }
    }
}

/// Where a file of this name lies in a folder.
fn inside(folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(only)), None) if only == name => Ok(folder.join(only)),
        _ => {
            let name = base::text::printable(name, 60);
            let what = format!("\"{name}\" is no name of a file");
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DataFolder, FileKind, Store};

    #[test]
    fn a_name_leads_to_no_other_folder_and_what_an_earlier_attempt_drew_goes() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&DataFolder::at(&place.path().join("data")).unwrap()).unwrap();
        let file = place.path().join("file");
        fs::write(&file, "model").unwrap();
        let object = store.objects().keep(&file).unwrap();
        let folder = RunFolder::new(&place.path().join("run"));
        let fill = |name: &str| {
            let (name, kind, object) = (name.to_owned(), FileKind::Model, object.clone());
            let models = [RunFile { name, kind, object }];
            folder.fill(store.objects(), &[], &models, &SettingsMap::new(), None)
        };
        make(folder.path()).unwrap();
        fs::write(folder.path().join(THUMBNAIL), "small").unwrap();
        fill("Model 0.hdf5").unwrap();
        assert_eq!(fs::read(folder.path().join("models/Model 0.hdf5")).unwrap(), b"model");
        assert!(!folder.path().join(THUMBNAIL).exists());
        let outside = place.path().join("x");
        let whole = outside.display().to_string();
        for name in ["../../x", &whole, "/x", "", ".", "..", "a/b", "a/", "./a"] {
            let refused = fill(name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        assert!(!outside.exists());
    }

    #[test]
    fn whoever_holds_the_log_uses_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::new(place.path());
        assert!(!folder.is_in_use().unwrap());
        let log = folder.open_log().unwrap();
        assert!(folder.is_in_use().unwrap());
        assert!(folder.open_log().is_err());
        drop(log);
        // As it is when it was kept and the gateway was killed then.
        fs::set_permissions(folder.log(), fs::Permissions::from_mode(0o400)).unwrap();
        drop(folder.open_log().unwrap());
        let mode = fs::metadata(folder.log()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!folder.is_in_use().unwrap());
    }

    #[test]
    fn a_sentence_names_files_as_their_user_does() {
        let folder = RunFolder::new(Path::new("/data/runs/7"));
        let text = "/data/runs/7/pages/1/layer_0.png: is 3x4 pixels";
        assert_eq!(folder.without_paths(text), "page 1/layer_0.png: is 3x4 pixels");
    }
}
