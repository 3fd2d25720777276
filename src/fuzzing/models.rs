//! Models that a job starts from.

use std::sync::LazyLock;

use page_layers::PatchShape;
use page_layers::keras::{CONV_LAYERS, Model, Weights, check_model_config, from_bytes, to_bytes};

/// A whole model's file, 5.8 MB.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut next = 0u16;
    let mut values = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| {
                next = next.wrapping_mul(25_173).wrapping_add(13_849);
                f32::from(next) / 65_536.0 - 0.5
            })
            .collect()
    };
    let tensors =
        CONV_LAYERS.iter().flat_map(|l| [values(l.kernel_len()), values(l.output)]).collect();
    to_bytes(&Weights::new(tensors).unwrap(), PatchShape::new(64, 32).unwrap()).unwrap()
});

/// The bytes of a file, or the JSON of its `model_config`.
pub(super) fn bytes(data: &[u8]) {
    if data.first() == Some(&b'{') {
        let Ok(json) = std::str::from_utf8(data) else { return };
        match check_model_config(json) {
            Ok(shape) => shape.into_iter().for_each(check_shape),
            Err(error) => super::assert_shown(&error.to_string()),
        }
    } else {
        check(from_bytes(data.to_vec()).map_err(|error| error.to_string()));
    }
}

/// Changes to a whole file, four bytes each: what kind of change (one byte), where (two), and the
/// new value (one).
///
/// The structure of the file lies in its first and last bytes, the weights lie between.
pub(super) fn edits(data: &[u8]) {
    let mut file = FILE.clone();
    let end = file.len();
    for edit in data.chunks_exact(4).take(64) {
        let place = usize::from(u16::from_le_bytes([edit[1], edit[2]]));
        let at = if edit[0] & 1 == 0 { place % 8192 } else { end - 1 - place % (end - 1) };
        let value = edit[3];
        match edit[0] >> 1 & 7 {
            0..=3 => file[at.min(end - 1)] = value,
            4 => file[at] ^= 1 << (value & 7),
            // A whole offset or size: small, huge, unchanged, or near the file's end.
            kind => {
                let number: u64 = match kind {
                    5 => u64::from(value),
                    6 => u64::MAX >> (value & 63),
                    _ => (end as u64).wrapping_add_signed(i64::from(value as i8)),
                };
                let to = (at + 8).min(end);
                file[at..to].copy_from_slice(&number.to_le_bytes()[..to - at]);
            }
        }
    }
    if data.len() % 4 == 3 {
        file.truncate(
            end - usize::from(u16::from_le_bytes([data[data.len() - 2], data[data.len() - 1]])),
        );
    }
    let told = from_bytes(file).map_err(|error| error.to_string());
    assert!(!data.is_empty() || told.is_ok(), "the whole file is no model");
    check(told);
}

fn check(told: Result<Model, String>) {
    match told {
        Ok(model) => {
            let tensors = model.weights.tensors();
            assert_eq!(tensors.len(), 2 * CONV_LAYERS.len());
            assert!(tensors.iter().flatten().all(|value| value.is_finite()));
            model.shape.into_iter().for_each(check_shape);
        }
        Err(error) => super::assert_shown(&error),
    }
}

/// A window of this size is cut out of a page, so it has to fit into memory.
fn check_shape(shape: PatchShape) {
    for side in [shape.height(), shape.width()] {
        assert!((4..=4096).contains(&side) && side.is_multiple_of(4), "a patch of {side} pixels");
    }
}
