//! Planes whose rows are taken as if they were one.

use super::path::{self, BLOCK};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Lanes};

/// The most elements of a plane: the second-level cache holds it, and what its windows come to.
const MOST: usize = 1 << 14;

/// The most elements of a row under windows of few rows: wider ones fill vectors of their own.
const WIDEST: usize = 36;

/// Where the memory of a task has what: a number for each window, the column of each element, then two lots of lines.
#[derive(Clone, Copy)]
pub(super) struct Plane {
    /// Elements of a plane.
    pub len: usize,
    /// Elements of lines: those of the plane and of the rows outside that windows reach.
    pub lines: usize,
}

impl Plane {
    /// None where planes of `shape` go another way.
    pub fn new(shape: &PoolShape) -> Option<Plane> {
        if !fit(shape) {
            return None;
        }
        let rows = (shape.height.input - 1).checked_add(shape.height.kernel)?;
        let lines = rows.checked_mul(shape.width.input)?;
        let plane = Plane { len: path::input_pixels(shape), lines };
        (plane.memory_len() <= path::MAX_SCRATCH).then_some(plane)
    }

    /// Elements of memory: the lines have room for a vector behind them.
    pub fn memory_len(&self) -> usize {
        (2 * self.len + BLOCK).saturating_add(self.lines.saturating_mul(2))
    }

    #[inline(always)]
    pub fn columns<T>(&self, memory: *mut T) -> *mut T {
        memory.wrapping_add(self.len)
    }

    #[inline(always)]
    pub fn lines<T>(&self, memory: *mut T) -> *mut T {
        memory.wrapping_add(2 * self.len)
    }

    /// The same place of the second lot.
    #[inline(always)]
    pub fn second<T>(&self, line: *mut T) -> *mut T {
        line.wrapping_add(self.lines)
    }

    /// Writes the numbers and the columns.
    ///
    /// # Safety
    /// The memory is the plane's.
    #[inline(always)]
    pub unsafe fn prepare<T: Element>(
        &self,
        shape: &PoolShape,
        memory: *mut T,
        number: impl Fn(usize, usize) -> T,
    ) {
        // SAFETY: the caller answers for the memory.
        unsafe {
            write_numbers(shape, memory, number);
            write_numbers(shape, self.columns(memory), |_, column| T::from_f64(column as f64));
        }
    }
}

/// The first column of a row and the last.
#[inline(always)]
pub(super) fn row_ends<T: Element, S: Lanes<T>>(simd: S, width: &Axis) -> [S::Vector; 2] {
    [0, width.input - 1].map(|column| simd.splat(T::from_f64(column as f64)))
}

/// The lanes whose columns, moved from `from` to `to`, are of the same row.
#[inline(always)]
pub(super) fn stay_in_row<T: Element, S: Lanes<T>>(
    simd: S,
    [first, last]: [S::Vector; 2],
    columns: S::Vector,
    from: usize,
    to: usize,
) -> S::Mask {
    let moved = simd.add(columns, simd.splat(T::from_f64(to as f64 - from as f64)));
    match to < from {
        true => simd.less_equal(first, moved),
        false => simd.less_equal(moved, last),
    }
}

/// Whether planes lie side by side, windows leave them as large as they are, and no other way is faster.
fn fit(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    // As many windows as cells, each a cell behind the one before it.
    let keeps = |axis: &Axis| {
        let is_plain = axis.stride == 1 && axis.dilation == 1;
        is_plain && axis.output == axis.input && axis.pad_before < axis.kernel
    };
    let is_wide = width.input > WIDEST && height.kernel <= path::MOST_ROWS;
    let is_small = (BLOCK..=MOST).contains(&path::input_pixels(shape));
    path::is_planar(shape) && keeps(height) && keeps(width) && !is_wide && is_small
}

/// Writes a number for each window of a plane, the same in all rows whose windows have theirs in the input.
///
/// # Safety
/// `memory` has them.
#[inline(always)]
unsafe fn write_numbers<T: Element>(
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
