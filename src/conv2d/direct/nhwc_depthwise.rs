//! Depthwise, NHWC with one output per channel: channels in the lanes, the source read in place.

use super::TASK_WORK;
use super::nhwc_row::Row;
use super::nhwc_window::{Source, Window};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::scratch::ScratchLen;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Whether windows have few enough taps.
pub(in crate::conv2d) fn fits(shape: &ConvShape) -> bool {
    shape.window() <= DEPTH_BLOCK
}

/// How some passes are cut, by the shape alone.
#[derive(Clone, Copy)]
struct Plan {
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
        let height = most(|pass| pass.grid_height);
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * channels;
        let wanted = TASKS.div_ceil(batch).min((work * height).div_ceil(TASK_WORK));
        let part_rows = height.div_ceil(wanted);
        let packed = channels.next_multiple_of(TILE_LANES);
        Plan {
            height,
            part_rows,
            parts: height.div_ceil(part_rows),
            per_task: (TASK_WORK / (work * part_rows)).max(1),
            filters_len: most(|pass| pass.rows.count * pass.columns.count) * packed,
            zeros: packed,
        }
    }

    fn scratch_len(&self, passes: usize) -> ScratchLen {
        ScratchLen { shared: self.zeros + passes * self.filters_len, per_slot: 0 }
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
    let count = passes[0].batch * plan.parts;
    context.run(count.div_ceil(plan.per_task), &|_, index| {
        let first = index * plan.per_task;
        let kernel = GatherParts {
            passes,
            plan,
            zeros: scratch.shared(),
            filters: filters(),
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

/// Some of the parts of all images.
struct GatherParts<'a, T> {
    passes: &'a [Gather<T>],
    plan: Plan,
    /// As many as there are channels.
    zeros: *const T,
    /// Of all passes, packed.
    filters: *const T,
    first: usize,
    end: usize,
}

impl<T: Element> Kernel<T> for GatherParts<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Plan { height, part_rows, parts, filters_len, .. } = self.plan;
        let [of_image, _, of_row, of_column] = self.passes[0].source_strides;
        let mut lines = [[self.zeros; 2]; DEPTH_BLOCK];
        for number in self.first..self.end {
            let (image, part) = (number / parts, number % parts);
            let start = self.passes[0].source_at(image * of_image);
            let source = Source { start, strides: [of_row, of_column] };
            let first_row = part * part_rows;
            for row in first_row..height.min(first_row + part_rows) {
                for (number, pass) in self.passes.iter().enumerate() {
                    if row >= pass.grid_height {
                        continue;
                    }
                    let taps = (&pass.rows, &pass.columns);
                    let lines = &mut lines[..pass.rows.count];
                    let window = Window::new(taps, row, &source, self.zeros, lines);
                    let [of_image, _, of_row, _] = pass.target_strides;
                    let target = pass.target.wrapping_add(image * of_image + row * of_row);
                    let filters = self.filters.wrapping_add(number * filters_len);
                    let kernel = Row { pass, window, filters, target };
                    // SAFETY: the source has what the row reads; the target is this task's.
                    unsafe { window.for_each_tile(simd, pass.grid_width, pass.groups, &kernel) };
                }
            }
        }
    }
}
