//! What a row of a window comes to.

use std::ops::Range;

use super::forward::Reduction;
use crate::runs;
use crate::shape::Axis;
use crate::simd::{Element, Lanes};

/// A value, and its place in the row or in the window.
pub(super) type Line<V> = [V; 2];

/// The cells of a row of a window that take part.
pub(super) struct Cells {
    /// Those in the input.
    taps: Range<usize>,
    /// Whether there are cells in the padding before them, and behind them.
    before: bool,
    after: bool,
}

impl Cells {
    /// Of a window whose cells all lie in the input.
    #[inline(always)]
    pub fn all(kernel: usize) -> Cells {
        Cells::some(0..kernel)
    }

    /// Those of the taps in the input alone.
    #[inline(always)]
    pub fn some(taps: Range<usize>) -> Cells {
        Cells { taps, before: false, after: false }
    }

    /// Of `kernel` taps, those that are missing at both ends, where no padding takes part.
    #[inline(always)]
    pub fn missing(&self, kernel: usize) -> Option<[usize; 2]> {
        (!self.before && !self.after).then_some([self.taps.start, kernel - self.taps.end])
    }

    /// Of the windows at `column`, where padding takes part or not.
    #[inline(always)]
    pub fn new(width: &Axis, column: usize, padding: bool) -> Cells {
        let taps = width.taps(column);
        let (before, after) = (taps.start > 0, taps.end < width.taps_end(column));
        Cells { taps, before: padding && before, after: padding && after }
    }

    /// The first tap in the input.
    #[inline(always)]
    pub fn first(&self) -> usize {
        self.taps.start
    }

    /// The row of a vector of windows: `count` lanes of cells that are `step` apart, from `first` on, which lies in
    /// the input.
    ///
    /// # Safety
    /// The lanes of the cells in the input may be read.
    #[inline(always)]
    pub unsafe fn line<T: Element, R: Reduction<T>, S: Lanes<T>>(
        &self,
        simd: S,
        reduction: R,
        first: *const T,
        step: usize,
        count: usize,
    ) -> Line<S::Vector> {
        let zero = simd.splat(T::default());
        // Of cells in the padding that follow each other, the first speaks for all.
        let mut line = if self.before {
            cell(simd, zero, 0)
        } else if self.taps.is_empty() {
            cell(simd, simd.splat(R::nothing()), 0)
        } else {
            // SAFETY: the caller answers for the cells.
            cell(simd, unsafe { runs::load(simd, count, first) }, self.taps.start)
        };
        let rest = self.taps.start + usize::from(!self.before)..self.taps.end;
        for tap in rest {
            let cell = first.wrapping_add((tap - self.taps.start) * step);
            // SAFETY: as above.
            reduction.cell(simd, &mut line, unsafe { runs::load(simd, count, cell) }, tap);
        }
        if self.after {
            reduction.cell(simd, &mut line, zero, self.taps.end);
        }
        line
    }
}

/// The line of a row of the padded input that lies outside the input.
#[inline(always)]
pub(super) fn outside<T: Element, R: Reduction<T>, S: Lanes<T>>(
    simd: S,
    reduction: R,
    height: &Axis,
    row: usize,
) -> Line<S::Vector> {
    let counts = reduction.padding_takes_part() && row < height.padded();
    cell(simd, simd.splat(if counts { T::default() } else { R::nothing() }), 0)
}

/// The line of one cell.
#[inline(always)]
pub(super) fn cell<T: Element, S: Lanes<T>>(
    simd: S,
    value: S::Vector,
    place: usize,
) -> Line<S::Vector> {
    [value, simd.splat(T::from_number(place as u32))]
}
