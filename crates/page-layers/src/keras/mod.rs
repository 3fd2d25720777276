//! The Keras HDF5 model file: the only form in which a trained network leaves this program.

mod layers;
mod model_config;
mod read;
mod topology;
mod write;

pub use layers::{CONV_LAYERS, ConvLayer, PARAMETER_COUNT, Weights, WeightsError};
pub use read::{Model, ReadError, ReadProblem, from_bytes, read};
pub use topology::TopologyError;
#[doc(hidden)]
pub use topology::check as check_model_config;
pub use write::{WriteError, to_bytes, write};
