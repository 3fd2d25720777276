//! The two JSON documents in a Keras file: how the model is built and how it was compiled.
//!
//! Both are written to the byte as Keras 2.15 writes them (key order, spaces after `,` and `:`), so
//! that a file of ours and one saved by the original trainer differ in their weights only.

use super::CONV_LAYERS;
use domain::PatchShape;

/// One layer of the Keras model, in the order of `model_weights/layer_names`.
enum Node {
    Input,
    /// Index into [`CONV_LAYERS`] and the layer it reads.
    Conv(usize, &'static str),
    Pool(&'static str, &'static str),
    Upsample(&'static str, &'static str),
    /// Skip connection first, upsampled branch second.
    Concat(&'static str, [&'static str; 2]),
}

const NODES: [Node; 21] = [
    Node::Input,
    Node::Conv(0, "input_1"),
    Node::Conv(1, "conv2d"),
    Node::Pool("max_pooling2d", "conv2d_1"),
    Node::Conv(2, "max_pooling2d"),
    Node::Conv(3, "conv2d_2"),
    Node::Pool("max_pooling2d_1", "conv2d_3"),
    Node::Conv(4, "max_pooling2d_1"),
    Node::Conv(5, "conv2d_4"),
    Node::Upsample("up_sampling2d", "conv2d_5"),
    Node::Conv(6, "up_sampling2d"),
    Node::Concat("concatenate", ["conv2d_3", "conv2d_6"]),
    Node::Conv(7, "concatenate"),
    Node::Conv(8, "conv2d_7"),
    Node::Upsample("up_sampling2d_1", "conv2d_8"),
    Node::Conv(9, "up_sampling2d_1"),
    Node::Concat("concatenate_1", ["conv2d_1", "conv2d_9"]),
    Node::Conv(10, "concatenate_1"),
    Node::Conv(11, "conv2d_10"),
    Node::Conv(12, "conv2d_11"),
    Node::Conv(13, "conv2d_12"),
];

/// The attribute `training_config`: loss, metric and optimiser of the training rules.
///
/// Loads without a warning and can `evaluate` and `fit` on TensorFlow 2.15 and on Keras 3. Keras's
/// own form breaks `evaluate` on Keras 3; without `loss_weights` loading fails.
pub(super) const TRAINING_CONFIG: &str = concat!(
    r#"{"loss": "binary_crossentropy", "metrics": ["accuracy"], "weighted_metrics": null, "loss_weights": null, "#,
    r#""optimizer_config": {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.0001, "#,
    r#""beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07, "amsgrad": false}}}"#
);

impl Node {
    fn name(&self) -> &'static str {
        match self {
            Self::Input => "input_1",
            Self::Conv(index, _) => CONV_LAYERS[*index].name,
            Self::Pool(name, _) | Self::Upsample(name, _) | Self::Concat(name, _) => name,
        }
    }

    fn json(&self, shape: PatchShape) -> String {
        let name = self.name();
        let (class, config, inputs): (_, _, &[&str]) = match self {
            Self::Input => {
                let (h, w) = (shape.height(), shape.width());
                // An input layer alone has its name at the end of `config`, and reads nothing.
                return format!(
                    r#"{{"class_name": "InputLayer", "config": {{"batch_input_shape": [null, {h}, {w}, 3], "dtype": "float32", "sparse": false, "ragged": false, "name": "input_1"}}, "name": "input_1", "inbound_nodes": []}}"#
                );
            }
            Self::Conv(index, input) => ("Conv2D", conv_config(*index), std::slice::from_ref(input)),
            Self::Pool(_, input) => (
                "MaxPooling2D",
                r#""pool_size": [2, 2], "padding": "valid", "strides": [2, 2], "data_format": "channels_last""#
                    .to_owned(),
                std::slice::from_ref(input),
            ),
            Self::Upsample(_, input) => (
                "UpSampling2D",
                r#""size": [2, 2], "data_format": "channels_last", "interpolation": "nearest""#.to_owned(),
                std::slice::from_ref(input),
            ),
            Self::Concat(_, inputs) => ("Concatenate", r#""axis": 3"#.to_owned(), inputs),
        };
        let inbound =
            inputs.iter().map(|input| format!(r#"["{input}", 0, 0, {{}}]"#)).collect::<Vec<_>>().join(", ");
        format!(
            r#"{{"class_name": "{class}", "config": {{"name": "{name}", "trainable": true, "dtype": "float32", {config}}}, "name": "{name}", "inbound_nodes": [[{inbound}]]}}"#
        )
    }
}

fn conv_config(index: usize) -> String {
    let layer = CONV_LAYERS[index];
    let (filters, k) = (layer.output, layer.kernel);
    // The last layer was written with Keras's defaults: sigmoid, Glorot uniform, `valid` (the same
    // for 1×1).
    let (padding, activation, initializer) = if index + 1 == CONV_LAYERS.len() {
        ("valid", "sigmoid", "GlorotUniform")
    } else {
        ("same", "relu", "HeNormal")
    };
    format!(
        r#""filters": {filters}, "kernel_size": [{k}, {k}], "strides": [1, 1], "padding": "{padding}", "data_format": "channels_last", "dilation_rate": [1, 1], "groups": 1, "activation": "{activation}", "use_bias": true, "kernel_initializer": {{"module": "keras.initializers", "class_name": "{initializer}", "config": {{"seed": null}}, "registered_name": null}}, "bias_initializer": {{"module": "keras.initializers", "class_name": "Zeros", "config": {{}}, "registered_name": null}}, "kernel_regularizer": null, "bias_regularizer": null, "activity_regularizer": null, "kernel_constraint": null, "bias_constraint": null"#
    )
}

/// Names of all layers, weightless ones included, in model order: the attribute `layer_names`.
pub(super) fn layer_names() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(Node::name)
}

/// The attribute `model_config` for patches of this size.
pub(super) fn model_config(shape: PatchShape) -> String {
    let layers = NODES.iter().map(|node| node.json(shape)).collect::<Vec<_>>().join(", ");
    format!(
        r#"{{"class_name": "Functional", "config": {{"name": "model", "trainable": true, "layers": [{layers}], "input_layers": [["input_1", 0, 0]], "output_layers": [["conv2d_13", 0, 0]]}}}}"#
    )
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
    fn the_training_config_is_json_and_names_the_rules() {
        let value: serde_json::Value = serde_json::from_str(TRAINING_CONFIG).unwrap();
        assert_eq!(value["loss"], "binary_crossentropy");
        assert_eq!(value["optimizer_config"]["config"]["learning_rate"], 1e-4);
    }
}
