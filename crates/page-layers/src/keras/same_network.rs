//! Compares the `model_config` of a file with this network: same layers, same connections, same
//! meaning.
//!
//! Keras has written that JSON in three ways. All of them name the class, the settings and the
//! inputs of each layer:
//!
//! | | Keras 2.0 to 2.3, TensorFlow 2.0 to 2.2 | TensorFlow 2.3 to 2.15 | Keras 3 |
//! |---|---|---|---|
//! | input size | `batch_input_shape` | `batch_input_shape` | `batch_shape` |
//! | inputs | `[[["name", 0, 0, {}]]]` | the same | other objects |
//! | `groups` | never | written | written |
//! | `dilation_rate`, `interpolation` | by newer ones | written | written |
//!
//! The inputs of Keras 3 are `[{"args": [tensor], "kwargs": {}}]`, where each tensor has a
//! `keras_history`.
//!
//! A setting that a Keras does not write yet has one value there, which later ones take by default.
//! Keras 1 has other classes and other names for everything: [`TopologyError::Keras1`].

use base::text::printable;
use domain::PatchShape;
use serde_json::{Value, json};
use thiserror::Error;

use crate::topology::{Activation, CONV_LAYERS, NODES, Node, Operation};

/// How a model differs from this network.
#[derive(Debug, Error)]
pub enum TopologyError {
    /// `model_config` is not the JSON that Keras writes.
    #[error("its model_config can't be understood: {0}")]
    Config(String),
    /// Keras 1 saved it: its layers have other classes and settings.
    #[error("Keras 1 saved it")]
    Keras1,
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
    #[error("input of {width}x{height}: patches have at most {MAX_SIDE} pixels a side")]
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

/// A setting that decides how a layer computes. Names, initialisers and regularisers don't.
struct Setting {
    key: &'static str,
    /// What this network has.
    expected: Value,
    /// What Keras does where the file does not say.
    absent: Value,
    /// Another value with which the layer computes the same.
    same: Value,
}

fn setting(key: &'static str, expected: Value, absent: Value) -> Setting {
    Setting { key, expected, absent, same: Value::Null }
}

/// Keras's class of a layer, and its settings.
fn class_and_settings(operation: Operation) -> (&'static str, Vec<Setting>) {
    let last_axis = || setting("data_format", json!("channels_last"), json!("channels_last"));
    match operation {
        Operation::Input => ("InputLayer", Vec::new()),
        Operation::Conv(index) => {
            let layer = CONV_LAYERS[index];
            let activation = match layer.activation {
                Activation::Relu => "relu",
                Activation::Sigmoid => "sigmoid",
            };
            // Padding has no effect on a 1×1 kernel.
            let same = if layer.kernel == 1 { json!("valid") } else { Value::Null };
            let settings = vec![
                setting("filters", json!(layer.output), Value::Null),
                setting("kernel_size", json!([layer.kernel, layer.kernel]), Value::Null),
                setting("strides", json!([1, 1]), json!([1, 1])),
                Setting { same, ..setting("padding", json!("same"), json!("valid")) },
                last_axis(),
                setting("dilation_rate", json!([1, 1]), json!([1, 1])),
                setting("groups", json!(1), json!(1)),
                setting("activation", json!(activation), json!("linear")),
                setting("use_bias", json!(true), json!(true)),
            ];
            ("Conv2D", settings)
        }
        Operation::Pool => {
            // An image with even sides needs no padding, and all have sides that are multiples of
            // 4.
            let padding = setting("padding", json!("valid"), json!("valid"));
            let settings = vec![
                setting("pool_size", json!([2, 2]), json!([2, 2])),
                setting("strides", json!([2, 2]), json!([2, 2])),
                Setting { same: json!("same"), ..padding },
                last_axis(),
            ];
            ("MaxPooling2D", settings)
        }
        Operation::Upsample => {
            let interpolation = setting("interpolation", json!("nearest"), json!("nearest"));
            (
                "UpSampling2D",
                vec![setting("size", json!([2, 2]), json!([2, 2])), last_axis(), interpolation],
            )
        }
        // The last of four axes may be counted from the end.
        Operation::Concat => {
            let axis = setting("axis", json!(3), json!(-1));
            ("Concatenate", vec![Setting { same: json!(-1), ..axis }])
        }
    }
}

/// One layer of a file, its inputs given by their place in the list.
struct Found<'a> {
    name: &'a str,
    class: &'a str,
    config: &'a Value,
    inputs: Vec<usize>,
}

/// Checks the attribute `model_config`; returns the patch size of the input layer, if it is fixed.
///
/// A `Masking` layer is passed over: it blanks only pixels of value −1, and a page's lie in 0…1.
///
/// # Errors
/// The first difference from this network.
pub fn check(json: &str) -> Result<Option<PatchShape>, TopologyError> {
    let found: Value =
        serde_json::from_str(json).map_err(|e| TopologyError::Config(e.to_string()))?;
    let layers = found["config"]["layers"].as_array().ok_or_else(|| missing("config.layers"))?;
    if layers.iter().any(|layer| layer["class_name"] == "Convolution2D") {
        return Err(TopologyError::Keras1);
    }
    let found = chain(layers)?;
    if found.len() != NODES.len() {
        return Err(TopologyError::Layers { found: found.len(), expected: NODES.len() });
    }
    for (ours, theirs) in NODES.iter().zip(&found) {
        compare(ours, theirs)?;
    }
    // Last: of a network whose images begin with the channels the sizes would be misread.
    patch_shape(layers.first().unwrap_or(&Value::Null))
}

/// The patch size that the input layer names: `[images, height, width, channels]`, each open or
/// fixed.
fn patch_shape(input: &Value) -> Result<Option<PatchShape>, TopologyError> {
    let config = &input["config"];
    // The first up to Keras 2, the second since Keras 3.
    let size = config.get("batch_input_shape").unwrap_or(&config["batch_shape"]);
    let (Some(height), Some(width)) = (size[1].as_u64(), size[2].as_u64()) else { return Ok(None) };
    if height > MAX_SIDE || width > MAX_SIDE {
        return Err(TopologyError::Large { height, width });
    }
    let side = |side| usize::try_from(side).unwrap_or(usize::MAX);
    Ok(Some(PatchShape::new(side(height), side(width))?))
}

fn compare(ours: &Node, theirs: &Found<'_>) -> Result<(), TopologyError> {
    let differs = |key: &str, found: String, expected: String| TopologyError::Layer {
        name: printable(theirs.name, 60),
        key: key.to_owned(),
        found: printable(&found, 100),
        expected,
    };
    let (class, settings) = class_and_settings(ours.operation);
    if class != theirs.class {
        return Err(differs("class", theirs.class.to_owned(), class.to_owned()));
    }
    if ours.inputs != theirs.inputs {
        return Err(differs("input", format!("{:?}", theirs.inputs), format!("{:?}", ours.inputs)));
    }
    for Setting { key, expected, absent, same } in settings {
        // The second is how a concatenation of Keras 1 names it, also when Keras 2 has saved it
        // again.
        let named = theirs.config.get(key).or_else(|| theirs.config.get(format!("concat_{key}")));
        let found = match named.unwrap_or(&Value::Null) {
            Value::Null => &absent,
            value => value,
        };
        if *found != expected && (same.is_null() || *found != same) {
            return Err(differs(key, found.to_string(), expected.to_string()));
        }
    }
    Ok(())
}

fn missing(what: &str) -> TopologyError {
    TopologyError::Config(format!("{} is missing", printable(what, 60)))
}

/// The layers without `Masking`, each knowing the place of what it reads.
fn chain(layers: &[Value]) -> Result<Vec<Found<'_>>, TopologyError> {
    let mut chain: Vec<Found<'_>> = Vec::with_capacity(layers.len());
    // Name → place; a masked input has the place of what it masks.
    let mut places = std::collections::HashMap::new();
    for layer in layers {
        let name = layer["name"].as_str().or(layer["config"]["name"].as_str());
        let name = name.ok_or_else(|| missing("name"))?;
        let class = match layer["class_name"].as_str().ok_or_else(|| missing("class_name"))? {
            // What Keras 2.0 and 2.1 keep of Keras 1.
            "Merge" if layer["config"]["mode"] == "concat" => "Concatenate",
            class => class,
        };
        let mut inputs = Vec::new();
        for source in sources(&layer["inbound_nodes"])? {
            inputs.push(*places.get(source).ok_or_else(|| missing(source))?);
        }
        if class == "Masking" {
            let [place] = inputs[..] else { return Err(missing("the input of Masking")) };
            places.insert(name, place);
            continue;
        }
        places.insert(name, chain.len());
        chain.push(Found { name, class, config: &layer["config"], inputs });
    }
    Ok(chain)
}

/// Names of the layers that one is called with. Of a layer's calls the first counts: no layer of
/// this network is called twice.
fn sources(inbound: &Value) -> Result<Vec<&str>, TopologyError> {
    let mut names = Vec::new();
    match &inbound[0] {
        // Keras 3: tensors, or lists of them, as the call's arguments.
        Value::Object(call) => {
            for tensor in call.get("args").map(tensors).unwrap_or_default() {
                names.push(&tensor["config"]["keras_history"][0]);
            }
        }
        // Before: a list of [layer, call, tensor, arguments].
        inputs => names.extend(inputs.as_array().into_iter().flatten().map(|input| &input[0])),
    }
    names.into_iter().map(|name| name.as_str().ok_or_else(|| missing("inbound_nodes"))).collect()
}

/// All tensors in a call's arguments, lists in it unpacked. As deep as the JSON, whose depth
/// serde_json limits.
fn tensors(argument: &Value) -> Vec<&Value> {
    match argument {
        Value::Array(items) => items.iter().flat_map(tensors).collect(),
        Value::Object(_) => vec![argument],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keras::model_config::model_config;

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
        for (height, width, taken) in [(4096, 4096, true), (4100, 4, false), (4, 1u64 << 62, false)]
        {
            config["config"]["layers"][0]["config"]["batch_input_shape"] =
                serde_json::json!([null, height, width, 3]);
            assert_eq!(check(&config.to_string()).is_ok(), taken, "{height}x{width}");
        }
    }

    #[test]
    fn a_masking_layer_is_passed_over() {
        let json = model_config(PatchShape::new(64, 32).unwrap());
        let masking = r#"{"class_name": "Masking", "config": {"name": "masking", "mask_value": -1},
            "name": "masking",
            "inbound_nodes": [[["input_1", 0, 0, {}]]]}, {"class_name": "Conv2D""#;
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
        assert!(
            told.starts_with("layer [2Jxxx") && told.contains("class is [2Jxxx"),
            "{told:.400}"
        );
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
