//! Depthwise, NCHW: one channel to one channel at stride 1 or 2, with kernels of the usual sizes
//! unrolled and pixels read in place. Only the vectors at the edges of a row are masked.

use super::pixel_lanes::Place;
use super::strip::Strip;
use crate::conv2d::gather::Gather;
use crate::simd::{Element, Kernel, Lanes};
use crate::taps::Taps;

/// Whether a pass is one of these.
pub(super) fn fits<T>(pass: &Gather<T>) -> bool {
    let steps = |taps: &Taps| taps.step == pass.rows.step && taps.offset_step.abs() == 1;
    let kernel = (pass.rows.count, pass.columns.count);
    let contiguous = pass.source_strides[3] == 1 && pass.target_strides[3] == 1;
    let one_to_one = pass.outputs == 1 && pass.terms == 1 && contiguous;
    let unrolled = pass.rows.step <= 2 && (kernel == (3, 3) || kernel == (5, 5));
    one_to_one && unrolled && steps(&pass.rows) && steps(&pass.columns)
}

/// Computes some rows of a pass.
///
/// # Safety
/// The pass fits. The tensors have the place, and nobody else uses it in the target.
#[inline(always)]
pub(super) unsafe fn gather<T: Element, S: Lanes<T>>(simd: S, pass: Gather<T>, place: Place) {
    // SAFETY: the caller answers for the place.
    unsafe {
        // What a ReLU's output masks is dy, a step of 1.
        match (pass.rows.count, pass.rows.step, pass.relu_output.is_null()) {
            (3, 1, true) => simd.call(Channel::<T, 3, 1, false>::new(pass, place)),
            (3, 1, false) => simd.call(Channel::<T, 3, 1, true>::new(pass, place)),
            (3, ..) => simd.call(Channel::<T, 3, 2, false>::new(pass, place)),
            (_, 1, true) => simd.call(Channel::<T, 5, 1, false>::new(pass, place)),
            (_, 1, false) => simd.call(Channel::<T, 5, 1, true>::new(pass, place)),
            _ => simd.call(Channel::<T, 5, 2, false>::new(pass, place)),
        }
    }
}

/// Some rows of one channel, with `K` x `K` taps in the order of the source's pixels, outputs `STEP` of
/// them apart; `MASKED` where a ReLU's output masks these. (Kernels of their own: together they take long to
/// compile.)
struct Channel<T, const K: usize, const STEP: usize, const MASKED: bool> {
    pass: Gather<T>,
    place: Place,
    weights: [[T; K]; K],
    bias: T,
    /// And what masks it, if anything does.
    source: [*const T; 2],
    target: *mut T,
    /// The first tap's row and column for the first output.
    first_row: isize,
    first_column: isize,
}

impl<T: Element, const K: usize, const STEP: usize, const MASKED: bool> Kernel<T>
    for Channel<T, K, STEP, MASKED>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let width = self.pass.grid_width;
        // Where nothing is added to the target, the last vector may overlap the one before.
        let last = match self.pass.adds() {
            true => width,
            false => width.saturating_sub(S::LANES),
        };
        let strip = |column: usize| {
            let extent = self.pass.columns.extent;
            Strip::new(simd, column.min(last), width, self.first_column, extent)
        };
        let mut column = 0;
        // SAFETY: whoever makes one answers for the place; the strips lie within it.
        unsafe {
            while column + S::LANES < width {
                let strips = [strip(column), strip(column + S::LANES)];
                match strips.iter().all(Strip::is_whole) {
                    true => self.sum::<S, 2, false>(simd, &strips),
                    false => self.sum::<S, 2, true>(simd, &strips),
                }
                column += 2 * S::LANES;
            }
            if column < width {
                self.sum::<S, 1, true>(simd, &[strip(column)]);
            }
        }
    }
}

impl<T: Element, const K: usize, const STEP: usize, const MASKED: bool>
    Channel<T, K, STEP, MASKED>
{
    /// # Safety
    /// The tensors have the place.
    #[inline(always)]
    unsafe fn new(pass: Gather<T>, place: Place) -> Self {
        let Gather { rows, columns, filter_strides: strides, .. } = &pass;
        let ascending =
            |taps: &Taps, tap: usize| if taps.offset_step == 1 { tap } else { K - 1 - tap };
        let least = |taps: &Taps| taps.source(0, ascending(taps, 0));
        let mut weights = [[T::default(); K]; K];
        for (r, weights) in weights.iter_mut().enumerate() {
            for (c, weight) in weights.iter_mut().enumerate() {
                let offset = place.group * strides.group
                    + ascending(rows, r) * strides.row_tap
                    + ascending(columns, c) * strides.column_tap;
                // SAFETY: the filters have the group's taps.
                *weight = unsafe { *pass.filters.add(offset) };
            }
        }
        let offset = |[of_image, of_channel, ..]: [usize; 4]| {
            place.image * of_image + place.group * of_channel
        };
        Channel {
            weights,
            bias: match pass.bias.is_null() {
                true => T::default(),
                // SAFETY: the biases have the group's channel.
                false => unsafe { *pass.bias.add(place.group) },
            },
            source: pass.source_at(offset(pass.source_strides)),
            // SAFETY: the target has the channel.
            target: unsafe { pass.target.add(offset(pass.target_strides)) },
            first_row: least(rows),
            first_column: least(columns),
            pass,
            place,
        }
    }

    /// Sums and writes all rows of some vectors; `EDGE` where some of their pixels lie in the padding,
    /// which counts as zeros.
    ///
    /// # Safety
    /// The tensors have the rows.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const V: usize, const EDGE: bool>(
        &self,
        simd: S,
        strips: &[Strip<S::Mask, K, STEP>; V],
    ) {
        let zero = simd.splat(T::default());
        let mut weights = [[zero; K]; K];
        for (weights, row) in weights.iter_mut().zip(&self.weights) {
            for (weight, &value) in weights.iter_mut().zip(row) {
                *weight = simd.splat(value);
            }
        }
        // Of the target's rows that a row of the source has a part in, oldest first: the youngest is at
        // its first taps.
        let ages = K.div_ceil(STEP);
        let mut sums = [[zero; V]; K];
        let rows = (self.place.rows - 1) * STEP + K;
        for first in (0..rows).step_by(STEP) {
            for phase in 0..STEP {
                let number = first + phase;
                if phase > 0 && number >= rows {
                    break;
                }
                let y = (self.place.row * STEP + number) as isize + self.first_row;
                let outside = self.pass.rows.outside(y);
                let offset = y * self.pass.source_strides[2] as isize;
                let rows = self.source.map(|start| start.wrapping_offset(offset));
                for (v, strip) in strips.iter().enumerate() {
                    for tap in (0..K).step_by(STEP) {
                        let pixels = match outside {
                            true => [zero; STEP],
                            // SAFETY: the caller answers for the rows; this one lies inside.
                            false => unsafe { strip.pixels::<T, S, EDGE, MASKED>(simd, rows, tap) },
                        };
                        for (c, &pixels) in (tap..K).zip(&pixels) {
                            for (age, sums) in sums.iter_mut().enumerate().take(ages) {
                                let r = phase + (ages - 1 - age) * STEP;
                                if r < K {
                                    sums[v] = simd.mul_add(pixels, weights[r][c], sums[v]);
                                }
                            }
                        }
                    }
                }
                if phase == (K - 1) % STEP && number + 1 >= K {
                    let row = self.place.row + (number + 1 - K) / STEP;
                    for (&sum, strip) in sums[0].iter().zip(strips) {
                        // SAFETY: the caller answers for the target.
                        unsafe {
                            let target = self.target.add(row * self.pass.target_strides[2]);
                            self.finish(simd, sum, strip.count, target.add(strip.column));
                        }
                    }
                }
            }
            for age in 1..ages {
                sums[age - 1] = sums[age];
            }
            sums[ages - 1] = [zero; V];
        }
    }

    /// Writes the sums of `count` pixels of a row.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(&self, simd: S, sum: S::Vector, count: usize, target: *mut T) {
        let pass = &self.pass;
        // SAFETY: the caller answers for the target.
        unsafe {
            let old = match pass.adds() {
                true => simd.load_first(count, target),
                false => sum,
            };
            let value = pass.result(simd, sum, old, simd.splat(self.bias));
            match count == S::LANES {
                true => simd.store(target, value),
                false => simd.store_first(count, target, value),
            }
        }
    }
}
