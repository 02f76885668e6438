//! Target channels in the lanes, pixels broadcast one by one: the kernel for convolutions with enough
//! channels, on either layout.
//!
//! The register tile is the matrix product's, some pixels of the grid times the vectors of a panel
//! of channels, but no patches are packed: pixels are read from where they lie, or for NCHW from a
//! copy of some rows. (Zhang, Franchetti and Low, "High Performance Zero-Memory Overhead Direct
//! Convolutions", 2018, and Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions
//! on SIMD Architectures", 2018, on plain tensors.)

use std::array;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::band::CopiedAxis;
use super::band_copy::{BandCopy, FillCopy, copy_len, is_copied, memory_len};
use super::channel_panel::{Panel, STRIP_PIXELS, Source, sums_len};
use super::panels::{PackPanel, PanelPlan};
use super::{PHASES, even_parts};
use crate::context::Context;
use crate::conv2d::gather::Gather;
use crate::error::Result;
use crate::gemm::blocking::{TASK_WORK, TASKS};
use crate::gemm::pack::TileShape;
use crate::runs;
use crate::scratch::ScratchLen;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, Level};

/// What a band of the source may take, beside a panel of filters in the second-level cache: more where
/// all of a group's filters do not stay there, since each band reads them all.
const BAND_BYTES: usize = 192 * 1024;
const LARGE_BAND_BYTES: usize = 512 * 1024;
const CACHED_FILTERS: usize = 1024 * 1024;

/// Images of at most so many rows and columns are taken together: alone, each leaves rows of the tile
/// empty, and reads all filters for few pixels.
const SMALL_EXTENT: usize = 14;
/// What a block of terms may read of all of them, likewise in the second-level cache.
const IMAGES_BYTES: usize = 512 * 1024;

/// How some passes are cut. By the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    /// Images of a task, but for the last.
    images: usize,
    /// Of each pass.
    panels: [PanelPlan; PHASES],
    /// Elements of a pass's packed filters, of all groups.
    packed_len: usize,
    /// Rows of the grid in a band, but for the last.
    band_rows: usize,
    bands: usize,
    /// Panels of a task, but for the last of a band.
    part_panels: usize,
    parts: usize,
    /// Elements of the copy of a band of some images, when the source is copied, and of memory to fill it.
    copy_len: usize,
    memory_len: usize,
    /// Copies that are made before, each for several tasks; 0 where each task makes its own.
    shared_copies: usize,
    /// Of a strip's sums.
    sums_len: usize,
    /// Where the sums of pairs of passes are interleaved: the width of their grid. 0 elsewhere.
    staged_width: usize,
    /// Whether the packed filters do not stay in the second-level cache from band to band.
    rereads_filters: bool,
    /// Whether targets are written past the caches.
    streams: bool,
}

impl Plan {
    fn new<T: Element>(passes: &[Gather<T>], tile: TileShape) -> Self {
        let pass = &passes[0];
        let most = |of: fn(&Gather<T>) -> usize| passes.iter().map(of).max().unwrap_or(0);
        let panels =
            array::from_fn(|number| PanelPlan::new(passes.get(number).unwrap_or(pass), tile));
        let panels_len = panels.iter().map(PanelPlan::len).max().unwrap_or(0);
        let count = panels[0].count;
        let height = most(|pass| pass.grid_height);
        let width = most(|pass| pass.grid_width);
        let interleaved = interleaves(passes);
        let small = height.max(width) <= if interleaved { SMALL_EXTENT / 2 } else { SMALL_EXTENT };
        let row_bytes = pass.columns.extent * pass.terms * size_of::<T>();
        let row_bytes = row_bytes.saturating_mul(pass.rows.step);
        let enough = match small {
            true => {
                let of_pixel = panels[0].block_terms * size_of::<T>() + CACHE_LINE;
                let of_row = pass.columns.extent.saturating_mul(pass.rows.step * of_pixel);
                let fitting = IMAGES_BYTES / of_row.saturating_mul(height).max(1);
                (pass.batch * count / TASKS).min(fitting).clamp(1, tile.rows)
            }
            false => 1,
        };
        let image_parts = pass.batch.div_ceil(enough);
        let images = pass.batch.div_ceil(image_parts);
        let rereads_filters = panels_len * size_of::<T>() > CACHED_FILTERS;
        let band_bytes = if rereads_filters { LARGE_BAND_BYTES } else { BAND_BYTES };
        let most_rows = match images {
            1 => (band_bytes / row_bytes.max(1)).clamp(1, height),
            _ => height,
        };
        let row_work = passes.iter().map(Gather::row_work).sum::<usize>();
        let work = row_work.saturating_mul(height * pass.batch * pass.groups);
        let wanted = (work / TASK_WORK).clamp(1, TASKS).div_ceil(image_parts * pass.groups);
        let bands = height.div_ceil(most_rows).max(wanted.min(height.div_ceil(tile.rows)));
        let band_rows = height.div_ceil(bands);
        let bands = height.div_ceil(band_rows);
        let part_panels = count.div_ceil(wanted.div_ceil(bands)).max(1);
        let parts = count.div_ceil(part_panels);
        let (copy_len, memory_len) = match is_copied(passes) {
            false => (0, 0),
            true => {
                let rows = CopiedAxis::new(passes.iter().map(|pass| pass.rows));
                let rows = rows.span(band_rows).min(pass.rows.extent);
                (copy_len(pass, images, rows), memory_len(pass, images, rows))
            }
        };
        let shared_copies = match copy_len > 0 && parts > 1 {
            true => image_parts * pass.groups * bands,
            false => 0,
        };
        Plan {
            images,
            panels,
            packed_len: pass.groups * panels_len,
            band_rows,
            bands,
            part_panels,
            parts,
            copy_len,
            memory_len,
            shared_copies,
            sums_len: sums_len(tile, images, height * width),
            staged_width: if interleaved { width } else { 0 },
            rereads_filters,
            streams: Gather::exceed_caches(passes) && passes.iter().all(Gather::can_stream),
        }
    }

    /// All threads have the packed filters and the shared copies; a slot has memory to fill a copy, its own copy,
    /// the staged sums of a pair of passes, and a strip's sums.
    fn scratch_len(&self, passes: usize) -> ScratchLen {
        let own_copy = if self.shared_copies == 0 { self.copy_len } else { 0 };
        let staged = 2 * self.staged_strides()[0];
        ScratchLen {
            shared: passes * self.packed_len + self.shared_copies * self.copy_len,
            per_slot: self.memory_len + own_copy + staged + self.sums_len,
        }
    }

    /// Strides of the staged sums of a panel along (pass of a pair, image, channel, row).
    #[inline(always)]
    fn staged_strides(&self) -> [usize; 4] {
        let of_channel = self.band_rows * self.staged_width;
        let of_image = self.panels[0].width * of_channel;
        [self.images * of_image, of_image, of_channel, self.staged_width]
    }
}

/// Whether the passes are pairs that write to every other element of the same NCHW rows, so that whole
/// vectors of both can be written. (What is there already would have to be read likewise.)
fn interleaves<T: Element>(passes: &[Gather<T>]) -> bool {
    let pairs = passes.chunks(2).all(|pair| match pair {
        [even, odd] => {
            even.target_strides[3] == 2
                && even.target.wrapping_add(1) == odd.target
                && even.grid_height == odd.grid_height
                && !even.adds()
        }
        _ => false,
    });
    pairs && passes[0].target_strides[1] > 1
}

/// Whether no tap reaches what a pass writes, as a stride larger than the kernel leaves it, and pixels are
/// runs of channels.
fn is_empty<T: Element>(pass: &Gather<T>) -> bool {
    pass.rows.count * pass.columns.count == 0 && pass.target_strides[1] == 1 && !pass.adds()
}

/// The rows of a band that the grid of a pass has: the first, and the one behind the last.
fn rows_of<T>(pass: &Gather<T>, (first, end): (usize, usize)) -> (usize, usize) {
    (first.min(pass.grid_height), end.min(pass.grid_height))
}

/// The rows of the source that some rows of the grids read.
fn source_rows<T>(passes: &[Gather<T>], rows: (usize, usize)) -> Range<usize> {
    let (mut first, mut end) = (passes[0].rows.extent, 0);
    for pass in passes {
        let taps = &pass.rows;
        let rows = rows_of(pass, rows);
        if rows.0 == rows.1 || taps.count == 0 {
            continue;
        }
        for row in [rows.0, rows.1 - 1] {
            for tap in [0, taps.count - 1] {
                let source = taps.source(row, tap).clamp(0, taps.extent as isize - 1) as usize;
                (first, end) = (first.min(source), end.max(source + 1));
            }
        }
    }
    first..end.max(first)
}

pub(super) fn scratch_len<T: Element>(level: Level, passes: &[Gather<T>]) -> ScratchLen {
    let tile = TileShape::of::<T>(level);
    Plan::new(passes, tile).scratch_len(passes.len())
}

/// Runs gathering passes from the same source to different places of the same rows; a band is copied
/// once for all of them. False, and nothing written, when `finite` filters are asked for but some
/// weight is not: a tap that is skipped would have made a NaN of it.
pub(super) fn gather<T: Element>(
    context: &Context,
    passes: &[Gather<T>],
    finite: bool,
) -> Result<bool> {
    let level = context.level();
    let tile = TileShape::of::<T>(level);
    let plan = Plan::new(passes, tile);
    let scratch = context.scratch::<T>(plan.scratch_len(passes.len()))?;
    let packed_at = |offset: usize| scratch.shared().wrapping_add(offset);
    let all_finite = AtomicBool::new(true);
    let Gather { batch, groups, .. } = passes[0];
    let panel_count = plan.panels[0].count;
    // Some rows of some images of a group, with a place for their copy.
    let band = |number: usize, copy: *mut T| {
        let (rest, band) = (number / plan.bands, number % plan.bands);
        let (images, group) = (rest / groups, rest % groups);
        let (image, row) = (images * plan.images, band * plan.band_rows);
        let rows = (row, row + plan.band_rows);
        let copy = BandCopy {
            pass: &passes[0],
            images: (image, batch.min(image + plan.images)),
            group,
            rows: source_rows(passes, rows),
            copy,
        };
        (copy, rows)
    };
    let shared_copy =
        |number: usize| packed_at(passes.len() * plan.packed_len + number * plan.copy_len);

    let packs = passes.len() * groups * panel_count;
    let fills_of_copy = TASKS.div_ceil(plan.shared_copies.max(1));
    context.run(packs + plan.shared_copies * fills_of_copy, &|slot, index| {
        if let Some(index) = index.checked_sub(packs) {
            let (number, part) = (index / fills_of_copy, index % fills_of_copy);
            let (copy, _) = band(number, shared_copy(number));
            let (items, most) = (copy.items(), copy.items().div_ceil(fills_of_copy));
            let items = (part * most).min(items)..((part + 1) * most).min(items);
            return T::dispatch(level, FillCopy { copy, items, memory: scratch.slot(slot) });
        }
        let (rest, panel) = (index / panel_count, index % panel_count);
        let (number, group) = (rest / groups, rest % groups);
        let panels = plan.panels[number];
        let target =
            packed_at(number * plan.packed_len + group * panels.len() + panels.offset(panel));
        let pack = PackPanel { pass: &passes[number], plan: panels, group, panel, target };
        if !T::dispatch(level, pack) {
            all_finite.store(false, Ordering::Relaxed);
        }
    });
    if finite && !all_finite.into_inner() {
        return Ok(false);
    }
    context.run(batch.div_ceil(plan.images) * groups * plan.bands * plan.parts, &|slot, index| {
        let (number, part) = (index / plan.parts, index % plan.parts);
        let panel = part * plan.part_panels;
        let memory = scratch.slot(slot);
        let own = memory.wrapping_add(plan.memory_len);
        let (copy, staged) = match plan.shared_copies {
            0 => (own, own.wrapping_add(plan.copy_len)),
            _ => (shared_copy(number), own),
        };
        let (copy, rows) = band(number, copy);
        let kernel = Band {
            passes,
            plan: &plan,
            images: copy.images,
            group: copy.group,
            rows,
            part: (panel, panel_count.min(panel + plan.part_panels)),
            packed: packed_at(0),
            copy,
            memory,
            staged,
            sums: staged.wrapping_add(2 * plan.staged_strides()[0]),
        };
        T::dispatch(level, kernel);
    });
    Ok(true)
}

/// Some panels of channels for a band of one group of some images.
struct Band<'a, T> {
    passes: &'a [Gather<T>],
    plan: &'a Plan,
    /// First and end.
    images: (usize, usize),
    group: usize,
    /// First row of the grids, and the one behind the last, of which a grid may have fewer.
    rows: (usize, usize),
    /// First panel, and the one behind the last.
    part: (usize, usize),
    packed: *const T,
    copy: BandCopy<'a, T>,
    /// To fill the copy.
    memory: *mut T,
    staged: *mut T,
    sums: *mut T,
}

impl<T: Element> Kernel<T> for Band<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let source = self.source(simd);
        let interleaved = self.plan.staged_width > 0;
        let (first, end) = self.rows;
        // In NHWC panels write parts of the same pixels, which therefore stay in the cache.
        let most = match self.passes[0].target_strides[1] {
            1 => (STRIP_PIXELS / self.passes[0].grid_width).max(1),
            _ => end - first,
        };
        for (row, rows) in even_parts(end - first, most) {
            let rows = (first + row, first + row + rows);
            for pass in self.passes.iter().filter(|pass| is_empty(pass)) {
                // SAFETY: the target has the rows and the part's channels.
                unsafe { self.write_empty_pixels(simd, pass, rows_of(pass, rows)) };
            }
            for panel in self.part.0..self.part.1 {
                for number in 0..self.passes.len() {
                    if is_empty(&self.passes[number]) {
                        continue;
                    }
                    let rows = rows_of(&self.passes[number], rows);
                    self.panel(source, number, panel).run(simd, rows);
                    if interleaved && number % 2 == 1 {
                        // SAFETY: the sums of this pass and the one before are staged.
                        unsafe { self.interleave(simd, number - 1, panel) };
                    }
                }
            }
        }
        if self.plan.streams {
            runs::end_stream();
        }
    }
}

impl<T: Element> Band<'_, T> {
    /// A panel of a pass, to its place in the target or, for an interleaved pass, among the staged
    /// sums.
    #[inline(always)]
    fn panel(&self, source: Source<T>, number: usize, panel: usize) -> Panel<'_, T> {
        let (pass, plan) = (&self.passes[number], self.plan.panels[number]);
        let packed = self.filters(number);
        let (target, target_strides) = if self.plan.staged_width == 0 {
            (self.target(pass, panel), pass.target_strides)
        } else {
            let [of_pass, of_image, of_channel, of_row] = self.plan.staged_strides();
            let target = self.staged.wrapping_add(number % 2 * of_pass);
            (target.wrapping_sub(self.rows.0 * of_row), [of_image, of_channel, of_row, 1])
        };
        let bias = match pass.bias.is_null() {
            true => ptr::null(),
            false => pass.bias.wrapping_add(self.group * pass.outputs + panel * plan.width),
        };
        let (images, sums) = (self.images.1 - self.images.0, self.sums);
        let streams = self.plan.streams;
        Panel {
            pass,
            plan,
            panel,
            packed,
            images,
            source,
            target,
            target_strides,
            bias,
            sums,
            streams,
            following: self.following(number, panel),
        }
    }

    /// The group's packed filters of pass `number`.
    #[inline(always)]
    fn filters(&self, number: usize) -> *const T {
        let group = self.group * self.plan.panels[number].len();
        self.packed.wrapping_add(number * self.plan.packed_len + group)
    }

    /// The filters that are read behind those of a panel, where they do not stay in the second-level cache.
    #[inline(always)]
    fn following(&self, number: usize, panel: usize) -> *const T {
        if !self.plan.rereads_filters {
            return ptr::null();
        }
        let (number, panel) = match number + 1 < self.passes.len() {
            true => (number + 1, panel),
            false if panel + 1 < self.part.1 => (0, panel + 1),
            false => (0, self.part.0),
        };
        self.filters(number).wrapping_add(self.plan.panels[number].offset(panel))
    }

    /// Writes rows of an empty pass, a whole pixel at a time.
    ///
    /// # Safety
    /// The target has the rows and the part's channels, and nobody else uses them.
    #[inline(always)]
    unsafe fn write_empty_pixels<S: Lanes<T>>(
        &self,
        simd: S,
        pass: &Gather<T>,
        (first, end): (usize, usize),
    ) {
        let width = self.plan.panels[0].width;
        let channels = pass.outputs.min(self.part.1 * width) - self.part.0 * width;
        let [of_image, _, of_row, of_column] = pass.target_strides;
        let sum = simd.mul(simd.splat(pass.alpha), simd.splat(T::default()));
        let axes = [
            (self.images.1 - self.images.0, of_image),
            (end - first, of_row),
            (pass.grid_width, of_column),
        ];
        let target = self.target(pass, self.part.0).wrapping_add(first * of_row);
        // SAFETY: the caller answers for the pixels' channels.
        unsafe { runs::fill(simd, channels, sum, target, axes) };
    }

    /// The first channel of a panel at the first pixel of the first image's grid.
    #[inline(always)]
    fn target(&self, pass: &Gather<T>, panel: usize) -> *mut T {
        let channel = self.group * pass.outputs + panel * self.plan.panels[0].width;
        let offset = self.images.0 * pass.target_strides[0] + channel * pass.target_strides[1];
        pass.target.wrapping_add(offset)
    }

    /// Writes the staged sums of a panel of pass `number` and the next.
    ///
    /// # Safety
    /// They are there; nobody else uses their place in the target.
    #[inline(always)]
    unsafe fn interleave<S: Lanes<T>>(&self, simd: S, number: usize, panel: usize) {
        let [even, odd] = [&self.passes[number], &self.passes[number + 1]];
        let width = even.grid_width + odd.grid_width;
        let [of_pass, of_staged_image, of_staged_channel, of_staged_row] =
            self.plan.staged_strides();
        let (first, end) = rows_of(even, self.rows);
        let [of_image, of_channel, of_row, _] = even.target_strides;
        let target = self.target(even, panel);
        for image in 0..self.images.1 - self.images.0 {
            for channel in 0..self.plan.panels[number].channels(panel) {
                let source = image * of_staged_image + channel * of_staged_channel;
                let target = target.wrapping_add(image * of_image + channel * of_channel);
                for row in first..end {
                    // SAFETY: rows of the band, channels of the panel, of its images.
                    unsafe {
                        let source = self.staged.add(source + (row - first) * of_staged_row);
                        let target = target.add(row * of_row);
                        runs::interleave(simd, width, source, source.add(of_pass), target);
                    }
                }
            }
        }
    }

    /// The source of the band: in place, or a copy of its rows.
    #[inline(always)]
    fn source<S: Lanes<T>>(&self, simd: S) -> Source<T> {
        let pass = &self.passes[0];
        if self.plan.copy_len == 0 {
            let [of_image, of_channel, ..] = pass.source_strides;
            let offset = self.images.0 * of_image + self.group * pass.terms * of_channel;
            return Source {
                start: pass.source.wrapping_add(offset),
                strides: pass.source_strides,
            };
        }
        if self.plan.shared_copies == 0 {
            // SAFETY: the source has the band in every image; this task's copy and memory have room for it.
            unsafe { self.copy.fill(simd, 0..self.copy.items(), self.memory) };
        }
        self.copy.source()
    }
}
