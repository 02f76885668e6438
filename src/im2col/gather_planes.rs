//! col2im of NCHW: a row of x at a time, every element the sum of its cells in the order of the taps. The cells of a tap
//! are a row of windows side by side, and every stride-th column of x is a lane.

use std::ops::Range;
use std::slice;

use super::lines::ANY;
use super::ring::{self, Ring};
use super::share::Share;
use crate::runs;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes};
use crate::taps::Taps;

/// Writes some rows of an image, in some channels.
pub(super) struct GatherPlanes<'a, T> {
    pub share: Share<'a, T>,
    /// Where patches are rows: of the cells of `channels`.
    pub ring: Option<Ring>,
    /// Of `memory_len` elements, and the ring's behind them.
    pub memory: *mut T,
}

/// Rows of x whose columns are collected together.
const PARTED_ROWS: usize = 8;

/// Elements of memory that rows of x take.
pub(super) fn memory_len(width: &Axis) -> usize {
    PARTED_ROWS.saturating_mul(row_len(width))
}

/// Elements of memory that a row of x takes: its columns by their remainder to the stride, where that is more than 2.
fn row_len(width: &Axis) -> usize {
    match width.stride {
        1 | 2 => 0,
        stride => remainder_len(width).saturating_mul(stride.min(width.input)),
    }
}

/// Columns of a remainder, at the most.
#[inline(always)]
fn remainder_len(width: &Axis) -> usize {
    width.input.div_ceil(width.stride)
}

/// The channels whose cells a ring had better hold: many, since the patches are read by runs of their cells, which
/// still stay in the second-level cache.
pub(super) fn ring_channels(shape: &ConvShape) -> usize {
    const CELLS: usize = 1 << 16;
    let of_channel = Ring::new(shape, shape.window()).map_or(CELLS, |ring| ring.len());
    (CELLS / of_channel.max(1)).clamp(shape.in_channels.clamp(1, 8), shape.in_channels.max(1))
}

/// Channels whose rows are written together, where the cells are read where they lie: those of small images, which all
/// find the same taps, and whose cells stay in the first-level cache.
fn channels_together(shape: &ConvShape) -> usize {
    let cells = shape.window().saturating_mul(shape.out_height * shape.out_width);
    ((1 << 14) / cells.max(1)).max(1)
}

/// Remainders of columns to the stride whose taps are found once; those of larger strides are found for each row.
const REMAINDERS: usize = 16;

/// Rows of x of which a vector's columns are written before the next ones, and that find the same taps: their cells lie
/// close together.
fn rows_together(width: &Axis) -> usize {
    (512 / width.input).max(1)
}

/// Where the cells of some channels lie: of each channel, tap and row of windows, those of its columns side by side.
struct Cells<'a, T> {
    start: *const T,
    ring: Option<Ring>,
    row: usize,
    channel: usize,
    kernel_row: usize,
    kernel_column: usize,
    /// Those on the columns of each remainder.
    taps: &'a [Taps],
}

impl<T> Cells<'_, T> {
    #[inline(always)]
    fn of_row(&self, channel: usize, window: usize, kernel_row: usize) -> *const T {
        let row = match self.ring {
            Some(ring) => ring.place(window),
            None => window * self.row,
        };
        self.start.wrapping_add(row + channel * self.channel + kernel_row * self.kernel_row)
    }
}

impl<T: Element> Kernel<T> for GatherPlanes<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        match self.share.shape.width.stride {
            1 => self.gather::<S, 1>(simd),
            2 => self.gather::<S, 2>(simd),
            _ => self.gather::<S, ANY>(simd),
        }
    }
}

impl<T: Element> GatherPlanes<'_, T> {
    #[inline(always)]
    fn gather<S: Lanes<T>, const STRIDE: usize>(&self, simd: S) {
        let Share { shape, ref rows, col, ref places, .. } = self.share;
        let mut taps = [Taps::backward(&shape.width, 0); REMAINDERS];
        for (remainder, taps) in taps.iter_mut().enumerate().take(shape.width.stride).skip(1) {
            *taps = Taps::backward(&shape.width, remainder);
        }
        let taps = &taps[..shape.width.stride.clamp(2, REMAINDERS)];
        let Some(ring) = self.ring else {
            let some = channels_together(shape);
            for first in self.share.channels.clone().step_by(some) {
                let channels = first..self.share.channels.end.min(first + some);
                let cells = Cells {
                    start: col.wrapping_add(first * places.channel),
                    ring: None,
                    row: places.row,
                    channel: places.channel,
                    kernel_row: places.kernel_row,
                    kernel_column: places.kernel_column,
                    taps,
                };
                let together = match STRIDE {
                    ANY => PARTED_ROWS,
                    _ => rows_together(&shape.width),
                };
                for row in rows.clone().step_by(together) {
                    let some = row..rows.end.min(row + together);
                    self.rows::<S, STRIDE>(simd, channels.clone(), some, &cells);
                }
            }
            return;
        };
        let (columns, of_channel) = (shape.out_width, shape.window());
        let memory = self.memory.wrapping_add(memory_len(&shape.width));
        let cells = Cells {
            start: memory.cast_const(),
            ring: Some(ring),
            row: 0,
            channel: of_channel * columns,
            kernel_row: shape.width.kernel * columns,
            kernel_column: columns,
            taps,
        };
        ring::for_each_row(
            shape,
            rows,
            #[inline(always)]
            |window| {
                let first = self.share.channels.start * places.channel;
                let source = col.wrapping_add(window * places.row + first);
                let target = memory.wrapping_add(ring.place(window));
                let extents = [columns, self.share.channels.len() * of_channel];
                // SAFETY: the cells of these channels in a row of patches, and a row of the ring.
                unsafe { runs::transpose(simd, extents, source, places.column, target, columns) };
            },
            #[inline(always)]
            |row| self.rows::<S, STRIDE>(simd, self.share.channels.clone(), row..row + 1, &cells),
        );
    }

    /// A row of x.
    #[inline(always)]
    fn x(&self, channel: usize, row: usize) -> *mut T {
        let [_, x_channel, x_row, _] = self.share.shape.input_strides;
        self.share.x.wrapping_add(channel * x_channel + row * x_row)
    }

    /// Writes some rows of x in some channels, whose cells these are.
    #[inline(always)]
    fn rows<S: Lanes<T>, const STRIDE: usize>(
        &self,
        simd: S,
        channels: Range<usize>,
        rows: Range<usize>,
        cells: &Cells<'_, T>,
    ) {
        let width = &self.share.shape.width;
        if STRIDE == ANY {
            for (number, channel) in channels.enumerate() {
                self.parted(simd, [number, channel], &rows, cells);
            }
            return;
        }
        let taps = &cells.taps;
        for at in (0..width.input).step_by(STRIDE * S::LANES) {
            let count = (STRIDE * S::LANES).min(width.input - at);
            let position = at / STRIDE;
            let mut beta = self.share.beta;
            for part in parts_over(&taps[..STRIDE], position, S::LANES) {
                let mut found = [Part::nothing(simd), Part::nothing(simd)];
                found[0].find(simd, &taps[0], position, part);
                if STRIDE == 2 {
                    found[1].find(simd, &taps[1], position, part);
                }
                for row in rows.clone() {
                    // The last window first: so an element gets its taps in their order.
                    let windows = self.share.shape.height.windows(row).rev();
                    for (number, channel) in channels.clone().enumerate() {
                        let x = self.x(channel, row).wrapping_add(at);
                        // SAFETY: elements of x, which is this task's, and the cells that lie on them.
                        unsafe {
                            let mut sums = [simd.splat(T::default()); 2];
                            if beta != T::default() {
                                let of_first = S::LANES.min(count);
                                let behind = x.wrapping_add(S::LANES);
                                let first = runs::load(simd, of_first, x);
                                let second = runs::load(simd, count - of_first, behind);
                                sums = [first, second];
                                if STRIDE == 2 {
                                    sums = simd.deinterleave(first, second);
                                }
                                let beta = simd.splat(beta);
                                sums = [simd.mul(beta, sums[0]), simd.mul(beta, sums[1])];
                            }
                            for (window, kernel_row) in windows.clone() {
                                let source = cells.of_row(number, window, kernel_row);
                                let apart = cells.kernel_column;
                                sums[0] = found[0].add(simd, &taps[0], source, apart, sums[0]);
                                if STRIDE == 2 {
                                    sums[1] = found[1].add(simd, &taps[1], source, apart, sums[1]);
                                }
                            }
                            if STRIDE == 2 {
                                sums = simd.interleave(sums[0], sums[1]);
                            }
                            runs::store_two(simd, count, x, sums);
                        }
                    }
                }
                beta = T::from_f64(1.0);
            }
        }
    }

    /// Writes some rows of x, `PARTED_ROWS` at the most, whose columns are collected by their remainders, and then put
    /// together.
    #[inline(always)]
    fn parted<S: Lanes<T>>(
        &self,
        simd: S,
        [number, channel]: [usize; 2],
        rows: &Range<usize>,
        cells: &Cells<'_, T>,
    ) {
        let width = &self.share.shape.width;
        let (stride, len) = (width.stride, remainder_len(width));
        let of_row = |number: usize| self.memory.wrapping_add(number * row_len(width));
        for remainder in 0..stride.min(width.input) {
            let columns = (width.input - remainder).div_ceil(stride);
            let of_remainder;
            let taps = match cells.taps.get(remainder) {
                Some(taps) => taps,
                None => {
                    of_remainder = Taps::backward(width, remainder);
                    &of_remainder
                }
            };
            for at in (0..columns).step_by(S::LANES) {
                let count = S::LANES.min(columns - at);
                let parts = parts_over(slice::from_ref(taps), at, S::LANES);
                for part in parts.clone() {
                    let mut found = Part::nothing(simd);
                    found.find(simd, taps, at, part);
                    for (line, row) in rows.clone().enumerate() {
                        let target = of_row(line).wrapping_add(remainder * len + at);
                        // SAFETY: elements of x, which is this task's, the cells that lie on them, and the memory.
                        unsafe {
                            let mut sum = simd.splat(T::default());
                            if part > parts.start {
                                sum = runs::load(simd, count, target);
                            } else if self.share.beta != T::default() {
                                let mask = simd.mask_between(0, count);
                                let x = self.x(channel, row).add(remainder + at * stride);
                                let before = simd.gather_where(mask, x, stride as isize);
                                sum = simd.mul(simd.splat(self.share.beta), before);
                            }
                            // The last window first: so an element gets its taps in their order.
                            for (window, kernel_row) in self.share.shape.height.windows(row).rev() {
                                let source = cells.of_row(number, window, kernel_row);
                                sum = found.add(simd, taps, source, cells.kernel_column, sum);
                            }
                            runs::store(simd, count, target, sum);
                        }
                    }
                }
            }
        }
        for (line, row) in rows.clone().enumerate() {
            let (x, source) = (self.x(channel, row), of_row(line).cast_const());
            let whole = width.input / stride;
            // SAFETY: a row of x, which is this task's, of what lies in memory.
            unsafe {
                runs::transpose(simd, [stride.min(width.input), whole], source, len, x, stride);
                for remainder in 0..width.input % stride {
                    *x.add(whole * stride + remainder) = *source.add(remainder * len + whole);
                }
            }
        }
    }
}

/// Taps whose cells are added at a time.
const TAPS: usize = 16;

/// The parts of all taps that have some on `lanes` columns from `position` on; one at least.
#[inline(always)]
fn parts_over(taps: &[Taps], position: usize, lanes: usize) -> Range<usize> {
    let first = |taps: &Taps| taps.inside(position).0 / TAPS;
    let end = |taps: &Taps| taps.inside(position + lanes - 1).1.div_ceil(TAPS);
    let start = taps.iter().map(first).min().unwrap_or(0);
    start..taps.iter().map(end).max().unwrap_or(0).max(start + 1)
}

/// The taps on a vector of columns of x, every stride-th: a part of them, by their numbers, whatever the vector.
struct Part<M> {
    /// Which lanes have a window with the tap.
    masks: [M; TAPS],
    count: usize,
    /// The first tap's column of the kernel, and its window in the first lane, which may not exist.
    kernel_column: usize,
    window: isize,
}

impl<M: Copy> Part<M> {
    #[inline(always)]
    fn nothing<T: Element, S: Lanes<T, Mask = M>>(simd: S) -> Self {
        Part { masks: [simd.mask_between(0, 0); TAPS], count: 0, kernel_column: 0, window: 0 }
    }

    /// Finds the taps. (In place: a copy would wait for its parts.)
    #[inline(always)]
    fn find<T: Element, S: Lanes<T, Mask = M>>(
        &mut self,
        simd: S,
        taps: &Taps,
        position: usize,
        part: usize,
    ) {
        self.count = 0;
        for tap in part * TAPS..taps.count.min((part + 1) * TAPS) {
            let window = taps.source(position, tap);
            let start = window.min(0).unsigned_abs().min(S::LANES);
            let end = (taps.extent as isize - window).clamp(0, S::LANES as isize) as usize;
            if start < end {
                if self.count == 0 {
                    self.kernel_column = taps.first_kernel + tap * taps.kernel_step;
                    self.window = window;
                }
                self.masks[self.count] = simd.mask_between(start, end);
                self.count += 1;
            }
        }
    }

    /// Adds their cells in a row of windows to a vector.
    ///
    /// # Safety
    /// These can be read at `source`, each column of the kernel's `kernel_column` behind the one before it.
    #[inline(always)]
    unsafe fn add<T: Element, S: Lanes<T, Mask = M>>(
        &self,
        simd: S,
        taps: &Taps,
        source: *const T,
        kernel_column: usize,
        mut sum: S::Vector,
    ) -> S::Vector {
        let place =
            |tap: usize, window: isize| tap.wrapping_mul(kernel_column).wrapping_add_signed(window);
        let mut source = source.wrapping_add(place(self.kernel_column, self.window));
        let apart = place(taps.kernel_step, taps.offset_step);
        for mask in &self.masks[..self.count] {
            // SAFETY: the caller answers for the cells.
            sum = unsafe { simd.add(sum, simd.load_where(*mask, source)) };
            source = source.wrapping_add(apart);
        }
        sum
    }
}
