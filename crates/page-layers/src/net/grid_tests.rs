//! The portions in which the own kernels go through a batch.

use kernels::grid::{Grid, Place};

#[test]
fn strips_and_their_pieces_are_the_whole_batch_in_order() {
    for images in [1, 2, 5, 16] {
        for (rows, columns) in [(1, 1), (2, 2), (4, 4), (3, 7), (16, 16), (64, 64), (1, 300)] {
            for block in [16, 56, 128] {
                for together in [1, 2, 4, 16] {
                    let grid = Grid { images, rows, columns };
                    let case = format!("{grid:?} {block} {together}");
                    let mut places = Vec::new();
                    let mut row = 0;
                    for strip in grid.strips(block, together) {
                        assert_eq!(strip.start, row, "{case}");
                        row = strip.end;
                        let across = strip.start / rows != (strip.end - 1) / rows;
                        let whole = strip.start % rows == 0 && strip.end % rows == 0;
                        assert!(!across || whole, "{case}: {strip:?}");
                        assert!(strip.len().div_ceil(rows) <= together, "{case}: {strip:?}");
                        for tiles in grid.pieces(strip, block) {
                            assert!((1..=block).contains(&tiles.count()), "{case}");
                            places.extend(tiles.iter());
                        }
                    }
                    assert_eq!(row, images * rows, "{case}");
                    assert_eq!(places.len(), images * rows * columns, "{case}");
                    for (tile, place) in places.iter().enumerate() {
                        let Place { image, row, column, .. } = *place;
                        assert_eq!((image * rows + row) * columns + column, tile, "{case}");
                        assert!(row < rows && column < columns, "{case}: {place:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_without_pixels_has_no_strips() {
    for (images, rows, columns) in [(0, 4, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
        let grid = Grid { images, rows, columns };
        let tiles: usize = grid
            .strips(16, 2)
            .flat_map(|strip| grid.pieces(strip, 16))
            .map(|tiles| tiles.iter().count())
            .sum();
        assert_eq!(tiles, 0, "{grid:?}");
    }
}
