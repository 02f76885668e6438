//! The backward pass of a max-pooling with small windows that overlap, the lanes along a pixel's channels: a vector of
//! them goes down some rows of windows. Each window is read once for each column under it, and gives its gradient to
//! the sums of all its rows there, which stay in registers until their last window was added.

use std::ops::Range;

use super::backward::{Gradient, Inputs};
use super::backward_pixels::Pixels;
use super::max_backward::ToMaximum;
use crate::runs::{self, for_each_vector};
use crate::shape::PoolShape;
use crate::simd::{Element, Kernel, Lanes};

/// The rows of windows that a strip goes down: enough to share, few enough that the columns beside find dy in the
/// caches. None where windows go another way.
pub(super) fn band(shape: &PoolShape) -> Option<usize> {
    let (height, width) = (&shape.height, &shape.width);
    if height.dilation > 1 || width.dilation > 1 || height.stride != width.stride {
        return None;
    }
    // As measured.
    match ([height.kernel, width.kernel], height.stride) {
        ([3, 3], 2) => Some(4),
        ([2, 2] | [3, 3], 1) => Some(8),
        ([5, 5], 1) => Some(16),
        _ => None,
    }
}

/// Rows of dx in one plane.
pub(super) struct Strips<'a, T> {
    pub shape: &'a PoolShape,
    pub rows: Range<usize>,
    pub pixels: Pixels<T>,
    pub inputs: Inputs<T>,
    /// See [`band`].
    pub band: usize,
    /// Whether dx is written past the caches, by whole vectors.
    pub streams: bool,
}

impl<T: Element> Kernel<T> for Strips<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // The windows of `band`.
        match (self.shape.width.kernel, self.shape.width.stride) {
            (2, _) => simd.call(OfExtent::<_, 2, 1>(self)),
            (3, 1) => simd.call(OfExtent::<_, 3, 1>(self)),
            (3, _) => simd.call(OfExtent::<_, 3, 2>(self)),
            _ => simd.call(OfExtent::<_, 5, 1>(self)),
        }
    }
}

/// Strips under windows of `K` by `K` cells, `STRIDE` apart.
struct OfExtent<P, const K: usize, const STRIDE: usize>(P);

impl<T: Element, const K: usize, const STRIDE: usize> Kernel<T>
    for OfExtent<Strips<'_, T>, K, STRIDE>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        self.0.all::<S, K, STRIDE>(simd);
    }
}

impl<T: Element> Strips<'_, T> {
    #[inline(always)]
    fn all<S: Lanes<T>, const K: usize, const STRIDE: usize>(&self, simd: S) {
        let width = &self.shape.width;
        let some = self.band * STRIDE;
        for first in self.rows.clone().step_by(some) {
            let rows = first..self.rows.end.min(first + some);
            // The columns that a window is the last over.
            for window in
                width.pad_before / STRIDE..(width.input + width.pad_before).div_ceil(STRIDE)
            {
                let column = window * STRIDE;
                let is_inside = window + 1 >= K.div_ceil(STRIDE)
                    && window < width.output
                    && column >= width.pad_before
                    && column + STRIDE <= width.input + width.pad_before;
                match is_inside {
                    true => self.strip::<S, K, STRIDE, true>(simd, rows.clone(), window),
                    false => self.strip::<S, K, STRIDE, false>(simd, rows.clone(), window),
                }
            }
        }
        if self.streams {
            runs::end_stream();
        }
    }

    /// The cells of some rows of dx in the columns that `last` is the last window over. All of these columns and
    /// windows exist if `INSIDE`.
    #[inline(always)]
    fn strip<S: Lanes<T>, const K: usize, const STRIDE: usize, const INSIDE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        last: usize,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let windows = K.div_ceil(STRIDE);
        let first = (last + 1).wrapping_sub(windows);
        let [of_y, of_x] = self.pixels.strides;
        let [down_y, down_x] = [width.output * of_y, width.input * of_x];
        let last_row = (rows.end - 1 + height.pad_before) / STRIDE;
        let first_row = ((rows.start + height.pad_before) / STRIDE + 1).wrapping_sub(windows);
        let column = (last * STRIDE).wrapping_sub(width.pad_before);
        for_each_vector(
            simd,
            self.pixels.lanes,
            #[inline(always)]
            |lane, count| {
                let zero = simd.splat(T::default());
                let mut sums = [[zero; STRIDE]; K];
                let mut row = first_row;
                loop {
                    if row < height.output {
                        let at = row * down_y + lane;
                        for tap in 0..windows {
                            let window = first.wrapping_add(tap);
                            if !INSIDE && window >= width.output {
                                continue;
                            }
                            let before = (windows - 1 - tap) * STRIDE;
                            let at = at + window * of_y;
                            // SAFETY: `count` lanes of a pixel of dy.
                            let loaded =
                                unsafe { ToMaximum.load(simd, self.inputs, zero, at, count) };
                            for (kh, sums) in sums.iter_mut().enumerate() {
                                for (kw, sum) in (before..K).zip(sums) {
                                    *sum = ToMaximum.add(simd, *sum, loaded, kh * K + kw);
                                }
                            }
                        }
                    }
                    // The rows that this one of the windows is the last over.
                    for (i, sums) in sums.iter().take(STRIDE).enumerate() {
                        let row = row.wrapping_mul(STRIDE).wrapping_add(i);
                        let row = row.wrapping_sub(height.pad_before);
                        if !rows.contains(&row) {
                            continue;
                        }
                        let at = row * down_x + lane;
                        for (j, &sum) in sums.iter().enumerate() {
                            let column = column.wrapping_add(j);
                            if INSIDE || column < width.input {
                                // SAFETY: `count` lanes of a pixel of dx.
                                unsafe {
                                    let target = self.pixels.dx.add(at + column * of_x);
                                    runs::store_or_stream(simd, count, target, sum, self.streams);
                                }
                            }
                        }
                    }
                    if row == last_row {
                        break;
                    }
                    for kh in 0..K {
                        sums[kh] = if kh + STRIDE < K { sums[kh + STRIDE] } else { [zero; STRIDE] };
                    }
                    row = row.wrapping_add(1);
                }
            },
        );
    }
}
