//! col2im of NHWC from rows of patches: a row of x at a time, its channels side by side in the lanes, every element the sum of its cells in
//! the order of the taps.

use std::ops::Range;

use super::share::Share;
use crate::runs;
use crate::shape::Axis;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Writes some rows of an image.
pub(super) struct GatherPixels<'a, T> {
    /// Whose patches are rows.
    pub share: Share<'a, T>,
}

/// Windows whose cells are added at a time.
const WINDOWS: usize = 16;

impl<T: Element> Kernel<T> for GatherPixels<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Share { shape, ref rows, col, ref places, .. } = self.share;
        // From the cells of a tap on a pixel to those of the next one.
        let Taps { offset_step, kernel_step, .. } = Taps::backward(&shape.width, 0);
        let patch = shape.in_channels * shape.window();
        let apart = kernel_step
            .wrapping_mul(shape.in_channels)
            .wrapping_add_signed(offset_step.wrapping_mul(patch as isize));
        for row in rows.clone() {
            self.row(
                simd,
                row,
                apart,
                #[inline(always)]
                |window| col.wrapping_add(window * places.row),
            );
        }
    }
}

impl<T: Element> GatherPixels<'_, T> {
    /// Writes a row of x, with the patches of a row of windows one behind the other where `patches` says.
    #[inline(always)]
    fn row<S: Lanes<T>>(
        &self,
        simd: S,
        row: usize,
        apart: usize,
        patches: impl Fn(usize) -> *const T,
    ) {
        let shape = self.share.shape;
        // The last window first: so an element gets its taps in their order.
        let windows = shape.height.windows(row).rev();
        let of_row = shape.width.kernel * shape.in_channels;
        let lines = windows.map(
            #[inline(always)]
            |(window, kernel_row)| patches(window).wrapping_add(kernel_row * of_row),
        );
        let x = self.share.x.wrapping_add(row * shape.input_strides[2]);
        match shape.width.dilation {
            1 if shape.in_channels < TILE_LANES => self.runs(simd, x, lines, apart),
            _ => self.pixels(simd, x, lines, apart),
        }
    }

    /// Writes a row of x from runs of cells, whose taps are neighbours, `apart` elements from one on an element to the
    /// next: from `lines`, each the first of those of a row of windows.
    #[inline(always)]
    fn runs<S: Lanes<T>>(
        &self,
        simd: S,
        x: *mut T,
        lines: impl Iterator<Item = *const T> + Clone,
        apart: usize,
    ) {
        let shape = self.share.shape;
        let (width, channels) = (&shape.width, shape.in_channels);
        let (patch, run) = (channels * shape.window(), width.kernel * channels);
        // The windows over a vector, whose first and last pixel these are, and where they begin.
        let mut over = 0..0;
        let mut ends = [(width.pad_before, 0); 2];
        let len = width.input * channels;
        for at in (0..len).step_by(S::LANES) {
            let count = S::LANES.min(len - at);
            for ((pixel, begin), element) in ends.iter_mut().zip([at, at + count - 1]) {
                while element >= *begin + channels {
                    (*pixel, *begin) = (*pixel + 1, *begin + channels);
                }
            }
            let [(first, _), (last, _)] = ends;
            slide(width, &mut over, [first, last]);
            let mut beta = self.share.beta;
            // In parts that are the same whatever the vector.
            for part in (over.start / WINDOWS..over.end.div_ceil(WINDOWS)).rev() {
                let some = over.start.max(part * WINDOWS)..over.end.min((part + 1) * WINDOWS);
                let mut masks = [simd.mask_between(0, 0); WINDOWS];
                let mut first = 0;
                for (mask, window) in masks.iter_mut().zip(some.clone().rev()) {
                    // The element's place in the run.
                    let begin = (window * width.stride).wrapping_sub(width.pad_before);
                    let place = at.wrapping_sub(begin.wrapping_mul(channels)) as isize;
                    let end = (run as isize - place).clamp(0, S::LANES as isize) as usize;
                    *mask = simd.mask_between(place.min(0).unsigned_abs(), end);
                    if window == some.end - 1 {
                        first = (window * patch).wrapping_add_signed(place);
                    }
                }
                // SAFETY: elements of x, which is this task's, and the cells that lie on them.
                unsafe {
                    let mut sum = self.begin(simd, beta, x.add(at), count);
                    for line in lines.clone() {
                        let mut source = line.wrapping_add(first);
                        for mask in &masks[..some.len()] {
                            sum = simd.add(sum, simd.load_where(*mask, source));
                            source = source.wrapping_add(apart);
                        }
                    }
                    runs::store(simd, count, x.add(at), sum);
                }
                beta = T::from_f64(1.0);
            }
            if over.is_empty() {
                // SAFETY: as above.
                unsafe {
                    let value = self.begin(simd, beta, x.add(at), count);
                    runs::store(simd, count, x.add(at), value);
                }
            }
        }
    }

    /// Writes a row of x from the cells of single taps: from `lines`, `apart`, as for `runs`.
    #[inline(always)]
    fn pixels<S: Lanes<T>>(
        &self,
        simd: S,
        x: *mut T,
        lines: impl Iterator<Item = *const T> + Clone,
        apart: usize,
    ) {
        let shape = self.share.shape;
        let (width, channels) = (&shape.width, shape.in_channels);
        let patch = channels * shape.window();
        let mut over = 0..0;
        for column in 0..width.input {
            let padded = column + width.pad_before;
            slide(width, &mut over, [padded; 2]);
            // Those with a tap on the pixel.
            let mut windows = width.windows_among(column, over.clone()).rev();
            let (first, taps) = match windows.next() {
                Some((window, tap)) => (window * patch + tap * channels, 1 + windows.count()),
                None => (0, 0),
            };
            for at in (0..channels).step_by(S::LANES) {
                let count = S::LANES.min(channels - at);
                // SAFETY: elements of x, which is this task's, and the cells that lie on them.
                unsafe {
                    let x = x.add(column * channels + at);
                    let mut sum = self.begin(simd, self.share.beta, x, count);
                    for line in lines.clone() {
                        let mut source = line.wrapping_add(first + at);
                        for _ in 0..taps {
                            sum = simd.add(sum, runs::load(simd, count, source));
                            source = source.wrapping_add(apart);
                        }
                    }
                    runs::store(simd, count, x, sum);
                }
            }
        }
    }

    /// What elements count before cells are added.
    ///
    /// # Safety
    /// They can be read.
    #[inline(always)]
    unsafe fn begin<S: Lanes<T>>(&self, simd: S, beta: T, x: *const T, count: usize) -> S::Vector {
        if beta == T::default() {
            return simd.splat(T::default());
        }
        // SAFETY: the caller answers for the elements.
        simd.mul(simd.splat(beta), unsafe { runs::load(simd, count, x) })
    }
}

/// Moves on from windows over some columns to those over later ones, whose first and last, in the padded row, these are.
#[inline(always)]
fn slide(width: &Axis, over: &mut Range<usize>, [first, last]: [usize; 2]) {
    while over.end < width.output && over.end * width.stride <= last {
        over.end += 1;
    }
    while over.start < over.end && over.start * width.stride + width.window() <= first {
        over.start += 1;
    }
}
