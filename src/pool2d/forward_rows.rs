//! The forward pass with the lanes along a row of y: for rows of x whose elements lie side by side, as in NCHW,
//! and windows of few rows.
//!
//! A vector of windows goes down a band of rows. What a row of x comes to under each of them stays in registers
//! for as long as windows share it.

use std::ops::Range;

use super::forward::{Reduction, Results, Window};
use super::line::{self, Line};
use super::numbers::Numbers;
use super::path::{BLOCK, MOST_ROWS};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::by_plane;

/// Elements of x that a band reads, about: enough rows to share, few enough to be fetched ahead.
const BAND: usize = 1 << 11;

/// Columns of a window, at most.
const MOST_COLUMNS: usize = 3;

/// Whether the lanes can run along the rows, and should.
pub(super) fn pays(shape: &PoolShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let is_plain = height.dilation == 1 && width.dilation == 1 && width.stride <= 2;
    let is_small = matches!(height.kernel, 2..=MOST_ROWS) && width.kernel <= MOST_COLUMNS;
    let most_lanes = 2 * width.output >= width.output.next_multiple_of(BLOCK);
    is_plain && is_small && most_lanes
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
            ([_, stride], of_width) => self.all::<S, MOST_ROWS>(simd, stride, of_width),
        }
    }
}

/// The most vectors that are read of a row: those of three taps, in pairs at stride 2.
const MOST_LOADS: usize = 4;

/// A vector of windows.
struct UnderWindows<M> {
    /// The first of them.
    at: usize,
    /// The extent of a window along the row, and the stride.
    window: [usize; 2],
    /// Of each vector that is read where not all windows lie in the row: which lanes are, and which count.
    masks: [[M; 2]; MOST_LOADS],
}

impl<M: Copy> UnderWindows<M> {
    /// Where a vector that is read begins in the padded row.
    #[inline(always)]
    fn place<T: Element, S: Lanes<T, Mask = M>>(&self, number: usize) -> usize {
        let [_, stride] = self.window;
        self.at * stride + number - number % stride + number % stride * S::LANES
    }
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
                let [kernel, step] = window;
                for at in (0..width.output).step_by(S::LANES) {
                    // Whole vectors, of which the last overlaps the one before it.
                    let at = at.min(width.output.saturating_sub(S::LANES));
                    let place = at * step;
                    let is_inside = place >= width.pad_before
                        && at + S::LANES <= width.output
                        && place + (S::LANES - 1) * step + kernel <= width.pad_before + width.input
                        && place + S::LANES * step + kernel <= width.pad_before + pixels;
                    let masks = [[simd.mask_between(0, 0); 2]; MOST_LOADS];
                    let mut under = UnderWindows { at, window, masks };
                    let band = band.clone();
                    if is_inside {
                        self.strip::<S, K, true>(simd, band, stride, &under, x, y);
                    } else {
                        self.mask(simd, &mut under);
                        self.strip::<S, K, false>(simd, band, stride, &under, x, y);
                    }
                }
            }
        }
    }

    /// Finds which lanes lie in the row, and which count.
    #[inline(always)]
    fn mask<S: Lanes<T>>(&self, simd: S, under: &mut UnderWindows<S::Mask>) {
        let Axis { input, pad_before, pad_after, .. } = self.shape.width;
        for number in 0..MOST_LOADS {
            let place = under.place::<T, S>(number);
            let lanes = |first: usize, end: usize| {
                let lane = |of: usize| of.saturating_sub(place).min(S::LANES);
                simd.mask_between(lane(first), lane(end))
            };
            let inside = lanes(pad_before, pad_before + input);
            let counts = match self.reduction.padding_takes_part() {
                true => lanes(0, pad_before + input + pad_after),
                false => inside,
            };
            under.masks[number] = [inside, counts];
        }
    }

    /// A vector of windows in each of some rows.
    #[inline(always)]
    fn strip<S: Lanes<T>, const K: usize, const INSIDE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        stride: usize,
        under: &UnderWindows<S::Mask>,
        x: *const T,
        y: usize,
    ) {
        let (reduction, width) = (self.reduction, &self.shape.width);
        let count = if INSIDE { S::LANES } else { S::LANES.min(width.output - under.at) };
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
        under: &UnderWindows<S::Mask>,
    ) -> Line<S::Vector> {
        let height = &self.shape.height;
        let in_x = row.wrapping_sub(height.pad_before);
        if in_x >= height.input {
            return line::outside(simd, self.reduction, height, row);
        }
        let x = x.wrapping_add(in_x * self.shape.width.input);
        let [kernel, stride] = under.window;
        let mut line = line::cell(simd, simd.splat(R::nothing()), 0);
        for tap in (0..kernel).step_by(stride) {
            let first = self.load::<S, INSIDE>(simd, x, under, tap);
            let [first, second] = match stride {
                1 => [first; 2],
                _ => simd.deinterleave(first, self.load::<S, INSIDE>(simd, x, under, tap + 1)),
            };
            if tap == 0 {
                line = line::cell(simd, first, 0);
            } else {
                self.reduction.cell(simd, &mut line, first, tap);
            }
            if stride == 2 && tap + 1 < kernel {
                self.reduction.cell(simd, &mut line, second, tap + 1);
            }
        }
        // Of the next band, since the strips of one are too short for the processor to do so.
        let ahead = x.wrapping_add(BAND.max(self.shape.width.input) + under.at * stride);
        simd.prefetch(ahead);
        if stride == 2 {
            simd.prefetch(ahead.wrapping_add(S::LANES));
        }
        line
    }

    /// A vector that is read of a row.
    #[inline(always)]
    fn load<S: Lanes<T>, const INSIDE: bool>(
        &self,
        simd: S,
        x: *const T,
        under: &UnderWindows<S::Mask>,
        number: usize,
    ) -> S::Vector {
        let place = under.place::<T, S>(number);
        let x = x.wrapping_add(place).wrapping_sub(self.shape.width.pad_before);
        if INSIDE {
            // SAFETY: elements of the plane.
            return unsafe { simd.load(x) };
        }
        let [inside, counts] = under.masks[number];
        // SAFETY: elements of the row.
        let loaded = unsafe { simd.load_where(inside, x) };
        simd.select(counts, loaded, simd.splat(R::nothing()))
    }
}
