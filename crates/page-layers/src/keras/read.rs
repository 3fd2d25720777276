//! Reads a Keras HDF5 model of this network: our own files, those of every Keras from 2.0 to 3, and
//! those with a `Masking` layer or Adam slots. Anything else is refused with a sentence that says
//! what differs and, where a Keras can mend it, how.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base::text::printable;
use domain::PatchShape;
use hdf5_pure::{AttrValue, Dataset, Datatype, DatatypeByteOrder, File, Group};
use thiserror::Error;

use super::same_network::{self, TopologyError};
use super::{Adjustment, CONV_LAYERS, Weights, WeightsError};

/// Largest file that is read. Ours is 5.8 MB, the successor's with Adam slots 17.3 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// A network read from a file.
#[derive(Clone, Debug)]
pub struct Model {
    /// The weights in the order of [`CONV_LAYERS`].
    pub weights: Weights,
    /// The patch size that the file's input layer names; none when it is left open.
    pub shape: Option<PatchShape>,
    /// The calibration that is in the weights.
    pub adjustment: Option<Adjustment>,
}

impl Model {
    /// The weights as they were trained, without their calibration, which holds only beside the
    /// models that it was made with.
    ///
    /// # Errors
    /// When that is no finite number: the file was changed by others.
    pub fn as_trained(self) -> Result<Weights, WeightsError> {
        match self.adjustment {
            Some(made) => made.inverse().fold(&self.weights),
            None => Ok(self.weights),
        }
    }
}

/// A file that does not hold this network.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct ReadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: ReadProblem,
}

/// Why a file was refused.
#[derive(Debug, Error)]
pub enum ReadProblem {
    /// The operating system can't read the file.
    #[error("can't read the model: {0}")]
    Io(std::io::Error),
    /// The file is far larger than any model of this network.
    #[error(
        "{found} bytes is too large for a model of this network (limit: {MAX_FILE_BYTES} bytes)"
    )]
    TooLarge {
        /// Size of the file.
        found: u64,
    },
    /// A folder: TensorFlow's SavedModel, perhaps.
    #[error(
        "is a folder; load it with keras.models.load_model and save it with \
        model.save(\"name.hdf5\")"
    )]
    Folder,
    /// The zip archive that Keras calls its own format.
    #[error(
        "a .keras file; load it with keras.models.load_model and save it with \
        model.save(\"name.hdf5\")"
    )]
    Zip,
    /// The bytes are not an HDF5 file, or a damaged one.
    #[error("not a readable HDF5 file ({0}); save the model again with model.save(\"name.hdf5\")")]
    Hdf5(String),
    /// The weights alone, as `save_weights("name.weights.h5")` writes them.
    #[error(
        "holds weights alone (a .weights.h5 file); save the whole model with \
        model.save(\"name.hdf5\")"
    )]
    WeightsAlone,
    /// An HDF5 file that Keras did not write.
    #[error(
        "the HDF5 file has no Keras weights ({0} is missing); save the whole model with \
        model.save(\"name.hdf5\")"
    )]
    Missing(String),
    /// A part of the file has another type than Keras gives it.
    #[error("{0} is not what Keras writes there")]
    Malformed(String),
    /// Keras 1 saved it. Keras 2.2 can't load such a file any more.
    #[error(
        "Keras 1 saved it; load it with Keras 2.0 or 2.1 and save it again with \
        model.save(\"name.hdf5\")"
    )]
    Keras1,
    /// Keras ran on Theano. Its convolutions turn the kernel, which could be undone, but pad an
    /// even kernel above and on the left, so that the same weights compute something else here.
    #[error(
        "it was trained with Theano, whose 2x2 convolutions lie one pixel further up and left: \
         what it learned does \
         not fit this network; train a model on TensorFlow"
    )]
    Theano,
    /// The layers or their connections differ from this network's.
    #[error("another network: {0}")]
    Topology(#[from] TopologyError),
    /// The number of weights differs.
    #[error("another network: it has {found} weights, this one has {}", 2 * CONV_LAYERS.len())]
    Count {
        /// Number of weights in the file.
        found: usize,
    },
    /// A weight has another shape.
    #[error("another network: weight {name} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Keras's name of the weight in the file.
        name: String,
        /// Its shape there.
        found: Vec<u64>,
        /// The shape that this network needs.
        expected: Vec<u64>,
    },
    /// A weight is not stored as a floating-point number, such as in a quantised model.
    #[error(
        "weight {name} is stored as {found}, not as numbers with a fraction; save the model as it \
        was before it was quantised"
    )]
    Type {
        /// Keras's name of the weight in the file.
        name: String,
        /// HDF5's type there.
        found: String,
    },
    /// A weight holds a NaN or an infinity.
    #[error(transparent)]
    Values(#[from] WeightsError),
}

/// Reads the model at `path`.
///
/// Weights are matched by their order in `layer_names`, as Keras does: the names' numbers differ
/// between models that were built in one Python session.
///
/// # Errors
/// [`ReadError`] with the path and what is wrong or different.
pub fn read(path: &Path) -> Result<Model, ReadError> {
    read_file(path)
        .and_then(from_bytes)
        .map_err(|problem| ReadError { path: path.to_owned(), problem })
}

fn read_file(path: &Path) -> Result<Vec<u8>, ReadProblem> {
    let file = std::fs::metadata(path).map_err(ReadProblem::Io)?;
    if file.is_dir() {
        return Err(ReadProblem::Folder);
    }
    let found = file.len();
    if found > MAX_FILE_BYTES {
        return Err(ReadProblem::TooLarge { found });
    }
    std::fs::read(path).map_err(ReadProblem::Io)
}

/// Reads the model from the bytes of its file.
///
/// # Errors
/// What is wrong with the bytes, or what differs from this network.
pub fn from_bytes(bytes: Vec<u8>) -> Result<Model, ReadProblem> {
    // The HDF5 crate parses what a stranger may have sent; a defect there must become an error, not
    // an abort of a training job that only wanted to start warm.
    std::panic::catch_unwind(|| parse(bytes))
        .unwrap_or_else(|_| Err(ReadProblem::Hdf5("its structure contradicts itself".to_owned())))
}

fn parse(bytes: Vec<u8>) -> Result<Model, ReadProblem> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Err(ReadProblem::Zip);
    }
    let file = File::from_bytes(bytes).map_err(hdf5)?;
    let root = file.root();
    let attributes = root.attrs().map_err(hdf5)?;
    let mut shape = None;
    if let Some(config) = attributes.get("model_config") {
        let json =
            config.as_str().ok_or_else(|| ReadProblem::Malformed("model_config".to_owned()))?;
        shape = same_network::check(json).map_err(|error| match error {
            TopologyError::Keras1 => ReadProblem::Keras1,
            other => other.into(),
        })?;
    }
    let weights = match root.group("model_weights") {
        Ok(group) => group,
        // Up to Keras 2, `save_weights` puts the layers at the top of the file.
        Err(_) if attributes.contains_key("layer_names") => root,
        Err(_) if root.group("layers").is_ok() => return Err(ReadProblem::WeightsAlone),
        Err(_) => return Err(ReadProblem::Missing("model_weights".to_owned())),
    };
    let numbers = attributes.get(Adjustment::ATTRIBUTE).and_then(AttrValue::to_f64s);
    let adjustment = numbers.and_then(|numbers| Adjustment::of_numbers(&numbers));
    Ok(Model { weights: read_weights(&weights)?, shape, adjustment })
}

fn read_weights(group: &Group) -> Result<Weights, ReadProblem> {
    let attributes = group.attrs().map_err(hdf5)?;
    if attributes.get("backend").and_then(AttrValue::as_str) == Some("theano") {
        return Err(ReadProblem::Theano);
    }
    let mut names = Vec::new();
    for layer in strings(&attributes, "layer_names")? {
        let inner =
            group.group(&layer).map_err(|_| ReadProblem::Missing(printable(&layer, 100)))?;
        for weight in strings(&inner.attrs().map_err(hdf5)?, "weight_names")? {
            names.push(format!("{layer}/{weight}"));
        }
    }
    if names.len() != 2 * CONV_LAYERS.len() {
        return Err(ReadProblem::Count { found: names.len() });
    }
    let mut tensors = Vec::with_capacity(names.len());
    for (index, name) in names.into_iter().enumerate() {
        let layer = CONV_LAYERS[index / 2];
        let expected = if index % 2 == 0 {
            [layer.kernel, layer.kernel, layer.input, layer.output].map(|n| n as u64).to_vec()
        } else {
            vec![layer.output as u64]
        };
        let dataset =
            group.dataset(&name).map_err(|_| ReadProblem::Missing(printable(&name, 100)))?;
        // The shape is compared before a value is read: a forged size never becomes an allocation.
        let found = dataset.shape().map_err(hdf5)?;
        if found != expected {
            return Err(ReadProblem::Shape { name: printable(&name, 100), found, expected });
        }
        tensors.push(floats(&dataset, &name)?);
    }
    Ok(Weights::new(tensors)?)
}

/// The values of a dataset as f32: those of 2 bytes exactly, those of 8 rounded.
fn floats(dataset: &Dataset, name: &str) -> Result<Vec<f32>, ReadProblem> {
    let halves = |order: &DatatypeByteOrder, widen: fn(u16) -> f32| {
        let pair: fn([u8; 2]) -> u16 = match order {
            DatatypeByteOrder::BigEndian => u16::from_be_bytes,
            _ => u16::from_le_bytes,
        };
        let bytes = dataset.read_raw().map_err(hdf5)?;
        Ok(bytes.chunks_exact(2).map(|b| widen(pair([b[0], b[1]]))).collect())
    };
    match dataset.datatype().map_err(hdf5)? {
        Datatype::FloatingPoint { size: 4 | 8, .. } => dataset.read_f32().map_err(hdf5),
        // `keras.config.set_dtype_policy("float16")`.
        Datatype::FloatingPoint { size: 2, byte_order, .. } => halves(&byte_order, widen_half),
        // bfloat16 is the only type of two bytes that Keras gives to HDF5 without saying what it
        // is.
        Datatype::Opaque { size: 2, .. } => {
            halves(&DatatypeByteOrder::LittleEndian, |bits| f32::from_bits(u32::from(bits) << 16))
        }
        _ => {
            let found = dataset.dtype().map_err(hdf5)?.to_string();
            Err(ReadProblem::Type { name: printable(name, 100), found: printable(&found, 60) })
        }
    }
}

/// An IEEE number of 16 bits (1 sign, 5 exponent, 10 fraction) as one of 32.
fn widen_half(bits: u16) -> f32 {
    let (exponent, fraction) = ((bits >> 10) & 0x1f, f32::from(bits & 0x3ff) / 1024.0);
    let size = match exponent {
        0 => fraction * (-14f32).exp2(),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => (1.0 + fraction) * (f32::from(exponent) - 15.0).exp2(),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// The strings of an attribute; weightless layers have an empty float array where others have
/// names.
fn strings(
    attributes: &HashMap<String, AttrValue>,
    name: &str,
) -> Result<Vec<String>, ReadProblem> {
    let value = attributes.get(name).ok_or_else(|| ReadProblem::Missing(name.to_owned()))?;
    match (value.as_strings(), value.to_f64s()) {
        (Some(values), _) => Ok(values.to_vec()),
        (None, Some(values)) if values.is_empty() => Ok(Vec::new()),
        _ => Err(ReadProblem::Malformed(name.to_owned())),
    }
}

fn hdf5(error: hdf5_pure::Error) -> ReadProblem {
    ReadProblem::Hdf5(printable(&error.to_string(), 200))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keras::to_bytes;

    /// Weights without a pattern that a wrong order could hide: every value differs from its
    /// neighbours.
    pub(crate) fn patterned() -> Weights {
        let mut next = 0u32;
        let mut values = |n: usize| -> Vec<f32> {
            (0..n)
                .map(|_| {
                    next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (next >> 8) as f32 / (1 << 24) as f32 - 0.5
                })
                .collect()
        };
        let tensors =
            CONV_LAYERS.iter().flat_map(|l| [values(l.kernel_len()), values(l.output)]).collect();
        Weights::new(tensors).unwrap()
    }

    fn shape() -> PatchShape {
        PatchShape::new(64, 32).unwrap()
    }

    #[test]
    fn a_calibrated_model_says_so_and_can_be_had_as_it_was_trained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.hdf5");
        let made = Adjustment { scale: 0.25, shift: 3.0 };
        let weights = made.fold(&patterned()).unwrap();
        crate::keras::write_adjusted(&path, &weights, shape(), made).unwrap();
        let model = read(&path).unwrap();
        assert_eq!((&model.weights, model.adjustment), (&weights, Some(made)));
        // Rounded twice.
        let (back, was) = (model.as_trained().unwrap(), patterned());
        let mut both = back.tensors().iter().flatten().zip(was.tensors().iter().flatten());
        assert!(both.all(|(back, was)| (back - was).abs() < 1e-6));
        crate::keras::write(&path, &weights, shape()).unwrap();
        let model = read(&path).unwrap();
        assert_eq!((model.adjustment, model.as_trained().unwrap()), (None, weights));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let weights = patterned();
        let model = from_bytes(to_bytes(&weights, shape()).unwrap()).unwrap();
        assert_eq!(model.weights, weights);
        assert_eq!(model.shape, Some(shape()));
    }

    #[test]
    fn the_same_weights_give_the_same_bytes() {
        let weights = patterned();
        assert_eq!(to_bytes(&weights, shape()).unwrap(), to_bytes(&weights, shape()).unwrap());
    }

    #[test]
    fn a_model_fits_into_a_message_in_base64() {
        // Four of them must stay under a broker's default limit of 128 MiB, two under 16 MiB.
        assert!(to_bytes(&patterned(), shape()).unwrap().len() < 5_900_000);
    }

    #[test]
    fn torn_files_are_errors() {
        let bytes = to_bytes(&patterned(), shape()).unwrap();
        for length in [0, 1, 7, 8, 47, 48, 96, 1000, 5000, 20_000, bytes.len() / 2, bytes.len() - 1]
        {
            assert!(from_bytes(bytes[..length].to_vec()).is_err(), "{length} bytes were accepted");
        }
    }

    #[test]
    fn damaged_bytes_never_panic_or_exhaust_the_memory() {
        let bytes = to_bytes(&patterned(), shape()).unwrap();
        // The structure lies at both ends, the weights between; a stride that is no power of two
        // meets every kind of field.
        let end = bytes.len();
        let mut damaged = 0;
        for position in (0..1000)
            .step_by(29)
            .chain((1000..end - 30_000).step_by(487_001))
            .chain((end - 30_000..end).step_by(571))
        {
            for value in [0x00, 0xff] {
                let mut copy = bytes.clone();
                copy[position] = value;
                damaged += usize::from(parse(copy).is_err());
            }
        }
        assert!(damaged > 0, "no damage was noticed");
    }

    #[test]
    fn other_hdf5_files_are_named_as_such() {
        let bytes = hdf5_pure::FileBuilder::new().finish().unwrap();
        let error = from_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains("model_weights"), "{error}");
        let error = from_bytes(b"PK\x03\x04rest".to_vec()).unwrap_err().to_string();
        assert!(error.contains(".keras file"), "{error}");
        let error = read(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(error.contains("is a folder; load it with"), "{error}");
    }

    #[test]
    fn numbers_of_two_bytes_are_read_exactly() {
        // As `numpy.float16` prints them.
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65_504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x2e66, 0.099_975_586),
            (0x8000, -0.0),
        ] {
            assert_eq!(widen_half(bits).to_bits(), f32::to_bits(value), "{bits:#x}");
        }
        assert!(widen_half(0x7c00).is_infinite() && widen_half(0x7e00).is_nan());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("no/such/model.hdf5")).unwrap_err().to_string();
        assert!(error.starts_with("no/such/model.hdf5: "), "{error}");
    }
}
