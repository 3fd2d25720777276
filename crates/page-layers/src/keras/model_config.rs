//! The two JSON documents in a Keras file: how the model is built and how it was compiled.
//!
//! The first is written to the byte as Keras 2.15 writes it (key order, spaces after `,` and `:`),
//! so that a file of ours and one saved by the original trainer differ in their weights only.

use domain::PatchShape;

use crate::hyperparameters::{BETA_1, BETA_2, EPSILON, LEARNING_RATE};
use crate::topology::{Activation, CONV_LAYERS, ConvLayer, LAST, NODES, Node, Operation};

/// The attribute `training_config`: loss, metric and optimiser of the training rules.
///
/// Loads without a warning and can `evaluate` and `fit` on TensorFlow 2.15 and on Keras 3. Keras's
/// own form breaks `evaluate` on Keras 3; without `loss_weights` loading fails.
pub(super) fn training_config() -> String {
    let [rate, beta_1, beta_2, epsilon] =
        [LEARNING_RATE, BETA_1, BETA_2, EPSILON].map(python_number);
    one_line(&format!(
        r#"{{"loss": "binary_crossentropy", "metrics": ["accuracy"], "weighted_metrics": null,
        "loss_weights": null,
        "optimizer_config": {{"class_name": "Adam",
        "config": {{"name": "Adam", "learning_rate": {rate}, "beta_1": {beta_1},
        "beta_2": {beta_2}, "epsilon": {epsilon}, "amsgrad": false}}}}}}"#
    ))
}

/// The same JSON in one line, where a line break and the blanks after it are one space.
fn one_line(json: &str) -> String {
    json.lines().map(str::trim_start).collect::<Vec<_>>().join(" ")
}

/// A number from 0 to 1 as Python prints it: from 1e-4 on without an exponent, below with one of
/// two digits.
fn python_number(value: f64) -> String {
    if value >= 1e-4 {
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

fn node_json(node: &Node, shape: PatchShape) -> String {
    let name = node.name;
    let (class, config) = match node.operation {
        Operation::Input => {
            let (h, w) = (shape.height(), shape.width());
            // An input layer alone has its name at the end of `config`, and reads nothing.
            return one_line(&format!(
                r#"{{"class_name": "InputLayer",
                "config": {{"batch_input_shape": [null, {h}, {w}, 3], "dtype": "float32",
                "sparse": false, "ragged": false, "name": "{name}"}},
                "name": "{name}", "inbound_nodes": []}}"#
            ));
        }
        Operation::Conv(index) => ("Conv2D", conv_config(CONV_LAYERS[index])),
        Operation::Pool => (
            "MaxPooling2D",
            one_line(
                r#""pool_size": [2, 2], "padding": "valid", "strides": [2, 2],
                "data_format": "channels_last""#,
            ),
        ),
        Operation::Upsample => (
            "UpSampling2D",
            one_line(
                r#""size": [2, 2], "data_format": "channels_last",
                "interpolation": "nearest""#,
            ),
        ),
        Operation::Concat => ("Concatenate", r#""axis": 3"#.to_owned()),
    };
    let inbound: Vec<String> = node
        .inputs
        .iter()
        .map(|input| format!(r#"["{}", 0, 0, {{}}]"#, NODES[*input].name))
        .collect();
    let inbound = inbound.join(", ");
    one_line(&format!(
        r#"{{"class_name": "{class}",
        "config": {{"name": "{name}", "trainable": true, "dtype": "float32", {config}}},
        "name": "{name}", "inbound_nodes": [[{inbound}]]}}"#
    ))
}

fn conv_config(layer: ConvLayer) -> String {
    let (filters, k) = (layer.output, layer.kernel);
    // The last layer was written with Keras's defaults: Glorot uniform, `valid` (the same for 1×1).
    let (padding, activation, initializer) = match layer.activation {
        Activation::Sigmoid => ("valid", "sigmoid", "GlorotUniform"),
        Activation::Relu => ("same", "relu", "HeNormal"),
    };
    one_line(&format!(
        r#""filters": {filters}, "kernel_size": [{k}, {k}], "strides": [1, 1],
        "padding": "{padding}", "data_format": "channels_last", "dilation_rate": [1, 1],
        "groups": 1, "activation": "{activation}", "use_bias": true,
        "kernel_initializer": {{"module": "keras.initializers", "class_name": "{initializer}",
        "config": {{"seed": null}}, "registered_name": null}},
        "bias_initializer": {{"module": "keras.initializers", "class_name": "Zeros",
        "config": {{}}, "registered_name": null}},
        "kernel_regularizer": null, "bias_regularizer": null, "activity_regularizer": null,
        "kernel_constraint": null, "bias_constraint": null"#
    ))
}

/// The attribute `layer_names`: all layers, weightless ones included, in model order.
pub(super) fn layer_names() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(|node| node.name)
}

/// The attribute `model_config` for patches of this size.
pub(super) fn model_config(shape: PatchShape) -> String {
    let layers = NODES.iter().map(|node| node_json(node, shape)).collect::<Vec<_>>().join(", ");
    let (input, output) = (NODES[0].name, CONV_LAYERS[LAST].name);
    one_line(&format!(
        r#"{{"class_name": "Functional",
        "config": {{"name": "model", "trainable": true, "layers": [{layers}],
        "input_layers": [["{input}", 0, 0]], "output_layers": [["{output}", 0, 0]]}}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Keras 2.15 wrote for a 256×256 model of the original trainer.
    const KERAS_256: &str = include_str!("../../tests/keras/model_config.json");

    #[test]
    fn the_model_config_is_keras_own_to_the_byte() {
        let ours = model_config(PatchShape::new(256, 256).unwrap());
        assert_eq!(ours, KERAS_256.trim_end());
    }

    #[test]
    fn the_patch_size_is_the_only_difference() {
        let ours = model_config(PatchShape::new(64, 128).unwrap());
        assert_eq!(ours, KERAS_256.trim_end().replace("[null, 256, 256, 3]", "[null, 64, 128, 3]"));
    }

    #[test]
    fn the_training_config_says_what_the_optimiser_does() {
        let value: serde_json::Value = serde_json::from_str(&training_config()).unwrap();
        assert_eq!(value["loss"], "binary_crossentropy");
        let adam = &value["optimizer_config"]["config"];
        for (key, used) in [
            ("learning_rate", LEARNING_RATE),
            ("beta_1", BETA_1),
            ("beta_2", BETA_2),
            ("epsilon", EPSILON),
        ] {
            assert_eq!(adam[key], used, "{key}");
        }
    }

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        // Python 3.11's repr of each.
        for (value, text) in
            [(1e-4, "0.0001"), (0.999, "0.999"), (1e-7, "1e-07"), (2.5e-5, "2.5e-05"), (1.0, "1.0")]
        {
            assert_eq!(python_number(value), text);
        }
    }
}
