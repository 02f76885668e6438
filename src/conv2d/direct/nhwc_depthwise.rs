//! Depthwise, NHWC with one output per channel: channels in the lanes.
//!
//! The source is read in place, and zeros where a tap lies in the padding. Its rows are copied to a
//! ring first where it is masked, so that each pixel is masked once, and where its pixels would compete
//! for the same few sets of the first-level cache.

use super::TASK_WORK;
use super::nhwc_band::{NhwcBand, Source};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::scratch::ScratchLen;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TILE_LANES};

/// Outputs that are computed together at the most: with two vectors of each, sums enough to hide the
/// latency of additions, and no more than the registers of AVX2 hold.
const OUTPUTS: usize = 6;

/// Pixels that lie a multiple of this apart take so few sets of the first-level cache that a copy pays.
const COMPETING_BYTES: usize = 2048;

/// How some passes are cut, by the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    /// Where the source is not read in place.
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
    /// From column to column of the grid, where it has several: a stride may be of any size.
    step: usize,
    /// Zeros that stand for the pixels of a tile, all of which lie in a row of the source.
    zeros: usize,
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>]) -> Self {
        let Gather { batch, groups: channels, .. } = passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let (height, width) = (most(|pass| pass.grid_height), most(|pass| pass.grid_width));
        let taps = passes.iter().map(|pass| (pass.rows, pass.columns));
        let masked = !passes[0].relu_output.is_null();
        let competing =
            (passes[0].source_strides[3] * size_of::<T>()).is_multiple_of(COMPETING_BYTES);
        let ring = (masked || competing).then(|| NhwcBand::new::<T>(taps, width, channels));
        let block = ring.map_or(channels, |ring| ring.channels);
        let blocks = channels.div_ceil(block);
        // Each part copies the rows that it shares with the one before.
        let work = passes.iter().map(Gather::row_work).sum::<usize>() * block;
        let wanted = TASKS.div_ceil(batch * blocks).min((work * height).div_ceil(TASK_WORK));
        let part_rows = height.div_ceil(wanted);
        let packed = channels.next_multiple_of(TILE_LANES);
        let columns = &passes[0].columns;
        let pixel = ring.map_or(passes[0].source_strides[3], |ring| ring.channels);
        let tile = (OUTPUTS - 1).saturating_mul(columns.step).min(columns.extent);
        Plan {
            ring,
            block,
            blocks,
            height,
            part_rows,
            parts: height.div_ceil(part_rows),
            per_task: (TASK_WORK / (work * part_rows)).max(1),
            filters_len: most(|pass| pass.rows.count * pass.columns.count) * packed,
            step: if width > 1 { columns.step * pixel } else { 0 },
            zeros: (tile + 1) * channels,
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
/// vector's taps follow each other.
///
/// # Safety
/// `target` has `filters_len` elements.
unsafe fn pack<T: Element>(pass: &Gather<T>, target: *mut T) {
    let strides = pass.filter_strides;
    let taps = pass.rows.count * pass.columns.count;
    for block in 0..pass.groups.div_ceil(TILE_LANES) {
        for tap in 0..taps {
            let (row_tap, column_tap) = (tap / pass.columns.count, tap % pass.columns.count);
            let weights = row_tap * strides.row_tap + column_tap * strides.column_tap;
            for lane in 0..TILE_LANES {
                let channel = block * TILE_LANES + lane;
                // SAFETY: the filters have the taps of every channel; the caller answers for the target.
                unsafe {
                    *target.add((block * taps + tap) * TILE_LANES + lane) =
                        match channel < pass.groups {
                            true => *pass.filters.add(channel * strides.group + weights),
                            false => T::default(),
                        };
                }
            }
        }
    }
}

/// Some of the parts of all images and blocks of channels.
struct GatherParts<'a, T> {
    passes: &'a [Gather<T>],
    plan: Plan,
    /// As many as the pixels of a tile have.
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
        let mut taps = [self.zeros; DEPTH_BLOCK];
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
                    let [of_image, _, of_row, _] = pass.target_strides;
                    let target = image * of_image + row * of_row + channel;
                    let filters = self.filters.wrapping_add(number * self.plan.filters_len);
                    let grid_row = Row {
                        pass,
                        row,
                        source: &source,
                        step: self.plan.step,
                        ahead: (number == 0).then(|| self.ahead(&source, row)),
                        zeros: self.zeros,
                        channel,
                        filters,
                        target: pass.target.wrapping_add(target),
                    };
                    let taps = &mut taps[..pass.rows.count * pass.columns.count];
                    // SAFETY: the ring has what the row reads, or the source has it; the target is
                    // this task's.
                    unsafe {
                        match &ring {
                            Some(ring) => grid_row.copied(simd, ring, self.ring, taps),
                            None => grid_row.in_place(simd, taps),
                        }
                    }
                }
            }
        }
    }
}

impl<T: Element> GatherParts<'_, T> {
    /// The last row of the source that the grid's row behind `row` reads. (It need not exist.)
    #[inline(always)]
    fn ahead(&self, source: &Source<T>, row: usize) -> *const T {
        let of_pass = |pass: &Gather<T>| {
            let last = pass.rows.count.saturating_sub(1);
            pass.rows.source(row + 1, 0).max(pass.rows.source(row + 1, last))
        };
        let last = self.passes.iter().map(of_pass).max().unwrap_or(0);
        source.start.wrapping_offset(last * source.strides[0] as isize)
    }
}

/// A block of channels of one row of the grid of one image.
struct Row<'a, T> {
    pass: &'a Gather<T>,
    row: usize,
    source: &'a Source<T>,
    /// From column to column of the grid.
    step: usize,
    /// The last of the source's rows that the next row of the grid is the first to read, for one of
    /// several passes.
    ahead: Option<*const T>,
    zeros: *const T,
    /// The block's first.
    channel: usize,
    /// Of all channels.
    filters: *const T,
    target: *mut T,
}

impl<T: Element> Row<'_, T> {
    /// Computes the row from the ring, which begins at `start`.
    ///
    /// # Safety
    /// The ring has what the row reads; the target has the row, and nobody else uses it.
    #[inline(always)]
    unsafe fn copied<S: Lanes<T>>(
        &self,
        simd: S,
        ring: &NhwcBand,
        start: *const T,
        taps: &mut [*const T],
    ) {
        let mut offsets = [0; DEPTH_BLOCK];
        ring.list_taps((&self.pass.rows, self.row), &self.pass.columns, &mut offsets);
        for (tap, &offset) in taps.iter_mut().zip(&offsets) {
            *tap = start.wrapping_add(offset as usize);
        }
        // SAFETY: the caller answers for the row.
        unsafe { self.run(simd, taps, (0, self.pass.grid_width)) };
    }

    /// Computes the row from the source where it lies: columns that reach into the padding one at a
    /// time, those between them together.
    ///
    /// # Safety
    /// The source has the image; the target has the row, and nobody else uses it.
    #[inline(always)]
    unsafe fn in_place<S: Lanes<T>>(&self, simd: S, taps: &mut [*const T]) {
        let (columns, width) = (&self.pass.columns, self.pass.grid_width);
        let (mut first, mut end) = (0, width);
        for tap in 0..columns.count {
            let inside = columns.positions(tap, width);
            (first, end) = (first.max(inside.0), end.min(inside.1));
        }
        let (first, end) = (first.min(width), end.max(first.min(width)));
        let alone = |column| (column, column + 1);
        let parts = (0..first).map(alone).chain([(first, end)]).chain((end..width).map(alone));
        for part in parts.filter(|(first, end)| first < end) {
            self.list_taps(part.0, taps);
            // SAFETY: the caller answers for the row.
            unsafe { self.run(simd, taps, part) };
        }
    }

    /// Where the taps of the grid's `column` lie in the source.
    #[inline(always)]
    fn list_taps(&self, column: usize, taps: &mut [*const T]) {
        let (rows, columns) = (&self.pass.rows, &self.pass.columns);
        let [of_row, of_column] = self.source.strides;
        let mut taps = taps.iter_mut();
        for row_tap in 0..rows.count {
            let y = rows.source(self.row, row_tap);
            for column_tap in 0..columns.count {
                let x = columns.source(column, column_tap);
                let place = (y * of_row as isize).wrapping_add(x * of_column as isize);
                *taps.next().expect("few taps") = match rows.outside(y) || columns.outside(x) {
                    true => self.zeros,
                    false => self.source.start.wrapping_offset(place),
                };
            }
        }
    }

    /// Columns `first..end`; `taps` are those of the first, and move along.
    ///
    /// # Safety
    /// The taps of all columns can be read; the target has the columns, and nobody else uses them.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>>(
        &self,
        simd: S,
        taps: &mut [*const T],
        (first, end): (usize, usize),
    ) {
        let mut column = first;
        while column < end {
            // SAFETY: the caller answers for the columns.
            let done = unsafe {
                match end - column {
                    OUTPUTS.. => self.outputs::<S, OUTPUTS>(simd, taps, column),
                    4.. => self.outputs::<S, 4>(simd, taps, column),
                    2.. => self.outputs::<S, 2>(simd, taps, column),
                    _ => self.outputs::<S, 1>(simd, taps, column),
                }
            };
            for tap in taps.iter_mut().filter(|tap| **tap != self.zeros) {
                *tap = tap.wrapping_add(done * self.step);
            }
            column += done;
        }
    }

    /// `N` neighbouring outputs from `column` on, whose taps are given. Returns their number.
    ///
    /// # Safety
    /// As for `run`.
    #[inline(always)]
    unsafe fn outputs<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        taps: &[*const T],
        column: usize,
    ) -> usize {
        let count = self.source.count;
        let mut channel = 0;
        // SAFETY: the caller answers for the outputs.
        unsafe {
            // Whole cache lines: where channels are a power of two, few pixels fit the first level.
            while 2 * S::LANES <= TILE_LANES && channel + 2 * S::LANES <= count {
                self.prefetch::<S, N>(simd, column, (channel, channel + 2 * S::LANES));
                self.channels::<S, N, 2, false>(simd, taps, (column, channel));
                channel += 2 * S::LANES;
            }
            while channel + S::LANES <= count {
                self.prefetch::<S, N>(simd, column, (channel, channel + S::LANES));
                self.channels::<S, N, 1, false>(simd, taps, (column, channel));
                channel += S::LANES;
            }
            if channel < count {
                self.channels::<S, N, 1, true>(simd, taps, (column, channel));
            }
        }
        N
    }

    /// Asks for some channels of what the grid's next row reads and writes at `N` columns: pixels are short
    /// runs of the rows, too short for the processor to see what comes next.
    #[inline(always)]
    fn prefetch<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        column: usize,
        (first, end): (usize, usize),
    ) {
        let Gather { rows, columns, .. } = self.pass;
        // No more than it reads, where it passes over some.
        let (new_rows, new_columns) = (rows.step.min(rows.count), columns.step.min(columns.count));
        let [of_row, of_column] = self.source.strides;
        let [.., target_row, target_column] = self.pass.target_strides;
        let target = self.target.wrapping_add(target_row + column * target_column);
        for channel in (first..end).step_by(CACHE_LINE / size_of::<T>()) {
            for n in 0..N {
                simd.prefetch_second(target.wrapping_add(n * target_column + channel));
            }
            let Some(ahead) = self.ahead else { continue };
            let mut pixels = ahead.wrapping_add(column * columns.step * of_column + channel);
            for _ in 0..new_rows {
                for x in 0..N * new_columns {
                    simd.prefetch_second(pixels.wrapping_add(x * of_column));
                }
                pixels = pixels.wrapping_sub(of_row);
            }
        }
    }

    /// `V` vectors of channels of `N` outputs, all that are left where they are `PARTIAL`.
    ///
    /// # Safety
    /// As for `run`, and the block has the channels.
    #[inline(always)]
    unsafe fn channels<S: Lanes<T>, const N: usize, const V: usize, const PARTIAL: bool>(
        &self,
        simd: S,
        taps: &[*const T],
        (column, channel): (usize, usize),
    ) {
        let count = if PARTIAL { self.source.count - channel } else { S::LANES };
        let mut sums = [[simd.splat(T::default()); N]; V];
        // A block of packed filters has all of the vectors.
        let place = self.channel + channel;
        let offset = place / TILE_LANES * taps.len() * TILE_LANES + place % TILE_LANES;
        let mut filters = self.filters.wrapping_add(offset);
        // SAFETY: the caller answers for the taps and the target; the filters have whole vectors.
        unsafe {
            for tap in taps {
                let pixel = tap.add(channel);
                for (v, sums) in sums.iter_mut().enumerate() {
                    let weight = simd.load(filters.add(v * S::LANES));
                    for (n, sum) in sums.iter_mut().enumerate() {
                        let pixel = pixel.add(n * self.step + v * S::LANES);
                        let pixel =
                            if PARTIAL { simd.load_first(count, pixel) } else { simd.load(pixel) };
                        *sum = simd.mul_add(pixel, weight, *sum);
                    }
                }
                filters = filters.wrapping_add(TILE_LANES);
            }
            let stride = self.pass.target_strides[3];
            for (v, &sums) in sums.iter().enumerate() {
                let channel = channel + v * S::LANES;
                let bias = match self.pass.bias.is_null() {
                    true => self.pass.bias,
                    false => self.pass.bias.add(self.channel + channel),
                };
                let target = self.target.add(column * stride + channel);
                self.pass.write_vectors(simd, sums, bias, count, (target, stride));
            }
        }
    }
}
