//! The checkpoint file: a training that is not finished, as a `safetensors` file. Everything that
//! is not a tensor is in its metadata.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::fit::average::Average;
use crate::fit::outcome::{Best, FitState};
use crate::keras::{CONV_LAYERS, Weights};
use crate::net::adam::AdamState;
use base::text::hex;
use domain::{Course, EpochReport, Metrics};

/// Version of the file. It is raised with every change after which an older file would be misread.
const VERSION: u32 = 1;

/// Name of the one entry in the file's metadata.
const ENTRY: &str = "hpc-trainer";

/// The training of a job that is not finished.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checkpoint {
    /// The seed of all random choices; the trainer has drawn it if the job has no such setting.
    pub(crate) seed: u64,
    /// The layers that are done, in their order.
    pub(crate) finished: Vec<FinishedLayer>,
    /// The layer after them; `None` when it has not begun.
    pub(crate) fit: Option<FitState>,
}

/// A layer that is done. Its model is a file of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FinishedLayer {
    pub(crate) model_name: String,
    /// SHA-256 of the model file, hexadecimal.
    pub(crate) model_hash: String,
    pub(crate) course: Course,
    /// Seconds that it took.
    pub(crate) seconds: f64,
}

/// A checkpoint that can't be continued from.
#[derive(Debug, Error)]
pub(crate) enum CheckpointError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it has version {0}, this program reads {VERSION}")]
    Version(u32),
    #[error("it belongs to another page or other settings")]
    Foreign,
}

fn damaged(what: impl ToString) -> CheckpointError {
    CheckpointError::Damaged(what.to_string())
}

/// An `f64` by its bits: JSON's decimals may lose the last bits, and JSON has no infinity.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Bits(u64);

impl From<f64> for Bits {
    fn from(value: f64) -> Self {
        Self(value.to_bits())
    }
}

impl From<Bits> for f64 {
    fn from(bits: Bits) -> Self {
        Self::from_bits(bits.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    fingerprint: String,
    /// SHA-256 of all tensors' bytes.
    hash: String,
    seed: u64,
    finished: Vec<FinishedMeta>,
    fit: Option<FitMeta>,
}

#[derive(Serialize, Deserialize)]
struct FinishedMeta {
    model_name: String,
    model_hash: String,
    course: CourseMeta,
    seconds: Bits,
}

#[derive(Serialize, Deserialize)]
struct CourseMeta {
    history: Vec<ReportMeta>,
    best_epoch: usize,
    restarts: usize,
    learned: bool,
}

impl From<&Course> for CourseMeta {
    fn from(course: &Course) -> Self {
        let Course { history, best_epoch, restarts, learned } = course;
        let history = reports_to_meta(history);
        Self { history, best_epoch: *best_epoch, restarts: *restarts, learned: *learned }
    }
}

impl From<CourseMeta> for Course {
    fn from(course: CourseMeta) -> Self {
        let CourseMeta { history, best_epoch, restarts, learned } = course;
        Self { history: reports_from_meta(history), best_epoch, restarts, learned }
    }
}

#[derive(Serialize, Deserialize)]
struct FitMeta {
    restarts: usize,
    learned: bool,
    history: Vec<ReportMeta>,
    step: usize,
    loss_sum: Bits,
    seconds: Bits,
    adam_step: u64,
    /// How many weights were averaged.
    #[serde(default)]
    averaged: Option<u64>,
    best: Option<(usize, Bits)>,
}

#[derive(Serialize, Deserialize)]
struct ReportMeta {
    training_loss: Bits,
    /// Loss, accuracy, precision, recall, F1.
    validation: Option<[Bits; 5]>,
    best: bool,
    seconds: Bits,
}

fn reports_to_meta(history: &[EpochReport]) -> Vec<ReportMeta> {
    let metrics = |m: Metrics| [m.loss, m.accuracy, m.precision, m.recall, m.f1].map(Bits::from);
    let report = |r: &EpochReport| ReportMeta {
        training_loss: r.training_loss.into(),
        validation: r.validation.map(metrics),
        best: r.best,
        seconds: r.seconds.into(),
    };
    history.iter().map(report).collect()
}

fn reports_from_meta(history: Vec<ReportMeta>) -> Vec<EpochReport> {
    let metrics = |bits: [Bits; 5]| {
        let [loss, accuracy, precision, recall, f1] = bits.map(f64::from);
        Metrics { loss, accuracy, precision, recall, f1 }
    };
    let report = |(index, r): (usize, ReportMeta)| EpochReport {
        epoch: index + 1,
        training_loss: r.training_loss.into(),
        validation: r.validation.map(metrics),
        best: r.best,
        seconds: r.seconds.into(),
    };
    history.into_iter().enumerate().map(report).collect()
}

/// The tensors of a state in the order in which they are hashed, each with its name.
fn tensors(fit: &FitState) -> Vec<(String, &[f32])> {
    let groups: [(&str, &[Vec<f32>]); 5] = [
        ("weights", fit.weights.tensors()),
        ("average", fit.average.as_ref().map_or(&[], |average| average.weights.tensors())),
        ("best", fit.best.as_ref().map_or(&[], |best| best.weights.tensors())),
        ("adam.first", &fit.adam.first),
        ("adam.second", &fit.adam.second),
    ];
    let mut named = Vec::new();
    for (group, tensors) in groups {
        for (index, values) in tensors.iter().enumerate() {
            named.push((format!("{group}.{index:02}"), values.as_slice()));
        }
    }
    named
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    bytes
        .chunks_exact_mut(4)
        .zip(values)
        .for_each(|(bytes, v)| bytes.copy_from_slice(&v.to_le_bytes()));
    bytes
}

impl Checkpoint {
    /// The bytes of the file. `fingerprint` identifies the pages and settings that it belongs to.
    pub(crate) fn to_bytes(&self, fingerprint: &str) -> Result<Vec<u8>, CheckpointError> {
        let named: Vec<(String, Vec<u8>, usize)> = self
            .fit
            .iter()
            .flat_map(|fit| tensors(fit))
            .map(|(name, values)| (name, little_endian(values), values.len()))
            .collect();
        let mut hash = Sha256::new();
        named.iter().for_each(|(_, bytes, _)| hash.update(bytes));
        let meta = Meta {
            version: VERSION,
            fingerprint: fingerprint.to_owned(),
            hash: hex(&hash.finalize()),
            seed: self.seed,
            finished: self.finished.iter().map(FinishedMeta::from).collect(),
            fit: self.fit.as_ref().map(FitMeta::from),
        };
        let meta = serde_json::to_string(&meta).map_err(damaged)?;
        let views = named
            .iter()
            .map(|(name, bytes, len)| Ok((name, TensorView::new(Dtype::F32, vec![*len], bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e: safetensors::SafeTensorError| damaged(e))?;
        safetensors::serialize(views, Some(HashMap::from([(ENTRY.to_owned(), meta)])))
            .map_err(damaged)
    }

    /// Reads the file's bytes; it does not panic on any input.
    pub(crate) fn from_bytes(bytes: &[u8], fingerprint: &str) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let text = header.metadata().as_ref().and_then(|entries| entries.get(ENTRY));
        let text = text.ok_or_else(|| damaged("it is no checkpoint"))?;
        // The version is read first, because another version may have other fields.
        let Version { version } = serde_json::from_str(text).map_err(damaged)?;
        if version != VERSION {
            return Err(CheckpointError::Version(version));
        }
        let meta: Meta = serde_json::from_str(text).map_err(damaged)?;
        if meta.fingerprint != fingerprint {
            return Err(CheckpointError::Foreign);
        }
        let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut reader = Reader { file, hash: Sha256::new() };
        let fit = meta.fit.map(|fit| reader.fit(fit)).transpose()?;
        if hex(&reader.hash.finalize()) != meta.hash {
            return Err(damaged("its tensors are not those that were written"));
        }
        let finished = meta.finished.into_iter().map(FinishedLayer::from).collect();
        Ok(Self { seed: meta.seed, finished, fit })
    }
}

impl From<&FinishedLayer> for FinishedMeta {
    fn from(layer: &FinishedLayer) -> Self {
        Self {
            model_name: layer.model_name.clone(),
            model_hash: layer.model_hash.clone(),
            course: CourseMeta::from(&layer.course),
            seconds: layer.seconds.into(),
        }
    }
}

impl From<FinishedMeta> for FinishedLayer {
    fn from(layer: FinishedMeta) -> Self {
        Self {
            model_name: layer.model_name,
            model_hash: layer.model_hash,
            course: layer.course.into(),
            seconds: layer.seconds.into(),
        }
    }
}

impl From<&FitState> for FitMeta {
    fn from(fit: &FitState) -> Self {
        Self {
            restarts: fit.restarts,
            learned: fit.learned,
            history: reports_to_meta(&fit.history),
            step: fit.step,
            loss_sum: fit.loss_sum.into(),
            seconds: fit.seconds.into(),
            adam_step: fit.adam.step,
            averaged: fit.average.as_ref().map(|average| average.taken),
            best: fit.best.as_ref().map(|best| (best.epoch, best.score.into())),
        }
    }
}

struct Reader<'a> {
    file: SafeTensors<'a>,
    hash: Sha256,
}

impl Reader<'_> {
    /// The tensors of a group, which must have these lengths.
    fn group(
        &mut self,
        group: &str,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Vec<Vec<f32>>, CheckpointError> {
        let mut tensor = |(index, length): (usize, usize)| {
            let name = format!("{group}.{index:02}");
            let view = self.file.tensor(&name).map_err(damaged)?;
            if view.dtype() != Dtype::F32 || view.data().len() != 4 * length {
                return Err(damaged(format!("its tensor {name} has another size")));
            }
            self.hash.update(view.data());
            let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            Ok(view.data().chunks_exact(4).map(value).collect())
        };
        lengths.enumerate().map(&mut tensor).collect()
    }

    fn weights(&mut self, group: &str) -> Result<Weights, CheckpointError> {
        let lengths = CONV_LAYERS.iter().flat_map(|layer| [layer.kernel_len(), layer.output]);
        Weights::new(self.group(group, lengths)?).map_err(damaged)
    }

    fn fit(&mut self, meta: FitMeta) -> Result<FitState, CheckpointError> {
        // Same order as in `tensors`, because of the hash.
        let weights = self.weights("weights")?;
        let average = match meta.averaged {
            Some(taken) => Some(Average { taken, weights: self.weights("average")? }),
            None => None,
        };
        let best = match meta.best {
            Some((epoch, score)) => {
                Some(Best { epoch, score: score.into(), weights: self.weights("best")? })
            }
            None => None,
        };
        let lengths = || CONV_LAYERS.iter().map(|layer| layer.kernel_len() + layer.output);
        let first = self.group("adam.first", lengths())?;
        let second = self.group("adam.second", lengths())?;
        Ok(FitState {
            restarts: meta.restarts,
            learned: meta.learned,
            history: reports_from_meta(meta.history),
            step: meta.step,
            loss_sum: meta.loss_sum.into(),
            seconds: meta.seconds.into(),
            weights,
            adam: AdamState { step: meta.adam_step, first, second },
            average,
            best,
        })
    }
}
