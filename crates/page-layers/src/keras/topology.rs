//! Compares the `model_config` of a file with this network: same layers, same connections, same
//! meaning.

use serde_json::Value;
use thiserror::Error;

use super::model_config::model_config;
use base::text::printable;
use domain::PatchShape;

/// How a model differs from this network.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// `model_config` is not the JSON that Keras writes.
    #[error("its model_config can't be understood: {0}")]
    Config(String),
    /// The number of layers differs.
    #[error("it has {found} layers, this one has {expected}")]
    Layers {
        /// Layers in the file, `Masking` not counted.
        found: usize,
        /// Layers of this network.
        expected: usize,
    },
    /// One layer differs.
    #[error("layer {name}: {key} is {found}, expected {expected}")]
    Layer {
        /// Keras's name of the layer in the file.
        name: String,
        /// The property that differs.
        key: String,
        /// Its value in the file.
        found: String,
        /// The value that this network has.
        expected: String,
    },
    /// The input layer's patch size can't be used.
    #[error("input of {0}")]
    Input(#[from] domain::PatchShapeError),
    /// The input layer's patches are larger than those of any job.
    #[error("input of {height}x{width}: patches have at most {MAX_SIDE} pixels a side")]
    Large {
        /// Height in the file, pixels.
        height: u64,
        /// Width in the file, pixels.
        width: u64,
    },
}

/// Longest side of a patch, as in a job's settings: windows of the file's size are cut out of a
/// page.
const MAX_SIDE: u64 = 4096;

/// What decides how a layer computes; names, initialisers and regularisers don't.
const COMPUTING_KEYS: [&str; 12] = [
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "data_format",
    "dilation_rate",
    "groups",
    "activation",
    "use_bias",
    "pool_size",
    "size",
    "interpolation",
];

/// One layer, its inputs given by their place in the list.
struct Node<'a> {
    name: &'a str,
    class: &'a str,
    config: &'a Value,
    inputs: Vec<usize>,
}

/// Checks the attribute `model_config`; returns the patch size of the input layer, if it is fixed.
///
/// A `Masking` layer is passed over: it blanks only pixels of value −1, and a page's lie in 0…1.
pub fn check(json: &str) -> Result<Option<PatchShape>, TopologyError> {
    let found: Value = serde_json::from_str(json).map_err(|e| TopologyError::Config(e.to_string()))?;
    let input = &found["config"]["layers"][0]["config"]["batch_input_shape"];
    let shape = match (input[1].as_u64(), input[2].as_u64()) {
        (Some(height), Some(width)) if height > MAX_SIDE || width > MAX_SIDE => {
            return Err(TopologyError::Large { height, width });
        }
        (Some(height), Some(width)) => Some(PatchShape::new(
            usize::try_from(height).unwrap_or(usize::MAX),
            usize::try_from(width).unwrap_or(usize::MAX),
        )?),
        _ => None,
    };
    // The patch size of the reference plays no part below.
    let any = PatchShape::new(4, 4)?;
    let reference: Value =
        serde_json::from_str(&model_config(any)).map_err(|e| TopologyError::Config(e.to_string()))?;
    let (found, expected) = (nodes(&found)?, nodes(&reference)?);
    if found.len() != expected.len() {
        return Err(TopologyError::Layers { found: found.len(), expected: expected.len() });
    }
    for (ours, theirs) in expected.iter().zip(&found) {
        compare(ours, theirs)?;
    }
    Ok(shape)
}

fn compare(ours: &Node<'_>, theirs: &Node<'_>) -> Result<(), TopologyError> {
    let differs = |key: &str, found: String, expected: String| TopologyError::Layer {
        name: printable(theirs.name, 60),
        key: key.to_owned(),
        found: printable(&found, 100),
        expected,
    };
    if ours.class != theirs.class {
        return Err(differs("class", theirs.class.to_owned(), ours.class.to_owned()));
    }
    if ours.inputs != theirs.inputs {
        return Err(differs("input", format!("{:?}", theirs.inputs), format!("{:?}", ours.inputs)));
    }
    // Padding has no effect on a 1×1 kernel: both spellings are the same layer.
    let pointwise = ours.config["kernel_size"] == serde_json::json!([1, 1]);
    for key in COMPUTING_KEYS {
        let (expected, found) = (&ours.config[key], &theirs.config[key]);
        if expected.is_null() || expected == found || (pointwise && key == "padding") {
            continue;
        }
        return Err(differs(key, found.to_string(), expected.to_string()));
    }
    // The last of four axes may be counted from the end.
    if ours.class == "Concatenate" && !matches!(theirs.config["axis"].as_i64(), Some(3 | -1)) {
        return Err(differs("axis", theirs.config["axis"].to_string(), "3".to_owned()));
    }
    Ok(())
}

/// The layers without `Masking`, each knowing the place of what it reads.
fn nodes(config: &Value) -> Result<Vec<Node<'_>>, TopologyError> {
    let bad = |what: &str| TopologyError::Config(format!("{} is missing", printable(what, 60)));
    let layers = config["config"]["layers"].as_array().ok_or_else(|| bad("config.layers"))?;
    let mut nodes: Vec<Node<'_>> = Vec::with_capacity(layers.len());
    // Name → place; a masked input has the place of what it masks.
    let mut places = std::collections::HashMap::new();
    for layer in layers {
        let name = layer["name"].as_str().or(layer["config"]["name"].as_str()).ok_or_else(|| bad("name"))?;
        let class = layer["class_name"].as_str().ok_or_else(|| bad("class_name"))?;
        let mut inputs = Vec::new();
        // A list of calls, each a list of inputs; a list of inputs alone is how a `Sequential`
        // leaves it out.
        for input in layer["inbound_nodes"][0].as_array().into_iter().flatten() {
            let source = input[0].as_str().ok_or_else(|| bad("inbound_nodes"))?;
            inputs.push(*places.get(source).ok_or_else(|| bad(source))?);
        }
        if class == "Masking" {
            let [place] = inputs[..] else { return Err(bad("the input of Masking")) };
            places.insert(name, place);
            continue;
        }
        places.insert(name, nodes.len());
        nodes.push(Node { name, class, config: &layer["config"], inputs });
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        serde_json::from_str(&model_config(PatchShape::new(64, 32).unwrap())).unwrap()
    }

    fn refusal(config: &Value) -> String {
        check(&config.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn our_own_config_passes_and_names_its_patch() {
        assert_eq!(check(&ours().to_string()).unwrap(), Some(PatchShape::new(64, 32).unwrap()));
    }

    #[test]
    fn other_numbers_in_the_names_pass() {
        let renamed = model_config(PatchShape::new(64, 32).unwrap()).replace("conv2d", "conv2d_77");
        assert!(check(&renamed).is_ok());
    }

    #[test]
    fn an_open_input_size_passes_without_a_patch() {
        let mut config = ours();
        config["config"]["layers"][0]["config"]["batch_input_shape"] =
            serde_json::json!([null, null, null, 3]);
        assert_eq!(check(&config.to_string()).unwrap(), None);
    }

    #[test]
    fn a_patch_that_no_job_can_have_is_refused() {
        let mut config = ours();
        for (height, width, taken) in [(4096, 4096, true), (4100, 4, false), (4, 1u64 << 62, false)] {
            config["config"]["layers"][0]["config"]["batch_input_shape"] =
                serde_json::json!([null, height, width, 3]);
            assert_eq!(check(&config.to_string()).is_ok(), taken, "{height}x{width}");
        }
    }

    #[test]
    fn a_masking_layer_is_passed_over() {
        let json = model_config(PatchShape::new(64, 32).unwrap());
        let masking = r#"{"class_name": "Masking", "config": {"name": "masking", "mask_value": -1},
            "name": "masking", "inbound_nodes": [[["input_1", 0, 0, {}]]]}, {"class_name": "Conv2D""#;
        let json = json.replacen(r#"{"class_name": "Conv2D""#, masking, 1);
        let json = json.replacen(
            r#"[[["input_1", 0, 0, {}]]]}, {"class_name": "Conv2D", "config": {"name": "conv2d_1""#,
            r#"[[["masking", 0, 0, {}]]]}, {"class_name": "Conv2D", "config": {"name": "conv2d_1""#,
            1,
        );
        assert!(json.contains("masking"));
        assert!(check(&json).is_ok());
    }

    #[test]
    fn a_difference_is_named() {
        let mut config = ours();
        config["config"]["layers"][10]["config"]["kernel_size"] = serde_json::json!([3, 3]);
        assert_eq!(refusal(&config), "layer conv2d_6: kernel_size is [3,3], expected [2,2]");

        let mut config = ours();
        config["config"]["layers"][20]["config"]["activation"] = "linear".into();
        assert!(refusal(&config).contains("activation"));

        let mut config = ours();
        config["config"]["layers"][11]["inbound_nodes"][0].as_array_mut().unwrap().reverse();
        assert!(refusal(&config).contains("concatenate: input"));

        let mut config = ours();
        config["config"]["layers"].as_array_mut().unwrap().pop();
        assert_eq!(refusal(&config), "it has 20 layers, this one has 21");
    }

    #[test]
    fn what_a_stranger_calls_a_layer_is_told_short_and_harmless() {
        let odd = format!("\u{1b}[2J{}", "x".repeat(1_000_000));
        let mut config = ours();
        for key in ["name", "class_name"] {
            config["config"]["layers"][20][key] = odd.clone().into();
        }
        let told = refusal(&config);
        assert!(told.starts_with("layer [2Jxxx") && told.contains("class is [2Jxxx"), "{told:.400}");
        assert!(told.len() < 300 && !told.contains('\u{1b}'), "{told:.400}");
        config["config"]["layers"][20]["inbound_nodes"][0][0][0] = odd.into();
        let told = refusal(&config);
        assert!(told.len() < 300 && !told.contains('\u{1b}'), "{told:.400}");
    }

    #[test]
    fn nonsense_is_an_error() {
        for json in ["", "{}", "[]", "null", r#"{"config": {"layers": [1]}}"#] {
            assert!(check(json).is_err(), "{json:?} was accepted");
        }
    }
}
