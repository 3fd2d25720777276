//! The Keras HDF5 model file: the only form in which a trained network leaves this program.

mod adjustment;
mod model_config;
mod read;
mod same_network;
mod weights;
mod write;

pub use crate::topology::{CONV_LAYERS, ConvLayer, PARAMETER_COUNT};
pub use adjustment::Adjustment;
pub use read::{Model, ReadError, ReadProblem, from_bytes, read};
pub use same_network::TopologyError;
#[doc(hidden)]
pub use same_network::check as check_model_config;
pub use weights::{Weights, WeightsError};
pub use write::{WriteError, to_bytes, write, write_adjusted};
