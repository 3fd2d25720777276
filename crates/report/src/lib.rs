//! `report.html`: what a person looks at after a training. One file, without scripts and without
//! anything from other sites.

mod content;
mod curves;
mod escape;
mod html;
mod picture;
mod scale;

pub use content::{Content, LayerPart, PagePart, Pictures, layer_name};
pub use curves::charts;
pub use html::{STYLE, render};
pub use picture::{MOST_PICTURES, Picture};
