//! The inputs of a job: the page, the regions, and one drawing per layer, in both generations of names.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

/// A layer for which a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// What is neither note nor line nor text; the only layer that is not limited to the selected regions.
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
}

impl InputKind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "Image" => Self::Image,
            "Selected Regions" => Self::Regions,
            "Background" => Self::Layer(Layer::Background),
            "Music Layer" => Self::Layer(Layer::Music),
            "Staff Layer" => Self::Layer(Layer::Staff),
            "Text" => Self::Layer(Layer::Text),
            _ => match name.strip_prefix("rgba PNG - Layer ")?.as_bytes() {
                [digit @ b'0'..=b'9'] => Self::Layer(Layer::Numbered(digit - b'0')),
                _ => return None,
            },
        })
    }

    /// The name of the local file that the input is downloaded to: a fixed set, whatever the message says.
    pub fn file_stem(self) -> String {
        match self {
            Self::Image => "image".into(),
            Self::Regions => "regions".into(),
            Self::Layer(Layer::Background) => "background".into(),
            Self::Layer(Layer::Numbered(n)) => format!("layer_{n}"),
            Self::Layer(Layer::Music) => "music".into(),
            Self::Layer(Layer::Staff) => "staff".into(),
            Self::Layer(Layer::Text) => "text".into(),
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

/// The inputs of a job, complete and without unknown names; background first, then the layers in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    inputs: Vec<Input>,
}

/// Inputs that no training can start from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InputsError {
    /// A name that is not in the contract.
    #[error(
        "the input \"{0}\" is not known; use Image, Background, Selected Regions and rgba PNG - Layer 0 to 9"
    )]
    Unknown(String),
    /// An input without which nothing can be trained.
    #[error("the input \"{0}\" is missing")]
    Missing(&'static str),
    /// A location that is empty.
    #[error("the input \"{0}\" is empty; connect it to a resource")]
    Empty(String),
}

impl Inputs {
    /// Checks the `inputs` object of a job message.
    ///
    /// # Errors
    /// When a name is unknown, a location is empty, or the page, the background or every layer is missing.
    pub fn new(map: &BTreeMap<String, String>) -> Result<Self, InputsError> {
        let mut inputs = Vec::with_capacity(map.len());
        for (name, location) in map {
            let kind = InputKind::from_name(name)
                .ok_or_else(|| InputsError::Unknown(crate::text::printable(name, 60)))?;
            if location.trim().is_empty() {
                return Err(InputsError::Empty(name.clone()));
            }
            inputs.push(Input { kind, location: location.clone() });
        }
        inputs.sort_by_key(|i| i.kind);
        let inputs = Self { inputs };
        let has = |kind| inputs.iter().any(|i| i.kind == kind);
        if !has(InputKind::Image) {
            return Err(InputsError::Missing("Image"));
        }
        if !has(InputKind::Layer(Layer::Background)) {
            return Err(InputsError::Missing("Background"));
        }
        if inputs.layers().count() < 2 {
            return Err(InputsError::Missing("rgba PNG - Layer 0"));
        }
        Ok(inputs)
    }

    /// All inputs: page, regions, background, layers.
    pub fn iter(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter()
    }

    /// The layers to train, background first.
    pub fn layers(&self) -> impl Iterator<Item = Layer> {
        self.inputs.iter().filter_map(|i| match i.kind {
            InputKind::Layer(layer) => Some(layer),
            InputKind::Image | InputKind::Regions => None,
        })
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
        let models =
            |names: &[&str]| inputs(names).unwrap().layers().map(Layer::model_name).collect::<Vec<_>>();
        assert_eq!(
            models(&["Image", "rgba PNG - Layer 7", "rgba PNG - Layer 0", "Selected Regions", "Background"]),
            ["Background Model", "Model 0", "Model 7"]
        );
        assert_eq!(
            models(&["Text", "Staff Layer", "Music Layer", "Image", "Background", "Selected Regions"]),
            ["Background Model", "Music Symbol Model", "Staff Lines Model", "Text Model"]
        );
    }

    #[test]
    fn every_input_name_is_read_back() {
        for kind in inputs(&["Image", "Selected Regions", "Background", "Music Layer", "rgba PNG - Layer 3"])
            .unwrap()
            .iter()
            .map(|i| i.kind)
        {
            assert_eq!(InputKind::from_name(&kind.to_string()), Some(kind));
        }
    }

    #[test]
    fn incomplete_or_unknown_inputs_are_refused() {
        use InputsError::{Missing, Unknown};
        assert_eq!(inputs(&["Background", "Text"]), Err(Missing("Image")));
        assert_eq!(inputs(&["Image", "Text"]), Err(Missing("Background")));
        assert_eq!(inputs(&["Image", "Background"]), Err(Missing("rgba PNG - Layer 0")));
        for name in ["rgba PNG - Layer 10", "rgba PNG - Layer -1", "rgba PNG - Layer x", "../../etc/passwd"] {
            assert_eq!(inputs(&["Image", "Background", name]), Err(Unknown(name.into())));
        }
        let map = [("Image".to_owned(), " ".to_owned())].into();
        assert_eq!(Inputs::new(&map), Err(InputsError::Empty("Image".into())));
    }
}
