//! A change of what a whole network answers, made in its last layer.

use super::{Weights, WeightsError};

/// A change of a network's logit: `scale · logit + shift`. The last layer is linear in what it
/// reads, so that the change is one of its weights, and the file stays what it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjustment {
    /// Greater than 0: what was more probable than another pixel stays so.
    pub scale: f64,
    /// What is added then.
    pub shift: f64,
}

impl Adjustment {
    /// The root attribute of a model whose weights have such a change in them: scale and shift.
    /// Keras does not look at it. A training that goes on from the model takes the change back.
    pub(super) const ATTRIBUTE: &str = "hpc_trainer_calibration";

    /// No change.
    pub const NONE: Self = Self { scale: 1.0, shift: 0.0 };

    /// The logit after the change.
    pub fn of(self, logit: f32) -> f32 {
        (self.scale * f64::from(logit) + self.shift) as f32
    }

    /// The network that answers so.
    ///
    /// # Errors
    /// When a weight would not be a finite number.
    pub fn fold(self, weights: &Weights) -> Result<Weights, WeightsError> {
        let mut tensors = weights.tensors().to_vec();
        if let [.., kernel, bias] = tensors.as_mut_slice() {
            kernel.iter_mut().for_each(|value| *value = (self.scale * f64::from(*value)) as f32);
            bias.iter_mut().for_each(|value| *value = self.of(*value));
        }
        Weights::new(tensors)
    }

    /// The change that undoes this one.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self { scale: 1.0 / self.scale, shift: -self.shift / self.scale }
    }

    /// From the two numbers of a file; `None` for those that are no change that can be undone.
    pub(super) fn of_numbers(numbers: &[f64]) -> Option<Self> {
        let [scale, shift] = *numbers else { return None };
        (scale.is_normal() && scale > 0.0 && shift.is_finite()).then_some(Self { scale, shift })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::init::initial_weights;

    #[test]
    fn it_is_undone_to_the_last_digit_but_one() {
        let weights = initial_weights(4).unwrap();
        for (scale, shift) in [(1.0, 0.0), (0.3, -4.0), (7.5, 2.25), (1e-3, 30.0)] {
            let change = Adjustment { scale, shift };
            let changed = change.fold(&weights).unwrap();
            assert_eq!(changed == weights, change == Adjustment::NONE);
            let back = change.inverse().fold(&changed).unwrap();
            for (old, new) in weights.tensors().iter().zip(back.tensors()) {
                for (old, new) in old.iter().zip(new) {
                    // The bias was added to the shift.
                    let rounding = 2e-7 * (f64::from(old.abs()) + shift.abs() / scale);
                    assert!(f64::from((old - new).abs()) <= rounding, "{old} {new} {change:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_last_layer_is_another() {
        let weights = initial_weights(4).unwrap();
        let changed = Adjustment { scale: 2.0, shift: 1.0 }.fold(&weights).unwrap();
        let (old, new) = (weights.tensors(), changed.tensors());
        assert_eq!(old[..26], new[..26]);
        assert_eq!(new[26], old[26].iter().map(|value| 2.0 * value).collect::<Vec<_>>());
        assert_eq!(new[27], [2.0 * old[27][0] + 1.0]);
    }

    #[test]
    fn what_can_not_be_a_weight_is_refused() {
        let weights = initial_weights(4).unwrap();
        for (scale, shift) in [(f64::NAN, 0.0), (1.0, f64::INFINITY), (1e300, 0.0)] {
            assert!(Adjustment { scale, shift }.fold(&weights).is_err(), "{scale} {shift}");
        }
    }

    #[test]
    fn numbers_of_a_file_are_checked() {
        let change = Adjustment { scale: 2.0, shift: -1.0 };
        assert_eq!(Adjustment::of_numbers(&[2.0, -1.0]), Some(change));
        for numbers in [
            &[][..],
            &[1.0],
            &[1.0, 2.0, 3.0],
            &[0.0, 1.0],
            &[-1.0, 1.0],
            &[f64::NAN, 0.0],
            &[1.0, f64::INFINITY],
            &[f64::INFINITY, 0.0],
            &[5e-324, 0.0],
        ] {
            assert_eq!(Adjustment::of_numbers(numbers), None, "{numbers:?}");
        }
    }
}
