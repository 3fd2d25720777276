use rand::SeedableRng;

use super::*;
use crate::page::mask::Mask;
use crate::page::page::PageLayer;

fn page(width: usize, height: usize, masks: Vec<Mask>) -> [Arc<Page>; 1] {
    let layers = masks.into_iter().enumerate().map(|(i, mask)| {
        let layer = Layer::Numbered(i as u8);
        let input = Input { kind: InputKind::Layer(layer), path: format!("layer_{i}.png").into() };
        PageLayer { layer, input, mask }
    });
    [Arc::new(Page::from_parts(width, height, vec![7; 3 * width * height], layers.collect()))]
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

const RANDOM: PatchSelection = PatchSelection::Random;

/// The original's rule.
fn original(n: u64, shape: PatchShape, exact_below: usize) -> Rule {
    Rule { n, shape, selection: RANDOM, around_others: 0, exact_below }
}

fn layer(index: usize) -> Layer {
    Layer::Numbered(index as u8)
}

fn shape(side: usize) -> PatchShape {
    PatchShape::new(side, side).unwrap()
}

fn centres(split: &Split) -> Vec<(u32, u32)> {
    split.train.centres.iter().chain(&split.validation.centres).map(|c| (c.row, c.column)).collect()
}

#[test]
fn counts_are_the_originals() {
    // 1000 × 800 pixels, all of one layer: the rule expects eligible / 100 = 6622 samples.
    let full = page(1000, 800, vec![Mask::from_fn(1000, 800, |_, _| true)]);
    let n = samples_per_layer(&full, 100_000);
    assert_eq!(n, 100_000);
    let eligible = (1000.0 - 65.0) * (800.0 - 65.0);
    let found = centres(&sample(&full, layer(0), &original(n, shape(32), 32), &mut rng(1)).unwrap())
        .len() as f64;
    assert!((found - eligible / 100.0).abs() < 5.0 * (eligible / 100.0f64).sqrt(), "{found}");
    // 1000 samples are wanted: n / count of the eligible pixels.
    let found =
        centres(&sample(&full, layer(0), &original(1000, shape(32), 32), &mut rng(1)).unwrap())
            .len() as f64;
    let expected = eligible * 1000.0 / 800_000.0;
    assert!((found - expected).abs() < 5.0 * expected.sqrt(), "{found} {expected}");
}

#[test]
fn every_centre_is_a_pixel_of_the_layer_a_patch_from_the_edge_in_row_order() {
    let mask = Mask::from_fn(300, 400, |r, c| (r + c) % 3 == 0);
    let page = page(300, 400, vec![mask.clone()]);
    let split =
        sample(&page, layer(0), &original(5000, PatchShape::new(64, 32).unwrap(), 32), &mut rng(3))
            .unwrap();
    let all = centres(&split);
    assert!(all.len() > 100 && all.is_sorted());
    assert!(all.iter().all(|(r, c)| mask.get(*r as usize, *c as usize)));
    assert!(all.iter().all(|(r, c)| (64..400 - 65).contains(r) && (32..300 - 33).contains(c)));
    assert_eq!(split.train.len(), all.len() * 4 / 5);
}

#[test]
fn sampling_is_even_and_reproducible() {
    let page = page(400, 400, vec![Mask::from_fn(400, 400, |_, _| true)]);
    let draw = |seed| {
        centres(
            &sample(&page, layer(0), &original(100_000, shape(32), 32), &mut rng(seed)).unwrap(),
        )
    };
    assert_eq!(draw(5), draw(5));
    assert_ne!(draw(5), draw(6));
    let upper =
        (0..40).map(|s| draw(s).iter().filter(|(r, _)| *r < 200).count() as f64).sum::<f64>();
    let all = (0..40).map(|s| draw(s).len() as f64).sum::<f64>();
    // Rows 32…199 of 32…366.
    assert!((upper / all - 168.0 / 335.0).abs() < 0.01, "{}", upper / all);
}

#[test]
fn a_sample_is_the_patch_around_its_centre() {
    let mask = Mask::from_fn(100, 100, |r, c| (r, c) == (50, 60));
    let page = page(100, 100, vec![mask]);
    let split = sample(&page, layer(0), &original(1, shape(8), 32), &mut rng(1)).unwrap();
    assert_eq!(centres(&split), [(50, 60), (50, 60)], "one sample serves both parts");
    let (mut image, mut target) = (vec![0.0; 192], vec![0.0; 64]);
    split.train.write(0, &mut image, &mut target);
    assert_eq!(target.iter().position(|v| *v == 1.0), Some(4 * 8 + 4));
    assert_eq!(target.iter().sum::<f32>(), 1.0);
}

#[test]
fn a_rare_layer_leaves_everyone_a_handful() {
    let rare = Mask::from_fn(500, 500, |r, c| (240..246).contains(&r) && (240..246).contains(&c));
    let common = Mask::from_fn(500, 500, |_, _| true);
    let page = page(500, 500, vec![common, rare]);
    let n = samples_per_layer(&page, 10_000);
    assert_eq!(n, 36);
    for index in 0..2 {
        let count = centres(
            &sample(&page, layer(index), &original(n, shape(32), 32), &mut rng(1)).unwrap(),
        )
        .len();
        assert!((10..=36).contains(&count), "layer {index}: {count}");
    }
    // The exact number with any seed.
    let draw = |seed| {
        centres(&sample(&page, layer(0), &original(n, shape(32), 32), &mut rng(seed)).unwrap())
            .len()
    };
    assert!((0..20).all(|seed| draw(seed) == draw(0)));
}

#[test]
fn there_is_a_sample_however_few_are_wanted() {
    let page = page(100, 100, vec![Mask::from_fn(100, 100, |_, _| true)]);
    for (n, seed) in (1..5).flat_map(|n| (0..100).map(move |seed| (n, seed))) {
        // As with a batch of one: two samples are no longer an exact number.
        let split = sample(&page, layer(0), &original(n, shape(8), 2), &mut rng(seed)).unwrap();
        assert!(split.train.len() > 0 && split.validation.len() > 0, "{n} {seed}");
    }
}

#[test]
fn validation_always_gets_a_sample() {
    for pixels in 1..8usize {
        let page = page(
            100,
            100,
            vec![Mask::from_fn(100, 100, |r, c| r == 50 && c >= 40 && c < 40 + pixels)],
        );
        let split = sample(&page, layer(0), &original(100, shape(8), 32), &mut rng(1)).unwrap();
        assert!(!split.train.is_empty() && !split.validation.is_empty());
    }
}

#[test]
fn a_page_of_two_patches_is_mirrored_and_sampled_everywhere() {
    let page = page(129, 40, vec![Mask::from_fn(129, 40, |_, _| true)]);
    assert!(is_mirrored(&page[0], shape(64)) && !is_mirrored(&page[0], shape(16)));
    let split = sample(&page, layer(0), &original(10_000, shape(64), 32), &mut rng(1)).unwrap();
    let mut image = vec![9.0; 3 * 64 * 64];
    let mut target = vec![9.0; 64 * 64];
    for index in 0..split.train.len() {
        split.train.write(index, &mut image, &mut target);
        assert!(target.iter().all(|v| *v == 1.0));
    }
}

#[test]
fn a_layer_without_a_usable_pixel_is_named() {
    let empty = Mask::from_fn(200, 200, |_, _| false);
    let edge = Mask::from_fn(200, 200, |r, _| r < 10);
    let page = page(200, 200, vec![empty, edge]);
    let refusal = |i| {
        sample(&page, layer(i), &original(100, shape(32), 32), &mut rng(1)).unwrap_err().to_string()
    };
    assert!(
        refusal(0)
            .starts_with("rgba PNG - Layer 0 (layer_0.png): no pixel belongs to this layer; mark"),
        "{}",
        refusal(0)
    );
    assert!(
        refusal(1).contains("all 2000 pixels") && refusal(1).contains("smaller patch"),
        "{}",
        refusal(1)
    );
    // With regions, they may be the reason.
    let [page] = page;
    let upper = Mask::from_fn(200, 200, |row, _| row < 100);
    let page = [Arc::new(Arc::into_inner(page).unwrap().with_regions(upper))];
    let refused = sample(&page, layer(0), &original(100, shape(32), 32), &mut rng(1)).unwrap_err();
    assert!(refused.to_string().contains("inside the selected regions"), "{refused}");
}
#[test]
fn several_pages_share_the_samples_by_their_pixels_and_each_is_validated() {
    let [large] = page(400, 400, vec![Mask::from_fn(400, 400, |_, _| true)]);
    let [small] = page(200, 300, vec![Mask::from_fn(200, 300, |r, _| r >= 100); 2]);
    let pages = [large, small];
    assert_eq!(samples_per_layer(&pages, 1 << 30), 200 * 200, "the layer that is on one page only");
    let split = sample(&pages, layer(0), &original(100_000, shape(32), 32), &mut rng(4)).unwrap();
    let count = |samples: &LayerSamples, page| {
        samples.centres.iter().filter(|c| c.page == page).count() as f64
    };
    for (page, eligible) in [(0, 335.0 * 335.0), (1, 135.0 * 167.0)] {
        let (train, validation) = (count(&split.train, page), count(&split.validation, page));
        let expected: f64 = eligible / 100.0;
        assert!(
            (train + validation - expected).abs() < 5.0 * expected.sqrt(),
            "{train} {validation}"
        );
        assert!((validation / (train + validation) - 0.2).abs() < 0.02);
    }
    // The second layer is on the second page only: every patch is centred on one of its pixels
    // there.
    let split = sample(&pages, layer(1), &original(100_000, shape(32), 32), &mut rng(4)).unwrap();
    let (mut image, mut target) = (vec![0.0; 3 * 32 * 32], vec![0.0; 32 * 32]);
    for index in 0..split.train.len() {
        split.train.write(index, &mut image, &mut target);
        assert_eq!(target[16 * 32 + 16], 1.0);
    }
}

#[test]
fn a_sample_on_each_of_two_pages_teaches_and_judges() {
    let [one] = page(100, 100, vec![Mask::from_fn(100, 100, |r, c| (r, c) == (50, 60))]);
    let split =
        sample(&[one.clone(), one], layer(0), &original(2, shape(8), 32), &mut rng(1)).unwrap();
    assert_eq!((split.train.len(), split.validation.len()), (1, 1));
    assert_ne!(split.train.centres[0].page, split.validation.centres[0].page);
}

#[test]
fn covering_patches_show_every_pixel_that_may_be_a_centre_and_tell_when_they_are_too_few() {
    // A large area, in which nearly all random patches would lie, and some specks.
    let speck = |r: usize, c: usize| r % 150 == 100 && c % 170 == 100;
    let mask = Mask::from_fn(600, 500, |r, c| (c < 200 && r < 300) || speck(r, c));
    let page = page(600, 500, vec![mask]);
    let draw = |selection, n, seed| {
        let rule = Rule { selection, ..original(n, shape(64), 32) };
        sample(&page, layer(0), &rule, &mut rng(seed)).unwrap()
    };
    let unseen = |split: &Split| {
        let mut seen = vec![false; 600 * 500];
        for (row, column) in centres(split) {
            for r in row - 32..row + 32 {
                let start = (600 * r + column) as usize - 32;
                seen[start..start + 64].fill(true);
            }
        }
        let mask = &page[0].layers()[0].mask;
        let places = (64..500 - 65).flat_map(|r| (64..600 - 65).map(move |c| (r, c)));
        places.filter(|(r, c)| mask.get(*r, *c) && !seen[600 * r + c]).count()
    };
    let split = draw(PatchSelection::Covering, 500, 1);
    assert_eq!((unseen(&split), split.not_covered), (0, 0));
    let count = centres(&split).len();
    assert!(
        (count as f64 - centres(&draw(RANDOM, 500, 1)).len() as f64).abs() < 6.0 * 18.0,
        "{count}"
    );
    assert!(unseen(&draw(RANDOM, 500, 1)) > 0, "random patches leave out some speck");
    let few = draw(PatchSelection::Covering, 20, 1);
    assert!(few.not_covered > 0 && unseen(&few) > 0);
    assert_eq!(
        centres(&draw(PatchSelection::Covering, 500, 2)),
        centres(&draw(PatchSelection::Covering, 500, 2))
    );
}

/// A page with background, and three upright bands: two layers, and one with few pixels.
fn bands() -> [Arc<Page>; 1] {
    let band = |left: usize| Mask::from_fn(600, 600, move |_, c| (left..left + 100).contains(&c));
    let few = Mask::from_fn(600, 600, |r, c| c == 450 && (200..212).contains(&r));
    let background = Mask::from_fn(600, 600, |_, c| c >= 500);
    let [page] = page(600, 600, vec![band(100), band(250), few, background]);
    let mut layers = page.layers().to_vec();
    layers.rotate_right(1);
    layers[0].layer = Layer::Background;
    [Arc::new(Page::from_parts(600, 600, vec![7; 3 * 600 * 600], layers))]
}

#[test]
fn a_share_of_the_patches_lies_around_other_layers_and_not_around_the_background() {
    let page = bands();
    let split = |layer, share, seed| {
        let rule = Rule { around_others: share, ..original(300, shape(32), 32) };
        sample(&page, layer, &rule, &mut rng(seed)).unwrap()
    };
    let of = |centres: &[Centre], index: usize| {
        let mask = &page[0].layers()[index].mask;
        centres.iter().filter(|c| mask.get(c.row as usize, c.column as usize)).count()
    };
    for seed in 0..20 {
        let Split { train, validation, .. } = split(layer(0), 40, seed);
        let (train, validation) = (&train.centres, &validation.centres);
        let all = [train.as_slice(), validation.as_slice()].concat();
        // 300 patches of the layer's 100 × 600 pixels, of which those of 535 rows may be centres.
        let total = (300.0f64 * 535.0 / 600.0).round() as usize;
        let of_each = total * 40 / 100 / 2;
        assert_eq!(of(&all, 2), of_each);
        assert_eq!(of(&all, 3), 12, "the rare layer has no more");
        assert_eq!(of(&all, 0), 0, "the background lies around every pixel anyway");
        let own = total - of_each - 12;
        assert!((of(&all, 1) as f64 - own as f64).abs() < 5.0 * (own as f64).sqrt());
        assert_eq!(of(&all, 1) + of(&all, 2) + of(&all, 3), all.len());
        // The last fifth of both kinds validates.
        assert_eq!(of(train, 1), of(&all, 1) * 4 / 5);
        assert_eq!(of(train, 2) + of(train, 3), (of_each + 12) * 4 / 5);
        assert!(of(validation, 1) > 0 && train.is_sorted() && validation.is_sorted());
    }
    let sorted = |split: &Split| [&*split.train.centres, &*split.validation.centres].concat();
    assert_eq!(sorted(&split(layer(0), 40, 3)), sorted(&split(layer(0), 40, 3)));
    assert_ne!(sorted(&split(layer(0), 40, 3)), sorted(&split(layer(0), 40, 4)));
    let background = sorted(&split(Layer::Background, 40, 1));
    assert_eq!(of(&background, 0), background.len());
    // Whatever is asked for, a rare layer keeps the handful around its own pixels.
    let rare = sorted(&split(layer(2), 90, 1));
    assert_eq!((of(&rare, 1), of(&rare, 2), of(&rare, 3)), (4, 4, 10));
}

#[test]
fn a_target_around_another_layer_is_the_learned_layer_s() {
    let page = bands();
    let rule = Rule { around_others: 90, ..original(300, shape(32), 32) };
    let split = sample(&page, layer(0), &rule, &mut rng(1)).unwrap();
    let (mut image, mut target) = (vec![0.0; 3 * 32 * 32], vec![0.0; 32 * 32]);
    let mut own = 0;
    for (index, centre) in split.train.centres.iter().enumerate() {
        split.train.write(index, &mut image, &mut target);
        let inside = (100..200).contains(&centre.column);
        assert_eq!(target[16 * 32 + 16], f32::from(u8::from(inside)));
        own += usize::from(inside);
    }
    assert!(own > 0 && own < split.train.len(), "{own} of {}", split.train.len());
}

#[test]
fn where_a_layer_may_not_have_been_drawn_other_layers_teach_nothing() {
    let left =
        |rows: Range<usize>| Mask::from_fn(300, 300, move |r, c| c < 150 && rows.contains(&r));
    let right = Mask::from_fn(300, 300, |_, c| c >= 150);
    let [upper] = page(300, 300, vec![left(0..120), right.clone()]);
    let [none] = page(300, 300, vec![left(0..0), right]);
    let without = none.layers()[1..].to_vec();
    let none = Arc::new(Page::from_parts(300, 300, vec![7; 3 * 300 * 300], without));
    let rule = Rule { around_others: 50, ..original(100, shape(32), 32) };
    let split = sample(&[none, upper.clone()], layer(0), &rule, &mut rng(1)).unwrap();
    for samples in [&split.train, &split.validation] {
        assert!(samples.pages.iter().all(|(page, _)| Arc::ptr_eq(page, &upper)));
        assert!(samples.centres.iter().all(|centre| (32..120).contains(&centre.row)));
        assert!(samples.centres.iter().any(|centre| centre.column >= 150));
    }
}
