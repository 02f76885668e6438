//! The backward pass with the lanes along a pixel's elements: the channels of NHWC, or planes that were
//! transposed.
//!
//! What the windows give is dealt out first, a row of windows at a time, to a ring that the caches hold:
//! places as numbers and shares multiplied once, not again for each cell that a window has. Of large windows
//! the ring has what a row of them gives to each column, so that a cell is the sum of as many as windows have
//! rows.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::path::with_constants;
use super::ring::Ring;
use crate::runs;
use crate::shape::{Axis, PoolShape};
use crate::simd::{Element, Kernel, Lanes};

/// Whether what a row of windows gives to a column is summed before its rows are: each cell has its own share
/// of a maximum, but the same of a mean.
fn sums_columns(shape: &PoolShape, places: bool) -> bool {
    const FEW: usize = 3;
    !places && shape.width.kernel.div_ceil(shape.width.stride) > FEW
}

/// Rows of windows over a row of dx, and windows of a row, or its columns.
fn ring_extents(shape: &PoolShape, places: bool) -> [usize; 2] {
    let rows = shape.height.window().div_ceil(shape.height.stride);
    let (input, output) = (shape.width.input, shape.width.output);
    [rows, if sums_columns(shape, places) { input } else { output }]
}

/// A ring for pixels of so many elements.
pub(super) fn ring(shape: &PoolShape, lanes: usize, places: bool) -> Ring {
    Ring::new(ring_extents(shape, places), lanes, places)
}

/// Of `lanes`, those that a task takes: see [`Ring::lanes`].
pub(super) fn ring_lanes(shape: &PoolShape, lanes: usize, places: bool) -> Option<usize> {
    Ring::lanes(ring_extents(shape, places), lanes, places)
}

/// Elements of memory for a ring, and where columns are summed for a row of windows.
pub(super) fn memory_len(shape: &PoolShape, ring: Ring, places: bool) -> usize {
    let row = if sums_columns(shape, places) { shape.width.output * ring.pitch } else { 0 };
    ring.len().saturating_add(row)
}

/// The pixels of a plane of dx, and of dy likewise.
#[derive(Clone, Copy)]
pub(super) struct Pixels<T> {
    /// Elements from one pixel to the next, of dy and of dx.
    pub strides: [usize; 2],
    /// Those of a pixel that are this task's.
    pub lanes: usize,
    pub dx: *mut T,
}

/// Rows of dx in one plane.
pub(super) struct DealtPixels<'a, T, G> {
    pub shape: &'a PoolShape,
    pub gradient: G,
    /// The shape that the windows' numbers are of, and the number there of the first row of y.
    pub numbers_of: (&'a PoolShape, usize),
    pub rows: Range<usize>,
    pub pixels: Pixels<T>,
    pub inputs: Inputs<T>,
    pub ring: Ring,
    /// `memory_len`, and behind it room for a row of dx if it is `streamed`, as only a row of whole pixels may be.
    pub memory: *mut T,
    pub streamed: bool,
}

impl<T: Element, G: Gradient<T>> Kernel<T> for DealtPixels<'_, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let of_row = self.ring.row;
        let sums_columns = sums_columns(self.shape, G::PLACES);
        let windows_row = self.memory.wrapping_add(self.ring.len());
        let streamed = self.memory.wrapping_add(memory_len(self.shape, self.ring, G::PLACES));
        let mut dealt = 0;
        for row in self.rows.clone() {
            let over = height.windows_over(row);
            dealt = dealt.max(over.start);
            while dealt < over.end {
                let target = self.memory.wrapping_add(dealt % self.ring.rows * of_row);
                if sums_columns {
                    self.deal(simd, dealt, windows_row);
                    self.sum_columns(simd, windows_row, target);
                } else {
                    self.deal(simd, dealt, target);
                }
                dealt += 1;
            }
            let first_place = over.start % self.ring.rows;
            let windows = height.windows(row).map(move |(window, kh)| {
                let mut place = first_place + window - over.start;
                if place >= self.ring.rows {
                    place -= self.ring.rows;
                }
                (place * of_row, kh)
            });
            let row_len = width.input * self.pixels.strides[1];
            let dx = self.pixels.dx.wrapping_add(row * row_len);
            let target = if self.streamed { streamed } else { dx };
            // Their common numbers, and the common windows' extents and strides, as constants.
            match windows.clone().count() {
                _ if sums_columns => {
                    let column = Axis { output: width.input, ..with_constants(width, 1, 1, 1) };
                    self.row(simd, target, windows, &Axis { pad_before: 0, ..column });
                }
                1 => self.common_row(simd, target, first_of::<1>(windows)),
                2 => self.common_row(simd, target, first_of::<2>(windows)),
                3 => self.common_row(simd, target, first_of::<3>(windows)),
                _ => self.row(simd, target, windows, width),
            }
            if self.streamed {
                // SAFETY: a row of dx, for which the memory has room, too.
                unsafe { runs::copy_streaming(simd, row_len, streamed, dx) };
            }
        }
        if self.streamed {
            runs::end_stream();
        }
    }
}

/// The first `N` items.
#[inline(always)]
fn first_of<const N: usize>(items: impl Iterator<Item = (usize, usize)>) -> [(usize, usize); N] {
    let mut all = [(0, 0); N];
    for (place, item) in all.iter_mut().zip(items) {
        *place = item;
    }
    all
}

impl<T: Element, G: Gradient<T>> DealtPixels<'_, T, G> {
    /// Writes the lines of a row of windows.
    #[inline(always)]
    fn deal<S: Lanes<T>>(&self, simd: S, row: usize, target: *mut T) {
        let Pixels { strides: [stride, _], lanes, .. } = self.pixels;
        // Copied: what is stored below might be it, for all the compiler knows.
        let inputs = self.inputs;
        for column in 0..self.shape.width.output {
            let (shape, first) = self.numbers_of;
            let number = simd.splat(self.gradient.number(shape, first + row, column));
            let at = (row * self.shape.width.output + column) * stride;
            for lane in (0..lanes).step_by(S::LANES) {
                let count = S::LANES.min(lanes - lane);
                // SAFETY: `count` lanes of a pixel of dy; the lines have whole vectors.
                unsafe {
                    let loaded = self.gradient.load(simd, inputs, number, at + lane, count);
                    let target = target.add(column * self.ring.pitch + lane);
                    simd.store(target, loaded[0]);
                    if G::PLACES {
                        simd.store(target.add(self.ring.to_places()), loaded[1]);
                    }
                }
            }
        }
    }

    /// Writes what a row of windows, dealt to `source`, gives to each column.
    #[inline(always)]
    fn sum_columns<S: Lanes<T>>(&self, simd: S, source: *const T, target: *mut T) {
        let (width, pitch) = (&self.shape.width, self.ring.pitch);
        for column in 0..width.input {
            let windows = width.windows(column);
            for lane in (0..self.pixels.lanes).step_by(S::LANES) {
                let mut sum = simd.splat(T::default());
                for (window, _) in windows.clone() {
                    // SAFETY: vectors of a dealt window.
                    let share = unsafe { simd.load(source.add(window * pitch + lane)) };
                    sum = simd.add(sum, share);
                }
                // SAFETY: of the column in the ring.
                unsafe { simd.store(target.add(column * pitch + lane), sum) };
            }
        }
    }

    /// A row of dx under `N` rows of windows.
    #[inline(always)]
    fn common_row<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        dx: *mut T,
        windows: [(usize, usize); N],
    ) {
        let (width, windows) = (&self.shape.width, windows.iter().copied());
        match (width.kernel, width.stride, width.dilation) {
            (3, 2, 1) => self.row(simd, dx, windows, &with_constants(width, 3, 2, 1)),
            (3, 1, 1) => self.row(simd, dx, windows, &with_constants(width, 3, 1, 1)),
            _ => self.row(simd, dx, windows, width),
        }
    }

    /// Writes a row of dx, to `dx`. `windows` are the rows of windows over it: where their lines are, and which of
    /// their rows it is.
    #[inline(always)]
    fn row<S: Lanes<T>>(
        &self,
        simd: S,
        dx: *mut T,
        windows: impl Iterator<Item = (usize, usize)> + Clone,
        width: &Axis,
    ) {
        let Axis { input, output, kernel, stride, dilation, pad_before, .. } = *width;
        // Columns all of whose windows exist, so that each phase has the same taps.
        let inside = if dilation == 1 { output * stride } else { 0 };
        let end = inside.saturating_sub(pad_before).min(input);
        let start = (kernel.div_ceil(stride) - 1) * stride;
        let start = start.saturating_sub(pad_before).min(end);
        for column in (0..start).chain(end..input) {
            self.pixel(simd, dx, column, windows.clone(), width.windows(column));
        }
        for column in start..end {
            let (last, phase) = ((column + pad_before) / stride, (column + pad_before) % stride);
            // Without a division where the stride is not known.
            let taps = match kernel <= stride {
                true => usize::from(phase < kernel),
                false => kernel.saturating_sub(phase).div_ceil(stride),
            };
            let columns = (0..taps).rev().map(move |tap| (last - tap, phase + tap * stride));
            self.pixel(simd, dx, column, windows.clone(), columns);
        }
    }

    /// Writes a pixel of a row of dx: the sum over the windows in `rows` and `columns`, each with its tap.
    #[inline(always)]
    fn pixel<S: Lanes<T>>(
        &self,
        simd: S,
        dx: *mut T,
        column: usize,
        rows: impl Iterator<Item = (usize, usize)> + Clone,
        columns: impl Iterator<Item = (usize, usize)> + Clone,
    ) {
        let Pixels { strides: [_, stride], lanes, .. } = self.pixels;
        let (width, at) = (&self.shape.width, column * stride);
        for lane in (0..lanes).step_by(S::LANES) {
            let count = S::LANES.min(lanes - lane);
            let zero = simd.splat(T::default());
            let mut sum = zero;
            for (line, kh) in rows.clone() {
                let mut row_sum = if G::PLACES { sum } else { zero };
                for (window, kw) in columns.clone() {
                    // SAFETY: vectors of a dealt window.
                    let loaded = unsafe {
                        let element = self.memory.add(line + window * self.ring.pitch + lane);
                        let first = simd.load(element);
                        let second = if G::PLACES {
                            simd.load(element.add(self.ring.to_places()))
                        } else {
                            first
                        };
                        [first, second]
                    };
                    let place = kh * width.kernel + kw;
                    row_sum = self.gradient.add(simd, row_sum, loaded, place);
                }
                sum = if G::PLACES { row_sum } else { simd.add(sum, row_sum) };
            }
            // SAFETY: `count` lanes of this pixel of dx.
            unsafe { runs::store(simd, count, dx.add(at + lane), sum) };
        }
    }
}
