//! The forward pass with the lanes along a pixel's elements, for large windows that overlap: what a row of x comes
//! to under each window is worked out once, and kept in a ring for all rows of windows that share it.

use std::ops::Range;

use super::forward::{Pixels, Reduction, Results, Window};
use super::line::{self, Cells, Line};
use super::ring::Ring;
use crate::runs::for_each_vector;
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};

/// The ring for pixels of so many elements, or of the first of them; none where each window for itself is faster.
pub(super) fn ring(shape: &PoolShape, lanes: usize, with_places: bool) -> Option<Ring> {
    let Axis { kernel, stride, dilation, .. } = shape.height;
    if kernel < 2 * stride || dilation > 1 || shape.window_len() < FEWEST_CELLS {
        return None;
    }
    let extents = [kernel, shape.width.output];
    Some(Ring::new(extents, Ring::lanes(extents, lanes, with_places)?, with_places))
}

/// Cells of a window that are worth a ring.
const FEWEST_CELLS: usize = 16;

/// Rows of y that a ring had better see one after the other: the rows of x above them are read once more.
pub(super) fn band(shape: &PoolShape) -> usize {
    shape.height.kernel.saturating_mul(8)
}

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

/// A row of y.
struct Row {
    number: usize,
    /// Of its windows, in the input.
    taps: Range<usize>,
    /// Rows of x that are not in the ring yet.
    new: Range<usize>,
    /// Where in the ring the first of them goes, and where the first row of the windows is: the offsets.
    new_at: usize,
    first_at: usize,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for SharedRows<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let full = width.full_outputs(false);
        let padding = self.reduction.padding_takes_part();
        let mut in_ring = 0;
        for number in self.rows.clone() {
            let row = self.row(number, &mut in_ring);
            let are_inside = row.taps == (0..height.kernel);
            for column in 0..width.output {
                match (are_inside, full.contains(&column)) {
                    (true, true) => {
                        self.windows::<S, true>(simd, &row, column, &Cells::all(width.kernel));
                    }
                    (false, true) => {
                        self.windows::<S, false>(simd, &row, column, &Cells::all(width.kernel));
                    }
                    (_, false) => {
                        let cells = Cells::new(width, column, padding);
                        self.windows::<S, false>(simd, &row, column, &cells);
                    }
                }
            }
        }
    }
}

impl<T: Element, R: Reduction<T>> SharedRows<'_, T, R> {
    /// `in_ring` is the end of the rows of x that are in the ring, before the row and after it.
    #[inline(always)]
    fn row(&self, number: usize, in_ring: &mut usize) -> Row {
        let Axis { kernel, stride, pad_before, .. } = self.shape.height;
        let taps = self.shape.height.taps(number);
        let mut new = 0..0;
        if !taps.is_empty() {
            let first = number * stride + taps.start - pad_before;
            new = first.max(*in_ring)..first + taps.len();
            *in_ring = new.end;
        }
        let at = |row: usize| row % kernel * self.ring.row;
        let first_at = at(number * stride + kernel - pad_before % kernel);
        Row { number, taps, new_at: at(new.start), new, first_at }
    }

    /// The offset of the row of the ring that follows.
    #[inline(always)]
    fn next(&self, at: usize) -> usize {
        let next = at + self.ring.row;
        if next == self.ring.to_places() { 0 } else { next }
    }

    /// The windows at a column; if `INSIDE`, they lie in the input.
    #[inline(always)]
    fn windows<S: Lanes<T>, const INSIDE: bool>(
        &self,
        simd: S,
        row: &Row,
        column: usize,
        cells: &Cells,
    ) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let [kernel_height, kernel_width] = [self.shape.height.kernel, width.kernel];
        let numbers = Window::new(self.shape, row.number, column);
        let numbers = simd.splat(reduction.number(&numbers));
        let padding = reduction.padding_takes_part();
        let all_rows = match padding {
            true => 0..self.shape.height.taps_end(row.number),
            false => 0..row.taps.end,
        };
        let zeros = line::cell(simd, simd.splat(T::default()), 0);
        let Pixels { stride, lanes, x } = self.pixels;
        let step = width.dilation * stride;
        let first = column * width.stride + cells.first() * width.dilation;
        let first = first.wrapping_sub(width.pad_before);
        let at = (row.number * width.output + column) * stride;
        for_each_vector(
            simd,
            lanes,
            #[inline(always)]
            |lane, count| {
                let ring = self.memory.wrapping_add(column * self.ring.pitch + lane);
                let mut new_at = row.new_at;
                for row in row.new.clone() {
                    let first = (row * width.input).wrapping_add(first);
                    let first = x.wrapping_add(first.wrapping_mul(stride).wrapping_add(lane));
                    // SAFETY: `count` lanes of cells of the row; vectors of the ring.
                    unsafe {
                        let [value, place] = cells.line(simd, reduction, first, step, count);
                        let ring = ring.add(new_at);
                        simd.store(ring, value);
                        if R::PLACES {
                            simd.store(ring.add(self.ring.to_places()), place);
                        }
                    }
                    new_at = self.next(new_at);
                }
                let mut line_at = row.first_at;
                let mut total = reduction.start(simd, numbers);
                if INSIDE {
                    for tap in 0..kernel_height {
                        // SAFETY: all rows of the windows are in the ring.
                        let line = unsafe { self.line(simd, ring.wrapping_add(line_at)) };
                        if tap == 0 {
                            total = reduction.start_with(simd, line);
                        } else {
                            reduction.add_line(simd, &mut total, line, tap * kernel_width);
                        }
                        line_at = self.next(line_at);
                    }
                } else {
                    for tap in all_rows.clone() {
                        let mut line = zeros;
                        if row.taps.contains(&tap) {
                            // SAFETY: the row is in the ring.
                            line = unsafe { self.line(simd, ring.wrapping_add(line_at)) };
                        }
                        if padding || row.taps.contains(&tap) {
                            reduction.add_line(simd, &mut total, line, tap * kernel_width);
                        }
                        line_at = self.next(line_at);
                    }
                }
                let result = reduction.finish(simd, total, numbers);
                // SAFETY: `count` lanes of the pixel.
                unsafe { self.results.store::<R, S>(simd, result, at + lane, count) };
            },
        );
    }

    /// What is in the ring.
    ///
    /// # Safety
    /// `at` is in a row that has been written.
    #[inline(always)]
    unsafe fn line<S: Lanes<T>>(&self, simd: S, at: *const T) -> Line<S::Vector> {
        // SAFETY: the caller answers for the row.
        unsafe {
            let value = simd.load(at);
            let place = if R::PLACES { simd.load(at.add(self.ring.to_places())) } else { value };
            [value, place]
        }
    }
}
