//! Depthwise, NHWC with one output per channel: channels in the lanes.
//!
//! The source is read in place; where it is masked, its rows are copied to a ring first, so that each
//! pixel is masked once.

use super::TASK_WORK;
use super::nhwc_band::{NhwcBand, Source};
use super::nhwc_row::Row;
use super::nhwc_window::Window;
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::scratch::ScratchLen;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// How some passes are cut, by the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    /// Where the source is masked.
    ring: Option<NhwcBand>,
    /// Channels of a block, and blocks.
    block: usize,
    blocks: usize,
    /// Rows of the highest grid.
    height: usize,
    /// Rows of a part of the grid, and parts.
    part_rows: usize,
    parts: usize,
    /// Parts of a task, but for the last.
    per_task: usize,
    /// Elements of the packed filters of a pass.
    filters_len: usize,
    /// Zeros that stand for the pixels of rows in the padding.
    zeros: usize,
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>]) -> Self {
        let Gather { batch, groups: channels, .. } = passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let (height, width) = (most(|pass| pass.grid_height), most(|pass| pass.grid_width));
        let taps = passes.iter().map(|pass| (pass.rows, pass.columns));
        let masked = !passes[0].relu_output.is_null();
        let ring = masked.then(|| NhwcBand::new::<T>(taps, width, channels));
        let block = ring.map_or(channels, |ring| ring.channels);
        let blocks = channels.div_ceil(block);
        // Each part copies the rows that it shares with the one before.
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * block;
        let wanted = TASKS.div_ceil(batch * blocks).min((work * height).div_ceil(TASK_WORK));
        let part_rows = height.div_ceil(wanted);
        let packed = channels.next_multiple_of(TILE_LANES);
        Plan {
            ring,
            block,
            blocks,
            height,
            part_rows,
            parts: height.div_ceil(part_rows),
            per_task: (TASK_WORK / (work * part_rows)).max(1),
            filters_len: most(|pass| pass.rows.count * pass.columns.count) * packed,
            zeros: packed,
        }
    }

    fn scratch_len(&self, passes: usize) -> ScratchLen {
        let per_slot = self.ring.map_or(0, |ring| ring.len());
        ScratchLen { shared: self.zeros + passes * self.filters_len, per_slot }
    }
}

pub(super) fn scratch_len<T: Element>(passes: &[Gather<T>]) -> ScratchLen {
    Plan::new(passes).scratch_len(passes.len())
}

/// Runs gathering passes from the same source to different places of the same rows.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let plan = Plan::new(passes);
    let scratch = context.scratch::<T>(plan.scratch_len(passes.len()))?;
    // SAFETY: the scratch memory begins with the zeros.
    unsafe { scratch.shared().write_bytes(0, plan.zeros) };
    let filters = || scratch.shared().wrapping_add(plan.zeros);
    for (number, pass) in passes.iter().enumerate() {
        // SAFETY: the scratch memory has the filters of every pass.
        unsafe { pack(pass, filters().add(number * plan.filters_len)) };
    }
    let count = passes[0].batch * plan.blocks * plan.parts;
    context.run(count.div_ceil(plan.per_task), &|slot, index| {
        let first = index * plan.per_task;
        let kernel = GatherParts {
            passes,
            plan,
            zeros: scratch.shared(),
            filters: filters(),
            ring: scratch.slot(slot),
            first,
            end: count.min(first + plan.per_task),
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Copies the filters to `[channels / TILE_LANES, taps, TILE_LANES]`, with zeros behind the channels: a
/// vector's taps follow each other, those of a row in the order of the columns.
///
/// # Safety
/// `target` has `filters_len` elements.
unsafe fn pack<T: Element>(pass: &Gather<T>, target: *mut T) {
    let Gather { rows, columns, filter_strides: strides, .. } = pass;
    let taps = rows.count * columns.count;
    let last = pass.groups / TILE_LANES * taps * TILE_LANES;
    // SAFETY: the caller answers for the target; the filters have the taps of every channel.
    unsafe {
        if !pass.groups.is_multiple_of(TILE_LANES) {
            target.add(last).write_bytes(0, taps * TILE_LANES);
        }
        for channel in 0..pass.groups {
            let filter = pass.filters.add(channel * strides.group);
            let (block, lane) = (channel / TILE_LANES, channel % TILE_LANES);
            let mut target = target.add(block * taps * TILE_LANES + lane);
            for row in 0..rows.count {
                for number in 0..columns.count {
                    let column = columns.in_order(number);
                    *target = *filter.add(row * strides.row_tap + column * strides.column_tap);
                    target = target.wrapping_add(TILE_LANES);
                }
            }
        }
    }
}

/// Some of the parts of all images and blocks of channels.
struct GatherParts<'a, T> {
    passes: &'a [Gather<T>],
    plan: Plan,
    /// As many as a block has channels.
    zeros: *const T,
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
        let Plan { ring, block, blocks, height, part_rows, parts, .. } = self.plan;
        let pass = &self.passes[0];
        let [of_image, _, of_row, of_column] = pass.source_strides;
        let mut lines = [self.zeros; DEPTH_BLOCK];
        for number in self.first..self.end {
            let (rest, part) = (number / parts, number % parts);
            let (image, channel) = (rest / blocks, rest % blocks * block);
            let [start, relu_output] = pass.source_at(image * of_image + channel);
            let source = Source {
                start,
                relu_output,
                strides: [of_row, of_column],
                count: block.min(pass.groups - channel),
            };
            let first_row = part * part_rows;
            for row in first_row..height.min(first_row + part_rows) {
                if let Some(ring) = &ring {
                    // SAFETY: the source has the image and the channels.
                    unsafe { ring.fill(simd, &source, row, row == first_row, self.ring) };
                }
                for (number, pass) in self.passes.iter().enumerate() {
                    if row >= pass.grid_height {
                        continue;
                    }
                    let lines = &mut lines[..pass.rows.count];
                    let taps = (&pass.rows, &pass.columns);
                    let window = match &ring {
                        Some(ring) => Window::copied(taps, row, ring, self.ring, self.zeros, lines),
                        None => Window::in_place(taps, row, &source, self.zeros, lines),
                    };
                    let [of_image, _, of_row, _] = pass.target_strides;
                    let target = image * of_image + row * of_row + channel;
                    let filters = self.filters.wrapping_add(number * self.plan.filters_len);
                    let target = pass.target.wrapping_add(target);
                    let kernel = Row { pass, window, channel, filters, target };
                    // SAFETY: the source, or the ring, has what the row reads; the target is this task's.
                    unsafe { window.for_each_tile(simd, pass.grid_width, source.count, &kernel) };
                }
            }
        }
    }
}
