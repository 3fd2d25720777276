//! The colour in which each layer is drawn, the same in every picture.

use crate::layer::Layer;

/// Name and colour of each layer but the background, in their order: Okabe and Ito's palette, which
/// people with any colour vision can tell apart (its vermillion called red), then Paul Tol's wine,
/// olive and grey for the rest of ten layers.
const PALETTE: [(&str, [u8; 3]); 10] = [
    ("blue", [0, 114, 178]),
    ("red", [213, 94, 0]),
    ("green", [0, 158, 115]),
    ("purple", [204, 121, 167]),
    ("sky blue", [86, 180, 233]),
    ("orange", [230, 159, 0]),
    ("yellow", [240, 228, 66]),
    ("wine", [136, 34, 85]),
    ("olive", [153, 153, 51]),
    ("grey", [90, 90, 90]),
];

/// The name of the colour in which a layer is drawn; `None` for the background.
pub fn colour_name(layer: Layer) -> Option<&'static str> {
    layer_colour(layer).map(|(name, _)| name)
}

/// Name and RGB value of the colour in which a layer is drawn; `None` for the background.
pub fn layer_colour(layer: Layer) -> Option<(&'static str, [u8; 3])> {
    match layer {
        Layer::Background => None,
        // A number keeps its colour when a layer before it is missing.
        Layer::Numbered(number) => Some(PALETTE[usize::from(number) % PALETTE.len()]),
        Layer::Music => Some(PALETTE[0]),
        Layer::Staff => Some(PALETTE[1]),
        Layer::Text => Some(PALETTE[2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_differ_clearly() {
        for (index, (_, left)) in PALETTE.iter().enumerate() {
            for (_, right) in &PALETTE[index + 1..] {
                let distance: u32 = left.iter().zip(right).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
                assert!(distance > 60, "{left:?} {right:?}");
            }
        }
    }
}
