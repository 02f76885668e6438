//! The forward pass with the lanes along a pixel's elements, for large windows that overlap: what a row of x comes
//! to under each window is worked out once, and kept in a ring for all rows of windows that share it.

use std::ops::Range;

use super::forward::{Pixels, Reduction, Results, Window};
use super::ring::Ring;
use crate::runs;
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};

/// The ring for pixels of so many elements, or of the first of them; none where each window for itself is faster.
pub(super) fn ring(shape: &PoolShape, lanes: usize) -> Option<Ring> {
    let Axis { kernel, stride, dilation, .. } = shape.height;
    if kernel < 2 * stride || dilation > 1 || shape.window_len() < FEWEST_CELLS {
        return None;
    }
    let extents = [kernel, shape.width.output];
    Some(Ring::new(extents, Ring::lanes(extents, lanes, true)?, true))
}

/// Cells of a window that are worth a ring.
const FEWEST_CELLS: usize = 16;

/// Rows of y in one plane.
pub(super) struct SharedRows<'a, T, R> {
    pub shape: &'a PoolShape,
    pub reduction: R,
    pub rows: Range<usize>,
    pub pixels: Pixels<T>,
    pub results: Results<T>,
    pub ring: Ring,
    /// Room for the ring.
    pub memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for SharedRows<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Axis { stride, pad_before, .. } = self.shape.height;
        let mut reduced = 0;
        for row in self.rows.clone() {
            let taps = self.shape.height.taps(row);
            if !taps.is_empty() {
                let top = |tap: usize| row * stride + tap - pad_before;
                reduced = reduced.max(top(taps.start));
                while reduced <= top(taps.end - 1) {
                    self.reduce(simd, reduced);
                    reduced += 1;
                }
            }
            self.join(simd, row, taps);
        }
    }
}

impl<T: Element, R: Reduction<T>> SharedRows<'_, T, R> {
    /// Works out what a row of x comes to under each window.
    #[inline(always)]
    fn reduce<S: Lanes<T>>(&self, simd: S, row: usize) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let Pixels { stride, lanes, x } = self.pixels;
        let target = self.memory.wrapping_add(row % self.ring.rows * self.ring.row);
        let zero = simd.splat(T::default());
        let padding = reduction.padding_takes_part();
        for column in 0..width.output {
            let (taps, end) = (width.taps(column), width.taps_end(column));
            let first = column * width.stride + taps.start * width.dilation;
            let first = (row * width.input).wrapping_add(first.wrapping_sub(width.pad_before));
            for lane in (0..lanes).step_by(S::LANES) {
                let count = S::LANES.min(lanes - lane);
                let mut state = reduction.start(simd, simd.splat(T::from_number(0)));
                // Of cells in the padding that follow each other, the first speaks for all.
                if padding && taps.start > 0 {
                    reduction.cell(simd, &mut state, zero, 0);
                }
                for tap in taps.clone() {
                    let cell = first + (tap - taps.start) * width.dilation;
                    // SAFETY: `count` lanes of a cell of the row.
                    let value = unsafe { runs::load(simd, count, x.add(cell * stride + lane)) };
                    reduction.cell(simd, &mut state, value, tap);
                }
                if padding && taps.end < end {
                    reduction.cell(simd, &mut state, zero, taps.end);
                }
                reduction.end_row(simd, &mut state);
                let [value, place] = reduction.line(state);
                // SAFETY: vectors of the ring.
                unsafe {
                    let target = target.add(column * self.ring.pitch + lane);
                    simd.store(target, value);
                    if R::PLACES {
                        simd.store(target.add(self.ring.to_places()), place);
                    }
                }
            }
        }
    }

    /// Writes a row of y, whose windows have `taps` in the input.
    #[inline(always)]
    fn join<S: Lanes<T>>(&self, simd: S, row: usize, taps: Range<usize>) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let Axis { kernel, stride, pad_before, .. } = self.shape.height;
        let first = (row * stride + kernel - pad_before % kernel) % kernel;
        let zeros = [simd.splat(T::default()), simd.splat(T::from_number(0))];
        let of_window = match reduction.padding_takes_part() {
            true => 0..self.shape.height.taps_end(row),
            false => taps.clone(),
        };
        for column in 0..width.output {
            let numbers = simd.splat(reduction.number(&Window::new(self.shape, row, column)));
            let lanes = self.pixels.lanes;
            for lane in (0..lanes).step_by(S::LANES) {
                let count = S::LANES.min(lanes - lane);
                let source = self.memory.wrapping_add(column * self.ring.pitch + lane);
                let mut state = reduction.start(simd, numbers);
                for tap in of_window.clone() {
                    let mut line = zeros;
                    if taps.contains(&tap) {
                        let place = first + tap;
                        let place = if place < kernel { place } else { place - kernel };
                        // SAFETY: vectors of the ring.
                        unsafe {
                            let source = source.add(place * self.ring.row);
                            line = [simd.load(source); 2];
                            if R::PLACES {
                                line[1] = simd.load(source.add(self.ring.to_places()));
                            }
                        }
                    }
                    reduction.add_line(simd, &mut state, line, tap * width.kernel);
                }
                let result = reduction.finish(simd, state, numbers);
                let at = (row * width.output + column) * self.pixels.stride + lane;
                // SAFETY: `count` lanes of the pixel.
                unsafe { self.results.store(simd, result, at, count) };
            }
        }
    }
}
