//! An average over the weights of the last steps. The weights jump from step to step, and the best
//! epoch is partly the luckiest one; their average does not jump.

use crate::keras::Weights;

/// The weights are looked at after so many steps of an epoch, and after its last one. On a GPU each
/// look waits for the steps that have begun.
pub(super) const STRIDE: usize = 4;

/// An exponential average over weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    /// The average so far.
    pub weights: Weights,
    /// How many weights were taken.
    pub taken: u64,
}

impl Average {
    /// The average after these weights too. It goes back about `steps` steps; at first it is the
    /// plain mean of all that were taken.
    pub(super) fn after(before: Option<Self>, weights: Weights, steps: u32) -> Self {
        let Some(Self { weights: average, taken }) = before else {
            return Self { weights, taken: 1 };
        };
        let taken = taken.saturating_add(1);
        let forgotten = 1.0 - (1.0 - 1.0 / f64::from(steps.max(1))).powi(STRIDE as i32);
        let share = forgotten.max(1.0 / taken as f64);
        Self { weights: average.with_share_of(&weights, share as f32), taken }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::init::initial_weights;

    #[test]
    fn it_begins_as_the_plain_mean_and_then_forgets() {
        let [one, other] = [1, 2].map(|seed| initial_weights(seed).unwrap());
        let first = |average: &Average| average.weights.tensors()[0][0];
        let (a, b) = (one.tensors()[0][0], other.tensors()[0][0]);
        let average = Average::after(None, one.clone(), 100);
        assert_eq!((first(&average), average.taken), (a, 1));
        let average = Average::after(Some(average), other.clone(), 100);
        assert!((first(&average) - (a + b) / 2.0).abs() < 1e-6);
        let mut average = Average::after(Some(average), other.clone(), 100);
        assert!((first(&average) - (a + 2.0 * b) / 3.0).abs() < 1e-6);
        for _ in 0..200 {
            average = Average::after(Some(average), other.clone(), 100);
        }
        assert!((first(&average) - b).abs() < 1e-3 * (a - b).abs(), "{average:?}");
        // Over a single step it is the weights themselves.
        let average = Average::after(Some(Average::after(None, one, 1)), other.clone(), 1);
        assert!((first(&average) - b).abs() < 1e-6);
    }
}
