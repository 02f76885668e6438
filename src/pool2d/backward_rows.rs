//! The backward pass with the lanes along a row of dx: for rows whose elements lie side by side, as in NCHW, and
//! windows of few rows.
//!
//! What the windows give is first dealt out to lines with room around them, for a band of rows at a time that the
//! first-level cache holds: then the windows over a vector of cells are vectors of these lines, and a stride of 2
//! puts two sums together.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::numbers::Numbers;
use super::path::{self, BLOCK, MOST_ROWS, with_constants};
use crate::runs::{self, for_each_vector};
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::by_plane;

/// Elements of the lines of a band, about.
const BAND: usize = 1 << 12;

/// The way along the rows of dx, and its memory.
#[derive(Clone)]
pub(super) struct Lines {
    /// Rows of dx in a band, and rows of windows over them.
    rows: usize,
    windows: usize,
    /// Elements of a line, and of it before the first window.
    line: usize,
    before: usize,
    /// Those of windows, if the gradient needs them.
    numbers: Option<Numbers>,
    /// Elements of a band's rows of dx, where these are streamed from memory of their own.
    streamed: usize,
}

impl Lines {
    /// None where the lanes cannot run along the rows, or should not: then for no rows of `shape` alone either.
    pub fn new<T>(shape: &PoolShape, with_places: bool) -> Option<Lines> {
        let (height, width) = (&shape.height, &shape.width);
        let is_plain = height.dilation == 1 && width.dilation == 1 && width.stride <= 2;
        if !path::is_planar(shape)
            || !is_plain
            || height.kernel > MOST_ROWS
            || !path::fills_lanes(width)
        {
            return None;
        }
        let before = width.kernel.div_ceil(width.stride);
        let reached = width.pad_before.checked_add(width.input)?.div_ceil(width.stride);
        let line = reached.max(width.output).checked_add(before)?.checked_add(2 * BLOCK)?;
        let rows = (BAND / line / 2).max(4) * height.stride;
        let numbers = (!with_places).then(|| Numbers::new(shape));
        let streams = runs::streams::<T>(shape.input_len() + shape.output_len());
        let streamed = if streams { rows * width.input } else { 0 };
        let windows = most_windows(height, rows);
        let lines = Lines { rows, windows, line, before, numbers, streamed };
        (lines.len() <= path::MAX_SCRATCH).then(|| lines.of_rows(shape))
    }

    /// Those of some rows of dx, whose shape it is: no more memory, and the same for as many rows.
    pub fn of_rows(&self, shape: &PoolShape) -> Lines {
        let rows = self.rows.min(shape.height.input);
        Lines {
            rows,
            windows: most_windows(&shape.height, rows).min(shape.height.output),
            streamed: self.streamed.min(rows * shape.width.input),
            ..self.clone()
        }
    }

    /// Elements of memory.
    pub fn len(&self) -> usize {
        let numbers = self.numbers.as_ref().map_or(0, Numbers::len);
        self.lines_len().saturating_add(numbers).saturating_add(self.streamed)
    }

    /// Elements of the lines alone: of gradients and of places.
    fn lines_len(&self) -> usize {
        self.windows.saturating_mul(2).saturating_mul(self.line)
    }
}

/// Rows of windows over so many rows of dx, at the most.
fn most_windows(height: &Axis, rows: usize) -> usize {
    (rows + height.kernel) / height.stride + 2
}

/// Rows of dx in some planes.
pub(super) struct Rows<'a, T, G> {
    pub shape: &'a PoolShape,
    pub gradient: G,
    /// Counted through all planes.
    pub rows: Range<usize>,
    pub inputs: Inputs<T>,
    pub dx: *mut T,
    pub lines: &'a Lines,
    /// Room for the lines and the numbers.
    pub memory: *mut T,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for Rows<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let numbers = &self.lines.numbers;
        let lines = self.memory.wrapping_add(numbers.as_ref().map_or(0, Numbers::len));
        let zero = simd.splat(T::default());
        let len = self.lines.lines_len();
        // SAFETY: the memory has the lines and the numbers.
        unsafe {
            runs::fill(simd, len, zero, lines, [(1, 0); 3]);
            if let Some(numbers) = numbers {
                numbers.write(simd, self.shape, self.memory, |row, column| {
                    self.gradient.number(self.shape, row, column)
                });
            }
        }
        // The common windows and strides as constants.
        let (height, width) = (&self.shape.height, &self.shape.width);
        let axis = |kernel, stride| with_constants(height, kernel, stride, 1);
        match ([height.kernel, height.stride], [width.kernel, width.stride]) {
            ([3, 1], [3, 1]) => self.all(simd, lines, &axis(3, 1), [3, 1]),
            ([3, 2], [3, 2]) => self.all(simd, lines, &axis(3, 2), [3, 2]),
            (_, window) => self.all(simd, lines, height, window),
        }
    }
}

impl<T: Element, G: Gradient<T>> Rows<'_, T, G> {
    #[inline(always)]
    fn all<S: Lanes<T>>(&self, simd: S, lines: *mut T, height: &Axis, window: [usize; 2]) {
        let streamed = lines.wrapping_add(self.lines.lines_len());
        let streams = self.lines.streamed > 0;
        for (plane, rows) in by_plane(self.rows.clone(), height.input) {
            let inputs = self.inputs.at(plane * self.shape.output_plane);
            let dx = self.dx.wrapping_add(plane * self.shape.input_plane);
            for first in rows.clone().step_by(self.lines.rows) {
                let rows = first..rows.end.min(first + self.lines.rows);
                let dx = dx.wrapping_add(first * self.shape.width.input);
                let target = if streams { streamed } else { dx };
                self.band(simd, inputs, lines, rows.clone(), target, height, window);
                if streams {
                    let len = rows.len() * self.shape.width.input;
                    // SAFETY: the band's rows, for which the memory has room, too.
                    unsafe { runs::copy_streaming(simd, len, streamed, dx) };
                }
            }
        }
        if streams {
            runs::end_stream();
        }
    }
}

/// A row of dx, and the rows of windows over it.
#[derive(Clone, Copy)]
struct UnderWindows<T> {
    /// The line of the first.
    lines: *const T,
    /// Its row that lies on this one.
    tap: usize,
    dx: *mut T,
}

impl<T: Element, G: Gradient<T>> Rows<'_, T, G> {
    /// Writes rows of dx in one plane, one behind the other.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what is constant, and where it reads and writes")]
    fn band<S: Lanes<T>>(
        &self,
        simd: S,
        inputs: Inputs<T>,
        lines: *mut T,
        rows: Range<usize>,
        target: *mut T,
        height: &Axis,
        window: [usize; 2],
    ) {
        let over = height.windows_over(rows.start).start;
        let over = over..height.windows_over(rows.end - 1).end.max(over);
        for (number, row) in over.clone().enumerate() {
            self.deal(simd, inputs, row, lines.wrapping_add(number * 2 * self.lines.line));
        }
        for (number, row) in rows.enumerate() {
            let windows = height.windows_over(row);
            let under = UnderWindows {
                lines: lines.wrapping_add((windows.start - over.start) * 2 * self.lines.line),
                // Of no windows, any.
                tap: (row + height.pad_before).wrapping_sub(windows.start * height.stride),
                dx: target.wrapping_add(number * self.shape.width.input),
            };
            // The common numbers of windows as constants.
            match (windows.len(), height.kernel.div_ceil(height.stride)) {
                (1, 1..=3) => self.row(simd, under, 1, window),
                (2, 1..=3) => self.row(simd, under, 2, window),
                (3, 1..=3) => self.row(simd, under, 3, window),
                (windows, _) => self.row(simd, under, windows, window),
            }
        }
    }

    /// Writes the lines of a row of windows.
    #[inline(always)]
    fn deal<S: Lanes<T>>(&self, simd: S, inputs: Inputs<T>, row: usize, target: *mut T) {
        let columns = self.shape.width.output;
        let numbers = self.lines.numbers.as_ref().map_or(0, |numbers| numbers.at(row));
        let numbers = self.memory.wrapping_add(numbers);
        let target = target.wrapping_add(self.lines.before);
        for_each_vector(
            simd,
            columns,
            #[inline(always)]
            |at, count| {
                // SAFETY: `count` windows of the row, whose line has room for them; whole vectors of numbers.
                unsafe {
                    let number = match G::PLACES {
                        true => simd.splat(T::default()),
                        false => simd.load(numbers.add(at)),
                    };
                    let at_row = row * columns + at;
                    let loaded = self.gradient.load(simd, inputs, number, at_row, count);
                    runs::store(simd, count, target.add(at), loaded[0]);
                    if G::PLACES {
                        runs::store(simd, count, target.add(self.lines.line + at), loaded[1]);
                    }
                }
            },
        );
    }

    /// Writes a row of dx.
    #[inline(always)]
    fn row<S: Lanes<T>>(
        &self,
        simd: S,
        under: UnderWindows<T>,
        windows: usize,
        window: [usize; 2],
    ) {
        let stride = window[1];
        let (input, before) = (self.shape.width.input, self.shape.width.pad_before);
        for_each_vector(
            simd,
            input.div_ceil(stride),
            #[inline(always)]
            |at, count| {
                let dx = under.dx.wrapping_add(at * stride);
                // SAFETY: elements of the row.
                unsafe {
                    let first = self.sum(simd, under, windows, [at, before], window);
                    if window[1] == 1 {
                        return runs::store(simd, count, dx, first);
                    }
                    let second = self.sum(simd, under, windows, [at, before + 1], window);
                    let len = (2 * count).min(input - 2 * at);
                    runs::store_two(simd, len, dx, simd.interleave(first, second));
                }
            },
        );
    }

    /// What `windows` rows of windows give to a vector of cells at the same phase of the stride: those from a place
    /// of the padded row on, behind which the window at `at` begins.
    #[inline(always)]
    fn sum<S: Lanes<T>>(
        &self,
        simd: S,
        under: UnderWindows<T>,
        windows: usize,
        [at, place]: [usize; 2],
        [kernel, stride]: [usize; 2],
    ) -> S::Vector {
        let (at, phase) = (at + place / stride, place % stride);
        let taps = kernel.saturating_sub(phase).div_ceil(stride);
        let mut sum = simd.splat(T::default());
        for row in 0..windows {
            let line = under.lines.wrapping_add(row * 2 * self.lines.line + self.lines.before + at);
            let kernel_row = under.tap - row * self.shape.height.stride;
            let mut row_sum = sum;
            for tap in (0..taps).rev() {
                // SAFETY: vectors of the line.
                let loaded = unsafe {
                    let value = simd.load(line.sub(tap));
                    let place = line.add(self.lines.line).sub(tap);
                    [value, if G::PLACES { simd.load(place) } else { value }]
                };
                let place = kernel_row * kernel + phase + tap * stride;
                let begins = !G::PLACES && tap + 1 == taps;
                row_sum = match begins {
                    true => loaded[0],
                    false => self.gradient.add(simd, row_sum, loaded, place),
                };
            }
            sum = if G::PLACES || taps == 0 { row_sum } else { simd.add(sum, row_sum) };
        }
        sum
    }
}
