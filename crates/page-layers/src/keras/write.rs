//! Writes a trained network as the HDF5 file that Rodan's classifier opens with `load_model`.

use std::path::{Path, PathBuf};

use hdf5_pure::{AttrValue, FileBuilder};
use thiserror::Error;

use super::model_config::{layer_names, model_config, training_config};
use super::{Adjustment, Weights};
use crate::topology::{CONV_LAYERS, NODES, Operation};
use base::files::Replace;
use domain::PatchShape;

/// The Keras whose file layout is written: the one that Rodan's classifier runs.
const KERAS_VERSION: &str = "2.15.0";

/// A model file that could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The HDF5 tree could not be put together.
    #[error("the Keras model can't be laid out as HDF5")]
    Layout(#[source] hdf5_pure::Error),
    /// The file can't be written to its place.
    #[error(
        "{}: can't write the model: {source}; check that the folder exists, is writable and has \
        room",
        path.display()
    )]
    Io {
        /// The file that was to be written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// The bytes of the HDF5 file for these weights: the same weights always give the same bytes.
///
/// About 5.8 MB: contiguous f32 datasets with HWIO kernels, no optimiser state.
///
/// # Errors
/// [`WriteError::Layout`] when the HDF5 crate refuses the tree.
pub fn to_bytes(weights: &Weights, shape: PatchShape) -> Result<Vec<u8>, WriteError> {
    lay_out(weights, shape, None)
}

fn lay_out(
    weights: &Weights,
    shape: PatchShape,
    adjustment: Option<Adjustment>,
) -> Result<Vec<u8>, WriteError> {
    let mut file = FileBuilder::new();
    file.set_attr("backend", text("tensorflow"));
    file.set_attr("keras_version", text(KERAS_VERSION));
    file.set_attr("model_config", text(&model_config(shape)));
    file.set_attr("training_config", text(&training_config()));
    if let Some(Adjustment { scale, shift }) = adjustment {
        file.set_attr(Adjustment::ATTRIBUTE, AttrValue::F64Array(vec![scale, shift]));
    }

    let mut model_weights = file.create_group("model_weights");
    model_weights.set_attr("backend", text("tensorflow"));
    model_weights.set_attr("keras_version", text(KERAS_VERSION));
    model_weights.set_attr("layer_names", texts(layer_names().map(str::to_owned).collect()));
    for node in &NODES {
        let name = node.name;
        let mut group = model_weights.create_group(name);
        match node.operation {
            Operation::Conv(index) => {
                group.set_attr(
                    "weight_names",
                    texts(vec![format!("{name}/kernel:0"), format!("{name}/bias:0")]),
                );
                let layer = CONV_LAYERS[index];
                let (kernel, bias) = weights.layer(index);
                let mut inner = group.create_group(name);
                inner
                    .create_dataset("bias:0")
                    .with_f32_data(bias)
                    .with_shape(&[layer.output as u64]);
                let dims =
                    [layer.kernel, layer.kernel, layer.input, layer.output].map(|n| n as u64);
                inner.create_dataset("kernel:0").with_f32_data(kernel).with_shape(&dims);
                group.add_group(inner.finish());
            }
            _ => group.set_attr("weight_names", AttrValue::F64Array(Vec::new())),
        }
        model_weights.add_group(group.finish());
    }
    let mut top = model_weights.create_group("top_level_model_weights");
    top.set_attr("weight_names", AttrValue::F64Array(Vec::new()));
    model_weights.add_group(top.finish());
    file.add_group(model_weights.finish());
    file.finish().map_err(WriteError::Layout)
}

/// Writes the model file as [`Replace::USERS`], so that `path` holds either the whole file or what
/// it held before.
///
/// # Errors
/// [`WriteError::Io`] when the folder is missing, not writable or full.
pub fn write(path: &Path, weights: &Weights, shape: PatchShape) -> Result<(), WriteError> {
    put(path, &to_bytes(weights, shape)?)
}

/// As [`write()`], for `weights` that have this adjustment in them already: the file says so, for a
/// training that goes on from it.
///
/// # Errors
/// As [`write()`].
pub fn write_adjusted(
    path: &Path,
    weights: &Weights,
    shape: PatchShape,
    adjustment: Adjustment,
) -> Result<(), WriteError> {
    put(path, &lay_out(weights, shape, Some(adjustment))?)
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let io = |source| WriteError::Io { path: path.to_owned(), source };
    Replace::USERS.write(path, bytes).map_err(io)
}

fn text(value: &str) -> AttrValue {
    AttrValue::VarLenAsciiString(value.to_owned())
}

fn texts(values: Vec<String>) -> AttrValue {
    AttrValue::VarLenAsciiStringArray(values)
}
