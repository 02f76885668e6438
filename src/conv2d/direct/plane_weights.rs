//! dw of several outputs of one input channel after the other at stride 1, NCHW: pixels in the lanes, x read in place,
//! and each of its vectors multiplied by the gradients of all outputs.

use std::ptr;

use super::even_parts;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::runs;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// The most outputs that share a load of x.
pub(super) const OUTPUTS: usize = 4;
/// The most neighbouring taps that share a load of dy, with 32 registers and with fewer.
const TAPS: usize = 5;
const FEW_TAPS: usize = 3;

/// Rows of a block, whose products are summed in registers.
const ROWS: usize = 32;

/// Whether a convolution has such outputs, and few enough taps to sum them all at once.
pub(super) fn takes(shape: &ConvShape) -> bool {
    let dense = |axis: &Axis| axis.stride == 1 && axis.dilation == 1;
    let few_taps = shape.window() < DEPTH_BLOCK / OUTPUTS;
    shape.group_out > 1 && few_taps && dense(&shape.height) && dense(&shape.width)
}

/// An input channel of an image, and the gradients of some outputs.
#[derive(Clone, Copy)]
pub(super) struct Planes<T> {
    pub x: *const T,
    pub dy: *const T,
    /// Whether dy is summed too.
    pub with_dy: bool,
    /// Null for none.
    pub relu_output: *const T,
    /// Room for what it leaves of dy.
    pub memory: *mut T,
    /// From output to output.
    pub of_output: usize,
    /// Two at least.
    pub outputs: usize,
    pub rows: Taps,
    pub columns: Taps,
    /// Of dy.
    pub height: usize,
    pub width: usize,
}

impl<T: Element> Planes<T> {
    /// Adds the products of each tap, and behind them dy itself, to `TILE_LANES` lanes of `totals`, an output's behind
    /// those of the one before: the column's remainder chooses the lane.
    ///
    /// # Safety
    /// The convolution fits, and the pointers have the planes.
    #[inline(always)]
    pub unsafe fn add<S: Lanes<T>>(&self, simd: S, totals: &mut [T]) {
        let most = if S::REGISTERS >= 32 { TAPS } else { FEW_TAPS };
        if self.with_dy || !self.relu_output.is_null() {
            self.add_taps(simd, 0, (0, 0), totals);
        }
        let mut planes = *self;
        if !self.relu_output.is_null() {
            planes.dy = self.memory;
            planes.of_output = self.height * self.width;
            planes.relu_output = ptr::null();
        }
        for row_tap in 0..self.rows.count {
            for (column_tap, count) in even_parts(self.columns.count, most) {
                planes.add_taps(simd, row_tap, (column_tap, count), totals);
            }
        }
    }

    #[inline(always)]
    fn add_taps<S: Lanes<T>>(
        &self,
        simd: S,
        row_tap: usize,
        (column_tap, count): (usize, usize),
        totals: &mut [T],
    ) {
        match self.outputs {
            2 => self.add_to::<S, 2>(simd, row_tap, (column_tap, count), totals),
            3 => self.add_to::<S, 3>(simd, row_tap, (column_tap, count), totals),
            _ => self.add_to::<S, OUTPUTS>(simd, row_tap, (column_tap, count), totals),
        }
    }

    #[inline(always)]
    fn add_to<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        row_tap: usize,
        (column_tap, count): (usize, usize),
        totals: &mut [T],
    ) {
        let planes = self;
        match count {
            0 => simd.call(AddTaps::<_, N, 0> { planes, row_tap, column_tap, totals }),
            1 => simd.call(AddTaps::<_, N, 1> { planes, row_tap, column_tap, totals }),
            2 => simd.call(AddTaps::<_, N, 2> { planes, row_tap, column_tap, totals }),
            3 => simd.call(AddTaps::<_, N, 3> { planes, row_tap, column_tap, totals }),
            4 => simd.call(AddTaps::<_, N, 4> { planes, row_tap, column_tap, totals }),
            _ => simd.call(AddTaps::<_, N, TAPS> { planes, row_tap, column_tap, totals }),
        }
    }
}

/// Adds the products of `C` taps of a row for `N` outputs; of none: dy itself, which it stores where a ReLU's output
/// masks it. (Kernels of their own: together they
/// take long to compile.)
struct AddTaps<'a, T, const N: usize, const C: usize> {
    planes: &'a Planes<T>,
    row_tap: usize,
    column_tap: usize,
    totals: &'a mut [T],
}

impl<T: Element, const N: usize, const C: usize> Kernel<T> for AddTaps<'_, T, N, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let AddTaps { planes, row_tap, column_tap, totals } = self;
        let &Planes { rows, columns, height, width, .. } = planes;
        let all_taps = rows.count * columns.count;
        let tap = if C == 0 { all_taps } else { row_tap * columns.count + column_tap };
        for first in (0..height).step_by(ROWS) {
            let end = height.min(first + ROWS);
            for column in (0..width).step_by(S::LANES) {
                let count = S::LANES.min(width - column);
                let mask = simd.mask_between(0, count);
                let start = columns.source(column, column_tap);
                let mut masks = [mask; C];
                for (c, mask) in masks.iter_mut().enumerate() {
                    let start = start + c as isize;
                    let begin = (-start).clamp(0, count as isize);
                    let end = (columns.extent as isize - start).clamp(begin, count as isize);
                    *mask = simd.mask_between(begin as usize, end as usize);
                }
                let mut sums = [[simd.splat(T::default()); C]; N];
                let mut sums_of_dy = [simd.splat(T::default()); N];
                for row in first..end {
                    let y = rows.source(row, row_tap);
                    let outside = rows.outside(y);
                    let x = planes.x.wrapping_offset(y * columns.extent as isize + start);
                    // SAFETY: whoever makes one answers for the planes; the masks leave out what lies in the padding.
                    unsafe {
                        let mut pixels = [simd.splat(T::default()); C];
                        // A padded zero is a value like any other.
                        for (c, pixels) in pixels.iter_mut().enumerate().filter(|_| !outside) {
                            *pixels = simd.load_where(masks[c], x.wrapping_add(c));
                        }
                        for (n, sums) in sums.iter_mut().enumerate() {
                            let pixel = row * width + column;
                            let place = n * planes.of_output + pixel;
                            let mut dy = simd.load_where(mask, planes.dy.wrapping_add(place));
                            if C == 0 {
                                if !planes.relu_output.is_null() {
                                    let output = planes.relu_output.wrapping_add(place);
                                    dy = simd.relu_gradient(simd.load_where(mask, output), dy);
                                    let place = n * height * width + pixel;
                                    runs::store(simd, count, planes.memory.add(place), dy);
                                }
                                sums_of_dy[n] = simd.add(sums_of_dy[n], dy);
                            }
                            for (sum, &pixels) in sums.iter_mut().zip(&pixels) {
                                *sum = simd.mul_add(dy, pixels, *sum);
                            }
                        }
                    }
                }
                let mut add = |n: usize, tap: usize, sum: S::Vector| {
                    let place = (n * (all_taps + 1) + tap) * TILE_LANES + column % TILE_LANES;
                    let total = totals[place..place + S::LANES].as_mut_ptr();
                    // SAFETY: these lanes.
                    unsafe { simd.store(total, simd.add(simd.load(total), sum)) };
                };
                for (n, sums) in sums.iter().enumerate() {
                    if C == 0 {
                        add(n, tap, sums_of_dy[n]);
                    }
                    for (c, &sum) in sums.iter().enumerate() {
                        add(n, tap + c, sum);
                    }
                }
            }
        }
    }
}
