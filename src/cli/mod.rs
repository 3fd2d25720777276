//! What the programs do, one file for each subcommand: typed arguments in, files and lines out.

#[cfg(feature = "trainer")]
pub mod local;
