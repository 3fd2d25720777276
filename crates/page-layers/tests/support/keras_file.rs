//! Model files as other versions of Keras lay them out, around a `model_config` that they wrote.

use hdf5_pure::{AttrValue, DatasetBuilder, FileBuilder};
use page_layers::keras::{CONV_LAYERS, Weights};
use serde_json::Value;

/// What Keras 2.3.1 wrote for this network, with patches of 32×64.
pub(crate) const CONFIG_2_3: &str = include_str!("../keras/configs/keras-2.3.1.json");

/// What Keras 3.15.1 wrote, with the same patches.
pub(crate) const CONFIG_3_15: &str = include_str!("../keras/configs/keras-3.15.1.json");

/// What differs from Keras to Keras beside the `model_config`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Attribute `backend` of the weights.
    pub(crate) backend: &'static str,
    /// Attribute `keras_version`.
    pub(crate) version: &'static str,
    /// What stands before `kernel` and `bias` in a weight's name, `{}` being the layer's name.
    pub(crate) before: &'static str,
    /// What stands behind it.
    pub(crate) behind: &'static str,
    /// Lists of names have a fixed length, as h5py 2 wrote them.
    pub(crate) fixed: bool,
}

/// How Keras 2.3 on TensorFlow names the weights.
pub(crate) const KERAS_2: Layout =
    Layout { backend: "tensorflow", version: "2.3.1", before: "{}/", behind: ":0", fixed: true };

/// How Keras 3.15 does.
pub(crate) const KERAS_3: Layout =
    Layout { backend: "jax", version: "3.15.1", before: "{}/", behind: "", fixed: false };

/// A file with this `model_config` and these weights; `put` writes the values of a dataset.
pub(crate) fn with_values(
    config: &str,
    layout: Layout,
    weights: &Weights,
    put: impl Fn(&mut DatasetBuilder, &[f32]),
) -> Vec<u8> {
    let text = |value: &str| AttrValue::VarLenAsciiString(value.to_owned());
    let texts = |values: Vec<String>| match layout.fixed {
        true => AttrValue::AsciiStringArray(values),
        false => AttrValue::VarLenAsciiStringArray(values),
    };
    let json: Value = serde_json::from_str(config).unwrap();
    let mut file = FileBuilder::new();
    file.set_attr("backend", text(layout.backend));
    file.set_attr("keras_version", text(layout.version));
    file.set_attr("model_config", text(config));
    let mut root = file.create_group("model_weights");
    root.set_attr("backend", text(layout.backend));
    root.set_attr("keras_version", text(layout.version));
    let layers = json["config"]["layers"].as_array().unwrap();
    let names: Vec<&str> =
        layers.iter().map(|layer| layer["config"]["name"].as_str().unwrap()).collect();
    root.set_attr("layer_names", texts(names.iter().map(|name| (*name).to_owned()).collect()));
    let mut index = 0;
    for (layer, name) in layers.iter().zip(names) {
        let mut group = root.create_group(name);
        if layer["class_name"] == "Conv2D" {
            let before = layout.before.replace("{}", name);
            let parts = ["kernel", "bias"].map(|part| format!("{part}{}", layout.behind));
            let named = parts.iter().map(|part| format!("{before}{part}")).collect();
            group.set_attr("weight_names", texts(named));
            let conv = CONV_LAYERS[index];
            let (kernel, bias) = weights.layer(index);
            let dims = [conv.kernel, conv.kernel, conv.input, conv.output].map(|n| n as u64);
            let put_both = |group: &mut hdf5_pure::GroupBuilder| {
                let dataset = group.create_dataset(&parts[0]);
                put(dataset, kernel);
                dataset.with_shape(&dims);
                let dataset = group.create_dataset(&parts[1]);
                put(dataset, bias);
                dataset.with_shape(&dims[3..]);
            };
            if before.is_empty() {
                put_both(&mut group);
            } else {
                let mut inner = group.create_group(name);
                put_both(&mut inner);
                group.add_group(inner.finish());
            }
            index += 1;
        } else {
            group.set_attr("weight_names", AttrValue::F64Array(Vec::new()));
        }
        root.add_group(group.finish());
    }
    file.add_group(root.finish());
    file.finish().unwrap()
}

/// As [`with_values`], with values of 4 bytes.
pub(crate) fn bytes(config: &str, layout: Layout, weights: &Weights) -> Vec<u8> {
    with_values(config, layout, weights, |dataset, values| {
        dataset.with_f32_data(values);
    })
}
