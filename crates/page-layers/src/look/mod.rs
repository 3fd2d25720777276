//! What trained networks see on a page: probabilities, the choice among layers, pictures.

pub(crate) mod cutout;
pub(crate) mod evaluate;
pub(crate) mod joint_fit;
pub(crate) mod picture;
pub(crate) mod predict;
pub(crate) mod preview;
pub(crate) mod segment;
