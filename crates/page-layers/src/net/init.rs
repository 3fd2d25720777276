//! First weights, drawn as in Keras but from a seed: He-normal kernels, a Glorot-uniform last
//! layer, zero biases. One thing is not left to chance: the last layer's two weights have different
//! signs.
//!
//! Their inputs come from a ReLU, so they are not negative. With two positive weights, no logit can
//! be below the last bias. A layer with few pixels then silences both channels nearly everywhere,
//! no gradient comes back through them, and all those pixels stay near a probability of 0.5,
//! because the bias alone moves by the learning rate a step. With two negative weights, the layer's
//! own pixels can't get above 0.5. Half of all plain draws have two weights of the same sign.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::keras::{CONV_LAYERS, Weights, WeightsError};

/// Standard deviation of a unit normal truncated at ±2. Keras divides by it so that the truncated
/// one has the wanted deviation (`VarianceScaling` in keras/initializers).
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;

/// Weights of an untrained network. The same seed gives the same weights on every machine.
///
/// # Errors
/// Never in practice: the values drawn are finite and as many as the network needs.
pub fn initial_weights(seed: u64) -> Result<Weights, WeightsError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Vec::with_capacity(2 * CONV_LAYERS.len());
    for (index, layer) in CONV_LAYERS.iter().enumerate() {
        let area = (layer.kernel * layer.kernel) as f64;
        let (fan_in, fan_out) = (area * layer.input as f64, area * layer.output as f64);
        let kernel = if index + 1 == CONV_LAYERS.len() {
            let limit = (6.0 / (fan_in + fan_out)).sqrt();
            let mut draw = || ((2.0 * rng.random::<f64>() - 1.0) * limit) as f32;
            let first = draw();
            vec![first, draw().copysign(-first)]
        } else {
            let deviation = (2.0 / fan_in).sqrt() / TRUNCATED_DEVIATION;
            (0..layer.kernel_len())
                .map(|_| (truncated_normal(&mut rng) * deviation) as f32)
                .collect()
        };
        tensors.extend([kernel, vec![0.0; layer.output]]);
    }
    Weights::new(tensors)
}

/// A value of a unit normal, drawn again while it is further than 2 from 0 (Box and Muller's
/// method).
fn truncated_normal(rng: &mut ChaCha8Rng) -> f64 {
    loop {
        // 1 - u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let value = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
        if value.abs() <= 2.0 {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_the_deviation_and_the_bounds_that_keras_gives_them() {
        let weights = initial_weights(7).unwrap();
        for (index, layer) in CONV_LAYERS.iter().enumerate() {
            let (kernel, bias) = weights.layer(index);
            assert!(bias.iter().all(|b| *b == 0.0));
            let fan_in = (layer.kernel * layer.kernel * layer.input) as f64;
            if index + 1 == CONV_LAYERS.len() {
                let limit = (6.0f64 / 3.0).sqrt() as f32;
                assert!(kernel.iter().all(|k| k.abs() <= limit));
                continue;
            }
            let wanted = (2.0 / fan_in).sqrt();
            let count = kernel.len() as f64;
            let mean = kernel.iter().map(|k| f64::from(*k)).sum::<f64>() / count;
            let deviation =
                (kernel.iter().map(|k| (f64::from(*k) - mean).powi(2)).sum::<f64>() / count).sqrt();
            let tolerance = 5.0 * wanted / count.sqrt();
            assert!(mean.abs() < tolerance, "{}: mean {mean}", layer.name);
            assert!(
                (deviation - wanted).abs() < tolerance,
                "{}: {deviation} instead of {wanted}",
                layer.name
            );
            let bound = (2.0 * wanted / TRUNCATED_DEVIATION) as f32 * 1.000_001;
            assert!(kernel.iter().all(|k| k.abs() <= bound), "{}", layer.name);
        }
    }

    #[test]
    fn the_last_layer_can_say_yes_and_no() {
        let positive = |seed| {
            let weights = initial_weights(seed).unwrap();
            let [one, other] = weights.layer(13).0 else { panic!("two channels") };
            assert!(one * other < 0.0, "{one} {other}");
            usize::from(*one > 0.0)
        };
        let first: usize = (0..12).map(positive).sum();
        assert!((1..12).contains(&first), "either may be the positive one: {first} of 12");
    }

    #[test]
    fn a_seed_always_gives_the_same_weights() {
        assert_eq!(initial_weights(1).unwrap(), initial_weights(1).unwrap());
        assert_ne!(initial_weights(1).unwrap(), initial_weights(2).unwrap());
    }
}
