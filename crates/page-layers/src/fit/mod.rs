//! Training one network: epochs, the best of them, checkpoints and going on.

pub(crate) mod average;
pub(crate) mod checkpoint;
pub(crate) mod epochs;
#[cfg(test)]
pub(crate) mod fit_tests;
pub(crate) mod learner;
pub(crate) mod observe;
pub(crate) mod outcome;
pub(crate) mod resume;
#[cfg(test)]
pub(crate) mod resume_tests;
pub(crate) mod start;
