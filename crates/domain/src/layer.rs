//! The inputs of a job: the page, the regions, and one drawing per layer, in both generations of
//! names.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A layer for which a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// What is neither note nor line nor text; the only layer that is not limited to the selected
    /// regions.
    Background,
    /// `rgba PNG - Layer N`, 0 to 9.
    Numbered(u8),
    /// `Music Layer` of the first generation.
    Music,
    /// `Staff Layer` of the first generation.
    Staff,
    /// `Text` of the first generation.
    Text,
}

impl Layer {
    /// The key of the layer's model in the reply.
    pub fn model_name(self) -> String {
        match self {
            Self::Background => "Background Model".into(),
            Self::Numbered(n) => format!("Model {n}"),
            Self::Music => "Music Symbol Model".into(),
            Self::Staff => "Staff Lines Model".into(),
            Self::Text => "Text Model".into(),
        }
    }

    /// The layer whose model has this name.
    pub fn of_model(name: &str) -> Option<Self> {
        let layers = [Self::Background, Self::Music, Self::Staff, Self::Text];
        let mut all = layers.into_iter().chain((0..=9).map(Self::Numbered));
        all.find(|layer| layer.model_name() == name)
    }

    /// The key of the layer's drawing in the job message.
    pub fn input_name(self) -> String {
        match self {
            Self::Background => "Background".into(),
            Self::Numbered(n) => format!("rgba PNG - Layer {n}"),
            Self::Music => "Music Layer".into(),
            Self::Staff => "Staff Layer".into(),
            Self::Text => "Text".into(),
        }
    }

    fn file_stem(self) -> String {
        match self {
            Self::Background => "background".into(),
            Self::Numbered(n) => format!("layer_{n}"),
            Self::Music => "music".into(),
            Self::Staff => "staff".into(),
            Self::Text => "text".into(),
        }
    }
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    /// The page itself.
    Image,
    /// The part of the page whose layers were drawn.
    Regions,
    /// The drawing of one layer.
    Layer(Layer),
    /// A model of this layer to go on from.
    Model(Layer),
    /// A zip with the images of one page, numbered from 1 to 99.
    Sample(u8),
    /// A zip with a folder for each of several pages.
    MultiSample,
}

impl InputKind {
    /// What the name stands for. Beside the names of [`fmt::Display`] it knows those that Rodan's
    /// newer trainer gives the same images in its zips.
    fn from_name(name: &str) -> Option<Self> {
        if let Some(kind) = Self::from_image_name(name) {
            return Some(kind);
        }
        if name == "Multi-Sample Zip" {
            return Some(Self::MultiSample);
        }
        if let Some(number) = name.strip_prefix("Sample ") {
            let number = number.parse().ok().filter(|n| (1..=99).contains(n));
            return number.map(Self::Sample).filter(|kind| kind.to_string() == name);
        }
        Layer::of_model(name).map(Self::Model)
    }

    /// What an image of a page is, by the name of its input or, without extension, of its file in a
    /// zip.
    pub fn from_image_name(name: &str) -> Option<Self> {
        Some(match name {
            "Image" => Self::Image,
            "Selected Regions" | "rgba PNG - Selected regions" => Self::Regions,
            "Background" | "rgba PNG - Background layer" | "rgba PNG - Layer 0 (Background)" => {
                Self::Layer(Layer::Background)
            }
            "Music Layer" | "rgba PNG - Music symbol layer" => Self::Layer(Layer::Music),
            "Staff Layer" | "rgba PNG - Staff lines layer" => Self::Layer(Layer::Staff),
            "Text" | "rgba PNG - Text" => Self::Layer(Layer::Text),
            _ => match name.strip_prefix("rgba PNG - Layer ")?.as_bytes() {
                [digit @ b'0'..=b'9'] => Self::Layer(Layer::Numbered(digit - b'0')),
                _ => return None,
            },
        })
    }

    /// True for a zip that holds pages.
    pub fn is_archive(self) -> bool {
        matches!(self, Self::Sample(_) | Self::MultiSample)
    }

    /// The name of the local file that the input is downloaded to: a fixed set, whatever the
    /// message says.
    pub fn file_stem(self) -> String {
        match self {
            Self::Image => "image".into(),
            Self::Regions => "regions".into(),
            Self::Layer(layer) => layer.file_stem(),
            Self::Model(layer) => format!("model_of_{}", layer.file_stem()),
            Self::Sample(n) => format!("sample_{n}"),
            Self::MultiSample => "samples".into(),
        }
    }
}

impl fmt::Display for InputKind {
    /// The key in the job message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("Image"),
            Self::Regions => f.write_str("Selected Regions"),
            Self::Layer(layer) => f.write_str(&layer.input_name()),
            Self::Model(layer) => f.write_str(&layer.model_name()),
            Self::Sample(n) => write!(f, "Sample {n}"),
            Self::MultiSample => f.write_str("Multi-Sample Zip"),
        }
    }
}

/// One input and where Rodan keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What it is.
    pub kind: InputKind,
    /// Path relative to Rodan, or an absolute URL, as the message gives it.
    pub location: String,
}

/// The inputs of a job, complete and without unknown names; background first, then the layers in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    inputs: Vec<Input>,
}

/// Inputs that no training can start from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InputsError {
    /// A name that is not in the contract.
    #[error(
        "the input \"{0}\" is not known; use Image, Background, Selected Regions and rgba PNG - \
        Layer 0 to 9, or Sample 1 to 99 and Multi-Sample Zip, and as models to go on from \
        Background Model and Model 0 to 9"
    )]
    Unknown(String),
    /// An input without which nothing can be trained.
    #[error("the input \"{0}\" is missing")]
    Missing(&'static str),
    /// Two names of one input.
    #[error("the input \"{0}\" is there twice, under two of its names; connect it once")]
    Twice(InputKind),
    /// A model of a layer that is not trained.
    #[error(
        "the input \"{0}\" belongs to no layer of the job; connect the layer too, or leave the \
        model out"
    )]
    Model(InputKind),
    /// A location that is empty.
    #[error("the input \"{0}\" is empty; connect it to a resource")]
    Empty(String),
}

impl Inputs {
    /// Checks the `inputs` object of a job message: the images of a page, or zips of pages, or
    /// both; and models to go on from.
    ///
    /// # Errors
    /// When a name is unknown, a location is empty, or the page, the background or every layer is
    /// missing. What zips hold is seen when they are opened.
    pub fn new(map: &BTreeMap<String, String>) -> Result<Self, InputsError> {
        let mut inputs = Vec::with_capacity(map.len());
        for (name, location) in map {
            let kind = InputKind::from_name(name)
                .ok_or_else(|| InputsError::Unknown(base::text::printable(name, 60)))?;
            if location.trim().is_empty() {
                return Err(InputsError::Empty(name.clone()));
            }
            inputs.push(Input { kind, location: location.clone() });
        }
        inputs.sort_by_key(|i| i.kind);
        if let Some(two) = inputs.windows(2).find(|two| two[0].kind == two[1].kind) {
            return Err(InputsError::Twice(two[0].kind));
        }
        let inputs = Self { inputs };
        let has = |kind| inputs.iter().any(|i| i.kind == kind);
        let archives = inputs.iter().any(|i| i.kind.is_archive());
        if !archives || inputs.has_page() {
            if !has(InputKind::Image) {
                return Err(InputsError::Missing("Image"));
            }
            if !has(InputKind::Layer(Layer::Background)) {
                return Err(InputsError::Missing("Background"));
            }
            if inputs.layers().count() < 2 {
                return Err(InputsError::Missing("rgba PNG - Layer 0"));
            }
        }
        let stray =
            |i: &&Input| matches!(i.kind, InputKind::Model(layer) if !has(InputKind::Layer(layer)));
        let stray = inputs.iter().find(stray).map(|model| model.kind);
        match stray {
            Some(model) if !archives => Err(InputsError::Model(model)),
            _ => Ok(inputs),
        }
    }

    /// True when the images of a page are inputs of their own, not only parts of a zip.
    pub fn has_page(&self) -> bool {
        self.inputs
            .iter()
            .any(|i| matches!(i.kind, InputKind::Image | InputKind::Regions | InputKind::Layer(_)))
    }

    /// All inputs: page, regions, background, layers, models, zips.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter()
    }

    /// The layers whose drawings are inputs of their own, background first.
    pub fn layers(&self) -> impl Iterator<Item = Layer> {
        self.inputs.iter().filter_map(|i| match i.kind {
            InputKind::Layer(layer) => Some(layer),
            _ => None,
        })
    }

    /// The layers that go on from a model.
    pub fn models(&self) -> impl Iterator<Item = Layer> {
        self.inputs.iter().filter_map(|i| match i.kind {
            InputKind::Model(layer) => Some(layer),
            _ => None,
        })
    }

    /// The zips of pages.
    pub fn archives(&self) -> impl Iterator<Item = InputKind> {
        self.inputs.iter().map(|i| i.kind).filter(|kind| kind.is_archive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(names: &[&str]) -> Result<Inputs, InputsError> {
        Inputs::new(&names.iter().map(|n| ((*n).to_owned(), "/uploads/x.png".to_owned())).collect())
    }

    #[test]
    fn both_generations_name_their_models() {
        let models = |names: &[&str]| {
            inputs(names).unwrap().layers().map(Layer::model_name).collect::<Vec<_>>()
        };
        assert_eq!(
            models(&[
                "Image",
                "rgba PNG - Layer 7",
                "rgba PNG - Layer 0",
                "Selected Regions",
                "Background"
            ]),
            ["Background Model", "Model 0", "Model 7"]
        );
        assert_eq!(
            models(&[
                "Text",
                "Staff Layer",
                "Music Layer",
                "Image",
                "Background",
                "Selected Regions"
            ]),
            ["Background Model", "Music Symbol Model", "Staff Lines Model", "Text Model"]
        );
    }

    #[test]
    fn every_input_name_is_read_back() {
        let names = [
            "Image",
            "Selected Regions",
            "Background",
            "Music Layer",
            "rgba PNG - Layer 3",
            "Model 3",
            "Background Model",
            "Music Symbol Model",
            "Sample 1",
            "Sample 20",
            "Multi-Sample Zip",
        ];
        let inputs = inputs(&names).unwrap();
        assert_eq!(inputs.iter().count(), names.len());
        let stems: std::collections::BTreeSet<_> =
            inputs.iter().map(|i| i.kind.file_stem()).collect();
        assert_eq!(stems.len(), names.len(), "no two inputs are downloaded to one file");
        for kind in inputs.iter().map(|i| i.kind) {
            assert_eq!(InputKind::from_name(&kind.to_string()), Some(kind));
        }
    }

    #[test]
    fn a_model_belongs_to_a_layer_by_its_name_alone() {
        for layer in [Layer::Background, Layer::Numbered(0), Layer::Numbered(9), Layer::Text] {
            assert_eq!(Layer::of_model(&layer.model_name()), Some(layer));
        }
        for name in ["", "Model", "Model 10", "Model 01", "model 1", "../../Model 1", "/Model 1"] {
            assert_eq!(Layer::of_model(name), None, "{name}");
        }
    }

    #[test]
    fn incomplete_or_unknown_inputs_are_refused() {
        use InputsError::{Missing, Unknown};
        assert_eq!(inputs(&["Background", "Text"]), Err(Missing("Image")));
        assert_eq!(inputs(&["Image", "Text"]), Err(Missing("Background")));
        assert_eq!(inputs(&["Image", "Background"]), Err(Missing("rgba PNG - Layer 0")));
        for name in
            ["rgba PNG - Layer 10", "rgba PNG - Layer -1", "rgba PNG - Layer x", "../../etc/passwd"]
        {
            assert_eq!(inputs(&["Image", "Background", name]), Err(Unknown(name.into())));
        }
        for name in [
            "Sample 0",
            "Sample 100",
            "Sample 01",
            "Sample +1",
            "Sample",
            "Model 10",
            "Log File Model",
        ] {
            assert_eq!(inputs(&["Image", "Background", "Text", name]), Err(Unknown(name.into())));
        }
        let map = [("Image".to_owned(), " ".to_owned())].into();
        assert_eq!(Inputs::new(&map), Err(InputsError::Empty("Image".into())));
    }
    #[test]
    fn pages_may_come_in_zips_alone_or_beside_a_page() {
        assert!(inputs(&["Sample 1"]).unwrap().layers().next().is_none());
        let both =
            inputs(&["Image", "Background", "rgba PNG - Layer 1", "Multi-Sample Zip", "Model 4"])
                .unwrap();
        assert_eq!(both.archives().collect::<Vec<_>>(), [InputKind::MultiSample]);
        assert_eq!(
            both.models().collect::<Vec<_>>(),
            [Layer::Numbered(4)],
            "a zip may hold that layer"
        );
        assert_eq!(inputs(&["Sample 1", "Image"]), Err(InputsError::Missing("Background")));
    }

    #[test]
    fn a_model_needs_its_layer_and_an_input_is_there_once() {
        let model = InputKind::Model(Layer::Numbered(2));
        let names = ["Image", "Background", "rgba PNG - Layer 1", "Model 2"];
        assert_eq!(inputs(&names), Err(InputsError::Model(model)));
        let twice = ["Image", "Background", "rgba PNG - Background layer", "rgba PNG - Layer 1"];
        assert_eq!(inputs(&twice), Err(InputsError::Twice(InputKind::Layer(Layer::Background))));
    }
}
