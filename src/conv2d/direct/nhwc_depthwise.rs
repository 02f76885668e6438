//! Depthwise, NHWC with one output per channel, or groups of few channels: channels in the lanes, the source read in
//! place.

use super::TASK_WORK;
use super::nhwc_cells::{CellRows, Cells};
use super::nhwc_groups::Groups;
use super::nhwc_row::{Pair, Row, Single};
use super::nhwc_window::{
    Lines, Source, Tiles, Window, for_each_size, has_many_registers, no_lines, shares_lines,
};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::runs;
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Elements of packed filters of a task, at least: some microseconds of work.
const PACKED: usize = 1 << 13;

/// Bytes of rows that are read again soon.
const CACHED: usize = 24 * 1024;

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
        let Gather { batch, groups, .. } = passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let height = most(|pass| pass.grid_height);
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * groups;
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
    let is_large = Gather::exceed_caches(passes);
    let filters =
        Filters { is_large, streams: is_large && passes.iter().all(Gather::can_stream), ..filters };
    let count = passes[0].batch * plan.parts;
    context.run(count.div_ceil(plan.per_task), &|_, index| {
        let first = index * plan.per_task;
        let end = count.min(first + plan.per_task);
        T::dispatch(context.level(), GatherParts { passes, plan, filters: &filters, first, end });
    });
    Ok(())
}

/// The filters of some passes, each packed as `[channels / TILE_LANES, rows, terms, columns, TILE_LANES]` with zeros
/// behind the channels: a vector's taps follow each other, those of a row in the order of the columns.
pub(super) struct Filters<T> {
    /// For all channels; they stand for the pixels of rows in the padding.
    zeros: *const T,
    /// Those of the first pass.
    start: *const T,
    /// Elements of a pass.
    len: usize,
    groups: Groups<T>,
    /// How the passes make cells, if they do.
    cells: Option<Cells>,
    /// Whether the source lies in memory, so that its rows are asked for before they are read.
    is_large: bool,
    /// Whether targets are written past the caches.
    streams: bool,
}

// SAFETY: tasks only read through it.
unsafe impl<T: Sync> Sync for Filters<T> {}

impl<T: Element> Filters<T> {
    /// Elements of a pass's packed filters, at the most, and of zeros.
    fn lens(passes: &[Gather<T>]) -> [usize; 2] {
        let channels = (passes[0].groups * passes[0].outputs).next_multiple_of(TILE_LANES);
        let taps = passes.iter().map(Gather::taps_of_output).max();
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
            let block_len = pass.taps_of_output() * TILE_LANES;
            for block in first..blocks.min(first + per_task) {
                // SAFETY: the pass's block, which is this task's.
                unsafe { pack(pass, block, start().add(number * len + block * block_len)) };
            }
        });
        let groups = Groups::new(passes[0].outputs, passes[0].terms);
        Filters {
            zeros: scratch.shared(),
            start: start(),
            len,
            groups,
            cells: Cells::of(passes),
            is_large: false,
            streams: false,
        }
    }

    /// Computes rows `first..end` of some passes over one image, whose channels begin at number `channel`, a
    /// multiple of `TILE_LANES`, of the packed ones. `lines` is room for those of windows.
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
        lines: &mut Lines<T>,
    ) {
        if const { Cells::fit::<T, S>() }
            && let Some(cells) = self.cells
        {
            let pass = (&passes[cells.whole()], cells.whole());
            let (rows, fetches) = ((first, end), self.is_large);
            let rows = Rows { filters: self, pass, image, rows, channel, fetches, lines };
            return simd.call(CellRows { cells, passes, rows });
        }
        // Passes that take turns find them in the cache.
        let fetches = self.is_large && passes.len() == 1;
        for (number, pass) in passes.iter().enumerate() {
            let (pass, rows) = ((pass, number), (first, end.min(pass.grid_height)));
            let rows = Rows { filters: self, pass, image, rows, channel, fetches, lines };
            // SAFETY: passed on to the caller.
            unsafe { rows.run(simd) };
        }
    }

    /// The filters of a pass from a channel on.
    #[inline(always)]
    fn of_channel(&self, number: usize, pass: &Gather<T>, channel: usize) -> *const T {
        self.start.wrapping_add(number * self.len + channel * pass.taps_of_output())
    }
}

/// Copies one pass's filters of a block of channels.
///
/// # Safety
/// `target` has them; there is such a block.
unsafe fn pack<T: Element>(pass: &Gather<T>, block: usize, target: *mut T) {
    let Gather { rows, columns, filter_strides: strides, .. } = pass;
    let first = block * TILE_LANES;
    let count = (pass.groups * pass.outputs - first).min(TILE_LANES);
    let mut offsets = [0; TILE_LANES];
    for (lane, offset) in offsets[..count].iter_mut().enumerate() {
        let (group, output) = ((first + lane) / pass.outputs, (first + lane) % pass.outputs);
        *offset = group * strides.group + output * strides.output;
    }
    let copy = |tap: *const T, offsets: &[usize], target: *mut T| {
        for (lane, &offset) in offsets.iter().enumerate() {
            // SAFETY: the caller answers for the target; the filters have the taps of every channel.
            unsafe { *target.add(lane) = *tap.add(offset) };
        }
    };
    let mut target = target;
    for row in 0..rows.count {
        for term in 0..pass.terms {
            let line = row * strides.row_tap + term * strides.term;
            for number in 0..columns.count {
                let column = columns.in_order(number) * strides.column_tap;
                let tap = pass.filters.wrapping_add(line + column);
                // (Without a loop for most.)
                if count == TILE_LANES {
                    copy(tap, &offsets, target);
                } else {
                    // SAFETY: the caller answers for the target.
                    unsafe { target.write_bytes(0, TILE_LANES) };
                    copy(tap, &offsets[..count], target);
                }
                target = target.wrapping_add(TILE_LANES);
            }
        }
    }
}

/// Some rows of a pass over one image.
pub(super) struct Rows<'a, T> {
    filters: &'a Filters<T>,
    /// The pass and its number.
    pass: (&'a Gather<T>, usize),
    image: usize,
    /// First and end.
    pub rows: (usize, usize),
    /// The number of the first channel, a multiple of `TILE_LANES`, among the packed ones.
    channel: usize,
    /// Whether rows of the source are asked for before they are read.
    pub fetches: bool,
    /// Room for those of windows.
    lines: &'a mut Lines<T>,
}

impl<T: Element> Rows<'_, T> {
    /// Computes them.
    ///
    /// # Safety
    /// The source has what the rows read, and nobody else uses these rows of the target.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>>(mut self, simd: S) {
        let Gather { columns, grid_width: width, outputs, .. } = *self.pass.0;
        // SAFETY: passed on to the caller.
        unsafe {
            match outputs == 1 {
                true => for_each_size::<_, _, false>(simd, &columns, width, &mut self),
                false => for_each_size::<_, _, true>(simd, &columns, width, &mut self),
            }
        }
    }

    /// Asks for the rows of the source from `*fetched` on that some rows of the grid read.
    #[inline(always)]
    pub fn fetch<S: Lanes<T>>(&self, simd: S, (first, end): (usize, usize), fetched: &mut usize) {
        let pass = self.pass.0;
        let taps = &pass.rows;
        let [of_image, _, of_row, _] = pass.source_strides;
        let (start, behind) = match taps.offset_step > 0 {
            true => (taps.source(first, 0), taps.source(end - 1, taps.count - 1) + 1),
            false => (taps.source(first, taps.count - 1), taps.source(end - 1, 0) + 1),
        };
        let start = (start.max(0) as usize).max(*fetched);
        let behind = (behind.max(0) as usize).min(taps.extent);
        if start < behind {
            let source = pass.source.wrapping_add(self.image * of_image + start * of_row);
            runs::fetch(simd, source, (behind - start) * of_row);
            *fetched = behind;
        }
    }

    /// A row of one of the passes that have these filters.
    #[inline(always)]
    pub fn row<'b>(&self, pass: &'b Gather<T>, number: usize, row: usize) -> Row<'b, T> {
        let filters = self.filters.of_channel(number, pass, self.channel);
        Row::new(pass, filters, self.image, row, self.filters.streams)
    }

    /// The window of a row, and of as many rows behind it as there are lines more.
    #[inline(always)]
    pub fn window<const GROUPED: bool>(
        &mut self,
        row: usize,
        lines: usize,
    ) -> Window<'_, T, GROUPED> {
        let pass = self.pass.0;
        let [of_image, _, of_row, of_column] = pass.source_strides;
        let start = pass.source_at(self.image * of_image);
        let source = Source { start, strides: [of_row, of_column] };
        let lines = &mut self.lines[..lines];
        let Filters { zeros, groups, .. } = self.filters;
        Window::new((&pass.rows, &pass.columns), row, &source, *zeros, groups, lines)
    }
}

impl<T: Element, const GROUPED: bool> Tiles<T, GROUPED> for Rows<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Lanes<T>, const N: usize, const STEP: usize>(
        &mut self,
        simd: S,
        columns: (usize, usize),
    ) {
        simd.call(TilesOfRows::<_, N, STEP, GROUPED> { rows: self, columns });
    }
}

/// Tiles of `N` outputs of all rows. (A kernel of its own: a function with all sizes in it takes a minute to
/// compile.)
struct TilesOfRows<'a, 'b, T, const N: usize, const STEP: usize, const GROUPED: bool> {
    rows: &'a mut Rows<'b, T>,
    columns: (usize, usize),
}

impl<T: Element, const N: usize, const STEP: usize, const GROUPED: bool> Kernel<T>
    for TilesOfRows<'_, '_, T, N, STEP, GROUPED>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let TilesOfRows { rows, columns } = self;
        let (pass, number) = rows.pass;
        let (mut row, end) = rows.rows;
        let channels = pass.groups * pass.outputs;
        let fetches = rows.fetches && columns.0 == 0;
        let mut fetched = 0;
        // The sums of two rows take most of 32 registers. (Of few outputs, they are not worth their code.)
        if const { N >= 4 && !GROUPED && has_many_registers::<T, S>() } {
            let pairs = shares_lines(&pass.rows) && pass.relu_output.is_null();
            while pairs && row + 1 < end {
                if fetches {
                    rows.fetch(simd, (row, row + 2), &mut fetched);
                }
                simd.call(TilesOfPair::<_, N, STEP> { rows, row, columns });
                row += 2;
            }
        }
        while row < end {
            if fetches {
                rows.fetch(simd, (row, row + 1), &mut fetched);
            }
            let of_row = rows.row(pass, number, row);
            let window = rows.window::<GROUPED>(row, pass.rows.count);
            let kernel = Single { window, row: of_row };
            // SAFETY: whoever runs the rows answers for them.
            unsafe { window.for_each_tile::<S, N, STEP>(simd, columns, channels, &kernel) };
            row += 1;
        }
    }
}

/// The same of two rows, from `row` on. (A kernel of its own, as above.)
struct TilesOfPair<'a, 'b, T, const N: usize, const STEP: usize> {
    rows: &'a mut Rows<'b, T>,
    row: usize,
    columns: (usize, usize),
}

impl<T: Element, const N: usize, const STEP: usize> Kernel<T> for TilesOfPair<'_, '_, T, N, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let TilesOfPair { rows, row, columns } = self;
        let (pass, number) = rows.pass;
        let channels = pass.groups * pass.outputs;
        // In the order of their lines, which that of the taps is.
        let order = if pass.rows.offset_step > 0 { [row, row + 1] } else { [row + 1, row] };
        let pair = [rows.row(pass, number, order[0]), rows.row(pass, number, order[1])];
        let window = rows.window(order[0], pass.rows.count + pass.rows.step);
        let kernel = Pair { window, rows: pair };
        // SAFETY: whoever runs the rows answers for them.
        unsafe { window.for_each_tile::<S, N, STEP>(simd, columns, channels, &kernel) };
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
        let source_row =
            self.passes[0].columns.extent * self.passes[0].groups * self.passes[0].terms;
        let mut lines = no_lines();
        for number in self.first..self.end {
            let (image, part) = (number / parts, number % parts);
            let (first, end) = (part * part_rows, height.min((part + 1) * part_rows));
            // Passes that read the same rows take turns, while the first-level cache has them.
            let some = match self.passes {
                [_] => part_rows,
                _ if Cells::fit::<T, S>() && self.filters.cells.is_some() => part_rows,
                _ => (CACHED / (source_row * size_of::<T>())).max(1),
            };
            for first in (first..end).step_by(some) {
                let rows = (first, end.min(first + some));
                // SAFETY: the source has what the rows read; the target is this task's.
                unsafe { self.filters.rows(simd, self.passes, image, rows, 0, &mut lines) };
            }
        }
        if self.filters.streams {
            runs::end_stream();
        }
    }
}
