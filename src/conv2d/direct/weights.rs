//! dw and db with pixels, or the channels of groups, in the lanes. As for the dense pass, the batch is cut into parts
//! by the shape alone, and the parts' sums are added up in their order.

use std::{array, ptr};

use super::band::Band;
use super::depthwise_weights::{self, Plane};
use super::nhwc_groups::Groups;
use super::nhwc_tap_sums;
use super::nhwc_weights::{self, Sums};
use super::nhwc_window::no_lines;
use super::panel_copies::{self, Bands, CHANNELS, shape_of_panel, to_panel};
use super::plane_weights::{self, Planes};
use super::{TASK_WORK, even_parts, nhwc_depthwise};
use crate::context::Context;
use crate::conv2d::add_parts::{OutputSums, PartUpdate};
use crate::conv2d::backward_weights::BackwardWeights;
use crate::conv2d::gradient::Gradient;
use crate::conv2d::weights_plan::parts_of_batch;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::pool2d::Region;
use crate::runs;
use crate::scratch::ScratchLen;
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Planes of a task at the least.
const PLANES: usize = 16;
/// Channels of a task at the most, NHWC: their sums stay in the first-level cache, and those of several parts are
/// not many.
const NHWC_CHANNELS: usize = 64;
/// Taps of one row that share each load of dy.
const SHARED_TAPS: usize = 3;
/// At least the vectors that `TILE_LANES` takes.
const MOST_VECTORS: usize = 8;

/// Outputs of a group that are few: a matrix product's tile would have few rows or lanes, and would pack x. And the
/// pixels of planes, and of their rows, that are worth adding up the lanes of each sum.
const FEW_OUTPUTS: usize = 7;
const LARGE_PLANE: usize = 512;

/// Whether planes of x are taken one by one for few outputs, NCHW.
pub(in crate::conv2d) fn fits_few_outputs(shape: &ConvShape) -> bool {
    let one = shape.group_out == 1 && depthwise_weights::fits(shape);
    let few = shape.group_out <= FEW_OUTPUTS && plane_weights::takes(shape);
    let pixels = shape.out_height * shape.out_width;
    let large = shape.out_width >= TILE_LANES && pixels >= LARGE_PLANE && shape.window() > 1;
    shape.layout == Layout::Nchw && large && (one || few)
}

/// How the pass is cut, by the shape alone.
struct Plan {
    rows: Taps,
    columns: Taps,
    copies: Copies,
    /// Of an output, those of each input channel; 0 when dw is not wanted.
    taps: usize,
    /// Elements of the planes of dy that are summed together, if several are.
    masked: usize,
    /// Elements of a part's sums: `[rows, terms, columns, out_channels]` of dw, then `[out_channels]` of db.
    sums_of_part: usize,
    /// Images, or rows of y over all images in NHWC.
    units: usize,
    units_of_part: usize,
    parts: usize,
    /// Elements of a copy of pixels of x, NHWC.
    copied: usize,
    /// Channels of a task, but for the last, and how many such chunks there are.
    channels: usize,
    chunks: usize,
    /// The same of a group's terms, the input channels whose planes are taken one by one: NCHW.
    terms: usize,
    term_chunks: usize,
}

impl Plan {
    fn new<T: Element>(shape: &ConvShape, with_dw: bool) -> Self {
        let taps = if with_dw { shape.patch_len() } else { 0 };
        let sums_of_part = (taps + 1) * shape.out_channels;
        let rows = Taps::forward(&shape.height);
        let columns = Taps::forward(&shape.width);
        let axes = std::iter::once((rows, columns));
        let (copies, units, least_channels) = match shape.layout {
            _ if with_dw && takes_panels(shape) => {
                let [height, width] = [shape.out_height, shape.out_width];
                let bands =
                    Bands::new::<T>(shape.layout, axes, [height, width], [height, width], 1);
                (Copies::Panels(bands), shape.batch, CHANNELS)
            }
            Layout::Nchw => {
                let band = Band::new::<T>(axes, 1, [shape.out_height, shape.out_width]);
                (Copies::Nchw(band), shape.batch, PLANES)
            }
            Layout::Nhwc => {
                let blocks = shape.out_channels.div_ceil(NHWC_CHANNELS);
                let channels = shape.out_channels.div_ceil(blocks).next_multiple_of(TILE_LANES);
                (Copies::Nhwc, shape.batch * shape.out_height, channels)
            }
        };
        // Where there are many channels, they are tasks enough.
        let pixels = shape.batch * shape.out_height * shape.out_width;
        let work = pixels.saturating_mul(taps + 1);
        let chunks = shape.out_channels.div_ceil(least_channels);
        let parts = parts_of_batch(units, sums_of_part * size_of::<T>());
        let parts = parts.min(TASKS.div_ceil(chunks));
        let parts = parts.min(work.saturating_mul(shape.out_channels).div_ceil(TASK_WORK)).max(1);
        let units_of_part = units.div_ceil(parts);
        let parts = units.div_ceil(units_of_part);
        let channels = match copies {
            Copies::Nchw(_) | Copies::Panels(_) => {
                (TASK_WORK / (work / parts).max(1)).max(1).next_multiple_of(PLANES)
            }
            Copies::Nhwc => least_channels,
        };
        let chunks = shape.out_channels.div_ceil(channels);
        // db alone goes with the first one.
        let (mut terms, mut term_chunks) = (if with_dw { shape.group_in } else { 1 }, 1);
        if with_dw && matches!(copies, Copies::Nchw(_)) {
            let all = work.saturating_mul(shape.out_channels);
            let wanted = (all / TASK_WORK).clamp(1, TASKS).div_ceil(parts * chunks);
            terms = terms.div_ceil(wanted);
            term_chunks = shape.group_in.div_ceil(terms);
        }
        Plan {
            rows,
            columns,
            copies,
            taps,
            masked: match plane_weights::takes(shape) {
                true => plane_weights::OUTPUTS * shape.out_height * shape.out_width,
                false => 0,
            },
            copied: nhwc_tap_sums::copy_len::<T>(shape, channels),
            sums_of_part,
            units,
            units_of_part,
            parts,
            channels,
            chunks,
            terms,
            term_chunks,
        }
    }

    /// Elements of a copy of x; of a panel with one of dy, and of its and NHWC's sums of a block.
    fn copy_len(&self) -> usize {
        match &self.copies {
            Copies::Nchw(band) => band.len().max(self.masked),
            Copies::Panels(bands) => {
                let sums =
                    (self.taps + 1) * CHANNELS + nhwc_weights::scratch_len(self.taps, CHANNELS);
                bands.source_len() + bands.target_len() + sums
            }
            Copies::Nhwc => nhwc_weights::scratch_len(self.taps, self.channels) + self.copied,
        }
    }

    /// All parts' sums, a copy of x, and a region of dy.
    fn scratch_len<T: Element>(&self, shape: &ConvShape, dy: &Gradient<'_, T>) -> ScratchLen {
        let region = match &self.copies {
            Copies::Nchw(_) => {
                let channels = shape.group_out.min(plane_weights::OUTPUTS);
                dy.scratch_len(channels, shape.out_height)
            }
            Copies::Panels(bands) => dy.scratch_len(CHANNELS, bands.grid_rows),
            Copies::Nhwc => dy.scratch_len(self.channels, 1),
        };
        ScratchLen { shared: self.parts * self.sums_of_part, per_slot: self.copy_len() + region }
    }
}

pub(in crate::conv2d) fn scratch_len<T: Element>(shape: &ConvShape, with_dw: bool) -> ScratchLen {
    Plan::new::<T>(shape, with_dw).scratch_len(shape, &Gradient::<T>::none())
}

pub(in crate::conv2d) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
) -> Result<()> {
    let plan = Plan::new::<T>(shape, dw.is_some());
    let Plan { taps, sums_of_part, parts, chunks, channels, terms, term_chunks, .. } = plan;
    let scratch = context.scratch::<T>(plan.scratch_len(shape, &pass.gradient))?;
    context.run(parts * chunks * term_chunks, &|slot, index| {
        let (rest, term) = (index / term_chunks, index % term_chunks * terms);
        let (part, chunk) = (rest / chunks, rest % chunks);
        let (unit, channel) = (part * plan.units_of_part, chunk * channels);
        let kernel = SumPart {
            shape,
            pass,
            taps,
            copies: plan.copies,
            rows: plan.rows,
            columns: plan.columns,
            units: (unit, plan.units.min(unit + plan.units_of_part)),
            channels: (channel, shape.out_channels.min(channel + channels)),
            terms: (term, shape.group_in.min(term + terms)),
            // SAFETY: the part's sums.
            sums: unsafe { scratch.shared().add(part * sums_of_part) },
            copy: scratch.slot(slot),
            region: scratch.slot(slot).wrapping_add(plan.copy_len()),
        };
        T::dispatch(context.level(), kernel);
    });

    let update = |alpha, beta| PartUpdate { parts, part_len: sums_of_part, alpha, beta };
    let sums = OutputSums {
        shape,
        sums: scratch.shared(),
        taps,
        dw: dw.map_or(ptr::null_mut(), <[T]>::as_mut_ptr),
        db: db.map_or(ptr::null_mut(), <[T]>::as_mut_ptr),
        updates: [update(pass.dw_alpha, pass.dw_beta), update(pass.db_alpha, pass.db_beta)],
    };
    sums.add_up(context);
    Ok(())
}

/// Whether panels of channels are copied.
fn takes_panels(shape: &ConvShape) -> bool {
    let unrolled = depthwise_weights::fits(shape);
    let can = panel_copies::fits(shape) && nhwc_depthwise::fits(shape);
    can && panel_copies::pay(shape, shape.out_width, unrolled)
}

/// How x is copied.
#[derive(Clone, Copy)]
enum Copies {
    Nchw(Band),
    Panels(Bands),
    Nhwc,
}

/// One part's sums of some channels: `[rows, terms, columns, out_channels]` of dw, then `[out_channels]` of db.
struct SumPart<'a, T> {
    shape: &'a ConvShape,
    pass: &'a BackwardWeights<'a, T>,
    /// As in the plan.
    taps: usize,
    copies: Copies,
    rows: Taps,
    columns: Taps,
    /// First and end: images, or rows of y over all images in NHWC.
    units: (usize, usize),
    /// First and end.
    channels: (usize, usize),
    /// First and end, of a group's.
    terms: (usize, usize),
    sums: *mut T,
    /// Room for a band; in NHWC for the sums of a block too.
    copy: *mut T,
    /// Room for a region of dy.
    region: *mut T,
}

impl<T: Element> Kernel<T> for SumPart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (first, end) = self.channels;
        match &self.copies {
            Copies::Nchw(band) => {
                for term in self.terms.0..self.terms.1 {
                    self.sum_planes(simd, band, term);
                }
            }
            Copies::Panels(bands) => {
                for channel in (first..end).step_by(CHANNELS) {
                    let channels = (channel, CHANNELS.min(end - channel));
                    // SAFETY: the tensors have the images and the channels, which are this task's.
                    unsafe { self.panel(simd, bands, channels) };
                }
            }
            Copies::Nhwc => {
                simd.call(Sums {
                    shape: self.shape,
                    x: self.pass.x.filter(|_| self.taps > 0).map_or(ptr::null(), <[T]>::as_ptr),
                    gradient: &self.pass.gradient,
                    rows: self.rows,
                    columns: self.columns,
                    groups: &Groups::new(self.shape.group_out, self.shape.group_in),
                    channels: self.channels,
                    units: self.units,
                    sums: self.sums,
                    scratch: self.copy,
                    copy: self.copy.wrapping_add(nhwc_weights::scratch_len(
                        self.taps,
                        self.channels.1 - self.channels.0,
                    )),
                    region: self.region,
                    lines: &mut no_lines(),
                });
            }
        }
    }
}

impl<T: Element> SumPart<'_, T> {
    /// The sums of this task's channels and one term, a plane of x after the other, NCHW.
    #[inline(always)]
    fn sum_planes<S: Lanes<T>>(&self, simd: S, band: &Band, term: usize) {
        let shape = self.shape;
        let taps = self.taps / shape.group_in;
        let mut totals = [[T::default(); TILE_LANES]; DEPTH_BLOCK + 1];
        let (mut channel, end) = self.channels;
        while channel < end {
            let group = (channel / shape.group_out + 1) * shape.group_out;
            let together = self.together(end.min(group) - channel);
            let totals = &mut totals[..together * (taps + 1)];
            totals.fill([T::default(); TILE_LANES]);
            for image in self.units.0..self.units.1 {
                let totals = totals.as_flattened_mut();
                // SAFETY: the tensors have the image and the channels.
                unsafe {
                    match together {
                        1 => self.plane(simd, band, [image, term], channel, totals),
                        _ => self.planes(simd, [image, term], (channel, together), totals),
                    }
                }
            }
            for (number, totals) in totals.chunks_exact(taps + 1).enumerate() {
                let channel = channel + number;
                for (tap, lanes) in totals[..taps].iter().enumerate() {
                    let (row, column) = (tap / shape.width.kernel, tap % shape.width.kernel);
                    let line = row * shape.group_in + term;
                    // SAFETY: this task's sum.
                    unsafe {
                        *self.sum(line * shape.width.kernel + column, channel) =
                            sum_of_lanes(lanes);
                    }
                }
                if term == 0 {
                    // SAFETY: this task's sum.
                    unsafe { *self.sum(self.taps, channel) = sum_of_lanes(&totals[taps]) };
                }
            }
            channel += together;
        }
    }

    /// The plane of x that a term of some channel reads in an image; None for db alone.
    #[inline(always)]
    fn plane_of(&self, [image, term]: [usize; 2], channel: usize) -> Option<*const T> {
        let [x_image, x_channel, ..] = self.shape.input_strides;
        let input = channel / self.shape.group_out * self.shape.group_in + term;
        let x = self.pass.x.filter(|_| self.taps > 0)?;
        Some(x.as_ptr().wrapping_add(image * x_image + input * x_channel))
    }

    /// The sum of a tap; of db behind the last tap.
    #[inline(always)]
    fn sum(&self, tap: usize, channel: usize) -> *mut T {
        // SAFETY: within the part's sums.
        unsafe { self.sums.add(tap * self.shape.out_channels + channel) }
    }

    /// The sums of a panel of channels.
    ///
    /// # Safety
    /// The tensors have the images and the channels; nobody else uses their sums.
    #[inline(always)]
    unsafe fn panel<S: Lanes<T>>(
        &self,
        simd: S,
        bands: &Bands,
        (channel, channels): (usize, usize),
    ) {
        let (shape, lines) = (self.shape, self.taps + 1);
        let [x_image, x_channel, x_row, x_column] = shape.input_strides;
        let x_strides = [x_channel, x_row, x_column];
        let mut of_panel = shape_of_panel(shape);
        of_panel.input_strides[2] = bands.row_len() * CHANNELS;
        let x_copy = self.copy;
        let dy_copy = x_copy.wrapping_add(bands.source_len());
        let sums = dy_copy.wrapping_add(bands.target_len());
        let x = self.pass.x.map_or(ptr::null(), <[T]>::as_ptr);
        let groups = Groups::new(1, 1);
        let mut of_window = no_lines();
        for line in 0..lines {
            // SAFETY: the panel's sums.
            unsafe { self.sum(line, channel).write_bytes(0, channels) };
        }
        for unit in (self.units.0 * bands.count)..(self.units.1 * bands.count) {
            let (image, band) = (unit / bands.count, bands.band(unit % bands.count));
            let region = Region {
                image,
                channels: channel..channel + channels,
                rows: band.grid.0..band.grid.1,
            };
            let x = x.wrapping_add(image * x_image + channel * x_channel + band.source.0 * x_row);
            let pixels = (band.grid.1 - band.grid.0) * shape.out_width;
            // SAFETY: the caller answers for the tensors; there is memory for the copies, the sums and the region.
            unsafe {
                let view = self.pass.gradient.view(shape, &region, self.region);
                let [dy_image, dy_channel, dy_row, dy_column] = view.strides;
                let dy = view.at(image * dy_image + channel * dy_channel + band.grid.0 * dy_row);
                to_panel(simd, dy, [dy_channel, dy_column], [channels, pixels], dy_copy);
                band.copy(simd, [x, ptr::null()], x_strides, channels, shape.width.input, x_copy);
                let dy = std::slice::from_raw_parts(dy_copy, pixels * CHANNELS);
                let [rows, columns] = band.taps(&self.rows, &self.columns);
                simd.call(Sums {
                    shape: &of_panel,
                    x: x_copy,
                    gradient: &Gradient::Stored { dy, relu_output: None },
                    rows,
                    columns,
                    groups: &groups,
                    channels: (0, CHANNELS),
                    units: (0, band.grid.1 - band.grid.0),
                    sums,
                    scratch: sums.add(lines * CHANNELS),
                    copy: ptr::null_mut(),
                    region: self.region,
                    lines: &mut of_window,
                });
                for line in 0..lines {
                    for lane in (0..channels).step_by(S::LANES) {
                        let count = S::LANES.min(channels - lane);
                        let total = self.sum(line, channel + lane);
                        let sum = simd.load(sums.add(line * CHANNELS + lane));
                        let sum = simd.add(runs::load(simd, count, total), sum);
                        runs::store(simd, count, total, sum);
                    }
                }
            }
        }
    }

    /// How many of so many outputs of one group are summed together.
    #[inline(always)]
    fn together(&self, outputs: usize) -> usize {
        match self.taps > 0 && plane_weights::takes(self.shape) {
            true => {
                even_parts(outputs, plane_weights::OUTPUTS).next().map_or(1, |(_, count)| count)
            }
            false => 1,
        }
    }

    /// Adds one image's sums of some channels of a group and one term to the lanes of each tap's total.
    ///
    /// # Safety
    /// The tensors have the image and the channels.
    #[inline(always)]
    unsafe fn planes<S: Lanes<T>>(
        &self,
        simd: S,
        [image, term]: [usize; 2],
        (channel, outputs): (usize, usize),
        totals: &mut [T],
    ) {
        let shape = self.shape;
        let channels = channel..channel + outputs;
        let region = Region { image, channels, rows: 0..shape.out_height };
        // SAFETY: dy has the planes, and there is memory for them.
        let view = unsafe { self.pass.gradient.view(shape, &region, self.region) };
        let [dy_image, dy_channel, ..] = view.strides;
        let [dy, relu_output] = view.at(image * dy_image + channel * dy_channel);
        let planes = Planes {
            x: self.plane_of([image, term], channel).unwrap_or(ptr::null()),
            with_dy: term == 0,
            dy,
            relu_output,
            memory: self.copy,
            of_output: dy_channel,
            outputs,
            rows: self.rows,
            columns: self.columns,
            height: shape.out_height,
            width: shape.out_width,
        };
        // SAFETY: the tensors have the planes.
        unsafe { planes.add(simd, totals) };
    }

    /// Adds one image's sums of one channel and one term to the lanes of each tap's total, NCHW.
    ///
    /// # Safety
    /// The tensors have the image and the channel.
    #[inline(always)]
    unsafe fn plane<S: Lanes<T>>(
        &self,
        simd: S,
        band: &Band,
        [image, term]: [usize; 2],
        channel: usize,
        totals: &mut [T],
    ) {
        let shape = self.shape;
        let [x_image, _, x_row, _] = shape.input_strides;
        let region = Region { image, channels: channel..channel + 1, rows: 0..shape.out_height };
        // SAFETY: dy has the plane, and there is memory for it.
        let view = unsafe { self.pass.gradient.view(shape, &region, self.region) };
        let [dy_image, dy_channel, dy_row, _] = view.strides;
        let dy = image * dy_image + channel * dy_channel;
        let x = self.plane_of([image, term], channel);
        if let Some(x) = x.filter(|_| depthwise_weights::fits(shape)) {
            let [gradient, relu_output] = view.at(dy);
            let last = image + 1 == self.units.1;
            let plane = Plane {
                x,
                dy: gradient,
                relu_output,
                next: match last {
                    true => [x, gradient],
                    false => [x.wrapping_add(x_image), gradient.wrapping_add(dy_image)],
                },
                rows: self.rows,
                columns: self.columns,
                height: shape.out_height,
                width: shape.out_width,
            };
            // SAFETY: the tensors have the plane.
            unsafe { plane.add(simd, totals) };
            return;
        }
        let (products, total_of_dy) = totals.split_at_mut(self.taps / shape.group_in * TILE_LANES);
        for row in (0..shape.out_height).step_by(band.grid_rows) {
            let rows = band.grid_rows.min(shape.out_height - row);
            let dy = dy + row * dy_row;
            // SAFETY: the caller answers for the image and channel; the band lies within them.
            unsafe {
                let total = self.lanes_of::<S, 0>(simd, band, view.at(dy), rows, 0, 0);
                add(simd, total_of_dy, total[0]);
                let Some(x) = x else { continue };
                band.fill(simd, x, ptr::null(), x_row, (row, rows), self.copy);
                for row_tap in 0..shape.height.kernel {
                    for column_tap in (0..shape.width.kernel).step_by(SHARED_TAPS) {
                        let dy = view.at(dy);
                        let sums = match shape.width.kernel - column_tap {
                            1 => self.lanes_of::<S, 1>(simd, band, dy, rows, row_tap, column_tap),
                            2 => self.lanes_of::<S, 2>(simd, band, dy, rows, row_tap, column_tap),
                            _ => self.lanes_of::<S, 3>(simd, band, dy, rows, row_tap, column_tap),
                        };
                        let taps = SHARED_TAPS.min(shape.width.kernel - column_tap);
                        for (n, &lanes) in sums.iter().enumerate().take(taps) {
                            let tap = row_tap * shape.width.kernel + column_tap + n;
                            let total = &mut products[tap * TILE_LANES..][..TILE_LANES];
                            add(simd, total, lanes);
                        }
                    }
                }
            }
        }
    }

    /// Sums of a band in `TILE_LANES` lanes, the column's remainder choosing the lane: of the
    /// products for `N` neighbouring taps, or with `N` = 0 of dy itself.
    ///
    /// # Safety
    /// dy has the band's rows, the copy what the taps read.
    #[inline(always)]
    unsafe fn lanes_of<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        band: &Band,
        [dy, relu_output]: [*const T; 2],
        rows: usize,
        row_tap: usize,
        column_tap: usize,
    ) -> [[S::Vector; MOST_VECTORS]; SHARED_TAPS] {
        let zero = simd.splat(T::default());
        let mut sums = [[zero; MOST_VECTORS]; SHARED_TAPS];
        let mut copies = [self.copy.cast_const(); SHARED_TAPS];
        for (n, copy) in copies.iter_mut().enumerate().take(N) {
            // SAFETY: within the copy.
            *copy = unsafe {
                copy.add(band.start((&self.rows, row_tap), (&self.columns, column_tap + n)))
            };
        }
        let width = self.shape.out_width;
        for row in 0..rows {
            let offset = row * band.rows.step * band.row_len();
            for column in (0..width).step_by(TILE_LANES) {
                #[allow(
                    clippy::needless_range_loop,
                    reason = "v also counts columns, n also copies"
                )]
                for v in 0..TILE_LANES / S::LANES {
                    let column = column + v * S::LANES;
                    if column >= width {
                        break;
                    }
                    let count = S::LANES.min(width - column);
                    // SAFETY: `count` columns of the row; the copy has whole vectors behind it.
                    unsafe {
                        let mask = simd.mask_between(0, count);
                        let place = row * width + column;
                        let gradient = gradient(simd, dy, relu_output, place, count);
                        if N == 0 {
                            sums[0][v] = simd.add(sums[0][v], gradient);
                        }
                        for n in 0..N {
                            let mut pixels = simd.load(copies[n].add(offset + column));
                            if count < S::LANES {
                                // An infinity behind the row must not meet a zero.
                                pixels = simd.select(mask, pixels, zero);
                            }
                            sums[n][v] = simd.mul_add(gradient, pixels, sums[n][v]);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// The first `count` lanes of dy at `offset`, masked by the ReLU's output if that is not null.
///
/// # Safety
/// Both have them.
#[inline(always)]
pub(super) unsafe fn gradient<T: Element, S: Lanes<T>>(
    simd: S,
    dy: *const T,
    relu_output: *const T,
    offset: usize,
    count: usize,
) -> S::Vector {
    // SAFETY: the caller answers for the lanes.
    unsafe {
        let dy = runs::load(simd, count, dy.add(offset));
        if relu_output.is_null() {
            return dy;
        }
        let output = runs::load(simd, count, relu_output.add(offset));
        simd.relu_gradient(output, dy)
    }
}

/// Adds a sum in lanes to a total in lanes.
#[inline(always)]
fn add<T: Element, S: Lanes<T>>(simd: S, total: &mut [T], sum: [S::Vector; MOST_VECTORS]) {
    for (lanes, &sum) in total.chunks_exact_mut(S::LANES).zip(&sum) {
        let lanes = lanes.as_mut_ptr();
        // SAFETY: a vector of the total.
        unsafe { simd.store(lanes, simd.add(simd.load(lanes), sum)) };
    }
}

/// In the same order whatever the vectors' width: the halves, their halves and so on. (Not in place:
/// loads that overlap stores just made would wait for them.)
#[inline(always)]
fn sum_of_lanes<T: Element>(lanes: &[T; TILE_LANES]) -> T {
    let eight: [T; TILE_LANES / 2] = array::from_fn(|lane| lanes[lane] + lanes[lane + 8]);
    let four: [T; TILE_LANES / 4] = array::from_fn(|lane| eight[lane] + eight[lane + 4]);
    let two = [four[0] + four[2], four[1] + four[3]];
    two[0] + two[1]
}
