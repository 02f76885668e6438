//! dw of a depthwise convolution at stride 1 or 2, NCHW: x is read in place, a plane at a time.

use super::strip::Strip;
use crate::shape::{Axis, ConvShape};
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Rows of a block, whose products are summed in registers.
const ROWS: usize = 16;

/// Whether a convolution is one of these.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let stride = shape.height.stride;
    let dense = |axis: &Axis| axis.stride == stride && axis.dilation == 1;
    let kernel = (shape.height.kernel, shape.width.kernel);
    let unrolled = stride <= 2 && (kernel == (3, 3) || kernel == (5, 5));
    dense(&shape.height) && dense(&shape.width) && unrolled
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

/// `Plane::add` for `K` x `K` taps at a stride of `STEP`. (Kernels of their own: together they take long to compile.)
struct AddTaps<'a, T, const K: usize, const STEP: usize> {
    plane: &'a Plane<T>,
    totals: &'a mut [T],
}

impl<T: Element, const K: usize, const STEP: usize> Kernel<T> for AddTaps<'_, T, K, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let AddTaps { plane, totals } = self;
        // As many row taps at a time as registers have sums for.
        // SAFETY: whoever makes one answers for the plane.
        unsafe {
            if K == 3 {
                return plane.add_taps::<S, K, 3, STEP>(simd, 0, totals);
            }
            for row_tap in (0..K - 1).step_by(2) {
                plane.add_taps::<S, K, 2, STEP>(simd, row_tap, totals);
            }
            plane.add_taps::<S, K, 1, STEP>(simd, K - 1, totals);
        }
    }
}

impl<T: Element> Plane<T> {
    /// Adds the products of each tap, and behind them dy itself, to their `TILE_LANES` lanes of
    /// `totals`: the column's remainder chooses the lane.
    ///
    /// # Safety
    /// The convolution fits, and the pointers have the plane.
    #[inline(always)]
    pub unsafe fn add<S: Lanes<T>>(&self, simd: S, totals: &mut [T]) {
        match (self.rows.count, self.rows.step) {
            (3, 1) => simd.call(AddTaps::<_, 3, 1> { plane: self, totals }),
            (3, _) => simd.call(AddTaps::<_, 3, 2> { plane: self, totals }),
            (_, 1) => simd.call(AddTaps::<_, 5, 1> { plane: self, totals }),
            _ => simd.call(AddTaps::<_, 5, 2> { plane: self, totals }),
        }
    }

    /// `N` of `K` row taps, from `row_tap` on.
    ///
    /// # Safety
    /// The pointers have the plane.
    #[inline(always)]
    unsafe fn add_taps<S: Lanes<T>, const K: usize, const N: usize, const STEP: usize>(
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
                let strip: Strip<_, K, STEP> =
                    Strip::new(simd, column, self.width, first_column, extent);
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
                        true => self.sum::<S, K, N, STEP, false>(simd, rows, row_tap, &strip),
                        false => self.sum::<S, K, N, STEP, true>(simd, rows, row_tap, &strip),
                    }
                };
                let mut add = |tap: usize, sum: S::Vector| {
                    let place = tap * TILE_LANES + column % TILE_LANES;
                    let total = totals[place..place + S::LANES].as_mut_ptr();
                    // SAFETY: these lanes.
                    unsafe { simd.store(total, simd.add(simd.load(total), sum)) };
                };
                for (n, sums) in sums.iter().enumerate() {
                    for (c, &sum) in sums.iter().enumerate() {
                        add((row_tap + n) * K + c, sum);
                    }
                }
                if row_tap == 0 {
                    add(K * K, sum_of_dy);
                }
            }
        }
    }

    /// The sums of some rows of a vector, by tap and of dy; `EDGE` where some of their pixels lie in the
    /// padding, which counts as zeros.
    ///
    /// # Safety
    /// The pointers have the plane.
    #[inline(always)]
    unsafe fn sum<
        S: Lanes<T>,
        const K: usize,
        const N: usize,
        const STEP: usize,
        const EDGE: bool,
    >(
        &self,
        simd: S,
        (first, rows): (usize, usize),
        row_tap: usize,
        strip: &Strip<S::Mask, K, STEP>,
    ) -> ([[S::Vector; K]; N], S::Vector) {
        let zero = simd.splat(T::default());
        let mut sums = [[zero; K]; N];
        let mut sum_of_dy = zero;
        // The rows of dy that meet a row of x, youngest first: it is at its first taps.
        let ages = N.div_ceil(STEP);
        let mut gradients = [zero; N];
        // Of x; the youngest row of dy meets `STEP` of them.
        let rows_of_x = (rows - 1) * STEP + N;
        for number in (0..rows_of_x).step_by(STEP) {
            let young = number / STEP;
            let whole = young + 1 >= ages && young < rows;
            for age in (1..ages).rev() {
                gradients[age] = gradients[age - 1];
            }
            gradients[0] = zero;
            if young < rows {
                let place = (first + young) * self.width + strip.column;
                // SAFETY: the caller answers for dy.
                gradients[0] = unsafe { self.gradient::<S, EDGE, K, STEP>(simd, strip, place) };
                sum_of_dy = simd.add(sum_of_dy, gradients[0]);
            }
            for phase in 0..STEP {
                if phase > 0 && number + phase >= rows_of_x {
                    break;
                }
                let y = self.rows.source(first, row_tap) + (number + phase) as isize;
                let outside = self.rows.outside(y);
                let row = self.x.wrapping_offset(y * self.columns.extent as isize);
                for tap in (0..K).step_by(STEP) {
                    let pixels = match outside {
                        true => [zero; STEP],
                        // SAFETY: the caller answers for x, which has the row.
                        false => unsafe { strip.pixels::<T, S, EDGE, false>(simd, [row; 2], tap) },
                    };
                    for (c, &pixels) in (tap..K).zip(&pixels) {
                        let mut add = |n: usize, gradient: S::Vector| {
                            sums[n][c] = simd.mul_add(gradient, pixels, sums[n][c]);
                        };
                        if whole {
                            for (n, &gradient) in (phase..N).step_by(STEP).zip(&gradients) {
                                add(n, gradient);
                            }
                            continue;
                        }
                        for (age, &gradient) in gradients.iter().enumerate() {
                            let n = phase + age * STEP;
                            // An infinity of x must not meet the zero of a row that is not there.
                            if n < N && age <= young && young - age < rows {
                                add(n, gradient);
                            }
                        }
                    }
                }
            }
        }
        (sums, sum_of_dy)
    }

    /// A vector of dy, masked by the ReLU's output if there is one.
    ///
    /// # Safety
    /// The pointers have it.
    #[inline(always)]
    unsafe fn gradient<S: Lanes<T>, const EDGE: bool, const K: usize, const STEP: usize>(
        &self,
        simd: S,
        strip: &Strip<S::Mask, K, STEP>,
        place: usize,
    ) -> S::Vector {
        let load = |from: *const T| match EDGE {
            // SAFETY: the caller answers for the lanes.
            true => unsafe { simd.load_where(strip.mask, from) },
            // SAFETY: as above: a whole vector.
            false => unsafe { simd.load(from) },
        };
        let dy = load(self.dy.wrapping_add(place));
        match self.relu_output.is_null() {
            true => dy,
            false => simd.relu_gradient(load(self.relu_output.wrapping_add(place)), dy),
        }
    }
}
