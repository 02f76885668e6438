//! Rows of windows whose cells were transposed: each lies in memory until the last row of x that it reaches is
//! done.

use std::ops::Range;

use crate::shape::ConvShape;

/// Elements of memory that the cells may take. (Few in debug builds, so that tests go without a ring, too.)
const MOST: usize = if cfg!(debug_assertions) { 1 << 12 } else { 1 << 19 };

/// Memory for as many rows of windows as reach one row of x, and more.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    /// A power of two.
    rows: usize,
    /// Elements of a row.
    row: usize,
}

impl Ring {
    /// For some cells of each window; none where they take too much.
    pub fn new(shape: &ConvShape, cells: usize) -> Option<Ring> {
        let height = &shape.height;
        let rows = ((height.window() - 1) / height.stride + 1).min(height.output);
        let rows = rows.checked_next_power_of_two()?;
        let row = shape.out_width.checked_mul(cells)?;
        (row <= MOST / rows).then_some(Ring { rows, row })
    }

    pub fn len(&self) -> usize {
        self.rows * self.row
    }

    /// Where a row of windows lies.
    #[inline(always)]
    pub fn place(&self, row: usize) -> usize {
        (row & (self.rows - 1)) * self.row
    }
}

/// The rows of windows that reach some rows of x.
fn windows_over(shape: &ConvShape, rows: &Range<usize>) -> Range<usize> {
    let height = &shape.height;
    let start = height.windows_over(rows.start).start;
    start..height.windows_over(rows.end - 1).end.max(start)
}

/// Calls `visit` for each of some rows of x, and before it `transpose` for the rows of windows that reach it, each
/// once.
#[inline(always)]
pub(super) fn for_each_row(
    shape: &ConvShape,
    rows: &Range<usize>,
    mut transpose: impl FnMut(usize),
    mut visit: impl FnMut(usize),
) {
    let mut next = windows_over(shape, rows).start;
    for row in rows.clone() {
        let end = shape.height.windows_over(row).end;
        while next < end {
            transpose(next);
            next += 1;
        }
        visit(row);
    }
}
