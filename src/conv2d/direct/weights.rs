//! dw and db. As for the dense pass, the batch is cut into parts by the shape alone, and the parts'
//! sums are added up in their order.

use super::band::Band;
use super::depthwise_weights::{self, Plane};
use super::nhwc::load;
use super::{TASK_WORK, input_strides, output_strides};
use crate::context::Context;
use crate::conv2d::backward_weights::{BackwardWeights, parts_of_batch, updated};
use crate::conv2d::patches::Taps;
use crate::error::Result;
use crate::gemm::blocking::{DEPTH_BLOCK, TASKS};
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Channels of a task at the least: a cache line of NHWC pixels.
const CHANNELS: usize = 16;
/// Taps of one row that share each load of dy.
const SHARED_TAPS: usize = 3;
/// At least the vectors that `TILE_LANES` takes.
const MOST_VECTORS: usize = 8;

pub(in crate::conv2d) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
) -> Result<()> {
    let taps = if dw.is_some() { shape.height.kernel * shape.width.kernel } else { 0 };
    let sums_of_part = (taps + 1) * shape.out_channels;
    // Where there are many channels, they are tasks enough.
    let parts = parts_of_batch(shape.batch, sums_of_part * size_of::<T>());
    let parts = parts.min(TASKS.div_ceil(shape.out_channels.div_ceil(CHANNELS)));
    let images = shape.batch.div_ceil(parts);
    let parts = shape.batch.div_ceil(images);
    let rows = Taps::forward(&shape.height);
    let columns = Taps::forward(&shape.width);
    let grid = [shape.out_height, shape.out_width];
    let band = Band::new::<T>(std::iter::once((rows, columns)), 1, grid);
    let copy_len = if shape.layout == Layout::Nchw { band.len() } else { 0 };
    let scratch = context.scratch::<T>(parts * sums_of_part, copy_len)?;

    let work = images * shape.out_height * shape.out_width * (taps + 1);
    let channels = (TASK_WORK / work).max(1).next_multiple_of(CHANNELS);
    let chunks = shape.out_channels.div_ceil(channels);
    context.run(parts * chunks, &|slot, index| {
        let (part, chunk) = (index / chunks, index % chunks);
        let channel = chunk * channels;
        let kernel = SumPart {
            shape,
            pass,
            with_dw: taps > 0,
            band,
            rows,
            columns,
            images: (part * images, shape.batch.min((part + 1) * images)),
            channels: (channel, shape.out_channels.min(channel + channels)),
            // SAFETY: the part's sums.
            sums: unsafe { scratch.shared().add(part * sums_of_part) },
            copy: scratch.slot(slot),
        };
        T::dispatch(context.level(), kernel);
    });

    // SAFETY: the sums of all parts, written by the tasks.
    let sums = unsafe { std::slice::from_raw_parts_mut(scratch.shared(), parts * sums_of_part) };
    let (sums, others) = sums.split_at_mut(sums_of_part);
    for part in others.chunks_exact(sums_of_part) {
        for (sum, &part) in sums.iter_mut().zip(part) {
            *sum = *sum + part;
        }
    }
    if let Some(dw) = dw {
        let [w_out, _, w_row, w_column] = shape.filter_strides();
        for tap in 0..taps {
            let (row, column) = (tap / shape.width.kernel, tap % shape.width.kernel);
            for channel in 0..shape.out_channels {
                let dw = &mut dw[channel * w_out + row * w_row + column * w_column];
                let sum = sums[tap * shape.out_channels + channel];
                *dw = updated(pass.dw_alpha, sum, pass.dw_beta, *dw);
            }
        }
    }
    if let Some(db) = db {
        for (channel, db) in db.iter_mut().enumerate() {
            let sum = sums[taps * shape.out_channels + channel];
            *db = updated(pass.db_alpha, sum, pass.db_beta, *db);
        }
    }
    Ok(())
}

/// One part's sums of some channels: `[taps, out_channels]` of dw, then `[out_channels]` of db.
struct SumPart<'a, T> {
    shape: &'a ConvShape,
    pass: &'a BackwardWeights<'a, T>,
    with_dw: bool,
    band: Band,
    rows: Taps,
    columns: Taps,
    /// First and end.
    images: (usize, usize),
    /// First and end.
    channels: (usize, usize),
    sums: *mut T,
    copy: *mut T,
}

impl<T: Element> Kernel<T> for SumPart<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let (first, end) = self.channels;
        match self.shape.layout {
            Layout::Nchw => {
                let mut totals = [T::default(); (DEPTH_BLOCK + 1) * TILE_LANES];
                let totals = &mut totals[..(self.taps() + 1) * TILE_LANES];
                for channel in first..end {
                    totals.fill(T::default());
                    for image in self.images.0..self.images.1 {
                        // SAFETY: the tensors have the image and the channel.
                        unsafe { self.plane(simd, image, channel, totals) };
                    }
                    for (tap, lanes) in totals.chunks_exact_mut(TILE_LANES).enumerate() {
                        // SAFETY: this task's sum.
                        unsafe { *self.sum(tap, channel) = sum_of_lanes(lanes) };
                    }
                }
            }
            Layout::Nhwc => {
                for tap in 0..self.taps() + 1 {
                    // SAFETY: this task's channels of the part's sums.
                    unsafe { self.sum(tap, first).write_bytes(0, end - first) };
                }
                for image in self.images.0..self.images.1 {
                    for row in 0..self.shape.out_height {
                        // SAFETY: the tensors have the image and the channels.
                        unsafe { self.row(simd, image, row) };
                    }
                }
            }
        }
    }
}

impl<T: Element> SumPart<'_, T> {
    #[inline(always)]
    fn taps(&self) -> usize {
        if self.with_dw { self.shape.height.kernel * self.shape.width.kernel } else { 0 }
    }

    /// The sum of a tap; of db behind the last tap.
    #[inline(always)]
    fn sum(&self, tap: usize, channel: usize) -> *mut T {
        // SAFETY: within the part's sums.
        unsafe { self.sums.add(tap * self.shape.out_channels + channel) }
    }

    /// dy at `offset`, masked; `count` lanes, all of them where `WHOLE`.
    ///
    /// # Safety
    /// dy has them.
    #[inline(always)]
    unsafe fn gradient<S: Lanes<T>, const WHOLE: bool>(
        &self,
        simd: S,
        offset: usize,
        count: usize,
    ) -> S::Vector {
        let relu_output = self.pass.relu_output.map_or(std::ptr::null(), <[T]>::as_ptr);
        // SAFETY: the caller answers for the lanes.
        unsafe { gradient::<T, S, WHOLE>(simd, self.pass.dy.as_ptr(), relu_output, offset, count) }
    }

    /// Adds one image's sums of one channel to the lanes of each tap's total, NCHW.
    ///
    /// # Safety
    /// The tensors have the image and the channel.
    #[inline(always)]
    unsafe fn plane<S: Lanes<T>>(&self, simd: S, image: usize, channel: usize, totals: &mut [T]) {
        let shape = self.shape;
        let [x_image, x_channel, x_row, _] = input_strides(shape);
        let [dy_image, dy_channel, dy_row, _] = output_strides(shape);
        let dy = image * dy_image + channel * dy_channel;
        let x = self.pass.x.filter(|_| self.with_dw).map(|x| {
            let offset = image * x_image + channel / shape.group_out * x_channel;
            x.as_ptr().wrapping_add(offset)
        });
        if let Some(x) = x.filter(|_| depthwise_weights::fits(shape)) {
            let gradient = self.pass.dy.as_ptr().wrapping_add(dy);
            let last = image + 1 == self.images.1;
            let relu_output = self.pass.relu_output;
            let plane = Plane {
                x,
                dy: gradient,
                relu_output: relu_output
                    .map_or(std::ptr::null(), |output| output.as_ptr().wrapping_add(dy)),
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
        let (products, total_of_dy) = totals.split_at_mut(self.taps() * TILE_LANES);
        for row in (0..shape.out_height).step_by(self.band.grid_rows) {
            let rows = self.band.grid_rows.min(shape.out_height - row);
            let dy = dy + row * dy_row;
            // SAFETY: the caller answers for the image and channel; the band lies within them.
            unsafe {
                let total = self.lanes_of::<S, 0>(simd, dy, rows, 0, 0);
                add(simd, total_of_dy, total[0]);
                let Some(x) = x else { continue };
                self.band.fill(simd, x, std::ptr::null(), x_row, (row, rows), self.copy);
                for row_tap in 0..shape.height.kernel {
                    for column_tap in (0..shape.width.kernel).step_by(SHARED_TAPS) {
                        let sums = match shape.width.kernel - column_tap {
                            1 => self.lanes_of::<S, 1>(simd, dy, rows, row_tap, column_tap),
                            2 => self.lanes_of::<S, 2>(simd, dy, rows, row_tap, column_tap),
                            _ => self.lanes_of::<S, 3>(simd, dy, rows, row_tap, column_tap),
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
        dy: usize,
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
                copy.add(self.band.start((&self.rows, row_tap), (&self.columns, column_tap + n)))
            };
        }
        let width = self.shape.out_width;
        for row in 0..rows {
            let dy = dy + row * width;
            let offset = row * self.band.rows.step * self.band.row_len();
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
                        let gradient = match count == S::LANES {
                            true => self.gradient::<S, true>(simd, dy + column, count),
                            false => self.gradient::<S, false>(simd, dy + column, count),
                        };
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

    /// Adds one row of one image to the sums of the channels, NHWC.
    ///
    /// # Safety
    /// The tensors have the image, the row and the channels.
    #[inline(always)]
    unsafe fn row<S: Lanes<T>>(&self, simd: S, image: usize, row: usize) {
        let (mut channel, end) = self.channels;
        // SAFETY: the caller answers for the image, the row and the channels.
        unsafe {
            while channel + S::LANES <= end {
                self.vector::<S, true>(simd, image, row, channel, S::LANES);
                channel += S::LANES;
            }
            if channel < end {
                self.vector::<S, false>(simd, image, row, channel, end - channel);
            }
        }
    }

    /// `count` channels of one row; `WHOLE` where they fill a vector.
    ///
    /// # Safety
    /// The tensors have the image, the row and the channels.
    #[inline(always)]
    unsafe fn vector<S: Lanes<T>, const WHOLE: bool>(
        &self,
        simd: S,
        image: usize,
        row: usize,
        channel: usize,
        count: usize,
    ) {
        // SAFETY: as for this function.
        unsafe {
            self.taps_of_row::<S, 0, WHOLE>(simd, [image, row, channel], count, 0, 0);
            if !self.with_dw {
                return;
            }
            for row_tap in 0..self.shape.height.kernel {
                for column_tap in (0..self.shape.width.kernel).step_by(SHARED_TAPS) {
                    let place = [image, row, channel];
                    match self.shape.width.kernel - column_tap {
                        1 => {
                            self.taps_of_row::<S, 1, WHOLE>(simd, place, count, row_tap, column_tap)
                        }
                        2 => {
                            self.taps_of_row::<S, 2, WHOLE>(simd, place, count, row_tap, column_tap)
                        }
                        _ => {
                            self.taps_of_row::<S, 3, WHOLE>(simd, place, count, row_tap, column_tap)
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of a row for `N` neighbouring taps, or with `N` = 0 of dy itself.
    ///
    /// # Safety
    /// The tensors have the image, the row and the channels.
    #[inline(always)]
    unsafe fn taps_of_row<S: Lanes<T>, const N: usize, const WHOLE: bool>(
        &self,
        simd: S,
        [image, row, channel]: [usize; 3],
        count: usize,
        row_tap: usize,
        column_tap: usize,
    ) {
        let shape = self.shape;
        let [x_image, _, x_row, x_column] = input_strides(shape);
        let [dy_image, _, dy_row, dy_column] = output_strides(shape);
        let zero = simd.splat(T::default());
        let mut sums = [zero; SHARED_TAPS];
        let y = self.rows.source(row, row_tap);
        let columns = self.columns;
        let row_outside = self.rows.outside(y);
        for column in 0..shape.out_width {
            // SAFETY: the caller answers for dy; taps in the padding are not read.
            unsafe {
                let dy = image * dy_image + row * dy_row + column * dy_column + channel;
                let gradient = self.gradient::<S, WHOLE>(simd, dy, count);
                if N == 0 {
                    sums[0] = simd.add(sums[0], gradient);
                }
                for (n, sum) in sums.iter_mut().enumerate().take(N) {
                    let x = columns.source(column, column_tap + n);
                    let mut pixels = zero;
                    if let (false, Some(input)) = (row_outside || columns.outside(x), self.pass.x) {
                        let offset = image * x_image + y as usize * x_row + x as usize * x_column;
                        let input = input.as_ptr().add(offset + channel);
                        pixels = load::<T, S, WHOLE>(simd, count, input);
                    }
                    *sum = simd.mul_add(gradient, pixels, *sum);
                }
            }
        }
        for (n, &sum) in sums.iter().enumerate().take(N.max(1)) {
            let tap = match N {
                0 => self.taps(),
                _ => row_tap * shape.width.kernel + column_tap + n,
            };
            // SAFETY: this task's channels of the tap's sums.
            unsafe {
                let target = self.sum(tap, channel);
                let total = simd.add(load::<T, S, WHOLE>(simd, count, target), sum);
                if WHOLE {
                    simd.store(target, total);
                } else {
                    simd.store_first(count, target, total);
                }
            }
        }
    }
}

/// dy at `offset`, masked by the ReLU's output if that is not null; `count` lanes, all of them where
/// `WHOLE`.
///
/// # Safety
/// Both have them.
#[inline(always)]
pub(super) unsafe fn gradient<T: Element, S: Lanes<T>, const WHOLE: bool>(
    simd: S,
    dy: *const T,
    relu_output: *const T,
    offset: usize,
    count: usize,
) -> S::Vector {
    // SAFETY: the caller answers for the lanes.
    unsafe {
        let dy = load::<T, S, WHOLE>(simd, count, dy.add(offset));
        if relu_output.is_null() {
            return dy;
        }
        let output = load::<T, S, WHOLE>(simd, count, relu_output.add(offset));
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

/// In the same order whatever the vectors' width.
#[inline(always)]
fn sum_of_lanes<T: Element>(lanes: &mut [T]) -> T {
    let mut half = lanes.len() / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = lanes[lane] + lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
