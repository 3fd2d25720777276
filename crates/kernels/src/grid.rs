//! A batch of images as tiles: in which portions the threads go through them.

use std::ops::Range;

/// The tiles of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Images in the batch.
    pub images: usize,
    /// Rows of tiles in one image.
    pub rows: usize,
    /// Tiles in one row.
    pub columns: usize,
}

impl Grid {
    /// The whole batch in strips, as ranges of tile rows: some rows of an image, or, where images
    /// have fewer tiles than a block, some whole images, but at most `images`.
    pub fn strips(
        self,
        block: usize,
        images: usize,
    ) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
        let Self { rows, columns, images: all } = self;
        let of_an_image = (rows * columns).max(1);
        let (step, whole) = if of_an_image < block {
            (rows * (block / of_an_image).min(images).max(1), rows * all)
        } else {
            ((block / columns.max(1)).clamp(1, rows.max(1)), rows)
        };
        let steps = whole.div_ceil(step.max(1));
        let strips = if whole == rows { all * steps } else { steps };
        (0..strips).map(move |strip| {
            let (first, start) = (strip / steps * whole, strip % steps * step);
            first + start..first + (start + step).min(whole)
        })
    }

    /// A strip in pieces of at most `block` tiles and of about the same size: none is left with a
    /// few.
    pub fn pieces(self, strip: Range<usize>, block: usize) -> impl Iterator<Item = Tiles> {
        let (start, end) = (strip.start * self.columns, strip.end * self.columns);
        let size = (end - start).div_ceil((end - start).div_ceil(block).max(1)).max(1);
        (start..end).step_by(size).map(move |first| Tiles {
            range: first..(first + size).min(end),
            rows: self.rows,
            columns: self.columns,
        })
    }
}

/// Some consecutive tiles (row-major) of a batch.
#[derive(Clone, Debug)]
pub struct Tiles {
    range: Range<usize>,
    /// Rows of tiles in an image.
    rows: usize,
    /// Tiles in one row of an image.
    columns: usize,
}

/// Where a tile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In the block.
    pub index: usize,
    /// In the batch.
    pub image: usize,
    /// In the image's rows of tiles.
    pub row: usize,
    /// In the row.
    pub column: usize,
}

impl Tiles {
    /// How many there are.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.range.len()
    }

    /// The place of each tile.
    #[inline(always)]
    pub fn iter(&self) -> Places {
        let Self { range, rows, columns } = self.clone();
        let line = range.start / columns;
        let (image, row, column) = (line / rows, line % rows, range.start % columns);
        Places { next: Place { index: 0, image, row, column }, count: range.len(), rows, columns }
    }
}

/// The places of some tiles; counted on, since four divisions for each would be felt where a tile
/// is a pixel.
pub struct Places {
    next: Place,
    count: usize,
    rows: usize,
    columns: usize,
}

impl Iterator for Places {
    type Item = Place;

    #[inline(always)]
    fn next(&mut self) -> Option<Place> {
        let here = self.next;
        if here.index == self.count {
            return None;
        }
        let next = &mut self.next;
        next.index += 1;
        next.column += 1;
        if next.column == self.columns {
            (next.column, next.row) = (0, next.row + 1);
            if next.row == self.rows {
                (next.row, next.image) = (0, next.image + 1);
            }
        }
        Some(here)
    }
}
