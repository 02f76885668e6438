//! The tiles of one group, and their segments.

use crate::simd::TILE_LANES;

/// Tiles of a segment at most: its strip of source rows takes 50 KB at most.
const SEGMENT_TILES: usize = 28;

/// Tiles over the grids of all images. A segment is a part of a row of tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    /// Outputs of a tile along an axis.
    pub extent: usize,
    rows: usize,
    columns: usize,
    /// Segments of a row of tiles, and tiles of each but the last.
    parts: usize,
    pub part_tiles: usize,
    /// Of all images.
    pub segments: usize,
}

/// Part of a row of tiles in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub image: usize,
    /// Its first row and column in the grid.
    pub row: usize,
    pub column: usize,
    /// The number of its first tile, and how many there are.
    pub first: usize,
    pub tiles: usize,
}

impl Tiles {
    pub fn new(batch: usize, [height, width]: [usize; 2], extent: usize) -> Self {
        let (rows, columns) = (height.div_ceil(extent), width.div_ceil(extent));
        let parts = columns.div_ceil(SEGMENT_TILES).max(1);
        let part_tiles = columns.div_ceil(parts).max(1);
        Tiles { extent, rows, columns, parts, part_tiles, segments: batch * rows * parts }
    }

    pub fn segment(&self, number: usize) -> Segment {
        let (row, part) = (number / self.parts, number % self.parts);
        let before = part * self.part_tiles;
        Segment {
            image: row / self.rows,
            row: row % self.rows * self.extent,
            column: before * self.extent,
            first: row * self.columns + before,
            tiles: self.part_tiles.min(self.columns - before),
        }
    }

    /// The first tile of a segment, which may be one past the last.
    pub fn first_tile(&self, segment: usize) -> usize {
        segment / self.parts * self.columns + segment % self.parts * self.part_tiles
    }

    /// Segments to transform together, of which a tile takes `tile_bytes`.
    pub fn together(&self, tile_bytes: usize) -> usize {
        self.block(self.segments, (TRANSFORMED_BYTES / tile_bytes).max(FEWEST_TILES))
    }

    /// Segments of a block where so many are cut into even ones of at most `tiles` tiles, but one segment.
    pub fn block(&self, segments: usize, tiles: usize) -> usize {
        let most = (tiles / self.part_tiles).max(1);
        segments.div_ceil(segments.div_ceil(most).max(1)).max(1)
    }
}

/// What is transformed together is at most so large, but for `FEWEST_TILES`: it should stay in the caches.
const TRANSFORMED_BYTES: usize = 2 << 20;
/// Tiles that are transformed together at least: all filters are read, or their gradients updated, once
/// for them.
const FEWEST_TILES: usize = 128;

/// At least `len` elements, and an odd number of cache lines in f32: what lies so far apart and is used
/// together does not push one another out of the caches' sets.
pub(super) fn spread(len: usize) -> usize {
    (len.div_ceil(TILE_LANES) | 1) * TILE_LANES
}
