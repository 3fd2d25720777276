//! Patches that vary from epoch to epoch, so that a network sees more of the page than it has
//! patches.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::patch::samples::{Place, Samples, vary};
use domain::Augmentation;
use domain::PatchShape;

/// The same samples, each varied at random. How a sample varies depends only on the seed, the epoch
/// and the sample's number. So it is the same for any number of threads, and in a training that
/// goes on from a checkpoint.
pub(crate) struct Augmented<'a> {
    pub(crate) samples: &'a dyn Samples,
    pub(crate) how: Augmentation,
    pub(crate) seed: u64,
    pub(crate) epoch: usize,
}

/// How one sample differs from what is on the page.
struct Variation {
    /// Rows further down, columns further to the right.
    shift: (isize, isize),
    left_right: bool,
    up_down: bool,
    lighter: f32,
}

impl Augmented<'_> {
    fn draw(&self, index: usize) -> Variation {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        // The lower streams draw the weights and the order of each epoch.
        rng.set_stream(1 << 63 | (self.epoch as u64) << 40 | index as u64);
        let most = i32::try_from(self.how.shift).unwrap_or(i32::MAX);
        let mut by = || rng.random_range(-most..=most) as isize;
        let shift = (by(), by());
        let (left_right, up_down) = (rng.random::<bool>(), rng.random::<bool>());
        let most = f64::from(self.how.brightness) / 100.0;
        Variation {
            shift,
            left_right: self.how.flip.horizontal() && left_right,
            up_down: self.how.flip.vertical() && up_down,
            lighter: rng.random_range(-most..=most) as f32,
        }
    }
}

impl Samples for Augmented<'_> {
    fn shape(&self) -> PatchShape {
        self.samples.shape()
    }

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn write_shifted(
        &self,
        index: usize,
        (rows, columns): (isize, isize),
        image: &mut [f32],
        target: &mut [f32],
    ) {
        let Variation { shift, left_right, up_down, lighter } = self.draw(index);
        self.samples.write_shifted(index, (rows + shift.0, columns + shift.1), image, target);
        vary(image, target, self.shape().width(), (left_right, up_down), lighter);
    }

    fn place(&self, index: usize, (rows, columns): (isize, isize)) -> Option<Place<'_>> {
        let Variation { shift, left_right, up_down, lighter } = self.draw(index);
        let place = self.samples.place(index, (rows + shift.0, columns + shift.1))?;
        Some(Place { left_right, up_down, lighter, ..place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::fit_tests::Rectangles;
    use domain::Flip;

    fn sample(how: Augmentation, epoch: usize, index: usize) -> (Vec<f32>, Vec<f32>) {
        let samples = Rectangles::new(40);
        let (mut image, mut target) = (vec![0.0; 3 * 256], vec![0.0; 256]);
        Augmented { samples: &samples, how, seed: 7, epoch }.write(index, &mut image, &mut target);
        (image, target)
    }

    /// Top row and leftmost column of the rectangle, and its pixels.
    fn place(target: &[f32]) -> (usize, usize, usize) {
        let inside: Vec<usize> = (0..256).filter(|at| target[*at] == 1.0).collect();
        let first = |of: fn(usize) -> usize| inside.iter().map(|at| of(*at)).min().unwrap();
        (first(|at| at / 16), first(|at| at % 16), inside.len())
    }

    #[test]
    fn image_and_target_move_together_and_every_way_is_met() {
        let how = Augmentation { flip: Flip::Both, ..Augmentation::default() };
        let (top, left, _) = place(&sample(Augmentation::default(), 1, 3).1);
        let mut met = std::collections::BTreeSet::new();
        for epoch in 1..40 {
            let (image, target) = sample(how, epoch, 3);
            for (pixel, target) in image.chunks_exact(3).zip(&target) {
                assert_eq!(pixel[0] > 0.5, *target == 1.0);
            }
            met.insert(place(&target));
        }
        let (bottom, right) = (16 - 6 - top, 16 - 8 - left);
        let ways = [(top, left, 48), (top, right, 48), (bottom, left, 48), (bottom, right, 48)];
        assert_eq!(met, ways.into());
    }

    #[test]
    fn a_shift_stays_within_its_bound_and_brightness_within_black_and_white() {
        let how = Augmentation { shift: 2, brightness: 30, flip: Flip::None };
        let (top, left, _) = place(&sample(Augmentation::default(), 1, 7).1);
        let (mut shifts, mut values) = (std::collections::BTreeSet::new(), Vec::new());
        for epoch in 1..60 {
            let (image, target) = sample(how, epoch, 7);
            let (row, column, _) = place(&target);
            assert!(row.abs_diff(top) <= 2 && column.abs_diff(left) <= 2);
            shifts.insert((row, column));
            assert!(image.iter().all(|v| (0.0..=1.0).contains(v)));
            values.push(image[0]);
        }
        assert!(shifts.len() > 12, "{shifts:?}");
        // A value of 0.1 gets darker by up to 0.3, and lighter down to white.
        assert!(values.iter().any(|v| *v > 0.3) && values.contains(&0.0), "{values:?}");
        assert!(values.iter().all(|v| *v <= 0.4 + 1e-6));
    }

    #[test]
    fn a_sample_is_the_same_again_and_another_in_the_next_epoch() {
        let how = Augmentation { shift: 3, brightness: 10, flip: Flip::Both };
        assert_eq!(sample(how, 2, 5), sample(how, 2, 5));
        assert_ne!(sample(how, 2, 5), sample(how, 3, 5));
        assert_eq!(sample(Augmentation::default(), 2, 5), sample(Augmentation::default(), 3, 5));
    }
}
