//! dw from its sums at the points.

use super::transforms::{self, MOST_TAPS, POINTS};
use crate::conv2d::backward_weights::updated;
use crate::runs;
use crate::shape::ConvShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Adds rows, `stride` apart, up in their order, and to the target or instead of it.
pub(super) struct AddRows<T> {
    pub rows: *const T,
    pub count: usize,
    pub stride: usize,
    /// Whole vectors.
    pub len: usize,
    pub target: *mut T,
    pub overwrites: bool,
}

impl<T: Element> Kernel<T> for AddRows<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for place in (0..self.len).step_by(S::LANES) {
            // SAFETY: the rows and the target have `len` elements.
            unsafe {
                let target = self.target.add(place);
                let mut sum = simd.splat(T::default());
                if !self.overwrites {
                    sum = simd.load(target);
                }
                for row in 0..self.count {
                    sum = simd.add(sum, simd.load(self.rows.add(row * self.stride + place)));
                }
                simd.store(target, sum);
            }
        }
    }
}

/// Makes the taps of some output channels' filters, and updates dw with them.
pub(super) struct FilterTaps<'a, T, const TAPS: usize> {
    pub shape: &'a ConvShape,
    pub group: usize,
    /// First and number, in the group.
    pub outputs: (usize, usize),
    /// The sums of all outputs, and the elements from output to output and from point to point.
    pub sums: *const T,
    pub of_output: usize,
    pub of_point: usize,
    /// Parts of the sums, which are added up, and the elements from part to part.
    pub parts: (usize, usize),
    pub target: SharedMut<'a, T>,
    pub alpha: T,
    pub beta: T,
}

impl<T: Element, const TAPS: usize> Kernel<T> for FilterTaps<'_, T, TAPS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let [w_out, w_in, w_row, w_column] = self.shape.filter_strides();
        let inputs = self.shape.group_in;
        let mut by_tap = [T::default(); MOST_TAPS * MOST_TAPS * TILE_LANES];
        let mut by_filter = by_tap;
        for output in self.outputs.0..self.outputs.0 + self.outputs.1 {
            let filters = (self.group * self.shape.group_out + output) * w_out;
            for input in (0..inputs).step_by(S::LANES) {
                let count = S::LANES.min(inputs - input);
                // SAFETY: the sums have these channels, rounded up to vectors; dw has the filters, and
                // this task alone uses those of its outputs.
                unsafe {
                    let sums = self.sums.add(output * self.of_output + input);
                    self.transform(simd, sums, by_tap.as_mut_ptr());
                    if [w_in, w_row, w_column] == [TAPS * TAPS, TAPS, 1] {
                        let extents = [TAPS * TAPS, count];
                        let (source, target) = (by_tap.as_ptr(), by_filter.as_mut_ptr());
                        runs::transpose(simd, extents, source, TILE_LANES, target, w_in);
                        let target = self.target.at(filters + input * w_in);
                        self.update(simd, by_filter.as_ptr(), target, 1, count * w_in);
                        continue;
                    }
                    for tap in 0..TAPS * TAPS {
                        let (row, column) = (tap / TAPS, tap % TAPS);
                        let place = filters + input * w_in + row * w_row + column * w_column;
                        let source = by_tap.as_ptr().add(tap * TILE_LANES);
                        self.update(simd, source, self.target.at(place), w_in, count);
                    }
                }
            }
        }
    }
}

impl<T: Element, const TAPS: usize> FilterTaps<'_, T, TAPS> {
    /// Updates `count` elements of dw, `stride` apart, with as many sums.
    ///
    /// # Safety
    /// There are as many of both, and nobody else uses dw's.
    #[inline(always)]
    unsafe fn update<S: Lanes<T>>(
        &self,
        simd: S,
        sums: *const T,
        target: *mut T,
        stride: usize,
        count: usize,
    ) {
        let overwrites = self.beta == T::default();
        // SAFETY: as the caller answers for.
        unsafe {
            if stride > 1 {
                for place in 0..count {
                    let target = target.add(place * stride);
                    *target = updated(self.alpha, *sums.add(place), self.beta, *target);
                }
                return;
            }
            let [alpha, beta] = [self.alpha, self.beta].map(|factor| simd.splat(factor));
            for place in (0..count).step_by(S::LANES) {
                let count = S::LANES.min(count - place);
                let target = target.add(place);
                let mut value = simd.mul(alpha, runs::load(simd, count, sums.add(place)));
                if !overwrites {
                    let old = runs::load(simd, count, target);
                    value = simd.add(value, simd.mul(beta, old));
                }
                runs::store(simd, count, target, value);
            }
        }
    }

    /// Transforms the sums of one output and a vector of input channels to its taps, `TILE_LANES` apart.
    ///
    /// # Safety
    /// The source has POINTS * POINTS vectors of each part; the target has TAPS * TAPS.
    #[inline(always)]
    unsafe fn transform<S: Lanes<T>>(&self, simd: S, source: *const T, target: *mut T) {
        let (parts, of_part) = self.parts;
        let mut rows = [[simd.splat(T::default()); POINTS]; TAPS];
        // SAFETY: as the caller answers for.
        unsafe {
            for column in 0..POINTS {
                let mut products = [simd.splat(T::default()); POINTS];
                for (row, product) in products.iter_mut().enumerate() {
                    let source = source.add((row * POINTS + column) * self.of_point);
                    *product = simd.load(source);
                    for part in 1..parts {
                        *product = simd.add(*product, simd.load(source.add(part * of_part)));
                    }
                }
                let results = transforms::interpolate::<T, S, TAPS>(simd, products);
                for (row, result) in rows.iter_mut().zip(results) {
                    row[column] = result;
                }
            }
            for (row, &products) in rows.iter().enumerate() {
                let results = transforms::interpolate::<T, S, TAPS>(simd, products);
                for (column, &result) in results.iter().enumerate() {
                    simd.store(target.add((row * TAPS + column) * TILE_LANES), result);
                }
            }
        }
    }
}
