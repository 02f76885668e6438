//! Depthwise, NCHW: one channel to one channel, with kernels of the usual sizes unrolled.

use super::Gather;
use super::band::Band;
use super::nchw::Place;
use super::pixels::Products;
use crate::simd::{Element, Lanes};

/// Vectors of pixels that share a weight.
const VECTORS: usize = 4;

/// Whether a pass is one of these.
pub(super) fn fits<T>(pass: &Gather<T>) -> bool {
    let kernel = (pass.rows.count, pass.columns.count);
    let one_to_one = pass.outputs == 1 && pass.terms == 1 && pass.target_strides[3] == 1;
    one_to_one && (kernel == (3, 3) || kernel == (5, 5))
}

/// Computes a band of a pass.
///
/// # Safety
/// The pass fits. The target has the place, and nobody else uses it; the band is copied.
#[inline(always)]
pub(super) unsafe fn gather<T: Element, S: Lanes<T>>(
    simd: S,
    pass: Gather<T>,
    band: &Band,
    products: &Products,
    place: Place,
    copy: *const T,
) {
    let channel = Channel { pass, band, products, place, copy };
    // SAFETY: the caller answers for the place.
    unsafe {
        match pass.rows.count {
            3 => channel.run::<S, 3>(simd),
            _ => channel.run::<S, 5>(simd),
        }
    }
}

/// A band of one channel.
struct Channel<'a, T> {
    pass: Gather<T>,
    band: &'a Band,
    products: &'a Products,
    place: Place,
    copy: *const T,
}

impl<T: Element> Channel<'_, T> {
    /// `K` x `K` taps, a row at a time.
    ///
    /// # Safety
    /// The target has the place, and nobody else uses it.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>, const K: usize>(&self, simd: S) {
        let (pass, place) = (&self.pass, self.place);
        let [of_image, of_channel, of_row, _] = pass.target_strides;
        let mut weights = [[T::default(); K]; K];
        for (r, weights) in weights.iter_mut().enumerate() {
            for (c, weight) in weights.iter_mut().enumerate() {
                let strides = pass.filter_strides;
                let offset =
                    place.group * strides.group + r * strides.row_tap + c * strides.column_tap;
                // SAFETY: the filters have the group's taps.
                *weight = unsafe { *pass.filters.add(offset) };
            }
        }
        let bias = match pass.bias.is_null() {
            true => T::default(),
            // SAFETY: the biases have the group's channel.
            false => unsafe { *pass.bias.add(place.group) },
        };
        let width = pass.grid_width;
        let offset = place.image * of_image + place.group * of_channel + place.row * of_row;
        // Vectors that are summed together: their chains of additions overlap.
        let nothing = Pixels { copy: self.copy, target: pass.target, count: 0 };
        let mut vectors = [nothing; VECTORS];
        let mut waiting = 0;
        for row in 0..place.rows {
            // SAFETY: the copy has what whole vectors of outputs read, the caller answers for the
            // target's row.
            unsafe {
                let copy = self.copy.add(row * pass.rows.step * self.band.row_len());
                let target = pass.target.add(offset + row * of_row);
                let mut column = 0;
                while column < width {
                    // The last vector may overlap the one before, unless it adds to the target.
                    if pass.beta == T::default() && width >= S::LANES {
                        column = column.min(width - S::LANES);
                    }
                    vectors[waiting] = Pixels {
                        copy: copy.add(column),
                        target: target.add(column),
                        count: S::LANES.min(width - column),
                    };
                    waiting += 1;
                    column += S::LANES;
                    if waiting == VECTORS {
                        self.sum::<S, K, VECTORS>(simd, &weights, bias, &vectors);
                        waiting = 0;
                    }
                }
            }
        }
        for &vector in &vectors[..waiting] {
            // SAFETY: as above.
            unsafe { self.sum::<S, K, 1>(simd, &weights, bias, &[vector]) };
        }
    }

    /// Sums `V` vectors of pixels and writes them.
    ///
    /// # Safety
    /// The copy has what the taps read, the target the pixels.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const K: usize, const V: usize>(
        &self,
        simd: S,
        weights: &[[T; K]; K],
        bias: T,
        vectors: &[Pixels<T>; V],
    ) {
        let mut sums = [simd.splat(T::default()); V];
        let mut copies = [vectors[0].copy; V];
        for (copy, vector) in copies.iter_mut().zip(vectors) {
            *copy = vector.copy;
        }
        for (row_tap, weights) in weights.iter().enumerate() {
            for (column_tap, &weight) in weights.iter().enumerate() {
                let start = self.products.starts[row_tap * K + column_tap] as usize;
                let weight = simd.splat(weight);
                let mut pixels = [weight; V];
                for (pixels, copy) in pixels.iter_mut().zip(copies) {
                    // SAFETY: the caller answers for the copy.
                    *pixels = unsafe { simd.load(copy.add(start)) };
                }
                for (sum, pixels) in sums.iter_mut().zip(pixels) {
                    *sum = simd.mul_add(pixels, weight, *sum);
                }
            }
        }
        for (sum, vector) in sums.into_iter().zip(vectors) {
            // SAFETY: the caller answers for the target.
            unsafe { self.finish_row(simd, sum, bias, vector.count, vector.target) };
        }
    }

    /// Writes the sums of `count` pixels of a row.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn finish_row<S: Lanes<T>>(
        &self,
        simd: S,
        sum: S::Vector,
        bias: T,
        count: usize,
        target: *mut T,
    ) {
        let pass = &self.pass;
        let mut value = simd.mul(simd.splat(pass.alpha), sum);
        // SAFETY: the caller answers for the target.
        unsafe {
            if pass.beta != T::default() {
                let old = simd.load_first(count, target);
                value = simd.mul_add(simd.splat(pass.beta), old, value);
            }
            if !pass.bias.is_null() {
                value = simd.add(value, simd.splat(bias));
            }
            if pass.relu {
                value = simd.relu(value);
            }
            match count == S::LANES {
                true => simd.store(target, value),
                false => simd.store_first(count, target, value),
            }
        }
    }
}

/// Some neighbouring pixels, at most a vector: where the copy has them for the first tap of all, and
/// where they go.
#[derive(Clone, Copy)]
struct Pixels<T> {
    copy: *const T,
    target: *mut T,
    count: usize,
}
