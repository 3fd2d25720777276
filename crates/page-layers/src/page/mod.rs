//! A page: its image, the masks of its layers, and the files that they come in.

pub(crate) mod archive;
pub(crate) mod decode;
pub(crate) mod jpeg;
#[cfg(test)]
mod jpeg_tests;
pub(crate) mod mask;
#[allow(clippy::module_inception, reason = "the page itself, among what it is made from")]
pub(crate) mod page;
mod source;
