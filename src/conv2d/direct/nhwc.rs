//! NHWC with one output per channel: channels in the lanes, pixels read in place.
//!
//! Some neighbouring outputs share each pixel that they read. What lies in the padding is read from a
//! row of zeros, so that edges are like the rest.

use super::{Gather, PHASES, TASK_WORK};
use crate::context::Context;
use crate::error::Result;
use crate::runs;
use crate::simd::{Element, Kernel, Lanes};

/// Neighbouring outputs that are computed together.
const OUTPUTS: usize = 4;
/// The most column taps of a pass whose outputs share pixels, and the most pixels that they read.
const SHARED_TAPS: usize = 5;
const MOST_PIXELS: usize = 2 * (OUTPUTS - 1) + SHARED_TAPS;

/// Runs gathering passes from the same source to different places of the same rows.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let Gather { batch, groups: channels, .. } = passes[0];
    let taps = |pass: &Gather<T>| pass.rows.count * pass.columns.count;
    let most_taps = passes.iter().map(taps).max().unwrap_or(0);
    let scratch = context.scratch::<T>((passes.len() * most_taps + 1) * channels, 0)?;
    let mut filters = [scratch.shared().cast_const(); PHASES];
    // SAFETY: the scratch memory has a weight per pass, tap and channel, and zeros before them.
    unsafe {
        scratch.shared().write_bytes(0, channels);
        for (number, pass) in passes.iter().enumerate() {
            let target = scratch.shared().add((number * most_taps + 1) * channels);
            gather_filters(pass, target);
            filters[number] = target;
        }
    }
    let height = passes.iter().map(|pass| pass.grid_height).max().unwrap_or(0);
    let rows = batch * height;
    let row_work = passes.iter().map(Gather::row_work).sum::<usize>();
    let per_task = (TASK_WORK / (row_work * channels)).max(1);
    let filters = Filters { packed: filters, zeros: scratch.shared() };
    context.run(rows.div_ceil(per_task), &|_, index| {
        let first = index * per_task;
        let kernel = GatherRows {
            passes,
            filters: &filters,
            height,
            first,
            end: rows.min(first + per_task),
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

/// Of each pass `[row tap, column tap, channel]`, and a zero per channel.
struct Filters<T> {
    packed: [*const T; PHASES],
    zeros: *const T,
}

// SAFETY: tasks only read them.
unsafe impl<T: Sync> Sync for Filters<T> {}

/// Some of the grid rows of all images.
struct GatherRows<'a, T> {
    passes: &'a [Gather<T>],
    filters: &'a Filters<T>,
    /// Rows of the highest grid.
    height: usize,
    first: usize,
    end: usize,
}

impl<T: Element> Kernel<T> for GatherRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for index in self.first..self.end {
            let (image, row) = (index / self.height, index % self.height);
            for (pass, &filters) in self.passes.iter().zip(&self.filters.packed) {
                if row >= pass.grid_height {
                    continue;
                }
                let row = Row { pass, filters, zeros: self.filters.zeros, image, row };
                // SAFETY: the grid has the row.
                unsafe {
                    // Taps that are neighbours share pixels.
                    let shared =
                        pass.columns.offset_step.abs() == 1 && pass.rows.count <= SHARED_TAPS;
                    match (pass.columns.count, pass.columns.step) {
                        (1, 1) if shared => row.run::<S, 1, 1>(simd),
                        (2, 1) if shared => row.run::<S, 2, 1>(simd),
                        (3, 1) if shared => row.run::<S, 3, 1>(simd),
                        (3, 2) if shared => row.run::<S, 3, 2>(simd),
                        (5, 1) if shared => row.run::<S, 5, 1>(simd),
                        _ => row.run::<S, 0, 0>(simd),
                    }
                }
            }
        }
    }
}

/// One row of the grid of one image.
struct Row<'a, T> {
    pass: &'a Gather<T>,
    filters: *const T,
    zeros: *const T,
    image: usize,
    row: usize,
}

impl<T: Element> Row<'_, T> {
    /// All pixels, with `K` column taps, `STEP` from output to output; with `K` = 0 any of both.
    ///
    /// # Safety
    /// The grid has the row.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>, const K: usize, const STEP: usize>(&self, simd: S) {
        let width = self.pass.grid_width;
        let mut column = 0;
        // SAFETY: the grid has these pixels.
        unsafe {
            while column + OUTPUTS <= width {
                self.pixels::<S, OUTPUTS, K, STEP>(simd, column);
                column += OUTPUTS;
            }
            while column < width {
                self.pixels::<S, 1, K, STEP>(simd, column);
                column += 1;
            }
        }
    }

    /// All channels of `N` neighbouring pixels.
    ///
    /// # Safety
    /// The grid has them.
    #[inline(always)]
    unsafe fn pixels<S: Lanes<T>, const N: usize, const K: usize, const STEP: usize>(
        &self,
        simd: S,
        column: usize,
    ) {
        let channels = self.pass.groups;
        // Where taps go back, so do the outputs: each sums its taps in their order.
        let back = self.pass.columns.offset_step < 0;
        let outputs: [usize; N] =
            std::array::from_fn(|n| column + if back { N - 1 - n } else { n });
        let sources = if K == 0 { Sources::none() } else { self.sources::<N, K, STEP>(outputs[0]) };
        let mut channel = 0;
        while channel < channels {
            let count = S::LANES.min(channels - channel);
            // SAFETY: the caller answers for the pixels; these channels are theirs.
            unsafe {
                let sums = match K > 0 && count == S::LANES {
                    true => self.sums::<S, N, K, STEP>(simd, &sources, channel),
                    false => self.any_sums::<S, N>(simd, &outputs, channel, count),
                };
                for (&output, sum) in outputs.iter().zip(sums) {
                    self.finish(simd, output, channel, count, sum);
                }
            }
            channel += S::LANES;
        }
    }

    /// What the taps of some outputs read, from that of the first output's first tap on.
    #[inline(always)]
    fn sources<const N: usize, const K: usize, const STEP: usize>(
        &self,
        first: usize,
    ) -> Sources<T> {
        let Gather { rows, columns, .. } = &self.pass;
        let mut sources = Sources::none();
        for (row_tap, [pixels, outputs]) in sources.pixels.iter_mut().enumerate().take(rows.count) {
            let y = rows.source(self.row, row_tap);
            for j in 0..(N - 1) * STEP + K {
                let x = columns.source(first, 0) + j as isize * columns.offset_step;
                [pixels[j], outputs[j]] = self.pixel(y, x);
            }
        }
        sources
    }

    /// The first channel of a pixel and of what masks it: zeros in the padding.
    #[inline(always)]
    fn pixel(&self, y: isize, x: isize) -> [*const T; 2] {
        let pass = self.pass;
        if pass.rows.outside(y) || pass.columns.outside(x) {
            return [self.zeros; 2];
        }
        let [of_image, _, of_row, of_column] = pass.source_strides;
        let offset = self.image * of_image + y as usize * of_row + x as usize * of_column;
        [pass.source.wrapping_add(offset), pass.relu_output.wrapping_add(offset)]
    }

    /// A vector of a pixel's channels, masked.
    ///
    /// # Safety
    /// The pixel has the channels.
    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        &self,
        simd: S,
        [pixel, relu_output]: [*const T; 2],
        channel: usize,
        count: usize,
    ) -> S::Vector {
        // SAFETY: the caller answers for the channels.
        unsafe {
            let value = runs::load(simd, count, pixel.add(channel));
            if self.pass.relu_output.is_null() {
                return value;
            }
            simd.relu_gradient(runs::load(simd, count, relu_output.add(channel)), value)
        }
    }

    /// The sums of a vector of channels of `N` outputs.
    ///
    /// # Safety
    /// The sources and the filters have the channels.
    #[inline(always)]
    unsafe fn sums<S: Lanes<T>, const N: usize, const K: usize, const STEP: usize>(
        &self,
        simd: S,
        sources: &Sources<T>,
        channel: usize,
    ) -> [S::Vector; N] {
        let channels = self.pass.groups;
        let mut sums = [simd.splat(T::default()); N];
        for (row_tap, [pixels, outputs]) in
            sources.pixels.iter().enumerate().take(self.pass.rows.count)
        {
            // SAFETY: the caller answers for the channels.
            unsafe {
                let filters = self.filters.add(row_tap * K * channels + channel);
                let mut weights = [simd.splat(T::default()); K];
                for (k, weight) in weights.iter_mut().enumerate() {
                    *weight = simd.load(filters.add(k * channels));
                }
                for j in 0..(N - 1) * STEP + K {
                    let value = self.load(simd, [pixels[j], outputs[j]], channel, S::LANES);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        if let Some(&weight) = j.checked_sub(n * STEP).and_then(|k| weights.get(k))
                        {
                            *sum = simd.mul_add(value, weight, *sum);
                        }
                    }
                }
            }
        }
        sums
    }

    /// The same for `count` channels and any taps.
    ///
    /// # Safety
    /// The outputs' sources and the filters have the channels.
    #[inline(always)]
    unsafe fn any_sums<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        outputs: &[usize; N],
        channel: usize,
        count: usize,
    ) -> [S::Vector; N] {
        let Gather { rows, columns, groups: channels, .. } = self.pass;
        let mut sums = [simd.splat(T::default()); N];
        for row_tap in 0..rows.count {
            let y = rows.source(self.row, row_tap);
            for column_tap in 0..columns.count {
                let tap = row_tap * columns.count + column_tap;
                // SAFETY: the caller answers for the channels.
                unsafe {
                    let weight =
                        runs::load(simd, count, self.filters.add(tap * channels + channel));
                    for (sum, &output) in sums.iter_mut().zip(outputs) {
                        let pixel = self.pixel(y, columns.source(output, column_tap));
                        let value = self.load(simd, pixel, channel, count);
                        *sum = simd.mul_add(value, weight, *sum);
                    }
                }
            }
        }
        sums
    }

    /// Writes `count` channels of an output.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them.
    #[inline(always)]
    unsafe fn finish<S: Lanes<T>>(
        &self,
        simd: S,
        output: usize,
        channel: usize,
        count: usize,
        sum: S::Vector,
    ) {
        let pass = self.pass;
        let [of_image, _, of_row, of_column] = pass.target_strides;
        let offset = self.image * of_image + self.row * of_row + output * of_column + channel;
        // SAFETY: the caller answers for the target; the biases have the channels.
        unsafe {
            let target = pass.target.add(offset);
            let old = match pass.adds() {
                true => runs::load(simd, count, target),
                false => sum,
            };
            let bias = match pass.bias.is_null() {
                true => sum,
                false => runs::load(simd, count, pass.bias.add(channel)),
            };
            runs::store(simd, count, target, pass.result(simd, sum, old, bias));
        }
    }
}

/// Of each row tap, the pixels that some outputs read, and what masks them.
struct Sources<T> {
    pixels: [[[*const T; MOST_PIXELS]; 2]; SHARED_TAPS],
}

impl<T> Sources<T> {
    #[inline(always)]
    fn none() -> Self {
        Sources { pixels: [[[std::ptr::null(); MOST_PIXELS]; 2]; SHARED_TAPS] }
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
