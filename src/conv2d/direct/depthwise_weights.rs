//! dw of a depthwise convolution at stride 1, NCHW: x is read in place, a plane at a time.

use super::depthwise::Strip;
use super::weights::gradient;
use crate::conv2d::patches::Taps;
use crate::shape::{Axis, ConvShape};
use crate::simd::{CACHE_LINE, Element, Lanes, TILE_LANES};

/// Rows of a block, whose products are summed in registers.
const ROWS: usize = 16;

/// Whether a convolution is one of these.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let steps = |axis: &Axis| axis.stride == 1 && axis.dilation == 1;
    let kernel = (shape.height.kernel, shape.width.kernel);
    steps(&shape.height) && steps(&shape.width) && (kernel == (3, 3) || kernel == (5, 5))
}

/// One channel of one image.
#[derive(Clone, Copy)]
pub(super) struct Plane<T> {
    pub x: *const T,
    pub dy: *const T,
    /// Null for none.
    pub relu_output: *const T,
    /// x and dy of the plane that is next: vectors are read from top to bottom, which no processor
    /// foresees.
    pub next: [*const T; 2],
    pub rows: Taps,
    pub columns: Taps,
    /// Of dy.
    pub height: usize,
    pub width: usize,
}

impl<T: Element> Plane<T> {
    /// Adds the products of each tap, and behind them dy itself, to their `TILE_LANES` lanes of
    /// `totals`: the column's remainder chooses the lane.
    ///
    /// # Safety
    /// The convolution fits, and the pointers have the plane.
    #[inline(always)]
    pub unsafe fn add<S: Lanes<T>>(&self, simd: S, totals: &mut [T]) {
        // SAFETY: the caller answers for the plane.
        unsafe {
            match self.rows.count {
                3 => self.add_taps::<S, 3, 3>(simd, 0, totals),
                _ => {
                    self.add_taps::<S, 5, 2>(simd, 0, totals);
                    self.add_taps::<S, 5, 2>(simd, 2, totals);
                    self.add_taps::<S, 5, 1>(simd, 4, totals);
                }
            }
        }
    }

    /// `N` of `K` row taps, from `row_tap` on.
    ///
    /// # Safety
    /// The pointers have the plane.
    #[inline(always)]
    unsafe fn add_taps<S: Lanes<T>, const K: usize, const N: usize>(
        &self,
        simd: S,
        row_tap: usize,
        totals: &mut [T],
    ) {
        let first_column = self.columns.first_offset;
        for row in (0..self.height).step_by(ROWS) {
            let rows = (row, ROWS.min(self.height - row));
            for column in (0..self.width).step_by(S::LANES) {
                let extent = self.columns.extent;
                let strip = Strip::new(simd, column, self.width, first_column, extent);
                if row_tap == 0 {
                    let first = row * self.width + column * rows.1;
                    for place in
                        (first..first + rows.1 * S::LANES).step_by(CACHE_LINE / size_of::<T>())
                    {
                        simd.prefetch_second(self.next[0].wrapping_add(place));
                        simd.prefetch_second(self.next[1].wrapping_add(place));
                    }
                }
                // SAFETY: the caller answers for the plane.
                let (sums, sum_of_dy) = unsafe {
                    match strip.is_whole() {
                        true => self.sum::<S, K, N, false>(simd, rows, row_tap, &strip),
                        false => self.sum::<S, K, N, true>(simd, rows, row_tap, &strip),
                    }
                };
                let mut add = |tap: usize, sum: S::Vector| {
                    let place = tap * TILE_LANES + column % TILE_LANES;
                    let total = totals[place..place + S::LANES].as_mut_ptr();
                    // SAFETY: these lanes.
                    unsafe { simd.store(total, simd.add(simd.load(total), sum)) };
                };
                for (n, sums) in sums.into_iter().enumerate() {
                    for (c, sum) in sums.into_iter().enumerate() {
                        add((row_tap + n) * K + c, sum);
                    }
                }
                if row_tap == 0 {
                    add(K * K, sum_of_dy);
                }
            }
        }
    }

    /// The sums of some rows of a vector, by tap and of dy; `EDGE` where some of their pixels lie in the padding.
    /// Padding counts as zeros.
    ///
    /// # Safety
    /// The pointers have the plane.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const K: usize, const N: usize, const EDGE: bool>(
        &self,
        simd: S,
        (first, rows): (usize, usize),
        row_tap: usize,
        strip: &Strip<S::Mask, K>,
    ) -> ([[S::Vector; K]; N], S::Vector) {
        let zero = simd.splat(T::default());
        let mut sums = [[zero; K]; N];
        let mut sum_of_dy = zero;
        // The rows of dy that meet a row of x, by tap.
        let mut gradients = [zero; N];
        for number in 0..rows + N - 1 {
            for n in (1..N).rev() {
                gradients[n] = gradients[n - 1];
            }
            if number < rows {
                let place = (first + number) * self.width + strip.column;
                // SAFETY: the caller answers for dy.
                gradients[0] =
                    unsafe { gradient(simd, self.dy, self.relu_output, place, strip.count) };
                sum_of_dy = simd.add(sum_of_dy, gradients[0]);
            }
            let y = self.rows.source(first + number, row_tap);
            let outside = self.rows.outside(y);
            let row = self.x.wrapping_offset(y * self.columns.extent as isize);
            // Whether all of the gradients are there.
            let whole = number + 1 >= N && number < rows;
            for c in 0..K {
                let x = row.wrapping_offset(self.columns.source(strip.column, c));
                // SAFETY: the caller answers for x; what lies outside is not read.
                let pixels = unsafe {
                    if outside {
                        zero
                    } else if EDGE && strip.partial[c] {
                        simd.load_where(strip.masks[c], x)
                    } else {
                        simd.load(x)
                    }
                };
                if whole {
                    for (sums, &gradient) in sums.iter_mut().zip(&gradients) {
                        sums[c] = simd.mul_add(gradient, pixels, sums[c]);
                    }
                    continue;
                }
                for (n, (sums, &gradient)) in sums.iter_mut().zip(&gradients).enumerate() {
                    if n <= number && number - n < rows {
                        sums[c] = simd.mul_add(gradient, pixels, sums[c]);
                    }
                }
            }
        }
        (sums, sum_of_dy)
    }
}
