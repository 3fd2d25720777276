//! Varies an input at random, like libFuzzer but without feedback.

/// Numbers that depend on the seed alone (splitmix64, Steele and others 2014).
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Bytes that often break readers.
const BYTES: [u8; 12] = [0, 1, 9, 10, 13, 27, b'"', b'/', b'\\', 0x7f, 0x80, 0xff];

/// One to four changes to `input`: bits, bytes, pieces left out, doubled, moved, or taken from
/// `other` or `words`.
pub(super) fn mutated(
    input: &[u8],
    other: &[u8],
    words: &[Vec<u8>],
    random: &mut Random,
) -> Vec<u8> {
    let mut data = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        let length = random.below((data.len() - at).min(32) + 1);
        match random.below(9) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = BYTES[random.below(BYTES.len())],
            2 => data.insert(at, BYTES[random.below(BYTES.len())]),
            3 => drop(data.drain(at..at + length)),
            4 => {
                let piece = data[at..at + length].to_vec();
                let to = random.below(data.len() + 1);
                data.splice(to..to, piece);
            }
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let end = from + random.below((other.len() - from).min(200) + 1);
                data.splice(at..at + length, other[from..end].iter().copied());
            }
            6 | 7 if !words.is_empty() => {
                let word = words[random.below(words.len())].clone();
                data.splice(at..at + length, word);
            }
            8 => data.truncate(at),
            _ => data.push(random.below(256) as u8),
        }
    }
    data
}
