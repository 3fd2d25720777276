//! Patches: where they lie, how they vary, and the batches that they make.

pub(crate) mod augment;
pub(crate) mod batches;
pub(crate) mod draw;
pub(crate) mod patches;
pub(crate) mod samples;
