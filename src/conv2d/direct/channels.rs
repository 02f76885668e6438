//! Target channels in the lanes, pixels broadcast one by one: the kernel for convolutions with enough
//! channels, on either layout.
//!
//! The register tile is the matrix product's, some pixels of the grid times the vectors of a panel
//! of channels, but no patches are packed: pixels are read from where they lie, or for NCHW from a
//! copy of some rows. Taps that lie in the padding are skipped: the grid is cut into regions whose
//! pixels have the same taps. (Zhang, Franchetti and Low, "High Performance Zero-Memory Overhead
//! Direct Convolutions", 2018, and Georganas et al., "Anatomy of High-Performance Deep Learning
//! Convolutions on SIMD Architectures", 2018, on plain tensors.)

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use super::band::copy_run;
use super::panels::{PackPanel, PanelPlan};
use super::{Gather, even_parts};
use crate::context::Context;
use crate::conv2d::patches::Taps;
use crate::error::Result;
use crate::gemm::blocking::{TASK_WORK, TASKS};
use crate::gemm::kernel::MOST_COLUMNS;
use crate::gemm::pack::TileShape;
use crate::simd::{CACHE_LINE, Element, Kernel, Lanes, TileKernel};

/// What a band of the source may take, beside a panel of filters in the second-level cache.
const BAND_BYTES: usize = 192 * 1024;

/// How a pass is cut. By the shape alone.
#[derive(Clone, Copy)]
struct Plan {
    panels: PanelPlan,
    /// Rows of the grid in a band, but for the last.
    band_rows: usize,
    bands: usize,
    /// Panels of a task, but for the last of a band.
    part_panels: usize,
    parts: usize,
    /// Elements of a band's copy, when the source is masked.
    copy_len: usize,
}

impl Plan {
    fn new<T: Element>(pass: &Gather<T>, tile: TileShape) -> Self {
        let panels = PanelPlan::new(pass, tile);
        let height = pass.grid_height;
        let row_bytes = pass.columns.extent * pass.terms * size_of::<T>() * pass.rows.step;
        let most_rows = (BAND_BYTES / row_bytes.max(1)).clamp(1, height);
        let work = pass.row_work().saturating_mul(height * pass.batch * pass.groups);
        let wanted = (work / TASK_WORK).clamp(1, TASKS).div_ceil(pass.batch * pass.groups);
        let bands = height.div_ceil(most_rows).max(wanted.min(height.div_ceil(tile.rows)));
        let band_rows = height.div_ceil(bands);
        let bands = height.div_ceil(band_rows);
        let part_panels = panels.count.div_ceil(wanted.div_ceil(bands)).max(1);
        let copy_len = match copies_source(pass) {
            false => 0,
            true => {
                let rows = (0..bands).map(|band| {
                    let first = band * band_rows;
                    source_rows(&pass.rows, first..height.min(first + band_rows)).len()
                });
                let pixels = rows.max().unwrap_or(0) * pass.columns.extent;
                copied_stride::<T>(pass, pixels) * pass.terms
            }
        };
        let parts = panels.count.div_ceil(part_panels);
        Plan { panels, band_rows, bands, part_panels, parts, copy_len }
    }
}

/// Whether a band of the source is copied: where it is masked, and where the planes of its channels
/// lie apart, so that their lines compete for the same few sets of the first-level cache.
fn copies_source<T>(pass: &Gather<T>) -> bool {
    let taps = pass.rows.count * pass.columns.count;
    taps > 0 && (!pass.relu_output.is_null() || pass.source_strides[3] == 1)
}

/// From term to term of a copy of NCHW planes: an odd number of cache lines.
fn copied_stride<T>(pass: &Gather<T>, pixels: usize) -> usize {
    if pass.source_strides[3] > 1 {
        return pixels;
    }
    let line = CACHE_LINE / size_of::<T>();
    (pixels.div_ceil(line) | 1) * line
}

/// The rows of the source that some rows of the grid read.
fn source_rows(taps: &Taps, rows: Range<usize>) -> Range<usize> {
    let (mut first, mut end) = (taps.extent, 0);
    for row in [rows.start, rows.end - 1] {
        for tap in [0, taps.count.saturating_sub(1)] {
            let source = taps.source(row, tap).clamp(0, taps.extent as isize - 1) as usize;
            (first, end) = (first.min(source), end.max(source + 1));
        }
    }
    first..end.max(first)
}

/// Runs a gathering pass. False, and nothing written, when `finite` filters are asked for but some
/// weight is not: a tap that is skipped would have made a NaN of it.
pub(super) fn gather<T: Element>(
    context: &Context,
    pass: &Gather<T>,
    finite: bool,
) -> Result<bool> {
    let level = context.level();
    let plan = Plan::new(pass, TileShape::of::<T>(level));
    let group_len = plan.panels.len();
    let scratch = context.scratch::<T>(pass.groups * group_len, plan.copy_len)?;
    let packed_at = |offset: usize| scratch.shared().wrapping_add(offset);
    let all_finite = AtomicBool::new(true);
    context.run(pass.groups * plan.panels.count, &|_, index| {
        let (group, panel) = (index / plan.panels.count, index % plan.panels.count);
        let target = packed_at(group * group_len + plan.panels.offset(panel));
        let pack = PackPanel { pass, plan: plan.panels, group, panel, target };
        if !T::dispatch(level, pack) {
            all_finite.store(false, Ordering::Relaxed);
        }
    });
    if finite && !all_finite.into_inner() {
        return Ok(false);
    }
    context.run(pass.batch * pass.groups * plan.bands * plan.parts, &|slot, index| {
        let (rest, part) = (index / plan.parts, index % plan.parts);
        let (rest, band) = (rest / plan.bands, rest % plan.bands);
        let (image, group) = (rest / pass.groups, rest % pass.groups);
        let row = band * plan.band_rows;
        let panel = part * plan.part_panels;
        let kernel = Band {
            pass: *pass,
            panels: plan.panels,
            image,
            group,
            rows: (row, pass.grid_height.min(row + plan.band_rows)),
            part: (panel, plan.panels.count.min(panel + plan.part_panels)),
            packed: packed_at(group * group_len),
            copy: scratch.slot(slot),
        };
        T::dispatch(level, kernel);
    });
    Ok(true)
}

/// Some panels of channels for a band of one group of one image.
#[derive(Clone, Copy)]
struct Band<T> {
    pass: Gather<T>,
    panels: PanelPlan,
    image: usize,
    group: usize,
    /// First row of the grid, and the one behind the last.
    rows: (usize, usize),
    /// First panel, and the one behind the last.
    part: (usize, usize),
    packed: *const T,
    copy: *mut T,
}

/// Where the first term of a source pixel lies, and the strides along (term, row, column).
#[derive(Clone, Copy)]
struct Source<T> {
    start: *const T,
    strides: [usize; 3],
}

/// Positions of one axis of the grid that have the same taps.
#[derive(Clone, Copy)]
struct Segment {
    first: usize,
    end: usize,
    first_tap: usize,
    end_tap: usize,
}

impl Segment {
    /// The segment that begins at `first`, up to `end` at most.
    #[inline(always)]
    fn new(taps: &Taps, first: usize, end: usize) -> Self {
        let (first_tap, end_tap) = taps.inside(first);
        let mut next = first + 1;
        while next < end && taps.inside(next) == (first_tap, end_tap) {
            next += 1;
        }
        Segment { first, end: next, first_tap, end_tap }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.first
    }
}

impl<T: Element> Kernel<T> for Band<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        // SAFETY: the source has the band, and the copy has room for it.
        let source = unsafe { self.source(simd) };
        for panel in self.part.0..self.part.1 {
            let mut row = self.rows.0;
            while row < self.rows.1 {
                let rows = Segment::new(&self.pass.rows, row, self.rows.1);
                row = rows.end;
                let mut column = 0;
                while column < self.pass.grid_width {
                    let columns = Segment::new(&self.pass.columns, column, self.pass.grid_width);
                    column = columns.end;
                    self.region(simd, source, panel, rows, columns);
                }
            }
        }
    }
}

impl<T: Element> Band<T> {
    /// The source of the band: in place, or a masked copy of its rows.
    ///
    /// # Safety
    /// The source has the band, and the copy has room for it.
    #[inline(always)]
    unsafe fn source<S: Lanes<T>>(&self, simd: S) -> Source<T> {
        let pass = &self.pass;
        let [of_image, of_channel, of_row, of_column] = pass.source_strides;
        let offset = self.image * of_image + self.group * pass.terms * of_channel;
        if !copies_source(pass) {
            let start = pass.source.wrapping_add(offset);
            return Source { start, strides: [of_channel, of_row, of_column] };
        }
        let rows = source_rows(&pass.rows, self.rows.0..self.rows.1);
        let (height, width) = (rows.len(), pass.columns.extent);
        // The copy is laid out as the source, but for what it leaves out.
        let (runs, run, of_run, of_copied_run, strides) = if of_column == 1 {
            let of_term = copied_stride(pass, height * width);
            (pass.terms, height * width, of_channel, of_term, [of_term, width, 1])
        } else {
            let terms = pass.terms;
            (height * width, terms, of_column, terms, [1, width * terms, terms])
        };
        // SAFETY: the runs are the source's rows, whose elements follow on from one another.
        unsafe {
            let first = offset + rows.start * of_row;
            for number in 0..runs {
                let from = first + number * of_run;
                let to = self.copy.add(number * of_copied_run);
                let relu_output = match pass.relu_output.is_null() {
                    true => pass.relu_output,
                    false => pass.relu_output.add(from),
                };
                copy_run(simd, pass.source.add(from), relu_output, 1, run, to);
            }
        }
        let start = self.copy.cast_const().wrapping_sub(rows.start * strides[1]);
        Source { start, strides }
    }

    /// One panel of channels for all pixels whose taps are `rows` x `columns`.
    #[inline(always)]
    fn region<S: Lanes<T>>(
        &self,
        simd: S,
        source: Source<T>,
        panel: usize,
        rows: Segment,
        columns: Segment,
    ) {
        let (row_taps, column_taps) = (&self.pass.rows, &self.pass.columns);
        let [_, of_row, of_column] = source.strides;
        let [_, _, target_row, target_column] = self.pass.target_strides;
        // Tiles along the longer side: fewer of them are narrow.
        let across = columns.len() >= rows.len();
        let (lines, line, pixel_stride, target_pixel) = match across {
            true => (rows.len(), columns.len(), column_taps.step * of_column, target_column),
            false => (columns.len(), rows.len(), row_taps.step * of_row, target_row),
        };
        let lanes = self.panels.lanes(panel);
        let mut sums = [T::default(); MOST_PIXELS * MOST_COLUMNS];
        for number in 0..lines {
            let place = |pixel: usize| match across {
                true => (rows.first + number, columns.first + pixel),
                false => (rows.first + pixel, columns.first + number),
            };
            // The pixels from `first` on that are summed but not written yet.
            let (mut first, mut summed) = (0, 0);
            for (pixel, pixels) in even_parts(line, S::TILE_ROWS) {
                let (row, column) = place(pixel);
                let source_row = row_taps.source(row, rows.first_tap);
                let source_column = column_taps.source(column, columns.first_tap);
                let offset = source_row * of_row as isize + source_column * of_column as isize;
                let kernel = Tile {
                    band: self,
                    panel,
                    rows,
                    columns,
                    // Of no meaning, and not read, where there are no taps.
                    source: source.start.wrapping_offset(offset),
                    strides: source.strides,
                    pixel_stride,
                    sums: &mut sums[summed * MOST_COLUMNS],
                };
                simd.tile(pixels, lanes / S::LANES, kernel);
                summed += pixels;
                if first + summed < line && summed + S::TILE_ROWS <= MOST_PIXELS {
                    continue;
                }
                let (row, column) = place(first);
                let finish = Finish {
                    band: self,
                    panel,
                    pixels: summed,
                    sums: &mut sums,
                    target: self.target(panel, row, column),
                    target_pixel,
                };
                // SAFETY: the pixels lie within this task's part of the target.
                unsafe { finish.run(simd) };
                (first, summed) = (first + summed, 0);
            }
        }
    }

    /// The first channel of a panel at a place of the grid.
    #[inline(always)]
    fn target(&self, panel: usize, row: usize, column: usize) -> *mut T {
        let [of_image, of_channel, of_row, of_column] = self.pass.target_strides;
        let channel = self.group * self.pass.outputs + panel * self.panels.width;
        self.pass.target.wrapping_add(
            self.image * of_image + channel * of_channel + row * of_row + column * of_column,
        )
    }
}

/// One register tile: pixels of one line of a region times a panel of channels.
struct Tile<'a, T> {
    band: &'a Band<T>,
    panel: usize,
    rows: Segment,
    columns: Segment,
    /// What the first pixel's first taps read.
    source: *const T,
    /// Along (term, row, column).
    strides: [usize; 3],
    /// From pixel to pixel of the source.
    pixel_stride: usize,
    /// Of the tile's pixels, `MOST_COLUMNS` from one to the next.
    sums: *mut T,
}

/// Pixels that are summed before they are written, so that NCHW gets whole cache lines.
const MOST_PIXELS: usize = 64;

impl<T: Element, S: Lanes<T>> TileKernel<T, S> for Tile<'_, T> {
    #[inline(always)]
    fn run<const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Band { pass, panels, packed, .. } = self.band;
        let width = VECTORS * S::LANES;
        let [of_term, of_row, of_column] = self.strides;
        let row_step = pass.rows.offset_step * of_row as isize;
        let column_step = pass.columns.offset_step * of_column as isize;
        let column_taps = self.columns.end_tap - self.columns.first_tap;
        let pixel_stride = self.pixel_stride;
        let mut term = 0;
        // SAFETY: the filters are packed for this panel, the taps lie within the source.
        unsafe {
            let panel = packed.add(panels.offset(self.panel));
            while term < pass.terms {
                let terms = panels.block_terms.min(pass.terms - term);
                let block = panel.add(term * panels.taps() * width);
                let source = self.source.add(term * of_term);
                let mut sums = [[simd.splat(T::default()); VECTORS]; ROWS];
                // The two inner loops run over terms and column taps, the innermost over the more.
                let first_tap = self.columns.first_tap;
                let (middle, inner, middle_step, inner_step, first, middle_width) =
                    match panels.terms_inside {
                        true => {
                            let first = first_tap * terms;
                            (column_taps, terms, column_step, of_term as isize, first, terms)
                        }
                        false => {
                            let taps = panels.column_taps;
                            (terms, column_taps, of_term as isize, column_step, first_tap, taps)
                        }
                    };
                for row_tap in self.rows.first_tap..self.rows.end_tap {
                    let row_number = (row_tap - self.rows.first_tap) as isize;
                    let source = source.offset(row_number * row_step);
                    let weights = row_tap * terms * panels.column_taps + first;
                    let weights = block.add(weights * width);
                    for number in 0..middle {
                        let mut source = source.offset(number as isize * middle_step);
                        let mut weights = weights.add(number * middle_width * width);
                        for _ in 0..inner {
                            let mut lanes = [simd.splat(T::default()); VECTORS];
                            for (v, lane) in lanes.iter_mut().enumerate() {
                                *lane = simd.load(weights.add(v * S::LANES));
                            }
                            for (r, sums) in sums.iter_mut().enumerate() {
                                let pixel = simd.splat(*source.add(r * pixel_stride));
                                for (sum, &lane) in sums.iter_mut().zip(&lanes) {
                                    *sum = simd.mul_add(pixel, lane, *sum);
                                }
                            }
                            source = source.wrapping_offset(inner_step);
                            weights = weights.add(width);
                        }
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        let total = self.sums.add(r * MOST_COLUMNS + v * S::LANES);
                        let sum = if term > 0 { simd.add(simd.load(total), sum) } else { sum };
                        simd.store(total, sum);
                    }
                }
                term += terms;
            }
        }
    }
}

/// The sums of some pixels of a line, on their way to the target.
struct Finish<'a, T> {
    band: &'a Band<T>,
    panel: usize,
    pixels: usize,
    sums: &'a mut [T; MOST_PIXELS * MOST_COLUMNS],
    /// The first pixel's first channel.
    target: *mut T,
    /// From pixel to pixel of the target.
    target_pixel: usize,
}

impl<T: Element> Finish<'_, T> {
    /// Writes them.
    ///
    /// # Safety
    /// The target has the pixels, and nobody else uses it.
    #[inline(always)]
    unsafe fn run<S: Lanes<T>>(self, simd: S) {
        let pass = &self.band.pass;
        let first = self.panel * self.band.panels.width;
        let channels = (pass.outputs - first).min(self.band.panels.width);
        let of_channel = pass.target_strides[1];
        let sums = self.sums.as_mut_ptr();
        for channel in (0..channels).step_by(S::LANES) {
            let count = S::LANES.min(channels - channel);
            // SAFETY: the biases have the group's channels, the sums the tile, and the caller
            // answers for the target.
            unsafe {
                let bias = match pass.bias.is_null() {
                    true => simd.splat(T::default()),
                    false => {
                        let bias = pass.bias.add(self.band.group * pass.outputs + first);
                        simd.load_first(count, bias.add(channel))
                    }
                };
                let target = self.target.add(channel * of_channel);
                for pixel in 0..self.pixels {
                    let sum = sums.add(pixel * MOST_COLUMNS + channel);
                    let target = target.add(pixel * self.target_pixel);
                    let old = match pass.adds() {
                        true => {
                            let mask = simd.mask_between(0, count);
                            simd.gather_where(mask, target, of_channel as isize)
                        }
                        false => bias,
                    };
                    let value = pass.result(simd, simd.load(sum), old, bias);
                    if of_channel > 1 {
                        simd.store(sum, value);
                    } else if count == S::LANES {
                        simd.store(target, value);
                    } else {
                        simd.store_first(count, target, value);
                    }
                }
                if of_channel == 1 {
                    continue;
                }
                if self.target_pixel == 1 && count == S::LANES {
                    for pixel in (0..self.pixels).step_by(S::LANES) {
                        let source = sums.add(pixel * MOST_COLUMNS + channel);
                        let pixels = S::LANES.min(self.pixels - pixel);
                        let target = target.add(pixel);
                        simd.transpose(pixels, source, MOST_COLUMNS, target, of_channel);
                    }
                    continue;
                }
                for lane in 0..count {
                    for pixel in 0..self.pixels {
                        let value = *sums.add(pixel * MOST_COLUMNS + channel + lane);
                        *target.add(lane * of_channel + pixel * self.target_pixel) = value;
                    }
                }
            }
        }
    }
}
