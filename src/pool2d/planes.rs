//! Planes whose rows are taken as if they were one.

use super::path::{self, BLOCK};
use crate::shape::{Axis, PoolShape};
use crate::simd::Element;

/// The most elements of a plane: the second-level cache holds it, and what its windows come to.
const MOST: usize = 1 << 14;

/// The most elements of a row under windows of few rows: wider ones fill vectors of their own.
const WIDEST: usize = 36;
const FEW_ROWS: usize = 3;

/// Whether planes lie side by side, windows leave them as large as they are, and no other way is faster.
pub(super) fn fit(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    // As many windows as cells, each a cell behind the one before it.
    let keeps = |axis: &Axis| {
        let is_plain = axis.stride == 1 && axis.dilation == 1;
        is_plain && axis.output == axis.input && axis.pad_before < axis.kernel
    };
    let is_wide = width.input > WIDEST && height.kernel <= FEW_ROWS;
    let is_small = (BLOCK..=MOST).contains(&path::input_pixels(shape));
    path::is_planar(shape) && keeps(height) && keeps(width) && !is_wide && is_small
}

/// Elements of a plane with the rows outside that windows reach.
pub(super) fn rows_len(shape: &PoolShape) -> Option<usize> {
    (shape.height.input - 1).checked_add(shape.height.kernel)?.checked_mul(shape.width.input)
}

/// Writes a number for each window of a plane, the same in all rows whose windows have theirs in the input.
///
/// # Safety
/// `memory` has them.
#[inline(always)]
pub(super) unsafe fn write_numbers<T: Element>(
    shape: &PoolShape,
    memory: *mut T,
    number: impl Fn(usize, usize) -> T,
) {
    let (rows, row_len) = (shape.height.full_outputs(false), shape.width.output);
    for row in 0..shape.height.output {
        for column in 0..row_len {
            let to = memory.wrapping_add(row * row_len + column);
            let is_first = !rows.contains(&row) || row == rows.start;
            // SAFETY: the caller answers for the memory.
            unsafe { *to = if is_first { number(row, column) } else { *to.sub(row_len) } };
        }
    }
}
