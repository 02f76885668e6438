//! Rows of scratch memory that the backward pass deals windows out to, the lanes along a pixel's elements.

use super::path::{BLOCK, MAX_SCRATCH};

/// Elements of a ring, at most, where fewer lanes would do: it stays in the second-level cache.
const CACHED: usize = 1 << 16;

/// What some rows of pixels hold, each at its row's number modulo `rows`. Whole vectors for each pixel: of
/// values, and of places behind those of all rows.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    pub rows: usize,
    with_places: bool,
    /// Elements from row to row, and from pixel to pixel.
    pub row: usize,
    pub pitch: usize,
}

impl Ring {
    /// For pixels of so many elements.
    pub fn new([rows, columns]: [usize; 2], lanes: usize, with_places: bool) -> Ring {
        let pitch = lanes.next_multiple_of(BLOCK);
        Ring { rows, with_places, row: columns.saturating_mul(pitch), pitch }
    }

    /// The most of `lanes` for which the ring stays in the cache, but some vectors at least. None where even
    /// these would take too much.
    pub fn lanes(extents: [usize; 2], lanes: usize, with_places: bool) -> Option<usize> {
        const FEW: usize = 64;
        let few = Ring::new(extents, lanes.min(FEW), with_places).len();
        let chunks = (CACHED / few.max(1)).max(1);
        (few <= MAX_SCRATCH).then_some(lanes.min(chunks * FEW))
    }

    /// Elements of all rows.
    pub fn len(&self) -> usize {
        let lines = if self.with_places { 2 } else { 1 };
        self.rows.saturating_mul(lines).saturating_mul(self.row)
    }

    /// Elements from values to their places.
    #[inline(always)]
    pub fn to_places(self) -> usize {
        self.rows * self.row
    }
}
