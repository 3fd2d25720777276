//! The Keras HDF5 model file: the only form in which a trained network leaves this program.

mod layers;

pub use layers::{CONV_LAYERS, ConvLayer, PARAMETER_COUNT, Weights, WeightsError};
