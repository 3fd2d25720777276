//! Models that other versions of Keras saved. The configurations in `keras/configs` are what those
//! versions wrote for this network (TensorFlow 2.2's is 2.15's without what 2.2's sources don't
//! write); the files around them are laid out here as theirs are.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on has failed")]

#[path = "support/keras_file.rs"]
mod keras_file;

use hdf5_pure::{Datatype, DatatypeByteOrder, FloatingPointLayout};
use keras_file::{CONFIG_2_3, CONFIG_3_15, KERAS_2, KERAS_3, Layout, bytes, with_values};
use page_layers::keras::{Weights, from_bytes};
use page_layers::{PatchShape, initial_weights};
use serde_json::{Value, json};

const KERAS_1_2: &str = include_str!("keras/configs/keras-1.2.2.json");
const KERAS_2_0: &str = include_str!("keras/configs/keras-2.0.0.json");
const TENSORFLOW_2_2: &str = include_str!("keras/configs/tensorflow-2.2.json");
const KERAS_2_15: &str = include_str!("keras/model_config.json");
const KERAS_3_0: &str = include_str!("keras/configs/keras-3.0.5-masking.json");
const KERAS_3_OF_2: &str = include_str!("keras/configs/keras-3.15.1-of-2.3.1.json");

fn weights() -> Weights {
    initial_weights(5).unwrap()
}

fn refusal(config: &Value, layout: Layout) -> String {
    from_bytes(bytes(&config.to_string(), layout, &weights())).unwrap_err().to_string()
}

#[test]
fn models_of_every_keras_from_2_0_to_3_15_are_read() {
    let weights = weights();
    let small = Some(PatchShape::new(32, 64).unwrap());
    let large = Some(PatchShape::new(256, 256).unwrap());
    let bare = Layout { before: "", version: "3.0.5", ..KERAS_3 };
    let tensorflow = Layout { fixed: false, version: "2.15.0", ..KERAS_2 };
    for (name, config, layout, shape) in [
        ("Keras 2.0", KERAS_2_0, KERAS_2, small),
        ("Keras 2.3", CONFIG_2_3, KERAS_2, small),
        ("TensorFlow 2.2", TENSORFLOW_2_2, Layout { version: "2.3.0-tf", ..KERAS_2 }, small),
        ("TensorFlow 2.15", KERAS_2_15, tensorflow, large),
        ("Keras 3.0 with a Masking layer", KERAS_3_0, bare, small),
        ("Keras 3.15", CONFIG_3_15, KERAS_3, small),
        ("a model of Keras 2.3 that Keras 3.15 saved again", KERAS_3_OF_2, KERAS_3, small),
        ("Keras 2.3 on CNTK", CONFIG_2_3, Layout { backend: "cntk", ..KERAS_2 }, small),
    ] {
        let model = from_bytes(bytes(config, layout, &weights)).expect(name);
        assert_eq!(model.shape, shape, "{name}");
        assert!(model.weights == weights, "{name}: other weights");
    }
}

#[test]
fn weights_of_other_sizes_are_read_as_numbers() {
    let weights = weights();
    let doubles = with_values(CONFIG_2_3, KERAS_2, &weights, |dataset, values| {
        let doubles: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        dataset.with_f64_data(&doubles);
    });
    assert!(from_bytes(doubles).unwrap().weights == weights);

    // The upper half of an f32 is a bfloat16, which HDF5 has no name for.
    let cut =
        |values: &[f32]| values.iter().map(|v| (v.to_bits() >> 16) as u16).collect::<Vec<_>>();
    let brain = with_values(CONFIG_3_15, KERAS_3, &weights, |dataset, values| {
        let bytes: Vec<u8> = cut(values).into_iter().flat_map(u16::to_le_bytes).collect();
        let datatype = Datatype::Opaque { size: 2, tag: Vec::new() };
        dataset.with_raw_data(datatype, bytes, values.len() as u64);
    });
    let read = from_bytes(brain).unwrap().weights;
    for (read, written) in read.tensors().iter().zip(weights.tensors()) {
        assert_eq!(cut(read), cut(written));
        assert!(read.iter().all(|v| v.to_bits() & 0xffff == 0));
    }

    // IEEE's 16 bits, as `numpy.float16` stores them: 0.25 everywhere.
    for (order, quarter) in [
        (DatatypeByteOrder::LittleEndian, [0x00, 0x34]),
        (DatatypeByteOrder::BigEndian, [0x34, 0x00]),
    ] {
        let halves = with_values(CONFIG_3_15, KERAS_3, &weights, |dataset, values| {
            let layout = FloatingPointLayout {
                bit_offset: 0,
                bit_precision: 16,
                exponent_location: 10,
                exponent_size: 5,
                mantissa_location: 0,
                mantissa_size: 10,
                exponent_bias: 15,
            };
            let datatype = Datatype::FloatingPoint { size: 2, byte_order: order, layout };
            dataset.with_raw_data(datatype, quarter.repeat(values.len()), values.len() as u64);
        });
        let read = from_bytes(halves).unwrap().weights;
        assert!(read.tensors().iter().flatten().all(|v| *v == 0.25));
    }

    let whole = with_values(CONFIG_3_15, KERAS_3, &weights, |dataset, values| {
        dataset.with_i8_data(&vec![1; values.len()]);
    });
    let error = from_bytes(whole).unwrap_err().to_string();
    assert!(
        error.contains("is stored as i8") && error.contains("before it was quantised"),
        "{error}"
    );
}

#[test]
fn a_setting_that_is_absent_is_what_that_keras_did() {
    let layers = |config: &mut Value, class: &str, change: &dyn Fn(&mut Value)| {
        let all = config["config"]["layers"].as_array_mut().unwrap();
        all.iter_mut()
            .filter(|layer| layer["class_name"] == class)
            .for_each(|l| change(&mut l["config"]));
    };
    let config: Value = serde_json::from_str(KERAS_2_15).unwrap();
    // Class, setting, and whether a file without it is this network.
    for (class, key, taken) in [
        ("Conv2D", "groups", true),
        ("Conv2D", "dilation_rate", true),
        ("Conv2D", "strides", true),
        ("Conv2D", "data_format", true),
        ("Conv2D", "use_bias", true),
        ("UpSampling2D", "interpolation", true),
        ("UpSampling2D", "size", true),
        ("UpSampling2D", "data_format", true),
        ("MaxPooling2D", "padding", true),
        ("MaxPooling2D", "strides", true),
        ("MaxPooling2D", "pool_size", true),
        ("Concatenate", "axis", true),
        // Without a word these are `valid` and `linear`; what has no default is needed.
        ("Conv2D", "padding", false),
        ("Conv2D", "activation", false),
        ("Conv2D", "filters", false),
        ("Conv2D", "kernel_size", false),
    ] {
        for absent in [true, false] {
            let mut config = config.clone();
            layers(&mut config, class, &|settings| {
                let settings = settings.as_object_mut().unwrap();
                assert!(settings.remove(key).is_some(), "{class} has no {key}");
                if !absent {
                    settings.insert(key.to_owned(), Value::Null);
                }
            });
            let read = from_bytes(bytes(&config.to_string(), KERAS_2, &weights()));
            assert_eq!(read.is_ok(), taken, "{class} without {key}: {:?}", read.err());
        }
    }
    // Said otherwise, it is another network.
    for (class, key, value, said) in [
        ("Conv2D", "groups", json!(2), "groups is 2, expected 1"),
        ("Conv2D", "dilation_rate", json!([2, 2]), "dilation_rate is [2,2], expected [1,1]"),
        ("Conv2D", "data_format", json!("channels_first"), "data_format is \"channels_first\""),
        ("UpSampling2D", "interpolation", json!("bilinear"), "interpolation is \"bilinear\""),
        ("MaxPooling2D", "strides", json!([1, 1]), "strides is [1,1], expected [2,2]"),
        ("Concatenate", "axis", json!(1), "axis is 1, expected 3"),
    ] {
        let mut config = config.clone();
        layers(&mut config, class, &|settings| settings[key] = value.clone());
        let refused = refusal(&config, KERAS_2);
        assert!(
            refused.starts_with("another network: layer ") && refused.contains(said),
            "{refused}"
        );
    }
    // These compute the same.
    for (class, key, value) in
        [("MaxPooling2D", "padding", json!("same")), ("Concatenate", "axis", json!(-1))]
    {
        let mut config = config.clone();
        layers(&mut config, class, &|settings| settings[key] = value.clone());
        assert!(
            from_bytes(bytes(&config.to_string(), KERAS_2, &weights())).is_ok(),
            "{class}: {key}"
        );
    }
}

#[test]
fn a_model_of_keras_1_that_keras_2_saved_again_is_read() {
    let mut config: Value = serde_json::from_str(KERAS_2_0).unwrap();
    let layers = config["config"]["layers"].as_array_mut().unwrap();
    for layer in layers.iter_mut().filter(|layer| layer["class_name"] == "Concatenate") {
        // As Keras 2.1.6 wrote it.
        let name = layer["name"].clone();
        layer["class_name"] = "Merge".into();
        layer["config"] = json!({"name": name, "mode": "concat", "concat_axis": 3, "dot_axes": -1});
    }
    assert!(
        from_bytes(bytes(&config.to_string(), KERAS_2, &weights())).unwrap().weights == weights()
    );
    config["config"]["layers"][11]["config"]["concat_axis"] = 1.into();
    assert!(refusal(&config, KERAS_2).contains("axis is 1, expected 3"));
    config["config"]["layers"][11]["config"]["mode"] = "sum".into();
    assert!(refusal(&config, KERAS_2).contains("class is Merge, expected Concatenate"));
}

#[test]
fn differences_are_found_in_keras_3_too() {
    let config: Value = serde_json::from_str(CONFIG_3_15).unwrap();
    let mut other = config.clone();
    let joined = &mut other["config"]["layers"][11]["inbound_nodes"][0]["args"][0];
    joined.as_array_mut().unwrap().reverse();
    let refused = refusal(&other, KERAS_3);
    assert!(refused.contains("input is [10, 5], expected [5, 10]"), "{refused}");

    let mut other = config.clone();
    other["config"]["layers"][2]["inbound_nodes"] = json!([]);
    let refused = refusal(&other, KERAS_3);
    assert!(refused.contains("input is [], expected [1]"), "{refused}");

    let mut other = config.clone();
    other["config"]["layers"][2]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] =
        json!(7);
    assert!(refusal(&other, KERAS_3).contains("inbound_nodes is missing"));

    let mut open = config.clone();
    open["config"]["layers"][0]["config"]["batch_shape"] = json!([null, null, null, 3]);
    let model = from_bytes(bytes(&open.to_string(), KERAS_3, &weights())).unwrap();
    assert_eq!(model.shape, None);
}

#[test]
fn what_is_not_read_says_what_helps_with_the_keras_that_wrote_it() {
    let refused = |bytes: Vec<u8>| from_bytes(bytes).unwrap_err().to_string();
    let old = refused(bytes(KERAS_1_2, Layout { version: "1.2.2", ..KERAS_2 }, &weights()));
    // Keras 2.2 has forgotten Keras 1's layers: "Unknown layer: Merge".
    assert!(
        old.contains("Keras 1 saved it; load it with Keras 2.0 or 2.1 and save it again"),
        "{old}"
    );

    // Its predictions differ from this network's by 0.2 whether the kernels are turned or not.
    let theano = Layout { backend: "theano", behind: "", ..KERAS_2 };
    let theano = refused(bytes(CONFIG_2_3, theano, &weights()));
    assert!(
        theano.contains("trained with Theano") && theano.contains("train a model on"),
        "{theano}"
    );

    let mut file = hdf5_pure::FileBuilder::new();
    let mut layers = file.create_group("layers");
    let mut layer = layers.create_group("conv2d");
    let mut vars = layer.create_group("vars");
    vars.create_dataset("0").with_f32_data(&[0.0; 864]).with_shape(&[3, 3, 3, 32]);
    layer.add_group(vars.finish());
    layers.add_group(layer.finish());
    file.add_group(layers.finish());
    let alone = refused(file.finish().unwrap());
    assert!(
        alone.contains("weights alone") && alone.contains("save the whole model with"),
        "{alone}"
    );
}
