//! Draws the example page in `examples/page/`: `cargo run --example make_page [FOLDER [HAND]]`.
//!
//! A made-up leaf of square notation: parchment with stains and show-through, four-line staves,
//! neumes and a line of letters below each staff, with the exact pixels of every layer. Nothing but
//! additions, products, square roots and one seeded generator, so that every machine draws the same
//! bytes.
//!
//! HAND names another leaf to measure on, by another writer: `brown` (one ink for everything, a
//! broader pen, larger notes), `bleeding` (what is overleaf is nearly as dark as the page), `plain`
//! (no staff: neumes of thin strokes above the words, as in the oldest books).

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageResult};

const WIDTH: usize = 600;
const HEIGHT: usize = 800;
const SYSTEMS: usize = 7;
/// Distance of two staves, and of two lines of a staff, in pixels.
const SYSTEM_PITCH: f64 = 100.0;
const LINE_PITCH: f64 = 13.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 540.0;
const TOP: f64 = 48.0;

/// Who wrote a leaf, with what, and on what.
pub(crate) struct Hand {
    name: &'static str,
    seed: u64,
    /// Inks of neumes, staff lines and text, as darkening of red, green and blue: 1 leaves no
    /// light.
    inks: [[f64; 3]; 3],
    parchment: [f64; 3],
    /// How dark the ink overleaf is on this side.
    shine: f64,
    /// Size of a note, and width of the pen, as multiples of the example page's.
    note: f64,
    pen: f64,
    has_staff: bool,
}

/// The hand of the example page comes first.
pub(crate) const HANDS: [Hand; 4] = [
    Hand {
        name: "square",
        seed: 73,
        inks: [[0.86, 0.86, 0.82], [0.25, 0.62, 0.62], [0.50, 0.66, 0.80]],
        parchment: [238.0, 222.0, 190.0],
        shine: 0.10,
        note: 1.0,
        pen: 1.0,
        has_staff: true,
    },
    Hand {
        name: "brown",
        seed: 74,
        inks: [[0.55, 0.68, 0.80]; 3],
        parchment: [226.0, 205.0, 168.0],
        shine: 0.10,
        note: 1.15,
        pen: 1.2,
        has_staff: true,
    },
    Hand {
        name: "bleeding",
        seed: 75,
        inks: [[0.78, 0.80, 0.80], [0.30, 0.66, 0.66], [0.66, 0.74, 0.80]],
        parchment: [214.0, 203.0, 182.0],
        shine: 0.45,
        note: 0.9,
        pen: 0.9,
        has_staff: true,
    },
    Hand {
        name: "plain",
        seed: 76,
        inks: [[0.60, 0.70, 0.78], [0.0; 3], [0.66, 0.74, 0.80]],
        parchment: [232.0, 214.0, 184.0],
        shine: 0.20,
        note: 1.0,
        pen: 1.1,
        has_staff: false,
    },
];

/// A linear congruential generator (Knuth's MMIX constants): the page must not change with a
/// crate's version.
struct Dice(u64);

impl Dice {
    /// Evenly spread in 0…1.
    fn roll(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.roll()
    }

    fn pick(&mut self, count: usize) -> usize {
        ((self.roll() * count as f64) as usize).min(count - 1)
    }
}

/// How much of each pixel one kind of ink covers, 0…1.
struct Ink(Vec<f64>);

impl Ink {
    fn new() -> Self {
        Self(vec![0.0; WIDTH * HEIGHT])
    }

    /// Covers what lies within `distance(x, y) <= 0`, with an edge one pixel wide.
    fn fill(
        &mut self,
        left: f64,
        top: f64,
        right: f64,
        bottom: f64,
        distance: impl Fn(f64, f64) -> f64,
    ) {
        for y in (top - 2.0).max(0.0) as usize..((bottom + 3.0).max(0.0) as usize).min(HEIGHT) {
            for x in (left - 2.0).max(0.0) as usize..((right + 3.0).max(0.0) as usize).min(WIDTH) {
                let cover = (0.5 - distance(x as f64 + 0.5, y as f64 + 0.5)).clamp(0.0, 1.0);
                let pixel = &mut self.0[y * WIDTH + x];
                *pixel = pixel.max(cover);
            }
        }
    }

    /// A stroke of the pen between two points, broader where the pen is held across its way.
    fn stroke(&mut self, from: (f64, f64), to: (f64, f64), radius: f64) {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length2 = dx * dx + dy * dy + 1e-9;
        self.fill(
            from.0.min(to.0) - radius,
            from.1.min(to.1) - radius,
            from.0.max(to.0) + radius,
            from.1.max(to.1) + radius,
            |x, y| {
                let along = (((x - from.0) * dx + (y - from.1) * dy) / length2).clamp(0.0, 1.0);
                let (px, py) = (x - from.0 - along * dx, y - from.1 - along * dy);
                (px * px + py * py).sqrt() - radius
            },
        );
    }

    /// A square of half side `half`, sheared by `slant`; `turned` stands on its corner.
    fn square(&mut self, x: f64, y: f64, half: f64, slant: f64, turned: bool) {
        let reach = half * 1.5;
        self.fill(x - reach, y - reach, x + reach, y + reach, |px, py| {
            let (dx, dy) = ((px - x), (py - y) - slant * (px - x));
            if turned {
                (dx.abs() + dy.abs()) * 0.707 - half * 0.95
            } else {
                dx.abs().max(dy.abs()) - half
            }
        });
    }
}

/// Letters as strokes on a grid 4 wide and 8 high: x-height from 2 to 6, ascenders up to 0,
/// descenders to 8.
const LETTERS: [&[[i8; 4]]; 12] = [
    &[
        [0, 3, 1, 2],
        [1, 2, 3, 3],
        [3, 2, 3, 6],
        [3, 4, 1, 4],
        [1, 4, 0, 5],
        [0, 5, 1, 6],
        [1, 6, 3, 5],
    ], // a
    &[[3, 3, 1, 2], [1, 2, 0, 4], [0, 4, 1, 6], [1, 6, 3, 6]], // c
    &[[1, 0, 3, 3], [3, 3, 3, 5], [3, 5, 1, 6], [1, 6, 0, 4], [0, 4, 1, 2], [1, 2, 3, 3]], // d
    &[[0, 4, 3, 3], [3, 3, 1, 2], [1, 2, 0, 4], [0, 4, 1, 6], [1, 6, 3, 6]], // e
    &[[1, 2, 1, 6], [1, 6, 2, 6], [1, 0, 2, 0]],               // i
    &[[1, 0, 1, 5], [1, 5, 2, 6], [2, 6, 3, 6]],               // l
    &[
        [0, 2, 0, 6],
        [0, 3, 1, 2],
        [1, 2, 2, 3],
        [2, 3, 2, 6],
        [2, 3, 3, 2],
        [3, 2, 4, 3],
        [4, 3, 4, 6],
    ], // m
    &[[0, 2, 0, 6], [0, 3, 2, 2], [2, 2, 3, 3], [3, 3, 3, 6]], // n
    &[[1, 2, 0, 4], [0, 4, 1, 6], [1, 6, 3, 5], [3, 5, 3, 3], [3, 3, 1, 2]], // o
    &[[0, 2, 0, 8], [0, 3, 2, 2], [2, 2, 3, 4], [3, 4, 2, 6], [2, 6, 0, 5]], // p
    &[[3, 2, 1, 2], [1, 2, 1, 4], [1, 4, 3, 4], [3, 4, 3, 6], [3, 6, 0, 6]], // s
    &[[0, 2, 0, 5], [0, 5, 1, 6], [1, 6, 3, 5], [3, 2, 3, 6]], // u
];

/// The ink of the three layers: neumes, staff lines, letters.
fn write_page(hand: &Hand, dice: &mut Dice) -> [Ink; 3] {
    let [mut neumes, mut staff, mut text] = [Ink::new(), Ink::new(), Ink::new()];
    for system in 0..SYSTEMS {
        let top = TOP + SYSTEM_PITCH * system as f64;
        let (slant, bow) = (dice.between(-3.0, 3.0), dice.between(-2.5, 2.5));
        // Ruled by hand: each staff is slightly askew and bent.
        let at = |x: f64| {
            let along = (x - LEFT) / (RIGHT - LEFT);
            slant * along + bow * 4.0 * along * (1.0 - along)
        };
        for line in 0..if hand.has_staff { 4 } else { 0 } {
            let y = top + LINE_PITCH * f64::from(line);
            let mut x = LEFT + dice.between(-4.0, 4.0);
            let end = RIGHT + dice.between(-4.0, 4.0);
            while x < end {
                let next = (x + dice.between(18.0, 30.0)).min(end);
                let radius = hand.pen * dice.between(0.8, 1.15);
                staff.stroke((x, y + at(x)), (next, y + at(next)), radius);
                x = next;
            }
        }
        if hand.has_staff {
            write_neumes(&mut neumes, hand, dice, |x| top + at(x));
        } else {
            write_strokes(&mut neumes, hand, dice, |x| top + at(x));
        }
        write_words(&mut text, hand, dice, top + 3.0 * LINE_PITCH + 11.0);
    }
    [neumes, staff, text]
}

/// Neumes of one to three notes along a staff whose upper line is at `line(x)`.
fn write_neumes(ink: &mut Ink, hand: &Hand, dice: &mut Dice, line: impl Fn(f64) -> f64) {
    // A C clef: two squares on a stem.
    let clef = (LEFT + 9.0, line(LEFT) + LINE_PITCH);
    ink.stroke((clef.0 - 4.0, clef.1 - 7.0), (clef.0 - 4.0, clef.1 + 7.0), 1.6);
    ink.square(clef.0, clef.1 - 6.5, 4.2, 0.1, false);
    ink.square(clef.0, clef.1 + 6.5, 4.2, 0.1, false);

    let mut x = LEFT + 38.0;
    let mut place: i32 = 3;
    while x < RIGHT - 14.0 {
        let notes = 1 + dice.pick(3);
        let turned = dice.pick(4) == 0;
        let mut last: Option<(f64, f64)> = None;
        for _ in 0..notes {
            if x > RIGHT - 6.0 {
                break;
            }
            place = (place + [-2, -1, 1, 2][dice.pick(4)]).clamp(-1, 6);
            let y = line(x) + LINE_PITCH / 2.0 * f64::from(place) + dice.between(-0.7, 0.7);
            let half = hand.note * dice.between(4.4, 5.3);
            ink.square(x, y, half, dice.between(-0.06, 0.12), turned);
            match last {
                // Notes of one neume hang together by a thin stroke.
                Some((px, py)) if !turned => ink.stroke((px + half, py), (x - half, y), 1.0),
                None if notes == 1 && dice.pick(2) == 0 => {
                    ink.stroke(
                        (x + half - 0.8, y),
                        (x + half - 0.8, y + dice.between(15.0, 21.0)),
                        1.0,
                    );
                }
                _ => {}
            }
            last = Some((x, y));
            x += hand.note * dice.between(11.0, 13.0);
        }
        x += dice.between(14.0, 34.0);
    }
}

/// Neumes without a staff: a rising stroke, a dot, an arch or a hook, in the room above the words.
fn write_strokes(ink: &mut Ink, hand: &Hand, dice: &mut Dice, room: impl Fn(f64) -> f64) {
    let mut x = LEFT + 6.0;
    while x < RIGHT - 24.0 {
        let y = room(x) + dice.between(14.0, 34.0);
        let radius = hand.pen * dice.between(0.9, 1.5);
        let (broad, high) =
            (hand.note * dice.between(6.0, 10.0), hand.note * dice.between(7.0, 14.0));
        match dice.pick(4) {
            0 => ink.stroke((x, y), (x + broad * 0.6, y - high), radius),
            1 => ink.square(x + 2.0, y, 1.6 * radius, dice.between(-0.1, 0.2), true),
            2 => {
                ink.stroke((x, y), (x + broad * 0.4, y - high), radius);
                ink.stroke((x + broad * 0.4, y - high), (x + broad, y), radius);
            }
            _ => {
                ink.stroke((x, y - high), (x + broad * 0.3, y), radius);
                ink.stroke((x + broad * 0.3, y), (x + broad, y - high * 0.7), radius);
            }
        }
        x += broad + dice.between(8.0, 26.0);
    }
}

/// Words along a base line; their letters are drawn between `top` and 22 pixels below.
fn write_words(ink: &mut Ink, hand: &Hand, dice: &mut Dice, top: f64) {
    let unit = 2.7;
    let mut x = LEFT + 2.0;
    while x < RIGHT - 20.0 {
        for _ in 0..2 + dice.pick(5) {
            let letter = LETTERS[dice.pick(LETTERS.len())];
            if x > RIGHT - 10.0 {
                break;
            }
            let (shift, radius) = (dice.between(-0.6, 0.6), hand.pen * dice.between(1.15, 1.5));
            let mut broadest = 0;
            for [x0, y0, x1, y1] in letter {
                broadest = broadest.max(*x0).max(*x1);
                let point =
                    |gx: i8, gy: i8| (x + unit * f64::from(gx), top + shift + unit * f64::from(gy));
                // A broad nib: upright strokes are heavier than level ones.
                let weight = if x0 == x1 { 1.35 } else { 1.0 };
                ink.stroke(point(*x0, *y0), point(*x1, *y1), radius * weight);
            }
            x += unit * f64::from(broadest) + 5.5;
        }
        x += dice.between(10.0, 24.0);
    }
}

/// Smooth noise in about −1…1 whose features are `cell` pixels wide.
fn clouds(dice: &mut Dice, cell: usize) -> impl Fn(usize, usize) -> f64 + use<> {
    let columns = WIDTH / cell + 2;
    let knots: Vec<f64> =
        (0..columns * (HEIGHT / cell + 2)).map(|_| dice.between(-1.0, 1.0)).collect();
    let ease = |t: f64| t * t * (3.0 - 2.0 * t);
    move |x, y| {
        let (cx, cy) = (x / cell, y / cell);
        let (tx, ty) =
            (ease((x % cell) as f64 / cell as f64), ease((y % cell) as f64 / cell as f64));
        let knot = |dx: usize, dy: usize| knots[(cy + dy) * columns + cx + dx];
        let upper = knot(0, 0) + (knot(1, 0) - knot(0, 0)) * tx;
        let lower = knot(0, 1) + (knot(1, 1) - knot(0, 1)) * tx;
        upper + (lower - upper) * ty
    }
}

/// The page as RGB bytes.
fn paint(hand: &Hand, dice: &mut Dice, [neumes, staff, text]: &[Ink; 3]) -> Vec<u8> {
    let [neume_ink, staff_ink, text_ink] = hand.inks;
    let (stains, texture, fading) = (clouds(dice, 150), clouds(dice, 12), clouds(dice, 40));
    let mut bytes = Vec::with_capacity(3 * WIDTH * HEIGHT);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let at = y * WIDTH + x;
            // Towards the edges the leaf is darker; what is written overleaf shines through,
            // mirrored.
            let edge = [x, WIDTH - 1 - x, y, HEIGHT - 1 - y].into_iter().min().unwrap_or(0) as f64;
            let overleaf = y * WIDTH + (WIDTH - 1 - x);
            let shine = hand.shine * neumes.0[overleaf].max(text.0[overleaf]);
            let grain = (dice.pick(3) as f64 - 1.0) * 0.012;
            let light = 0.93 + 0.05 * stains(x, y) + 0.02 * texture(x, y)
                - 0.10 * (1.0 - edge / 45.0).max(0.0)
                - shine
                + grain;
            // Few shades of light, so that the file stays small.
            let light = (light * 40.0).round() / 40.0;
            let worn = (0.92 + 0.12 * fading(x, y)).min(1.0);
            for channel in 0..3 {
                let parchment = hand.parchment[channel] * light;
                let mut left = 1.0;
                for (ink, colour) in [(text, text_ink), (staff, staff_ink), (neumes, neume_ink)] {
                    let dark = 1.0 - ink.0[at] * colour[channel] * worn;
                    left = if ink.0[at] > 0.5 { dark } else { left * dark };
                }
                bytes.push((parchment * left).round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    bytes
}

fn png(bytes: &[u8], colour: ExtendedColorType) -> ImageResult<Vec<u8>> {
    let mut file = Vec::new();
    // Few shades and no gradients: unfiltered rows compress best.
    PngEncoder::new_with_quality(&mut file, CompressionType::Best, FilterType::NoFilter)
        .write_image(bytes, WIDTH as u32, HEIGHT as u32, colour)?;
    Ok(file)
}

/// A layer as RGBA: black and opaque where a pixel belongs to it, else empty. Nobody reads a
/// layer's colours.
fn layer(belongs: impl Fn(usize) -> bool) -> ImageResult<Vec<u8>> {
    let pixels = (0..WIDTH * HEIGHT).flat_map(|at| [0, 0, 0, if belongs(at) { 255 } else { 0 }]);
    png(&pixels.collect::<Vec<u8>>(), ExtendedColorType::Rgba8)
}

/// The files of the page: name and content.
///
/// # Errors
/// When the PNG encoder fails.
pub(crate) fn files(hand: &Hand) -> ImageResult<Vec<(String, Vec<u8>)>> {
    let mut dice = Dice(hand.seed);
    for _ in 0..8 {
        dice.roll();
    }
    let ink = write_page(hand, &mut dice);
    let page = paint(hand, &mut dice, &ink);
    let covered = |kind: usize, at: usize| ink[kind].0[at] > 0.5;
    // What was written last lies on top: a pixel belongs to one layer.
    let owner = |at: usize| (0..3).find(|kind| covered(*kind, at));
    let inside = |at: usize| {
        let (x, y) = ((at % WIDTH) as f64, (at / WIDTH) as f64);
        (LEFT - 22.0..RIGHT + 22.0).contains(&x)
            && (TOP - 22.0..TOP + SYSTEM_PITCH * SYSTEMS as f64 - 16.0).contains(&y)
    };
    let mut files = vec![
        ("image.png".to_owned(), png(&page, ExtendedColorType::Rgb8)?),
        ("background.png".to_owned(), layer(|at| owner(at).is_none())?),
        ("regions.png".to_owned(), layer(inside)?),
    ];
    let kinds = (0..3).filter(|kind| *kind != 1 || hand.has_staff);
    for (number, kind) in kinds.enumerate() {
        files.push((format!("layer_{number}.png"), layer(|at| owner(at) == Some(kind))?));
    }
    Ok(files)
}

#[allow(dead_code)] // A test includes this file for `files` alone.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "examples/page".to_owned());
    let wanted = arguments.next().unwrap_or_else(|| HANDS[0].name.to_owned());
    let Some(hand) = HANDS.iter().find(|hand| hand.name == wanted) else {
        let names = HANDS.map(|hand| hand.name).join(", ");
        return Err(format!("there is no hand {wanted:?}: choose one of {names}").into());
    };
    std::fs::create_dir_all(&folder)?;
    for (name, content) in files(hand)? {
        std::fs::write(Path::new(&folder).join(name), content)?;
    }
    Ok(())
}
