//! NHWC with one output per channel: channels in the lanes, pixels read in place.

use super::{Gather, TASK_WORK};
use crate::context::Context;
use crate::error::Result;
use crate::simd::{Element, Kernel, Lanes};

/// Runs a gathering pass.
pub(super) fn gather<T: Element>(context: &Context, pass: &Gather<T>) -> Result<()> {
    let taps = pass.rows.count * pass.columns.count;
    let scratch = context.scratch::<T>(taps * pass.groups, 0)?;
    // SAFETY: the scratch memory has a weight per tap and channel.
    unsafe { gather_filters(pass, scratch.shared()) };
    let rows = pass.batch * pass.grid_height;
    let per_task = (TASK_WORK / (pass.row_work() * pass.groups)).max(1);
    context.run(rows.div_ceil(per_task), &|_, index| {
        let kernel = GatherRows {
            pass,
            filters: scratch.shared(),
            first: index * per_task,
            end: rows.min((index + 1) * per_task),
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Copies the filters to `[row tap, column tap, channel]`.
///
/// # Safety
/// `target` has an element per tap and channel.
unsafe fn gather_filters<T: Element>(pass: &Gather<T>, target: *mut T) {
    let strides = pass.filter_strides;
    for row_tap in 0..pass.rows.count {
        for column_tap in 0..pass.columns.count {
            for channel in 0..pass.groups {
                let tap = row_tap * pass.columns.count + column_tap;
                // SAFETY: the filters have the taps of every channel; the caller answers for the
                // target.
                unsafe {
                    let place = channel * strides.group
                        + row_tap * strides.row_tap
                        + column_tap * strides.column_tap;
                    *target.add(tap * pass.groups + channel) = *pass.filters.add(place);
                }
            }
        }
    }
}

/// Some of the grid rows of all images.
struct GatherRows<'a, T> {
    pass: &'a Gather<T>,
    /// `[row tap, column tap, channel]`
    filters: *const T,
    first: usize,
    end: usize,
}

/// Pixels that share a tap's weights.
const PIXELS: usize = 4;

impl<T: Element> Kernel<T> for GatherRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for index in self.first..self.end {
            let image = index / self.pass.grid_height;
            let row = index % self.pass.grid_height;
            let mut column = 0;
            while column + PIXELS <= self.pass.grid_width {
                // SAFETY: the grid has these pixels.
                unsafe { self.pixels::<S, PIXELS>(simd, image, row, column) };
                column += PIXELS;
            }
            while column < self.pass.grid_width {
                // SAFETY: the grid has this pixel.
                unsafe { self.pixels::<S, 1>(simd, image, row, column) };
                column += 1;
            }
        }
    }
}

impl<T: Element> GatherRows<'_, T> {
    /// All channels of `N` neighbouring pixels.
    ///
    /// # Safety
    /// The grid has them.
    #[inline(always)]
    unsafe fn pixels<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        image: usize,
        row: usize,
        column: usize,
    ) {
        let channels = self.pass.groups;
        let mut channel = 0;
        // SAFETY: the caller answers for the pixels; `channel` and `count` stay within them.
        unsafe {
            while channel + S::LANES <= channels {
                self.vector::<S, N, true>(simd, [image, row, column], channel, S::LANES);
                channel += S::LANES;
            }
            if channel < channels {
                let count = channels - channel;
                self.vector::<S, N, false>(simd, [image, row, column], channel, count);
            }
        }
    }

    /// `count` channels of `N` neighbouring pixels; `WHOLE` where they fill a vector.
    ///
    /// # Safety
    /// The tensors have them.
    #[inline(always)]
    unsafe fn vector<S: Lanes<T>, const N: usize, const WHOLE: bool>(
        &self,
        simd: S,
        [image, row, column]: [usize; 3],
        channel: usize,
        count: usize,
    ) {
        let pass = self.pass;
        let [source_image, _, source_row, source_column] = pass.source_strides;
        let [target_image, _, target_row, target_column] = pass.target_strides;
        let zero = simd.splat(T::default());
        let mut sums = [zero; N];
        // SAFETY: the caller answers for the channels and pixels; taps in the padding are not read.
        unsafe {
            for row_tap in 0..pass.rows.count {
                let y = pass.rows.source(row, row_tap);
                for column_tap in 0..pass.columns.count {
                    let tap = row_tap * pass.columns.count + column_tap;
                    let weights = self.filters.add(tap * pass.groups + channel);
                    let weights = load::<T, S, WHOLE>(simd, count, weights);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let x = pass.columns.source(column + n, column_tap);
                        let mut value = zero;
                        if !pass.rows.outside(y) && !pass.columns.outside(x) {
                            let offset = image * source_image
                                + y as usize * source_row
                                + x as usize * source_column
                                + channel;
                            value = load::<T, S, WHOLE>(simd, count, pass.source.add(offset));
                            if !pass.relu_output.is_null() {
                                let output = pass.relu_output.add(offset);
                                let output = load::<T, S, WHOLE>(simd, count, output);
                                value = simd.relu_gradient(output, value);
                            }
                        }
                        *sum = simd.mul_add(value, weights, *sum);
                    }
                }
            }
            for (n, sum) in sums.into_iter().enumerate() {
                let offset = image * target_image
                    + row * target_row
                    + (column + n) * target_column
                    + channel;
                let target = pass.target.add(offset);
                let old = match pass.adds() {
                    true => load::<T, S, WHOLE>(simd, count, target),
                    false => sum,
                };
                let bias = match pass.bias.is_null() {
                    true => zero,
                    false => load::<T, S, WHOLE>(simd, count, pass.bias.add(channel)),
                };
                let value = pass.result(simd, sum, old, bias);
                if WHOLE {
                    simd.store(target, value);
                } else {
                    simd.store_first(count, target, value);
                }
            }
        }
    }
}

/// The first `count` lanes; all of them where `WHOLE`.
///
/// # Safety
/// They may be read.
#[inline(always)]
pub(super) unsafe fn load<T: Element, S: Lanes<T>, const WHOLE: bool>(
    simd: S,
    count: usize,
    source: *const T,
) -> S::Vector {
    // SAFETY: the caller answers for the lanes.
    unsafe { if WHOLE { simd.load(source) } else { simd.load_first(count, source) } }
}
