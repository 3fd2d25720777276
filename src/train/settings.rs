//! What a job may choose about its training.

use super::samples::PatchShape;

/// What a job may choose about its training. Defaults are Rodan's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSettings {
    /// Most epochs a layer is trained for; at least 1.
    pub epochs: u32,
    /// Most samples of one layer; at least 1.
    pub max_samples: u32,
    /// Size of a sample.
    pub patch: PatchShape,
    /// Samples in one step; at least 1.
    pub batch_size: u32,
    /// Epochs without a better validation accuracy after which a layer's training ends.
    pub patience: u32,
    /// Where all chance comes from; drawn, and reported, when absent.
    pub seed: Option<u64>,
}
