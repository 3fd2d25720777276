//! One bit for each pixel of a page: which pixels belong to a layer.

/// Which pixels of a page belong to a layer: one bit per pixel, so that ten layers of a 7000×4400
/// page take 40 MB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    height: usize,
    /// Number of words in a row. Rows begin with a new word: two rows never share one.
    words_per_row: usize,
    words: Vec<u64>,
}

impl Mask {
    /// A mask of this size in which `belongs(row, column)` decides.
    pub fn from_fn(
        width: usize,
        height: usize,
        mut belongs: impl FnMut(usize, usize) -> bool,
    ) -> Self {
        let words_per_row = width.div_ceil(64);
        let mut words = vec![0; words_per_row * height];
        for row in 0..height {
            for column in 0..width {
                if belongs(row, column) {
                    words[row * words_per_row + column / 64] |= 1 << (column % 64);
                }
            }
        }
        Self { width, height, words_per_row, words }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// True when the pixel belongs to the layer; false outside the page.
    pub fn get(&self, row: usize, column: usize) -> bool {
        row < self.height
            && column < self.width
            && self.words[row * self.words_per_row + column / 64] >> (column % 64) & 1 == 1
    }

    /// Number of pixels that belong to the layer.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// The bits, whole words for each row: column `c` of a row is bit `c % 64` of its word
    /// `c / 64`.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Words of a row.
    pub(crate) fn words_per_row(&self) -> usize {
        self.words_per_row
    }

    /// Leaves only the pixels that also belong to `other`.
    ///
    /// # Panics
    /// When `other` has another size.
    pub fn intersect(&mut self, other: &Self) {
        assert_eq!((self.width, self.height), (other.width, other.height));
        for (word, mask) in self.words.iter_mut().zip(&other.words) {
            *word &= mask;
        }
    }

    /// The words of one row, cut to the columns `from..to`: (first column of the word, its bits).
    pub(crate) fn row_words(
        &self,
        row: usize,
        from: usize,
        to: usize,
    ) -> impl Iterator<Item = (usize, u64)> {
        let words = &self.words[row * self.words_per_row..(row + 1) * self.words_per_row];
        (from / 64..to.div_ceil(64)).map(move |index| {
            let start = index * 64;
            let mut bits = words[index];
            if start < from {
                bits &= u64::MAX << (from - start);
            }
            if start + 64 > to {
                bits &= u64::MAX >> (start + 64 - to);
            }
            (start, bits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_kept_and_counted() {
        let belongs = |row: usize, column: usize| (row * 7 + column * 3).is_multiple_of(5);
        let mask = Mask::from_fn(130, 9, belongs);
        let mut count = 0;
        for row in 0..9 {
            for column in 0..130 {
                assert_eq!(mask.get(row, column), belongs(row, column));
                count += u64::from(belongs(row, column));
            }
        }
        assert_eq!(mask.count(), count);
        assert!(!mask.get(9, 0) && !mask.get(0, 130));
    }

    #[test]
    fn words_are_cut_to_the_columns() {
        let mask = Mask::from_fn(200, 2, |_, _| true);
        for (from, to) in [(0, 200), (1, 64), (63, 65), (64, 128), (70, 71), (5, 5)] {
            let count: u32 = mask.row_words(1, from, to).map(|(_, bits)| bits.count_ones()).sum();
            assert_eq!(count as usize, to - from, "{from}..{to}");
        }
    }

    #[test]
    fn an_intersection_needs_both() {
        let mut left = Mask::from_fn(70, 3, |_, column| column.is_multiple_of(2));
        left.intersect(&Mask::from_fn(70, 3, |row, _| row == 1));
        assert_eq!(left.count(), 35);
    }
}
