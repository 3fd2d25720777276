//! Cases of the joint fit.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const ALL: [Objective; 3] = [Objective::Entropy(0.0), Objective::Entropy(-0.5), Objective::SoftF1];

/// Pixels of layers with these shares, on a page that has all of them. The network of a layer
/// answers 2 in its own pixels and -2 elsewhere, with noise; then `made` changes each answer.
fn pixels(seed: u64, count: usize, shares: &[f64], made: &[(f64, f64)]) -> Pixels {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chance = move || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut pixels = Pixels { networks: (0..shares.len()).collect(), ..Pixels::default() };
    for _ in 0..count {
        let at = chance();
        let mut sum = 0.0;
        let own = shares.iter().position(|share| {
            sum += share;
            at < sum
        });
        for (place, (scale, shift)) in made.iter().enumerate() {
            let noise = 3.0 * (chance() + chance() + chance() - 1.5);
            let logit = if own == Some(place) { 2.0 } else { -2.0 } + noise;
            pixels.logits.push((scale * logit + shift) as f32);
        }
        pixels.drawn.push(own.map_or(0, |place| 1 << place));
    }
    pixels
}

fn f1(pixels: &[&Pixels], adjustments: &[Adjustment]) -> f64 {
    mean_f1(&scores(pixels, adjustments))
}

const SHARES: [f64; 3] = [0.8, 0.15, 0.05];

#[test]
fn a_network_that_is_too_timid_gets_its_pixels_back() {
    // The third answers by 3 less than it should, the second at half the scale.
    let seen = pixels(1, 20_000, &SHARES, &[(1.0, 0.0), (0.5, 0.0), (1.0, -3.0)]);
    let fair = pixels(1, 20_000, &SHARES, &[(1.0, 0.0); 3]);
    let none = [Adjustment::NONE; 3];
    let (before, ideal) = (f1(&[&seen], &none), f1(&[&fair], &none));
    for objective in ALL {
        let found = fit(3, &[&seen], objective);
        let after = f1(&[&seen], &found);
        assert!(after > before + 0.1, "{objective:?}: {before} {after}");
        assert!(after > ideal - 0.02, "{objective:?}: {ideal} {after}");
        let third = found[2].shift / found[2].scale - found[0].shift / found[0].scale;
        assert!(third > 1.0, "{objective:?}: {found:?}");
        assert!(found.iter().all(|one| one.scale > 0.0));
    }
}

#[test]
fn on_pixels_that_it_was_not_fitted_on_it_is_as_good() {
    let made = [(2.0, 1.0), (1.0, 0.0), (0.7, -2.0)];
    let [one, other] = [1, 2].map(|seed| pixels(seed, 20_000, &SHARES, &made));
    for objective in ALL {
        let found = fit(3, &[&one], objective);
        let (own, others) = (f1(&[&one], &found), f1(&[&other], &found));
        assert!((own - others).abs() < 0.02, "{objective:?}: {own} {others}");
        assert!(others > f1(&[&other], &[Adjustment::NONE; 3]) + 0.02);
    }
}

#[test]
fn what_is_common_to_all_is_left_out() {
    let seen = pixels(3, 5_000, &SHARES, &[(1.0, 5.0), (0.5, 4.0), (2.0, 0.0)]);
    for objective in ALL {
        let found = fit(3, &[&seen], objective);
        let product: f64 = found.iter().map(|one| one.scale).product();
        let sum: f64 = found.iter().map(|one| one.shift).sum();
        assert!((product - 1.0).abs() < 1e-9 && sum.abs() < 1e-9, "{found:?}");
    }
}

#[test]
fn pages_that_lack_a_layer_are_used_for_the_others() {
    // The first page has layers 0 and 2, the second 1 and 2; network 2 is too timid on both.
    let one = pixels(4, 8_000, &[0.9, 0.1], &[(1.0, 0.0), (1.0, -3.0)]);
    let other = pixels(5, 8_000, &[0.9, 0.1], &[(1.0, 0.0), (1.0, -3.0)]);
    let one = Pixels { networks: vec![0, 2], ..one };
    let other = Pixels { networks: vec![1, 2], ..other };
    let none = [Adjustment::NONE; 3];
    for objective in ALL {
        let found = fit(3, &[&one, &other], objective);
        for page in [&one, &other] {
            let (before, after) = (f1(&[page], &none), f1(&[page], &found));
            assert!(after > before + 0.02, "{objective:?}: {before} {after} {found:?}");
        }
        let scores = scores(&[&one, &other], &found);
        assert_eq!(
            scores[0].hits + scores[0].missed,
            one.drawn.iter().filter(|d| **d == 1).count() as u64
        );
    }
}

#[test]
fn a_layer_that_is_never_seen_beside_another_stays_as_it_is() {
    let alone = pixels(6, 100, &[0.5], &[(1.0, 0.0)]);
    let alone = Pixels { networks: vec![1], ..alone };
    for objective in ALL {
        for found in fit(3, &[&alone], objective) {
            assert!((found.scale - 1.0).abs() < 1e-9 && found.shift.abs() < 1e-9, "{found:?}");
        }
    }
}

#[test]
fn without_pixels_nothing_changes() {
    let empty = Pixels { networks: vec![0, 1], ..Pixels::default() };
    for objective in ALL {
        assert_eq!(fit(2, &[], objective), [Adjustment::NONE; 2]);
        assert_eq!(fit(2, &[&empty], objective), [Adjustment::NONE; 2]);
        assert!(fit(0, &[], objective).is_empty());
    }
    assert!(mean_f1(&scores(&[&empty], &[Adjustment::NONE; 2])).abs() < f64::EPSILON);
}

#[test]
fn pixels_of_one_class_and_of_none_give_finite_numbers() {
    for shares in [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0; 3]] {
        let seen = pixels(7, 500, &shares, &[(1.0, 0.0), (1.0, 1.0), (3.0, 0.0)]);
        for objective in ALL {
            for Adjustment { scale, shift } in fit(3, &[&seen], objective) {
                assert!(scale.is_finite() && scale > 1e-6 && shift.abs() < 1e4, "{scale} {shift}");
            }
        }
    }
}

#[test]
fn networks_that_see_nothing_or_far_too_much_give_finite_numbers() {
    for logit in [0.0, 80.0, -1e30, 1e30] {
        let mut seen = pixels(8, 400, &SHARES, &[(1.0, 0.0); 3]);
        seen.logits.chunks_exact_mut(3).for_each(|logits| logits[1] = logit);
        for objective in ALL {
            for Adjustment { scale, shift } in fit(3, &[&seen], objective) {
                assert!(scale.is_finite() && shift.is_finite(), "{logit} {scale} {shift}");
            }
        }
    }
}

#[test]
fn pixels_in_two_layers_count_for_both() {
    let seen =
        Pixels { networks: vec![0, 1], logits: vec![1.0, 0.0, -1.0, 2.0], drawn: vec![3, 3] };
    let score = |hits, missed| Score { hits, extra: 0, missed };
    assert_eq!(scores(&[&seen], &[Adjustment::NONE; 2]), [score(1, 1), score(1, 1)]);
    let mut counts = [0; 2];
    seen.add_counts(&mut counts);
    assert_eq!(counts, [2, 2]);
}

#[test]
fn ties_go_to_the_first_as_in_the_classifier() {
    // Where the probabilities are 1 to the last digit, the larger logit does not count.
    let seen =
        Pixels { networks: vec![0, 1], logits: vec![30.0, 40.0, 1.0, 1.0], drawn: vec![1, 2] };
    let found = scores(&[&seen], &[Adjustment::NONE; 2]);
    assert_eq!(found[0], Score { hits: 1, extra: 1, missed: 0 });
    assert_eq!(found[1], Score { hits: 0, extra: 0, missed: 1 });
}

#[test]
fn derivatives_are_those_of_the_value() {
    let seen = pixels(9, 300, &SHARES, &[(1.0, 0.5), (0.5, 0.0), (2.0, -1.0)]);
    let lacking = pixels(10, 200, &[0.6, 0.3], &[(1.0, 0.0), (1.0, -1.0)]);
    let lacking = Pixels { networks: vec![0, 2], ..lacking };
    let pages = [&seen, &lacking];
    let fit = Fit::new(3, &pages);
    let at = [0.1, -0.3, 0.2, 0.5, -0.4, 0.3];
    for objective in ALL {
        let slope = fit.value(&at, objective).slope;
        for (parameter, slope) in slope.iter().enumerate() {
            let beside = |by: f64| {
                let mut at = at;
                at[parameter] += by;
                fit.value(&at, objective).value
            };
            let difference = (beside(1e-5) - beside(-1e-5)) / 2e-5;
            let said = format!("{objective:?}, {parameter}: {difference} {slope}");
            assert!((difference - slope).abs() < 1e-7 + 1e-5 * slope.abs(), "{said}");
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let seen = pixels(11, 3 * PIECE + 17, &SHARES, &[(1.0, 0.5), (0.5, 0.0), (2.0, -1.0)]);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(3, &[&seen], Objective::Entropy(-0.5)))
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn the_search_finds_the_bottom_of_a_bent_valley() {
    // Rosenbrock's function, whose bottom is at (1, 1).
    let value = |at: &[f64]| {
        let (x, y) = (at[0], at[1]);
        let (near, bent) = (1.0 - x, y - x * x);
        let slope = vec![-2.0 * near - 400.0 * x * bent, 200.0 * bent];
        Sum { value: near * near + 100.0 * bent * bent, slope }
    };
    let found = minimise(value, vec![-1.2, 1.0]);
    assert!((found[0] - 1.0).abs() < 1e-2 && (found[1] - 1.0).abs() < 1e-2, "{found:?}");
}
