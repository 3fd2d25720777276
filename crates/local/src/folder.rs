//! Folders: which file of a page is which image, its settings, models, and where results go.

use std::path::{Path, PathBuf};

use thiserror::Error;

use domain::{
    InputKind, Layer, SettingsError, SettingsMap, TRAINING_SETTINGS, TrainingSettings,
    training_setting,
};
use page_layers::PageInputs;

/// The names that the page itself may have.
const IMAGES: [&str; 3] = ["image.png", "image.jpg", "image.jpeg"];

/// A folder that can't be trained.
#[derive(Debug, Error)]
pub(crate) enum FolderError {
    /// The folder can't be listed.
    #[error("{}: can't be read as a folder: {source}; give --local (or --evaluate) the \
        folder of a page", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An image that is needed is not there.
    #[error("{}: there is no {name}; {hint}", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// Name of the file.
        name: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Two files could be the page.
    #[error("{}: {first} and {second} could both be the page; leave one of them", folder.display())]
    TwoImages {
        /// The folder.
        folder: PathBuf,
        /// One file.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// A folder of models that can't be used.
    #[error("{}: {problem}", folder.display())]
    Models {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and what to change.
        problem: String,
    },
    /// A layer whose number is not 0 to 9.
    #[error("{}: layers are numbered from layer_0.png to layer_9.png; rename it", path.display())]
    LayerNumber {
        /// The file.
        path: PathBuf,
    },
    /// The settings file can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    SettingsFile {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The settings file is not a JSON object.
    #[error("{}: is not a JSON object of settings such as {{\"Patch height\": 64}}: \
        {source}", path.display())]
    SettingsJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A `--set` that is not `NAME=VALUE`.
    #[error("--set {0:?}: write it as --set \"Patch height=64\"")]
    SetForm(String),
    /// A `--set` of a setting that does not exist.
    #[error("--set {name:?}: there is no such setting; known are {}", known_settings())]
    SetName {
        /// The name.
        name: String,
    },
    /// Settings out of range.
    #[error("{origin}: {source}")]
    Settings {
        /// Where they came from.
        origin: String,
        /// What is wrong with them.
        source: SettingsError,
    },
}

fn known_settings() -> String {
    let names: Vec<_> =
        TRAINING_SETTINGS.iter().map(|setting| format!("{:?}", setting.name)).collect();
    names.join(", ")
}

/// Finds the images of a page: `image.png` (or `.jpg`, `.jpeg`), `background.png`, `regions.png`
/// where there is one, and `layer_0.png` to `layer_9.png`, gaps allowed.
///
/// # Errors
/// [`FolderError`], when one is missing or can't be told from another.
pub(crate) fn find_page(folder: &Path) -> Result<PageInputs, FolderError> {
    let unlisted = |source| FolderError::Folder { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unlisted)? {
        names.push(entry.map_err(unlisted)?.file_name());
    }
    let missing = |name, hint| FolderError::Missing { folder: folder.to_owned(), name, hint };
    let has = |name: &str| names.iter().any(|n| n == name);

    let mut images = IMAGES.into_iter().filter(|name| has(name));
    let image = images.next().ok_or_else(|| {
        missing("image.png, image.jpg or image.jpeg", "put the page there under this name")
    })?;
    if let Some(second) = images.next() {
        return Err(FolderError::TwoImages { folder: folder.to_owned(), first: image, second });
    }
    let path_of = |kind: InputKind| folder.join(kind.file_stem() + ".png");
    let background = path_of(InputKind::Layer(Layer::Background));
    if !has("background.png") {
        return Err(missing(
            "background.png",
            "export the background as an RGBA PNG under this name",
        ));
    }
    for name in &names {
        let text = name.to_string_lossy();
        let number = text.strip_prefix("layer_").and_then(|rest| rest.strip_suffix(".png"));
        if number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.len() != 1) {
            return Err(FolderError::LayerNumber { path: folder.join(name) });
        }
    }
    let layers: Vec<_> = (0..=9)
        .map(Layer::Numbered)
        .map(|layer| (layer, path_of(InputKind::Layer(layer))))
        .filter(|(layer, _)| has(&(InputKind::Layer(*layer).file_stem() + ".png")))
        .collect();
    if layers.is_empty() {
        return Err(missing(
            "layer_0.png … layer_9.png",
            "export at least one layer as an RGBA PNG",
        ));
    }
    let regions = has("regions.png").then(|| path_of(InputKind::Regions));
    Ok(PageInputs { label: None, image: folder.join(image), regions, background, layers })
}

/// Finds the models to start from: files with the names that training gives them, such as
/// `Model 0.hdf5`, or with `.h5`.
///
/// # Errors
///
/// [`FolderError`], when there is none, or one twice.
pub(crate) fn find_models(folder: &Path) -> Result<Vec<(Layer, PathBuf)>, FolderError> {
    std::fs::read_dir(folder).map_err(|source| FolderError::Models {
        folder: folder.to_owned(),
        problem: source.to_string(),
    })?;
    let mut models = Vec::new();
    let named = [Layer::Background, Layer::Music, Layer::Staff, Layer::Text];
    for layer in named.into_iter().chain((0..=9).map(Layer::Numbered)) {
        let files = ["hdf5", "h5"]
            .map(|extension| folder.join(format!("{}.{extension}", layer.model_name())));
        match files.iter().filter(|file| file.is_file()).collect::<Vec<_>>()[..] {
            [] => {}
            [file] => models.push((layer, file.clone())),
            _ => {
                let problem = format!(
                    "{} is there twice, as .hdf5 and as .h5; leave one",
                    layer.model_name()
                );
                return Err(FolderError::Models { folder: folder.to_owned(), problem });
            }
        }
    }
    if models.is_empty() {
        let problem =
            "there is no model in it; they are named Background Model.hdf5, Model 0.hdf5 …".into();
        return Err(FolderError::Models { folder: folder.to_owned(), problem });
    }
    Ok(models)
}

/// The `NAME=VALUE`s of `--set`, each checked by itself.
///
/// # Errors
///
/// [`FolderError`], when a name or a value is wrong.
pub(crate) fn parse_settings(set: &[String]) -> Result<SettingsMap, FolderError> {
    let map = parse_set(set)?;
    TrainingSettings::from_local(&map)
        .map_err(|source| FolderError::Settings { origin: "--set".to_owned(), source })?;
    Ok(map)
}

fn parse_set(set: &[String]) -> Result<SettingsMap, FolderError> {
    let mut map = SettingsMap::new();
    for argument in set {
        let (name, value) =
            argument.split_once('=').ok_or_else(|| FolderError::SetForm(argument.clone()))?;
        let name = name.trim();
        if training_setting(name).is_none() {
            return Err(FolderError::SetName { name: name.to_owned() });
        }
        map.insert(name.to_owned(), value.trim().into());
    }
    Ok(map)
}

/// Reads `settings.json` of the folder, if there is one, and the `NAME=VALUE`s of `--set`, which
/// win. Unknown names in the file are kept in the map and ignored.
///
/// # Errors
///
/// [`FolderError`], when the file is not a JSON object, or a name or a value is wrong.
pub(crate) fn read_settings(
    folder: &Path,
    set: &[String],
) -> Result<(SettingsMap, TrainingSettings), FolderError> {
    let path = folder.join("settings.json");
    let mut map = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice::<SettingsMap>(&text)
            .map_err(|source| FolderError::SettingsJson { path: path.clone(), source })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => SettingsMap::new(),
        Err(source) => return Err(FolderError::SettingsFile { path, source }),
    };
    // The file is checked by itself first, so that an error names the file.
    if set.is_empty() {
        let origin = path.display().to_string();
        let settings = TrainingSettings::from_local(&map)
            .map_err(|source| FolderError::Settings { origin, source })?;
        return Ok((map, settings));
    }
    map.extend(parse_set(set)?);
    let settings = TrainingSettings::from_local(&map).map_err(|source| FolderError::Settings {
        origin: if path.exists() {
            format!("{} with --set", path.display())
        } else {
            "--set".to_owned()
        },
        source,
    })?;
    Ok((map, settings))
}

/// Makes the folder and tries it: hours later would be too late to learn that nothing can be
/// written.
pub(crate) fn make_writable(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    tempfile::Builder::new().prefix(".try-").tempfile_in(folder).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        folder
    }

    fn refusal(names: &[&str]) -> String {
        find_page(folder(names).path()).unwrap_err().to_string()
    }

    #[test]
    fn the_images_are_found_gaps_allowed() {
        let folder =
            folder(&["image.jpg", "background.png", "layer_7.png", "layer_0.png", "notes.txt"]);
        let page = find_page(folder.path()).unwrap();
        assert_eq!(page.image, folder.path().join("image.jpg"));
        assert_eq!(page.regions, None);
        let layers: Vec<_> = page.layers.iter().map(|(layer, _)| *layer).collect();
        assert_eq!(layers, [Layer::Numbered(0), Layer::Numbered(7)]);
    }

    #[test]
    fn what_is_missing_or_double_is_named() {
        assert!(refusal(&["background.png", "layer_0.png"]).contains("no image.png"));
        assert!(refusal(&["image.png", "layer_0.png"]).contains("no background.png"));
        assert!(refusal(&["image.png", "background.png"]).contains("no layer_0.png"));
        assert!(
            refusal(&["image.png", "image.jpg", "background.png", "layer_0.png"])
                .contains("could both be")
        );
        assert!(refusal(&["image.png", "background.png", "layer_10.png"]).contains("layer_10.png"));
        let error = find_page(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(error.starts_with("no/such/folder: "), "{error}");
    }

    #[test]
    fn settings_come_from_the_file_and_the_command_line_wins() {
        let folder = folder(&[]);
        let (_, defaults) = read_settings(folder.path(), &[]).unwrap();
        assert_eq!((defaults.epochs, defaults.patch_height), (15, 256));
        let text =
            r#"{"Patch height": 64, "Patch width": 64, "CPUs": 6, "Some later setting": true}"#;
        std::fs::write(folder.path().join("settings.json"), text).unwrap();
        let (map, settings) = read_settings(folder.path(), &["Patch height=32".into()]).unwrap();
        assert_eq!((settings.patch_height, settings.patch_width), (32, 64));
        assert_eq!(map["Some later setting"], true);
    }

    #[test]
    fn wrong_settings_say_where_and_what() {
        let folder = folder(&[]);
        let refusal =
            |set: &str| read_settings(folder.path(), &[set.into()]).unwrap_err().to_string();
        assert!(refusal("Patch height").contains("write it as"));
        assert!(
            refusal("Patch hight=64").contains("known are \"Maximum number of training epochs\"")
        );
        assert!(refusal("Patch height=65").contains("multiple of 4"));
        std::fs::write(folder.path().join("settings.json"), "{\"Patch height\": 64,}").unwrap();
        let error = read_settings(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("settings.json") && error.contains("line 1"), "{error}");
    }
}
