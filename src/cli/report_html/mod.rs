//! `report.html`: what a person looks at after a training. One file, without scripts, and without anything from elsewhere.

mod content;
mod curves;
mod html;
mod picture;
mod scale;

pub(crate) use content::{Content, LayerPart, PagePart, Pictures, layer_name};
pub(crate) use html::render;
pub(crate) use picture::{MOST_PICTURES, Picture};
