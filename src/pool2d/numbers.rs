//! A number for each window of a plane, in lines along its rows.

use std::ops::Range;

use super::path::BLOCK;
use crate::runs;
use crate::shape::PoolShape;
use crate::simd::{Element, Lanes};

/// Where they lie in scratch memory: a line of whole vectors for each row whose windows do not all have their
/// rows in the input, and one for the others.
#[derive(Clone)]
pub(super) struct Numbers {
    full: Range<usize>,
    rows: usize,
    line: usize,
}

impl Numbers {
    pub fn new(shape: &PoolShape) -> Numbers {
        let full = shape.height.full_outputs(false);
        let rows = shape.height.output - full.len() + full.len().min(1);
        Numbers { full, rows, line: shape.width.output.next_multiple_of(BLOCK) }
    }

    /// Elements of memory.
    pub fn len(&self) -> usize {
        self.rows.saturating_mul(self.line)
    }

    /// Where the line of a row begins.
    #[inline(always)]
    pub fn at(&self, row: usize) -> usize {
        let shared = row.min(self.full.end.max(1) - 1).saturating_sub(self.full.start);
        (row - shared) * self.line
    }

    /// Writes those of all windows.
    ///
    /// # Safety
    /// `memory` has them.
    #[inline(always)]
    pub unsafe fn write<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        shape: &PoolShape,
        memory: *mut T,
        number: impl Fn(usize, usize) -> T,
    ) {
        let full = shape.width.full_outputs(false);
        let shared = self.full.start + self.full.len().min(1);
        for row in (0..shared).chain(self.full.end..shape.height.output) {
            let numbers = memory.wrapping_add(self.at(row));
            if !full.is_empty() {
                let all = simd.splat(number(row, full.start));
                // SAFETY: a line.
                unsafe { runs::fill(simd, self.line, all, numbers, [(1, 0); 3]) };
            }
            for column in (0..full.start).chain(full.end..shape.width.output) {
                // SAFETY: a number of the line.
                unsafe { *numbers.add(column) = number(row, column) };
            }
        }
    }
}
