//! Depthwise, NHWC with one output per channel: channels in the lanes, from a ring of copied rows.

use super::nhwc_band::{NhwcBand, Source};
use super::{PHASES, TASK_WORK};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::scratch::ScratchLen;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TILE_LANES};

/// Outputs that are computed together: sums enough to hide the latency of additions, and widths of
/// images are often a multiple.
const OUTPUTS: usize = 7;

/// How some passes are cut, by the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    band: NhwcBand,
    /// Blocks of channels.
    blocks: usize,
    /// Rows of the highest grid.
    height: usize,
    /// Rows of a part of the grid, and parts.
    part_rows: usize,
    parts: usize,
    /// Parts of a task, but for the last.
    per_task: usize,
    /// From tap to tap of the packed filters, and from pass to pass.
    filter_stride: usize,
    pass_stride: usize,
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>]) -> Self {
        let Gather { batch, groups: channels, .. } = passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let (height, width) = (most(|pass| pass.grid_height), most(|pass| pass.grid_width));
        let taps = passes.iter().map(|pass| (pass.rows, pass.columns));
        let band = NhwcBand::new::<T>(taps, width, channels);
        let blocks = channels.div_ceil(band.channels);
        // Each part copies the rows that it shares with the one before.
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * band.channels;
        let wanted = TASKS.div_ceil(batch * blocks).min((work * height).div_ceil(TASK_WORK));
        let part_rows = height.div_ceil(wanted);
        let filter_stride = channels.next_multiple_of(TILE_LANES);
        Plan {
            band,
            blocks,
            height,
            part_rows,
            parts: height.div_ceil(part_rows),
            per_task: (TASK_WORK / (work * part_rows)).max(1),
            filter_stride,
            pass_stride: most(|pass| pass.rows.count * pass.columns.count) * filter_stride,
        }
    }

    fn scratch_len(&self, passes: usize) -> ScratchLen {
        ScratchLen { shared: passes * self.pass_stride, per_slot: self.band.len() }
    }
}

pub(super) fn scratch_len<T: Element>(passes: &[Gather<T>]) -> ScratchLen {
    Plan::new(passes).scratch_len(passes.len())
}

/// Runs gathering passes from the same source to different places of the same rows.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let plan = Plan::new(passes);
    let scratch = context.scratch::<T>(plan.scratch_len(passes.len()))?;
    for (number, pass) in passes.iter().enumerate() {
        // SAFETY: the scratch memory has the filters of every pass.
        unsafe { pack(pass, &plan, scratch.shared().add(number * plan.pass_stride)) };
    }
    let count = passes[0].batch * plan.blocks * plan.parts;
    context.run(count.div_ceil(plan.per_task), &|slot, index| {
        let first = index * plan.per_task;
        let kernel = GatherParts {
            passes,
            plan,
            filters: scratch.shared(),
            ring: scratch.slot(slot),
            first,
            end: count.min(first + plan.per_task),
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Copies the filters to `[taps, channels]`, with zeros behind the channels.
///
/// # Safety
/// `target` has `filter_stride` elements per tap.
unsafe fn pack<T: Element>(pass: &Gather<T>, plan: &Plan, target: *mut T) {
    let strides = pass.filter_strides;
    for row_tap in 0..pass.rows.count {
        for column_tap in 0..pass.columns.count {
            let tap = row_tap * pass.columns.count + column_tap;
            let weights = row_tap * strides.row_tap + column_tap * strides.column_tap;
            // SAFETY: the filters have the taps of every channel; the caller answers for the target.
            unsafe {
                let target = target.add(tap * plan.filter_stride);
                for channel in 0..pass.groups {
                    *target.add(channel) = *pass.filters.add(channel * strides.group + weights);
                }
                let rest = plan.filter_stride - pass.groups;
                target.add(pass.groups).write_bytes(0, rest);
            }
        }
    }
}

/// Some of the parts of all images and blocks of channels.
struct GatherParts<'a, T> {
    passes: &'a [Gather<T>],
    plan: Plan,
    /// Of all passes, packed.
    filters: *const T,
    ring: *mut T,
    first: usize,
    end: usize,
}

impl<T: Element> Kernel<T> for GatherParts<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Plan { band, blocks, height, part_rows, parts, .. } = self.plan;
        let pass = &self.passes[0];
        let [of_image, _, of_row, of_column] = pass.source_strides;
        let mut starts = [[0; DEPTH_BLOCK]; PHASES];
        for number in self.first..self.end {
            let (rest, part) = (number / parts, number % parts);
            let (image, block) = (rest / blocks, rest % blocks);
            let channel = block * band.channels;
            let offset = image * of_image + channel;
            let [start, relu_output] = pass.source_at(offset);
            let source = Source {
                start,
                relu_output,
                strides: [of_row, of_column],
                count: band.channels.min(pass.groups - channel),
            };
            let first_row = part * part_rows;
            for row in first_row..height.min(first_row + part_rows) {
                // SAFETY: the source has the image and the channels.
                unsafe { band.fill(simd, &source, row, row == first_row, self.ring) };
                for (number, (pass, starts)) in self.passes.iter().zip(&mut starts).enumerate() {
                    if row >= pass.grid_height {
                        continue;
                    }
                    band.list_taps((&pass.rows, row), &pass.columns, starts);
                    let [of_image, _, of_row, _] = pass.target_strides;
                    let target = image * of_image + row * of_row + channel;
                    let filters = number * self.plan.pass_stride + channel;
                    let row = Row {
                        pass,
                        plan: &self.plan,
                        source: (number == 0).then_some((&source, row)),
                        starts: &starts[..pass.rows.count * pass.columns.count],
                        channel,
                        count: source.count,
                        filters: self.filters.wrapping_add(filters),
                        ring: self.ring,
                        target: pass.target.wrapping_add(target),
                    };
                    // SAFETY: the ring has what the row reads, and the target is this task's.
                    unsafe { row.run(simd) };
                }
            }
        }
    }
}

/// A block of channels of one row of the grid of one image.
struct Row<'a, T> {
    pass: &'a Gather<T>,
    plan: &'a Plan,
    /// And the row, for the pass that asks for the next one.
    source: Option<(&'a Source<T>, usize)>,
    /// Of each tap for the first output, in the ring.
    starts: &'a [u32],
    channel: usize,
    count: usize,
    /// From the block's first channel on.
    filters: *const T,
    ring: *const T,
    target: *mut T,
}

impl<T: Element> Row<'_, T> {
    /// Computes the row.
    ///
    /// # Safety
    /// The ring has what the row reads; the target has the row, and nobody else uses it.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>>(&self, simd: S) {
        let width = self.pass.grid_width;
        let mut column = 0;
        // SAFETY: the caller answers for the row.
        unsafe {
            while column + OUTPUTS <= width {
                self.outputs::<S, OUTPUTS>(simd, column);
                column += OUTPUTS;
            }
            while column < width {
                self.outputs::<S, 1>(simd, column);
                column += 1;
            }
        }
    }

    /// `N` neighbouring outputs.
    ///
    /// # Safety
    /// As for `run`, and the row has them.
    #[inline(always)]
    unsafe fn outputs<S: Lanes<T>, const N: usize>(&self, simd: S, column: usize) {
        let band = &self.plan.band;
        let step = band.step();
        if let Some((source, row)) = self.source {
            band.prefetch(simd, source, row, (column, N));
        }
        // And for what is written later: two tiles ahead, be it in the next row.
        let ahead = self.target.wrapping_add((column + 2 * N) * self.pass.target_strides[3]);
        for n in 0..N {
            for channel in (0..self.count).step_by(CACHE_LINE / size_of::<T>()) {
                simd.prefetch(ahead.wrapping_add(n * self.pass.target_strides[3] + channel));
            }
        }
        for channel in (0..self.count).step_by(S::LANES) {
            // SAFETY: the caller answers for the outputs; the ring and the filters have whole vectors.
            unsafe {
                let pixels = self.ring.add(column * step + channel);
                let filters = self.filters.add(channel);
                let sums = self.sums::<S, N>(simd, pixels, filters);
                let count = S::LANES.min(self.count - channel);
                let bias = match self.pass.bias.is_null() {
                    true => self.pass.bias,
                    false => self.pass.bias.add(self.channel + channel),
                };
                let stride = self.pass.target_strides[3];
                let target = self.target.add(column * stride + channel);
                self.pass.write_vectors(simd, sums, bias, count, (target, stride));
            }
        }
    }

    /// The sums of a vector of channels.
    ///
    /// # Safety
    /// The ring and the filters have the vector.
    #[inline(always)]
    unsafe fn sums<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        pixels: *const T,
        mut filters: *const T,
    ) -> [S::Vector; N] {
        let step = self.plan.band.step();
        let mut sums = [simd.splat(T::default()); N];
        for &start in self.starts {
            // SAFETY: the caller answers for the vectors.
            unsafe {
                let weight = simd.load(filters);
                let pixels = pixels.add(start as usize);
                for (n, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add(simd.load(pixels.add(n * step)), weight, *sum);
                }
            }
            filters = filters.wrapping_add(self.plan.filter_stride);
        }
        sums
    }
}
