//! The forward pass with the lanes along a row of y: for rows of x whose elements lie side by side, as in NCHW,
//! and windows of few rows.
//!
//! A vector of windows goes down a band of rows. What a row of x comes to under each of them stays in registers
//! for as long as windows share it.

use std::ops::Range;

use super::forward::{Reduction, Results, Window};
use super::line::{self, Line};
use super::numbers::Numbers;
use super::path::BLOCK;
use crate::runs::for_each_vector;
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::by_plane;

/// Elements of x that a band reads, about: enough rows to share, few enough to be fetched ahead.
const BAND: usize = 1 << 11;

/// Whether the lanes can run along the rows, and should.
pub(super) fn pays(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let is_plain = height.dilation == 1 && width.dilation == 1 && width.stride <= 2;
    let most_lanes = 2 * width.output >= width.output.next_multiple_of(BLOCK);
    is_plain && matches!(height.kernel, 2 | 3 | 5) && most_lanes
}

/// Rows of y in some planes.
pub(super) struct Rows<'a, T, R> {
    pub shape: &'a PoolShape,
    pub reduction: R,
    /// Counted through all planes.
    pub rows: Range<usize>,
    pub x: *const T,
    pub results: Results<T>,
    pub numbers: &'a Numbers,
    /// Room for the numbers.
    pub memory: *mut T,
}

impl<T: Element, R: Reduction<T>> Kernel<T> for Rows<'_, T, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: the memory has them.
        unsafe {
            self.numbers.write(simd, self.shape, self.memory, |row, column| {
                self.reduction.number(&Window::new(self.shape, row, column))
            });
        }
        // The common windows and strides as constants.
        let (height, width) = (&self.shape.height, &self.shape.width);
        match ([height.kernel, height.stride], [width.kernel, width.stride]) {
            ([2, 2], [2, 2]) => self.all::<S, 2>(simd, 2, [2, 2]),
            ([3, 1], [3, 1]) => self.all::<S, 3>(simd, 1, [3, 1]),
            ([3, 2], [3, 2]) => self.all::<S, 3>(simd, 2, [3, 2]),
            ([2, stride], of_width) => self.all::<S, 2>(simd, stride, of_width),
            ([3, stride], of_width) => self.all::<S, 3>(simd, stride, of_width),
            ([_, stride], of_width) => self.all::<S, 5>(simd, stride, of_width),
        }
    }
}

/// A row of x under a vector of windows.
#[derive(Clone, Copy)]
struct UnderWindows {
    /// The first of them.
    at: usize,
    /// The extent of a window along the row, and the stride.
    window: [usize; 2],
}

impl<T: Element, R: Reduction<T>> Rows<'_, T, R> {
    #[inline(always)]
    fn all<S: Lanes<T>, const K: usize>(&self, simd: S, stride: usize, window: [usize; 2]) {
        let Axis { output: rows, pad_before, input, .. } = self.shape.height;
        let width = &self.shape.width;
        let some = (BAND / width.input / stride).max(1);
        for (plane, rows) in by_plane(self.rows.clone(), rows) {
            let x = self.x.wrapping_add(plane * self.shape.input_plane);
            let y = plane * self.shape.output_plane;
            for first in rows.clone().step_by(some) {
                let band = first..rows.end.min(first + some);
                // Pixels of the plane from the last row on that is read.
                let last = ((band.end - 1) * stride + K - 1).saturating_sub(pad_before);
                let pixels = (input - last.min(input - 1)) * width.input;
                for_each_vector(
                    simd,
                    width.output,
                    #[inline(always)]
                    |at, count| {
                        let [kernel, step] = window;
                        let place = at * step;
                        let is_inside = place >= width.pad_before
                            && at + S::LANES <= width.output
                            && place + (S::LANES - 1) * step + kernel
                                <= width.pad_before + width.input
                            && place + S::LANES * step + kernel <= width.pad_before + pixels;
                        let under = UnderWindows { at, window };
                        let band = band.clone();
                        if is_inside {
                            self.strip::<S, K, true>(simd, band, stride, under, count, x, y);
                        } else {
                            self.strip::<S, K, false>(simd, band, stride, under, count, x, y);
                        }
                    },
                );
            }
        }
    }

    /// A vector of windows in each of some rows.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "where it reads and writes")]
    fn strip<S: Lanes<T>, const K: usize, const INSIDE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        stride: usize,
        under: UnderWindows,
        count: usize,
        x: *const T,
        y: usize,
    ) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let line = |row: usize| self.line::<S, INSIDE>(simd, x, row, under);
        let nothing = [simd.splat(R::nothing()), simd.splat(T::from_number(0))];
        // The rows of the window before: those that it shares with the first.
        let mut lines = [nothing; K];
        for (number, shared) in lines.iter_mut().skip(stride).enumerate() {
            *shared = line(rows.start * stride + number);
        }
        for row in rows {
            for tap in 0..K {
                lines[tap] = match tap + stride < K {
                    true => lines[tap + stride],
                    false => line(row * stride + tap),
                };
            }
            let numbers = self.memory.wrapping_add(self.numbers.at(row) + under.at);
            // SAFETY: a vector of the numbers.
            let numbers = unsafe { simd.load(numbers) };
            let mut total = reduction.start(simd, numbers);
            for (tap, line) in lines.into_iter().enumerate() {
                reduction.add_line(simd, &mut total, line, tap * under.window[0]);
            }
            let result = reduction.finish(simd, total, numbers);
            // SAFETY: `count` elements of the row.
            unsafe {
                self.results.store::<R, S>(simd, result, y + row * width.output + under.at, count)
            };
        }
    }

    /// What a row of the padded input comes to. If `INSIDE`, the windows lie in the row, and more may be read.
    #[inline(always)]
    fn line<S: Lanes<T>, const INSIDE: bool>(
        &self,
        simd: S,
        x: *const T,
        row: usize,
        UnderWindows { at, window: [kernel, stride] }: UnderWindows,
    ) -> Line<S::Vector> {
        let height = &self.shape.height;
        let in_x = row.wrapping_sub(height.pad_before);
        if in_x >= height.input {
            return line::outside(simd, self.reduction, height, row);
        }
        let x = x.wrapping_add(in_x * self.shape.width.input);
        let mut line = line::cell(simd, simd.splat(R::nothing()), 0);
        if stride == 1 {
            for tap in 0..kernel {
                let value = self.load::<S, INSIDE>(simd, x, at + tap);
                if tap == 0 {
                    line = line::cell(simd, value, 0);
                } else {
                    self.reduction.cell(simd, &mut line, value, tap);
                }
            }
        } else {
            for tap in (0..kernel).step_by(2) {
                let place = 2 * at + tap;
                let [even, odd] = simd.deinterleave(
                    self.load::<S, INSIDE>(simd, x, place),
                    self.load::<S, INSIDE>(simd, x, place + S::LANES),
                );
                if tap == 0 {
                    line = line::cell(simd, even, 0);
                } else {
                    self.reduction.cell(simd, &mut line, even, tap);
                }
                if tap + 1 < kernel {
                    self.reduction.cell(simd, &mut line, odd, tap + 1);
                }
            }
        }
        // Of the next band, since the strips of one are too short for the processor to do so.
        let ahead = x.wrapping_add(BAND.max(self.shape.width.input) + at * stride);
        simd.prefetch(ahead);
        if stride == 2 {
            simd.prefetch(ahead.wrapping_add(S::LANES));
        }
        line
    }

    /// Elements of a padded row from `place` on.
    #[inline(always)]
    fn load<S: Lanes<T>, const INSIDE: bool>(
        &self,
        simd: S,
        x: *const T,
        place: usize,
    ) -> S::Vector {
        let Axis { input, pad_before, pad_after, .. } = self.shape.width;
        if INSIDE {
            // SAFETY: elements of the plane.
            return unsafe { simd.load(x.add(place - pad_before)) };
        }
        let lanes = |first: usize, end: usize| {
            let lane = |of: usize| of.saturating_sub(place).min(S::LANES);
            simd.mask_between(lane(first), lane(end))
        };
        let inside = lanes(pad_before, pad_before + input);
        // SAFETY: elements of the row.
        let loaded =
            unsafe { simd.load_where(inside, x.wrapping_add(place).wrapping_sub(pad_before)) };
        let known = match self.reduction.padding_takes_part() {
            true => lanes(0, pad_before + input + pad_after),
            false => inside,
        };
        simd.select(known, loaded, simd.splat(R::nothing()))
    }
}
