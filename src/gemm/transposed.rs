//! Writes what a tile has left in C as columns, where those of the results lie apart and their rows side by side.

use crate::simd::{Element, Kernel, Lanes};

/// Where number (row, column) goes: `column * stride + row`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transposed<T> {
    pub target: *mut T,
    pub stride: usize,
}

/// The values of a tile, fresh in the first-level cache. (A kernel of its own, the same for every tile.)
pub(super) struct WriteTransposed<T> {
    pub to: Transposed<T>,
    /// Of the tile's first row and column.
    pub numbers: [usize; 2],
    pub extents: [usize; 2],
    pub values: *const T,
    /// From row to row of the values.
    pub stride: usize,
}

impl<T: Element> Kernel<T> for WriteTransposed<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let WriteTransposed { to, numbers, extents, values, stride } = self;
        let target = to.target.wrapping_add(numbers[1] * to.stride + numbers[0]);
        for row in (0..extents[0]).step_by(S::LANES) {
            for column in (0..extents[1]).step_by(S::LANES) {
                let rows = S::LANES.min(extents[0] - row);
                let extents = [rows, S::LANES.min(extents[1] - column)];
                // SAFETY: whoever made the block answers for C and for the places of its results, which have the tile.
                unsafe {
                    let values = values.add(row * stride + column);
                    let target = target.add(column * to.stride + row);
                    simd.transpose(extents, values, stride, target, to.stride);
                }
            }
        }
    }
}
