//! The files of a run as a job's message names them, and as they are fetched: pure functions.
//!
//! One page is sent as its images, under Rodan's names. Several pages are one zip with a folder for
//! each, which is written while it is sent.

use std::collections::BTreeMap;

use domain::{InputKind, Layer};

use crate::store::{Page, PageFile, Part, RunFile};

/// Where jobs' files lie.
pub(crate) const UPLOADS: &str = "/uploads/";

/// The name of the zip of several pages.
const PAGES: &str = "pages.zip";

/// What an address leads to: objects by their SHA-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobFile {
    /// One of them.
    One(String),
    /// A zip of them, with their names in it.
    Zip(Vec<(String, String)>),
}

/// The inputs of a job: Rodan's names, and the addresses. `key` is the word that only the job's
/// message has; models of layers that the pages don't have are left out.
pub(crate) fn inputs(pages: &[Page], models: &[RunFile], key: &str) -> BTreeMap<String, String> {
    let address = |file: &str| format!("{UPLOADS}{key}/{file}");
    let mut inputs = BTreeMap::new();
    match pages {
        [page] => inputs
            .extend(page.files.iter().map(|file| (kind(file).to_string(), address(&file.file)))),
        _ => drop(inputs.insert(InputKind::MultiSample.to_string(), address(PAGES))),
    }
    let trained: Vec<Layer> =
        pages.iter().flat_map(|page| &page.files).filter_map(|file| file.part.layer()).collect();
    for layer in trained {
        let name = layer.model_name();
        if let Some(model) = models.iter().find(|model| model.name == format!("{name}.hdf5")) {
            inputs.insert(InputKind::Model(layer).to_string(), address(&plain(&model.name)));
        }
    }
    inputs
}

/// The file of this name; `None` where the job has none.
pub(crate) fn find(pages: &[Page], models: &[RunFile], name: &str) -> Option<JobFile> {
    if let Some(model) = models.iter().find(|model| plain(&model.name) == name) {
        return Some(JobFile::One(model.object.sha256.clone()));
    }
    match pages {
        [page] => {
            let file = page.files.iter().find(|file| file.file == name)?;
            Some(JobFile::One(file.object.sha256.clone()))
        }
        _ if name == PAGES => {
            let in_zip = |(number, page): (usize, &Page)| {
                let entry = move |file: &PageFile| {
                    let ending = file.file.rsplit_once('.').map_or("png", |(_, ending)| ending);
                    (format!("{number:03}/{}.{ending}", kind(file)), file.object.sha256.clone())
                };
                page.files.iter().map(entry).collect::<Vec<_>>()
            };
            Some(JobFile::Zip((1..).zip(pages).flat_map(in_zip).collect()))
        }
        _ => None,
    }
}

fn kind(file: &PageFile) -> InputKind {
    match file.part {
        Part::Image => InputKind::Image,
        Part::Regions => InputKind::Regions,
        Part::Background => InputKind::Layer(Layer::Background),
        Part::Layer(number) => InputKind::Layer(Layer::Numbered(number)),
    }
}

/// A model's name in an address: `Model 0.hdf5` is `model_0.hdf5`.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(' ', "_")
}

#[cfg(test)]
mod tests {
    use domain::Inputs;

    use super::*;
    use crate::store::{FileKind, Object};

    fn page(parts: &[(Part, &str)]) -> Page {
        let file = |(part, file): &(Part, &str)| PageFile {
            part: *part,
            file: (*file).into(),
            object: Object { sha256: format!("hash of {file}"), size: 1 },
            pixels: None,
        };
        Page {
            number: 1,
            id: String::new(),
            name: String::new(),
            width: 1,
            height: 1,
            thumbnail: String::new(),
            created_at: String::new(),
            files: parts.iter().map(file).collect(),
        }
    }

    fn model(name: &str) -> RunFile {
        let object = Object { sha256: format!("hash of {name}"), size: 1 };
        RunFile { name: name.into(), kind: FileKind::Model, object }
    }

    const PARTS: [(Part, &str); 5] = [
        (Part::Image, "image.jpg"),
        (Part::Regions, "regions.png"),
        (Part::Background, "background.png"),
        (Part::Layer(0), "layer_0.png"),
        (Part::Layer(7), "layer_7.png"),
    ];

    #[test]
    fn a_page_and_the_models_of_its_layers_are_inputs_that_are_found_again() {
        let pages = [page(&PARTS)];
        let models = ["Background Model.hdf5", "Model 7.hdf5", "Model 3.hdf5"].map(model);
        let inputs = inputs(&pages, &models, "KEY");
        let names: Vec<&str> = inputs.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "Background",
                "Background Model",
                "Image",
                "Model 7",
                "Selected Regions",
                "rgba PNG - Layer 0",
                "rgba PNG - Layer 7"
            ]
        );
        assert_eq!(inputs["Image"], "/uploads/KEY/image.jpg");
        assert_eq!(inputs["Model 7"], "/uploads/KEY/model_7.hdf5");
        assert!(Inputs::new(&inputs).is_ok());
        for address in inputs.values() {
            let name = address.strip_prefix("/uploads/KEY/").unwrap();
            assert!(find(&pages, &models, name).is_some(), "{address}");
        }
        let one = |name: &str| Some(JobFile::One(format!("hash of {name}")));
        assert_eq!(find(&pages, &models, "image.jpg"), one("image.jpg"));
        assert_eq!(find(&pages, &models, "background_model.hdf5"), one("Background Model.hdf5"));
        for other in ["image.png", "pages.zip", "model_1.hdf5", "", "../image.jpg"] {
            assert_eq!(find(&pages, &models, other), None, "{other}");
        }
    }

    #[test]
    fn several_pages_are_one_zip_with_a_folder_for_each() {
        let pages = [page(&PARTS), page(&PARTS[..4])];
        let inputs = inputs(&pages, &[model("Model 0.hdf5")], "KEY");
        let names: Vec<&str> = inputs.keys().map(String::as_str).collect();
        assert_eq!(names, ["Model 0", "Multi-Sample Zip"]);
        assert!(Inputs::new(&inputs).is_ok());
        let Some(JobFile::Zip(files)) = find(&pages, &[], "pages.zip") else { panic!("no zip") };
        assert_eq!(files.len(), 9);
        assert_eq!(files[0], ("001/Image.jpg".into(), "hash of image.jpg".into()));
        assert_eq!(files[8].0, "002/rgba PNG - Layer 0.png");
        for (name, _) in files {
            let stem = name.split_once('/').unwrap().1.rsplit_once('.').unwrap().0;
            assert!(InputKind::from_image_name(stem).is_some(), "{name}");
        }
        assert_eq!(find(&pages, &[], "image.jpg"), None);
    }
}
