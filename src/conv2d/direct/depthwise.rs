//! Depthwise, NCHW: one channel to one channel at stride 1, with kernels of the usual sizes unrolled
//! and pixels read in place. Only the vectors at the edges of a row are masked.

use super::gather::Gather;
use super::pixel_lanes::Place;
use crate::conv2d::patches::Taps;
use crate::simd::{Element, Lanes};

/// Whether a pass is one of these.
pub(super) fn fits<T>(pass: &Gather<T>) -> bool {
    let steps = |taps: &Taps| taps.step == 1 && taps.offset_step.abs() == 1;
    let kernel = (pass.rows.count, pass.columns.count);
    let contiguous = pass.source_strides[3] == 1 && pass.target_strides[3] == 1;
    let one_to_one = pass.outputs == 1 && pass.terms == 1 && contiguous;
    let in_place = pass.relu_output.is_null() && steps(&pass.rows) && steps(&pass.columns);
    one_to_one && in_place && (kernel == (3, 3) || kernel == (5, 5))
}

/// Computes some rows of a pass.
///
/// # Safety
/// The pass fits. The tensors have the place, and nobody else uses it in the target.
#[inline(always)]
pub(super) unsafe fn gather<T: Element, S: Lanes<T>>(simd: S, pass: Gather<T>, place: Place) {
    // SAFETY: the caller answers for the place.
    unsafe {
        match pass.rows.count {
            3 => Channel::<T, 3>::new(pass, place).run(simd),
            _ => Channel::<T, 5>::new(pass, place).run(simd),
        }
    }
}

/// Some rows of one channel, with `K` x `K` taps in the order of the source's pixels.
struct Channel<T, const K: usize> {
    pass: Gather<T>,
    place: Place,
    weights: [[T; K]; K],
    bias: T,
    source: *const T,
    target: *mut T,
    /// The first tap's row and column for the first output.
    first_row: isize,
    first_column: isize,
}

/// A vector of outputs in a row: which pixels of each column tap the source has.
#[derive(Clone, Copy)]
pub(super) struct Strip<M, const K: usize> {
    pub column: usize,
    pub count: usize,
    /// Whether a mask leaves pixels out.
    pub partial: [bool; K],
    pub masks: [M; K],
}

impl<M: Copy, const K: usize> Strip<M, K> {
    /// The vector from `column` on, of `width`; the first tap of output 0 is at `first_column` of the
    /// source, which has `extent`.
    #[inline(always)]
    pub fn new<T: Element, S: Lanes<T, Mask = M>>(
        simd: S,
        column: usize,
        width: usize,
        first_column: isize,
        extent: usize,
    ) -> Self {
        let count = S::LANES.min(width - column);
        let mut partial = [false; K];
        let mut masks = [simd.mask_between(0, count); K];
        let first = column as isize + first_column;
        let extent = extent as isize;
        if first < 0 || first + (K + S::LANES - 1) as isize > extent || count < S::LANES {
            for (c, (partial, mask)) in partial.iter_mut().zip(&mut masks).enumerate() {
                let first = first + c as isize;
                let begin = (-first).clamp(0, count as isize);
                let end = (extent - first).clamp(begin, count as isize);
                *partial = begin > 0 || end < S::LANES as isize;
                *mask = simd.mask_between(begin as usize, end as usize);
            }
        }
        Strip { column, count, partial, masks }
    }

    /// Whether all pixels of all taps are there.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.partial == [false; K]
    }
}

impl<T: Element, const K: usize> Channel<T, K> {
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
            // SAFETY: the source and the target have the channel.
            source: unsafe { pass.source.add(offset(pass.source_strides)) },
            // SAFETY: as above.
            target: unsafe { pass.target.add(offset(pass.target_strides)) },
            first_row: least(rows),
            first_column: least(columns),
            pass,
            place,
        }
    }

    /// # Safety
    /// The tensors have the place, and nobody else uses it in the target.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>>(&self, simd: S) {
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
        // SAFETY: the caller answers for the place; the strips lie within it.
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

    /// Sums and writes all rows of some vectors; `EDGE` where some of their pixels lie in the padding.
    /// Padding counts as zeros.
    ///
    /// # Safety
    /// The tensors have the rows.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const V: usize, const EDGE: bool>(
        &self,
        simd: S,
        strips: &[Strip<S::Mask, K>; V],
    ) {
        let zero = simd.splat(T::default());
        let mut weights = [[zero; K]; K];
        for (weights, row) in weights.iter_mut().zip(&self.weights) {
            for (weight, &value) in weights.iter_mut().zip(row) {
                *weight = simd.splat(value);
            }
        }
        // Of the rows that the source's row has a part in: the first one is the nearest to its end.
        let mut sums = [[zero; V]; K];
        for number in 0..self.place.rows + K - 1 {
            let y = (self.place.row + number) as isize + self.first_row;
            let outside = self.pass.rows.outside(y);
            let row = self.source.wrapping_offset(y * self.pass.source_strides[2] as isize);
            for (v, strip) in strips.iter().enumerate() {
                for (c, &partial) in strip.partial.iter().enumerate() {
                    let column = strip.column as isize + self.first_column + c as isize;
                    let source = row.wrapping_offset(column);
                    // SAFETY: the caller answers for the rows; what lies outside is not read.
                    let pixels = unsafe {
                        if outside {
                            zero
                        } else if EDGE && partial {
                            simd.load_where(strip.masks[c], source)
                        } else {
                            simd.load(source)
                        }
                    };
                    for (age, sums) in sums.iter_mut().enumerate() {
                        sums[v] = simd.mul_add(pixels, weights[K - 1 - age][c], sums[v]);
                    }
                }
            }
            if number + 1 >= K {
                let row = self.place.row + number + 1 - K;
                for (sum, strip) in sums[0].into_iter().zip(strips) {
                    // SAFETY: the caller answers for the target.
                    unsafe {
                        let target = self.target.add(row * self.pass.target_strides[2]);
                        self.finish(simd, sum, strip.count, target.add(strip.column));
                    }
                }
            }
            for age in 1..K {
                sums[age - 1] = sums[age];
            }
            sums[K - 1] = [zero; V];
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
