//! dx of a depthwise convolution at stride 2, NCHW: all four phases of a channel at once, so that dy is
//! read in place and dx is written in whole vectors.
//!
//! Element (2i + p, 2j + q) of dx, p and q being 0 or 1, is the sum of
//! dy[i + i0 - l, j + j0 - m] * w[2l + p - odd, 2m + q - odd], where i0 and j0 are half the padding,
//! rounded up, and `odd` is 1 where the padding is odd.

use std::ops::Range;

use crate::context::Context;
use crate::conv2d::backward_data::BackwardData;
use crate::runs;
use crate::shape::{Axis, ConvShape, Layout};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Kernel, Lanes};
use crate::tasks::{Tasks, by_plane};

/// The most taps of one axis that a phase has: of five.
const MOST_TAPS: usize = 3;

/// Whether a depthwise convolution is one of these.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    let stride_2 = |axis: &Axis| axis.stride == 2 && axis.dilation == 1;
    let same_parity = height.pad_before % 2 == width.pad_before % 2;
    let kernel = (height.kernel, width.kernel);
    let one_to_one = shape.group_out == 1 && shape.layout == Layout::Nchw;
    let unrolled = kernel == (3, 3) || kernel == (5, 5);
    one_to_one && unrolled && same_parity && stride_2(height) && stride_2(width)
}

/// Runs the pass.
pub(super) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
) {
    let pairs = shape.height.input.div_ceil(2);
    // Elements that a pair of rows reads and writes, times the cost of the products.
    let work = 4 * shape.width.input;
    let tasks = Tasks::new(shape.batch * shape.out_channels * pairs, 1, work, 1);
    let dx = SharedMut::new(dx);
    context.run(tasks.count(), &|_, index| {
        let (pairs_of_all, _) = tasks.part(index);
        let kernel = Pairs { shape, pass, dx: dx.at(0), pairs, pairs_of_all };
        T::dispatch(context.level(), kernel);
    });
}

/// Some pairs of rows of all planes.
struct Pairs<'a, T> {
    shape: &'a ConvShape,
    pass: &'a BackwardData<'a, T>,
    dx: *mut T,
    /// Of a plane.
    pairs: usize,
    pairs_of_all: Range<usize>,
}

impl<T: Element> Kernel<T> for Pairs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let kernel = self.shape.height.kernel;
        let odd = self.shape.height.pad_before % 2;
        // SAFETY: the tensors have the planes; the rows are this task's.
        unsafe {
            match (kernel, odd, self.pass.relu_output.is_some()) {
                (3, 0, false) => self.planes::<S, 3, 0, false>(simd),
                (3, 0, true) => self.planes::<S, 3, 0, true>(simd),
                (3, _, false) => self.planes::<S, 3, 1, false>(simd),
                (3, _, true) => self.planes::<S, 3, 1, true>(simd),
                (_, 0, false) => self.planes::<S, 5, 0, false>(simd),
                (_, 0, true) => self.planes::<S, 5, 0, true>(simd),
                (_, _, false) => self.planes::<S, 5, 1, false>(simd),
                (_, _, true) => self.planes::<S, 5, 1, true>(simd),
            }
        }
    }
}

/// `LANES` pairs of columns of dx.
#[derive(Clone, Copy)]
struct Strip<M> {
    /// The first pair.
    pair: usize,
    /// Columns that dx has of them.
    columns: usize,
    /// Of each column tap: the column of dy, whether pixels are left out, and which are read.
    starts: [isize; MOST_TAPS],
    partial: [bool; MOST_TAPS],
    masks: [M; MOST_TAPS],
}

impl<T: Element> Pairs<'_, T> {
    /// # Safety
    /// The tensors have the planes; nobody else uses the rows of dx.
    #[inline(always)]
    unsafe fn planes<S: Lanes<T>, const K: usize, const ODD: usize, const MASKED: bool>(
        &self,
        simd: S,
    ) {
        let (shape, channels) = (self.shape, self.shape.out_channels);
        let [dy_image, dy_channel, ..] = shape.output_strides;
        let [dx_image, dx_channel, ..] = shape.input_strides;
        let [w_channel, _, w_row, w_column] = shape.filter_strides();
        for (plane, rows) in by_plane(self.pairs_of_all.clone(), self.pairs) {
            let (image, channel) = (plane / channels, plane % channels);
            let mut weights = [[simd.splat(T::default()); K]; K];
            for (r, weights) in weights.iter_mut().enumerate() {
                for (c, weight) in weights.iter_mut().enumerate() {
                    *weight =
                        simd.splat(self.pass.w[channel * w_channel + r * w_row + c * w_column]);
                }
            }
            let offset = image * dy_image + channel * dy_channel;
            // SAFETY: dx has the plane.
            let dx = unsafe { self.dx.add(image * dx_image + channel * dx_channel) };
            for pair in (0..shape.width.input.div_ceil(2)).step_by(S::LANES) {
                let strip = self.strip::<S, K>(simd, pair);
                let rows = rows.clone();
                // SAFETY: the caller answers for the plane.
                unsafe {
                    if strip.partial == [false; MOST_TAPS] {
                        self.rows::<S, K, ODD, MASKED, false>(
                            simd, rows, &strip, &weights, offset, dx,
                        );
                    } else {
                        self.rows::<S, K, ODD, MASKED, true>(
                            simd, rows, &strip, &weights, offset, dx,
                        );
                    }
                }
            }
        }
    }

    /// The pairs of columns from `pair` on.
    #[inline(always)]
    fn strip<S: Lanes<T>, const K: usize>(&self, simd: S, pair: usize) -> Strip<S::Mask> {
        let width = &self.shape.width;
        let lanes = S::LANES as isize;
        let mut strip = Strip {
            pair,
            columns: (2 * S::LANES).min(width.input - 2 * pair),
            starts: [0; MOST_TAPS],
            partial: [false; MOST_TAPS],
            masks: [simd.mask_between(0, S::LANES); MOST_TAPS],
        };
        for tap in 0..K / 2 + 1 {
            let start = (pair + width.pad_before.div_ceil(2)) as isize - tap as isize;
            let begin = (-start).clamp(0, lanes);
            let end = (width.output as isize - start).clamp(begin, lanes);
            strip.starts[tap] = start;
            strip.partial[tap] = begin > 0 || end < lanes;
            strip.masks[tap] = simd.mask_between(begin as usize, end as usize);
        }
        strip
    }

    /// Pairs of rows of a plane of dx, whose dy is at `offset`; `EDGE` where the strip is partial.
    ///
    /// # Safety
    /// The tensors have the rows; nobody else uses those of dx.
    #[inline(always)]
    unsafe fn rows<
        S: Lanes<T>,
        const K: usize,
        const ODD: usize,
        const MASKED: bool,
        const EDGE: bool,
    >(
        &self,
        simd: S,
        pairs: Range<usize>,
        strip: &Strip<S::Mask>,
        weights: &[[S::Vector; K]; K],
        offset: usize,
        dx: *mut T,
    ) {
        let (height, width) = (&self.shape.height, &self.shape.width);
        let dy = self.pass.dy.as_ptr();
        let relu_output = self.pass.relu_output.map_or(dy, <[T]>::as_ptr);
        let taps = K / 2 + 1;
        for pair in pairs {
            let mut sums = [[simd.splat(T::default()); 2]; 2];
            for l in 0..taps {
                let row = (pair + height.pad_before.div_ceil(2)) as isize - l as isize;
                if row < 0 || row >= height.output as isize {
                    continue;
                }
                for m in 0..taps {
                    let place = row * width.output as isize + strip.starts[m];
                    let place = (offset as isize + place) as usize;
                    // SAFETY: dy and the ReLU's output have what the mask leaves, or all of it.
                    let load = |from: *const T| unsafe {
                        match EDGE && strip.partial[m] {
                            true => simd.load_where(strip.masks[m], from.wrapping_add(place)),
                            false => simd.load(from.wrapping_add(place)),
                        }
                    };
                    let mut gradient = load(dy);
                    if MASKED {
                        gradient = simd.relu_gradient(load(relu_output), gradient);
                    }
                    for (p, sums) in sums.iter_mut().enumerate() {
                        for (q, sum) in sums.iter_mut().enumerate() {
                            let (r, c) = (2 * l + p, 2 * m + q);
                            if r >= ODD && r - ODD < K && c >= ODD && c - ODD < K {
                                *sum = simd.mul_add(gradient, weights[r - ODD][c - ODD], *sum);
                            }
                        }
                    }
                }
            }
            for (p, &[even, odd]) in sums.iter().enumerate() {
                if 2 * pair + p < height.input {
                    let place = (2 * pair + p) * width.input + 2 * strip.pair;
                    // SAFETY: the caller answers for the row.
                    unsafe {
                        self.write(simd, simd.interleave(even, odd), strip.columns, dx.add(place));
                    }
                }
            }
        }
    }

    /// Writes the first `columns` of two vectors of sums.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>>(
        &self,
        simd: S,
        sums: [S::Vector; 2],
        columns: usize,
        target: *mut T,
    ) {
        for (number, &sum) in sums.iter().enumerate() {
            let count = columns.saturating_sub(number * S::LANES).min(S::LANES);
            let mut value = simd.mul(simd.splat(self.pass.alpha), sum);
            // SAFETY: the caller answers for the target.
            unsafe {
                let target = target.add(number * S::LANES);
                if self.pass.beta != T::default() {
                    let old = runs::load(simd, count, target);
                    value = simd.mul_add(simd.splat(self.pass.beta), old, value);
                }
                runs::store(simd, count, target, value);
            }
        }
    }
}
