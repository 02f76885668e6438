//! Depthwise, NHWC with one output per channel: channels in the lanes, the source read in place.

use super::TASK_WORK;
use super::nhwc_row::{Pair, Row, Single};
use super::nhwc_window::{Masked, Source, Window, has_many_registers, shares_lines};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Elements of packed filters of a task, at least: some microseconds of work.
const PACKED: usize = 1 << 13;

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
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>]) -> Self {
        let Gather { batch, groups: channels, .. } = passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let height = most(|pass| pass.grid_height);
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * channels;
        let wanted = TASKS.div_ceil(batch).min((work * height).div_ceil(TASK_WORK));
        let part_rows = height.div_ceil(wanted);
        Plan {
            height,
            part_rows,
            parts: height.div_ceil(part_rows),
            per_task: (TASK_WORK / (work * part_rows)).max(1),
        }
    }
}

pub(super) fn scratch_len<T: Element>(passes: &[Gather<T>]) -> ScratchLen {
    ScratchLen::for_all(Filters::len(passes))
}

/// Runs gathering passes from the same source to different places of the same rows.
pub(super) fn gather<T: Element>(context: &Context, passes: &[Gather<T>]) -> Result<()> {
    let plan = Plan::new(passes);
    let scratch = context.scratch::<T>(scratch_len(passes))?;
    // SAFETY: the scratch memory has the filters of every pass.
    let filters = unsafe { Filters::pack(context, passes, &scratch) };
    let count = passes[0].batch * plan.parts;
    context.run(count.div_ceil(plan.per_task), &|_, index| {
        let first = index * plan.per_task;
        let end = count.min(first + plan.per_task);
        T::dispatch(context.level(), GatherParts { passes, plan, filters: &filters, first, end });
    });
    Ok(())
}

/// The filters of some passes, each packed as `[channels / TILE_LANES, taps, TILE_LANES]` with zeros behind
/// the channels: a vector's taps follow each other, those of a row in the order of the columns.
pub(super) struct Filters<T> {
    /// For all channels; they stand for the pixels of rows in the padding.
    zeros: *const T,
    /// Those of the first pass.
    start: *const T,
    /// Elements of a pass.
    len: usize,
}

// SAFETY: tasks only read through it.
unsafe impl<T: Sync> Sync for Filters<T> {}

impl<T: Element> Filters<T> {
    /// Elements of a pass's packed filters, at the most, and of zeros.
    fn lens(passes: &[Gather<T>]) -> [usize; 2] {
        let channels = passes[0].groups.next_multiple_of(TILE_LANES);
        let taps = passes.iter().map(|pass| pass.rows.count * pass.columns.count).max();
        [taps.unwrap_or(0) * channels, channels]
    }

    /// Elements of memory for them.
    pub fn len(passes: &[Gather<T>]) -> usize {
        let [filters, zeros] = Self::lens(passes);
        zeros + passes.len() * filters
    }

    /// Packs them.
    ///
    /// # Safety
    /// The scratch memory that is shared begins with `len` elements for them.
    pub unsafe fn pack(context: &Context, passes: &[Gather<T>], scratch: &Scratch<'_, T>) -> Self {
        let [len, zeros] = Self::lens(passes);
        let blocks = zeros / TILE_LANES;
        let per_task = (PACKED / (len / blocks).max(1)).max(1);
        // SAFETY: the caller answers for the memory.
        unsafe { scratch.shared().write_bytes(0, zeros) };
        let start = || scratch.shared().wrapping_add(zeros);
        let tasks = blocks.div_ceil(per_task);
        context.run(passes.len() * tasks, &|_, index| {
            let (number, first) = (index / tasks, index % tasks * per_task);
            let pass = &passes[number];
            let block_len = pass.rows.count * pass.columns.count * TILE_LANES;
            for block in first..blocks.min(first + per_task) {
                // SAFETY: the pass's block, which is this task's.
                unsafe { pack(pass, block, start().add(number * len + block * block_len)) };
            }
        });
        Filters { zeros: scratch.shared(), start: start(), len }
    }

    /// Computes rows `first..end` of some passes over one image, whose channels begin at number `channel`, a
    /// multiple of `TILE_LANES`, of the packed ones.
    ///
    /// # Safety
    /// The passes' source has what the rows read, and nobody else uses these rows of the target.
    #[inline(always)]
    pub unsafe fn rows<S: Lanes<T>>(
        &self,
        simd: S,
        passes: &[Gather<T>],
        image: usize,
        (first, end): (usize, usize),
        channel: usize,
        lines: &mut [Masked<T>; DEPTH_BLOCK],
    ) {
        // The sums of two rows take most of 32 registers.
        let pairs = has_many_registers::<T, S>();
        let mut row = first;
        while row < end {
            // SAFETY: the caller answers for the source and the target.
            unsafe {
                match passes {
                    [pass] if pairs && row + 1 < end && shares_lines(&pass.rows) => {
                        self.pair(simd, pass, (image, row), channel, lines);
                        row += 2;
                    }
                    _ => {
                        self.row(simd, passes, (image, row), channel, lines);
                        row += 1;
                    }
                }
            }
        }
    }

    /// Computes row `row` of all passes.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn row<S: Lanes<T>>(
        &self,
        simd: S,
        passes: &[Gather<T>],
        (image, row): (usize, usize),
        channel: usize,
        lines: &mut [Masked<T>; DEPTH_BLOCK],
    ) {
        for (number, pass) in passes.iter().enumerate() {
            if row >= pass.grid_height {
                continue;
            }
            let lines = &mut lines[..pass.rows.count];
            let window = self.window(pass, (image, row), lines);
            let filters = self.of_channel(number, pass, channel);
            let kernel = Single { window, row: Row::new(pass, filters, image, row) };
            // SAFETY: the caller answers for the source and the target.
            unsafe { window.for_each_tile(simd, pass.grid_width, pass.groups, &kernel) };
        }
    }

    /// Computes rows `row` and `row + 1` of the one pass, which share lines.
    ///
    /// # Safety
    /// As for `rows`.
    #[inline(always)]
    unsafe fn pair<S: Lanes<T>>(
        &self,
        simd: S,
        pass: &Gather<T>,
        (image, row): (usize, usize),
        channel: usize,
        lines: &mut [Masked<T>; DEPTH_BLOCK],
    ) {
        let lines = &mut lines[..pass.rows.count + pass.rows.step];
        // In the order of their lines, which that of the taps is.
        let order = if pass.rows.offset_step > 0 { [row, row + 1] } else { [row + 1, row] };
        let window = self.window(pass, (image, order[0]), lines);
        let filters = self.of_channel(0, pass, channel);
        let rows = order.map(|row| Row::new(pass, filters, image, row));
        let kernel = Pair { window, rows };
        // SAFETY: the caller answers for the source and the target.
        unsafe { window.for_each_tile(simd, pass.grid_width, pass.groups, &kernel) };
    }

    /// The window of a row of an image.
    #[inline(always)]
    fn window<'a>(
        &self,
        pass: &Gather<T>,
        (image, row): (usize, usize),
        lines: &'a mut [Masked<T>],
    ) -> Window<'a, T> {
        let [of_image, _, of_row, of_column] = pass.source_strides;
        let start = pass.source_at(image * of_image);
        let source = Source { start, strides: [of_row, of_column] };
        Window::new((&pass.rows, &pass.columns), row, &source, self.zeros, lines)
    }

    /// What `rows` lists lines in.
    #[inline(always)]
    pub fn lines(&self) -> [Masked<T>; DEPTH_BLOCK] {
        [[self.zeros; 2]; DEPTH_BLOCK]
    }

    /// The filters of a pass from a channel on.
    #[inline(always)]
    fn of_channel(&self, number: usize, pass: &Gather<T>, channel: usize) -> *const T {
        let taps = pass.rows.count * pass.columns.count;
        self.start.wrapping_add(number * self.len + channel * taps)
    }
}

/// Copies one pass's filters of a block of channels.
///
/// # Safety
/// `target` has them; there is such a block.
unsafe fn pack<T: Element>(pass: &Gather<T>, block: usize, target: *mut T) {
    let Gather { rows, columns, filter_strides: strides, .. } = pass;
    let taps = rows.count * columns.count;
    let first = block * TILE_LANES;
    // SAFETY: the caller answers for the target; the filters have the taps of every channel.
    unsafe {
        if pass.groups < first + TILE_LANES {
            target.write_bytes(0, taps * TILE_LANES);
        }
        for channel in first..pass.groups.min(first + TILE_LANES) {
            let filter = pass.filters.add(channel * strides.group);
            let mut target = target.add(channel - first);
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
    filters: &'a Filters<T>,
    first: usize,
    end: usize,
}

impl<T: Element> Kernel<T> for GatherParts<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let Plan { height, part_rows, parts, .. } = self.plan;
        let mut lines = self.filters.lines();
        for number in self.first..self.end {
            let (image, part) = (number / parts, number % parts);
            let rows = (part * part_rows, height.min((part + 1) * part_rows));
            // SAFETY: the source has what the rows read; the target is this task's.
            unsafe { self.filters.rows(simd, self.passes, image, rows, 0, &mut lines) };
        }
    }
}
