//! NCHW: a band of rows of one channel at a time, copied with its padding to scratch memory and
//! parted by column remainders, so that every tap reads contiguous pixels.

use super::{Gather, TASK_WORK};
use crate::context::Context;
use crate::conv2d::patches::Taps;
use crate::error::Result;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// What a band's copy may take, in elements: it should stay in the first-level cache.
const BAND: usize = 4096;
/// Beyond this, for windows with very large extents, the copy does not pay.
const BAND_LIMIT: usize = 1 << 17;

/// One axis of the copy of a source: positions are counted from the least that a tap reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopiedAxis {
    pub taps: Taps,
    /// The least offset of a tap.
    pub least: isize,
    /// From the least offset to the largest.
    pub reach: usize,
}

impl CopiedAxis {
    pub fn new(taps: Taps) -> Self {
        let last = taps.first_offset + taps.count.saturating_sub(1) as isize * taps.offset_step;
        let least = taps.first_offset.min(last);
        CopiedAxis { taps, least, reach: (taps.first_offset.max(last) - least) as usize }
    }

    /// Positions that `outputs` neighbouring outputs read.
    pub fn span(&self, outputs: usize) -> usize {
        (outputs - 1) * self.taps.step + self.reach + 1
    }

    /// The position of a tap's first output.
    #[inline(always)]
    pub fn position(&self, tap: usize) -> usize {
        (self.taps.first_offset + tap as isize * self.taps.offset_step - self.least) as usize
    }
}

/// How the copy of a band lies: rows of `step` runs, one per remainder of the column's position.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    pub rows: CopiedAxis,
    pub columns: CopiedAxis,
    /// Elements of a run: those of the widest, and a tile's lanes of zeros behind.
    pub run: usize,
    /// Rows of the grid that a band covers.
    pub grid_rows: usize,
}

impl Band {
    pub fn new(rows: Taps, columns: Taps, grid_height: usize, grid_width: usize) -> Self {
        let rows = CopiedAxis::new(rows);
        let columns = CopiedAxis::new(columns);
        let run = columns.span(grid_width).div_ceil(columns.taps.step) + TILE_LANES;
        let copied_rows = BAND / (run * columns.taps.step);
        let grid_rows = copied_rows.saturating_sub(rows.reach) / rows.taps.step;
        Band { rows, columns, run, grid_rows: grid_rows.clamp(1, grid_height) }
    }

    /// Elements of a row of the copy.
    pub fn row_len(&self) -> usize {
        self.run * self.columns.taps.step
    }

    /// Elements of the copy.
    pub fn len(&self) -> usize {
        self.rows.span(self.grid_rows) * self.row_len()
    }

    /// Where the pixels that a tap reads for the first row of the band begin in the copy.
    #[inline(always)]
    pub fn start(&self, row_tap: usize, column_tap: usize) -> usize {
        let position = self.columns.position(column_tap);
        let step = self.columns.taps.step;
        self.rows.position(row_tap) * self.row_len() + position % step * self.run + position / step
    }

    /// Copies what `grid_rows` rows from `grid_row` on read of one channel.
    ///
    /// # Safety
    /// `source`, and `relu_output` if not null, hold the channel; `copy` has `len` elements.
    #[inline(always)]
    pub unsafe fn fill<T: Element, S: Lanes<T>>(
        &self,
        _: S,
        source: *const T,
        relu_output: *const T,
        row_stride: usize,
        (grid_row, grid_rows): (usize, usize),
        copy: *mut T,
    ) {
        let step = self.columns.taps.step;
        let first_row = (grid_row * self.rows.taps.step) as isize + self.rows.least;
        for row in 0..self.rows.span(grid_rows) {
            let source_row = first_row + row as isize;
            // SAFETY: within the copy; columns inside are the source's.
            unsafe {
                let copy = copy.add(row * self.row_len());
                if source_row < 0 || source_row >= self.rows.taps.extent as isize {
                    copy.write_bytes(0, self.row_len());
                    continue;
                }
                let offset = source_row as usize * row_stride;
                let source = source.add(offset);
                for remainder in 0..step {
                    let copy = copy.add(remainder * self.run);
                    // Column of the run's element j: first + j * step.
                    let first = self.columns.least + remainder as isize;
                    let before = ((-first).max(0) as usize).div_ceil(step).min(self.run);
                    let inside = (self.columns.taps.extent as isize - first).max(0) as usize;
                    let end = inside.div_ceil(step).clamp(before, self.run);
                    copy.write_bytes(0, before);
                    copy.add(end).write_bytes(0, self.run - end);
                    let first = first + (before * step) as isize;
                    let copy = copy.add(before);
                    let count = end - before;
                    if count == 0 {
                        continue;
                    }
                    let source = source.offset(first);
                    if !relu_output.is_null() {
                        let output = relu_output.add(offset).offset(first);
                        for j in 0..count {
                            let dead = *output.add(j * step) <= T::default();
                            let value = *source.add(j * step);
                            *copy.add(j) = if dead { T::default() } else { value };
                        }
                    } else if step == 1 {
                        copy.copy_from_nonoverlapping(source, count);
                    } else {
                        for j in 0..count {
                            *copy.add(j) = *source.add(j * step);
                        }
                    }
                }
            }
        }
    }
}

/// Whether a band of a pass over this convolution is small enough to be copied.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let reach = |axis: &Axis| (axis.kernel - 1) * axis.dilation + axis.stride;
    let width = shape.width.input + shape.width.pad_before + shape.width.pad_after;
    (width + TILE_LANES * shape.width.stride).saturating_mul(reach(&shape.height)) <= BAND_LIMIT
}

/// Runs a gathering pass.
pub(super) fn gather<T: Element>(context: &Context, pass: &Gather<T>) -> Result<()> {
    let band = Band::new(pass.rows, pass.columns, pass.grid_height, pass.grid_width);
    let scratch = context.scratch::<T>(0, band.len())?;
    let planes = pass.batch * pass.channels;
    let bands = pass.grid_height.div_ceil(band.grid_rows);
    let work = pass.row_work() * band.grid_rows;
    let per_task = (TASK_WORK / work).max(1);
    let count = planes * bands;
    context.run(count.div_ceil(per_task), &|slot, index| {
        let kernel = GatherBands {
            pass,
            band,
            bands,
            first: index * per_task,
            end: count.min((index + 1) * per_task),
            copy: scratch.slot(slot),
        };
        T::dispatch(context.level(), kernel);
    });
    Ok(())
}

/// Some of the bands of all images and channels.
struct GatherBands<'a, T> {
    pass: &'a Gather<T>,
    band: Band,
    /// Bands of a channel.
    bands: usize,
    first: usize,
    end: usize,
    copy: *mut T,
}

/// Vectors of pixels that share a tap's weight.
const VECTORS: usize = 4;

impl<T: Element> Kernel<T> for GatherBands<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        for index in self.first..self.end {
            let image = index / self.bands / self.pass.channels;
            let channel = index / self.bands % self.pass.channels;
            let row = index % self.bands * self.band.grid_rows;
            let rows = self.band.grid_rows.min(self.pass.grid_height - row);
            // SAFETY: the image has the channel, the channel the rows.
            unsafe { self.gather(simd, image, channel, row, rows) };
        }
    }
}

impl<T: Element> GatherBands<'_, T> {
    /// # Safety
    /// The tensors have the image, the channel and the rows; the copy has the band's elements.
    #[inline(always)]
    unsafe fn gather<S: Lanes<T>>(
        &self,
        simd: S,
        image: usize,
        channel: usize,
        row: usize,
        rows: usize,
    ) {
        let pass = self.pass;
        // SAFETY: the caller answers for the tensors.
        unsafe {
            let target = pass.target.add(
                image * pass.target_strides[0]
                    + channel * pass.target_strides[1]
                    + row * pass.target_strides[2],
            );
            for term in 0..pass.terms {
                let source_channel = channel / pass.channels_per_source * pass.terms + term;
                let offset =
                    image * pass.source_strides[0] + source_channel * pass.source_strides[1];
                let relu_output = match pass.relu_output.is_null() {
                    true => pass.relu_output,
                    false => pass.relu_output.add(offset),
                };
                self.band.fill(
                    simd,
                    pass.source.add(offset),
                    relu_output,
                    pass.source_strides[2],
                    (row, rows),
                    self.copy,
                );
                let filter =
                    pass.filters.add((channel * pass.terms + term) * pass.filter_strides[0]);
                let (alpha, beta) =
                    (pass.alpha, if term == 0 { pass.beta } else { T::from_f64(1.0) });
                let last = term + 1 == pass.terms;
                let bias = match last && !pass.bias.is_null() {
                    true => Some(*pass.bias.add(channel)),
                    false => None,
                };
                let update = Update { alpha, beta, bias, relu: last && pass.relu };
                for row in 0..rows {
                    let copy = self.copy.add(row * self.band.rows.taps.step * self.band.row_len());
                    let target = target.add(row * pass.target_strides[2]);
                    let mut column = 0;
                    while column + VECTORS * S::LANES <= pass.grid_width {
                        let sums = self.sum::<S, VECTORS>(simd, copy.add(column), filter);
                        for (v, sum) in sums.into_iter().enumerate() {
                            let column = column + v * S::LANES;
                            self.write(simd, update, target, column, S::LANES, sum);
                        }
                        column += VECTORS * S::LANES;
                    }
                    while column < pass.grid_width {
                        let [sum] = self.sum::<S, 1>(simd, copy.add(column), filter);
                        let count = S::LANES.min(pass.grid_width - column);
                        self.write(simd, update, target, column, count, sum);
                        column += S::LANES;
                    }
                }
            }
        }
    }

    /// Sums over the taps for `N` vectors of pixels from `copy` on.
    ///
    /// # Safety
    /// The copy and the filter have what the taps read.
    #[inline(always)]
    unsafe fn sum<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        copy: *const T,
        filter: *const T,
    ) -> [S::Vector; N] {
        let mut sums = [simd.splat(T::default()); N];
        for row_tap in 0..self.pass.rows.count {
            for column_tap in 0..self.pass.columns.count {
                // SAFETY: the caller answers for what the taps read.
                unsafe {
                    let place = row_tap * self.pass.filter_strides[1]
                        + column_tap * self.pass.filter_strides[2];
                    let weight = simd.splat(*filter.add(place));
                    let pixels = copy.add(self.band.start(row_tap, column_tap));
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = simd.mul_add(simd.load(pixels.add(v * S::LANES)), weight, *sum);
                    }
                }
            }
        }
        sums
    }

    /// Updates `count` pixels of a row of the target from `column` on.
    ///
    /// # Safety
    /// The row has them.
    #[inline(always)]
    unsafe fn write<S: Lanes<T>>(
        &self,
        simd: S,
        update: Update<T>,
        row: *mut T,
        column: usize,
        count: usize,
        sum: S::Vector,
    ) {
        let stride = self.pass.target_strides[3];
        // SAFETY: the caller answers for the pixels.
        unsafe {
            let target = row.add(column * stride);
            let mut value = simd.mul(simd.splat(update.alpha), sum);
            if update.beta != T::default() {
                let mask = simd.mask_between(0, count);
                let old = simd.gather_where(mask, target, stride as isize);
                value = simd.mul_add(simd.splat(update.beta), old, value);
            }
            if let Some(bias) = update.bias {
                value = simd.add(value, simd.splat(bias));
            }
            if update.relu {
                value = simd.relu(value);
            }
            if stride == 1 {
                simd.store_first(count, target, value);
            } else {
                let mut lanes = [T::default(); TILE_LANES];
                simd.store(lanes.as_mut_ptr(), value);
                for (lane, &value) in lanes.iter().enumerate().take(count) {
                    *target.add(lane * stride) = value;
                }
            }
        }
    }
}

/// How a target is updated with a term's sums.
#[derive(Clone, Copy)]
struct Update<T> {
    alpha: T,
    beta: T,
    bias: Option<T>,
    relu: bool,
}
