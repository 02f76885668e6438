//! The patches of an image as a matrix that is never stored: im2col a block at a time, straight
//! into the panels of a matrix product.

use std::ops::Range;

use crate::shape::{Axis, Layout};
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// What one axis of a patch reads: tap t of the patch at position p lies at
/// `p * step + first_offset + t * offset_step` of the source, and belongs to the filter's place
/// `first_kernel + t * kernel_step`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taps {
    pub count: usize,
    pub step: usize,
    pub first_offset: isize,
    pub offset_step: isize,
    pub first_kernel: usize,
    pub kernel_step: usize,
    /// Extent of the source; what lies outside it is 0.
    pub extent: usize,
}

impl Taps {
    /// The forward pass: positions are y's, the source is x.
    pub fn forward(axis: &Axis) -> Self {
        Taps {
            count: axis.kernel,
            step: axis.stride,
            first_offset: -(axis.pad_before as isize),
            offset_step: axis.dilation as isize,
            first_kernel: 0,
            kernel_step: 1,
            extent: axis.input,
        }
    }

    /// The backward pass to dx at `phase`, `phase + stride`, ...: positions count these, the
    /// source is dy.
    ///
    /// x at i was read by y at o through tap k where `i + pad = o * stride + k * dilation`. Along a
    /// phase the taps that fulfil it for some o are every (stride / gcd)-th one, and o falls by
    /// dilation / gcd from one to the next.
    pub fn backward(axis: &Axis, phase: usize) -> Self {
        let gcd = greatest_common_divisor(axis.stride, axis.dilation);
        let kernel_step = axis.stride / gcd;
        let padded = phase + axis.pad_before;
        let first = (0..kernel_step.min(axis.kernel)).find(|&k| {
            (padded as isize - (k * axis.dilation) as isize) % axis.stride as isize == 0
        });
        let (count, first_kernel) = match first {
            Some(first) => ((axis.kernel - first).div_ceil(kernel_step), first),
            None => (0, 0),
        };
        let difference = padded as isize - (first_kernel * axis.dilation) as isize;
        Taps {
            count,
            step: 1,
            first_offset: difference.div_euclid(axis.stride as isize),
            offset_step: -((axis.dilation / gcd) as isize),
            first_kernel,
            kernel_step,
            extent: axis.output,
        }
    }

    /// Where `tap` of the patch at `position` reads; outside `0..extent` in the padding.
    #[inline(always)]
    pub fn source(&self, position: usize, tap: usize) -> isize {
        (position * self.step) as isize + self.first_offset + tap as isize * self.offset_step
    }

    /// Whether `source` is in the padding.
    #[inline(always)]
    pub fn outside(&self, source: isize) -> bool {
        source < 0 || source >= self.extent as isize
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The patches of one image (and group): a row per pixel of the grid that they are centred on, in
/// the order of the grid, and in it the taps, and of each tap the channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patches<T> {
    pub layout: Layout,
    /// The image's first element, of the group's first channel.
    pub source: *const T,
    /// Elements whose signs mask the source's, at the same places: see `Lanes::relu_gradient`.
    /// Null for none.
    pub relu_output: *const T,
    pub channels: usize,
    /// Strides of the source along (channel, row, column).
    pub strides: [usize; 3],
    pub rows: Taps,
    pub columns: Taps,
    /// Columns of the grid.
    pub grid_width: usize,
}

// SAFETY: tasks only read through it.
unsafe impl<T: Sync> Sync for Patches<T> {}

impl<T> Patches<T> {
    /// Takes the image as one long row where a patch is just its pixel: then no vector of pixels
    /// straddles rows.
    pub fn flattened(self) -> Self {
        let just_the_pixel =
            |taps: Taps| taps.count == 1 && taps.step == 1 && taps.first_offset == 0;
        let whole_rows = self.grid_width == self.columns.extent;
        if !(just_the_pixel(self.rows) && just_the_pixel(self.columns) && whole_rows) {
            return self;
        }
        let pixels = self.rows.extent * self.columns.extent;
        Patches {
            rows: Taps { extent: 1, ..self.rows },
            columns: Taps { extent: pixels, ..self.columns },
            grid_width: pixels,
            ..self
        }
    }

    /// Elements of a patch.
    pub fn len(&self) -> usize {
        self.channels * self.rows.count * self.columns.count
    }
}

/// A block of the matrix: pixels `pixel .. pixel + pixels`, cells `cell .. cell + cells`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub pixel: usize,
    pub pixels: usize,
    pub cell: usize,
    pub cells: usize,
}

/// Writes a block of NCHW patches with the pixels contiguous: (cell, pixel) to
/// `target + cell * stride + pixel`, up to whole vectors of pixels, zeros behind the block's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillByCell<T> {
    pub patches: Patches<T>,
    pub block: Block,
    pub target: *mut T,
    pub stride: usize,
}

/// Pixels of one vector that lie in one row of the grid.
#[derive(Debug, Clone, Copy, Default)]
struct Segment {
    first_lane: usize,
    end_lane: usize,
    grid_row: usize,
    /// The grid column of the first lane.
    grid_column: usize,
}

impl<T: Element> Kernel<T> for FillByCell<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        debug_assert_eq!(self.patches.layout, Layout::Nchw);
        for first in (0..self.block.pixels).step_by(S::LANES) {
            let mut segments = [Segment::default(); TILE_LANES];
            let mut count = 0;
            let mut lane = 0;
            let lanes = S::LANES.min(self.block.pixels - first);
            while lane < lanes {
                let pixel = self.block.pixel + first + lane;
                let grid_row = pixel / self.patches.grid_width;
                let grid_column = pixel % self.patches.grid_width;
                let end_lane = lanes.min(lane + self.patches.grid_width - grid_column);
                segments[count] = Segment { first_lane: lane, end_lane, grid_row, grid_column };
                count += 1;
                lane = end_lane;
            }
            // SAFETY: the caller answers for the source and for `target`.
            unsafe { self.fill_vector(simd, &segments[..count], self.target.add(first)) };
        }
    }
}

/// Some lanes of a vector, from one row of the source.
#[derive(Clone, Copy)]
struct Piece<M> {
    lanes: M,
    /// With a step of 2: what is loaded from lane 0 on, in two vectors, the elements between the
    /// lanes' too.
    pairs: [M; 2],
    /// Of lane 0, from the channel's first element.
    offset: isize,
}

impl<M: Copy> Piece<M> {
    #[inline(always)]
    fn new<T: Element, S: Lanes<T, Mask = M>>(
        simd: S,
        (first, end): (usize, usize),
        step: usize,
        offset: isize,
    ) -> Self {
        let lanes = simd.mask_between(first, end);
        let pairs = match step {
            2 => {
                let (first, end) = (2 * first, (2 * end).saturating_sub(1));
                let behind = |lane: usize| lane.saturating_sub(S::LANES);
                [simd.mask_between(first, end), simd.mask_between(behind(first), behind(end))]
            }
            _ => [lanes; 2],
        };
        Piece { lanes, pairs, offset }
    }

    /// The lanes, `step` elements apart, zero in the others. A pointer to lane 0 may lie outside
    /// the source when the mask leaves it out.
    ///
    /// # Safety
    /// The source has the lanes, in one row.
    #[inline(always)]
    unsafe fn load<T: Element, S: Lanes<T, Mask = M>>(
        &self,
        simd: S,
        source: *const T,
        step: usize,
    ) -> S::Vector {
        let lane_0 = source.wrapping_offset(self.offset);
        // SAFETY: the caller answers for the lanes, and so for what lies between them.
        unsafe {
            match step {
                1 => simd.load_where(self.lanes, lane_0),
                2 => {
                    let low = simd.load_where(self.pairs[0], lane_0);
                    let high = simd.load_where(self.pairs[1], lane_0.wrapping_add(S::LANES));
                    let [even, _] = simd.deinterleave(low, high);
                    even
                }
                _ => simd.gather_where(self.lanes, lane_0, step as isize),
            }
        }
    }
}

impl<T: Element> FillByCell<T> {
    /// Writes one vector of pixels of every cell.
    ///
    /// # Safety
    /// The source holds the image, the target the block.
    #[inline(always)]
    unsafe fn fill_vector<S: Lanes<T>>(self, simd: S, segments: &[Segment], target: *mut T) {
        let Patches { rows, columns, strides, .. } = self.patches;
        let channels = self.patches.channels;
        for row_tap in 0..rows.count {
            for column_tap in 0..columns.count {
                // The block's cells that are this tap's channels.
                let tap_cell = (row_tap * columns.count + column_tap) * channels;
                let first = self.block.cell.saturating_sub(tap_cell).min(channels);
                let end =
                    (self.block.cell + self.block.cells).saturating_sub(tap_cell).min(channels);
                if first >= end {
                    continue;
                }
                let mut pieces = [Piece::new(simd, (0, 0), 1, 0); TILE_LANES];
                let mut count = 0;
                for segment in segments {
                    let row = rows.source(segment.grid_row, row_tap);
                    if rows.outside(row) {
                        continue;
                    }
                    let column = columns.source(segment.grid_column, column_tap);
                    // Lanes whose column is inside: 0 <= column + (lane - first_lane) * step < extent
                    let before = (-column).max(0) as usize;
                    let inside = (columns.extent as isize - column).max(0) as usize;
                    let first_lane = segment.first_lane + before.div_ceil(columns.step);
                    let end_lane =
                        segment.end_lane.min(segment.first_lane + inside.div_ceil(columns.step));
                    if first_lane >= end_lane {
                        continue;
                    }
                    let lane_0 = column - (segment.first_lane * columns.step) as isize;
                    let offset = row * strides[1] as isize + lane_0;
                    pieces[count] = Piece::new(simd, (first_lane, end_lane), columns.step, offset);
                    count += 1;
                }
                // SAFETY: the pieces' lanes are inside, so what is read lies in the channels'
                // planes; what is written lies in the block.
                unsafe {
                    let cell = tap_cell + first - self.block.cell;
                    let target = target.add(cell * self.stride);
                    self.fill_channels(simd, first..end, &pieces[..count], target);
                }
            }
        }
    }

    /// Writes one vector of pixels of one tap for some channels.
    ///
    /// # Safety
    /// The source has the lanes of the pieces in each channel, the target their cells.
    #[inline(always)]
    unsafe fn fill_channels<S: Lanes<T>>(
        &self,
        simd: S,
        channels: Range<usize>,
        pieces: &[Piece<S::Mask>],
        target: *mut T,
    ) {
        let plane = self.patches.strides[0];
        let count = channels.len();
        let masked = !self.patches.relu_output.is_null();
        // SAFETY: the caller answers for the lanes and the cells; the ReLU's output is shaped as
        // the source.
        unsafe {
            let source = self.patches.source.add(channels.start * plane);
            match pieces {
                [] => {
                    for channel in 0..count {
                        simd.store(target.add(channel * self.stride), simd.splat(T::default()));
                    }
                }
                // Most vectors, without a choice in the loop.
                [piece] if self.patches.columns.step == 1 && !masked => {
                    for channel in 0..count {
                        let value = piece.load(simd, source.add(channel * plane), 1);
                        simd.store(target.add(channel * self.stride), value);
                    }
                }
                [piece, other] if self.patches.columns.step == 1 && !masked => {
                    for channel in 0..count {
                        let source = source.add(channel * plane);
                        let value = piece.load(simd, source, 1);
                        let value = simd.select(other.lanes, other.load(simd, source, 1), value);
                        simd.store(target.add(channel * self.stride), value);
                    }
                }
                [piece] if self.patches.columns.step == 2 && !masked => {
                    for channel in 0..count {
                        let value = piece.load(simd, source.add(channel * plane), 2);
                        simd.store(target.add(channel * self.stride), value);
                    }
                }
                _ => {
                    for channel in 0..count {
                        let mut value = self.load(simd, source.add(channel * plane), pieces);
                        if masked {
                            let place = (channels.start + channel) * plane;
                            let output = self.patches.relu_output.add(place);
                            value = simd.relu_gradient(self.load(simd, output, pieces), value);
                        }
                        simd.store(target.add(channel * self.stride), value);
                    }
                }
            }
        }
    }

    /// The pieces of one channel, put together; zero where there is none.
    ///
    /// # Safety
    /// The source has the lanes of the pieces.
    #[inline(always)]
    unsafe fn load<S: Lanes<T>>(
        &self,
        simd: S,
        source: *const T,
        pieces: &[Piece<S::Mask>],
    ) -> S::Vector {
        let mut value = simd.splat(T::default());
        for piece in pieces {
            // SAFETY: the caller answers for the lanes.
            let part = unsafe { piece.load(simd, source, self.patches.columns.step) };
            value = simd.select(piece.lanes, part, value);
        }
        value
    }
}

/// Writes a block of NHWC patches with the cells contiguous: (pixel, cell) to
/// `target + pixel * stride + cell`, zeros behind the block's cells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillByPixel<T> {
    pub patches: Patches<T>,
    pub block: Block,
    pub target: *mut T,
    pub stride: usize,
    /// Zeros behind the cells of each pixel.
    pub padding: usize,
}

impl<T: Element> Kernel<T> for FillByPixel<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        debug_assert_eq!(self.patches.layout, Layout::Nhwc);
        let Patches { rows, columns, strides, channels, grid_width, .. } = self.patches;
        for pixel in 0..self.block.pixels {
            let grid_row = (self.block.pixel + pixel) / grid_width;
            let grid_column = (self.block.pixel + pixel) % grid_width;
            let mut cell = 0;
            while cell < self.block.cells {
                let tap = (self.block.cell + cell) / channels;
                let channel = (self.block.cell + cell) % channels;
                let count = (channels - channel).min(self.block.cells - cell);
                let row = rows.source(grid_row, tap / columns.count);
                let column = columns.source(grid_column, tap % columns.count);
                // SAFETY: a tap inside has its channels in the source; the target has the block.
                unsafe {
                    let target = self.target.add(pixel * self.stride + cell);
                    if rows.outside(row) || columns.outside(column) {
                        target.write_bytes(0, count);
                    } else {
                        let offset =
                            row as usize * strides[1] + column as usize * strides[2] + channel;
                        self.copy(simd, offset, count, target);
                    }
                }
                cell += count;
            }
            // SAFETY: the target has the zeros' places too.
            unsafe { self.target.add(pixel * self.stride + cell).write_bytes(0, self.padding) };
        }
    }
}

impl<T: Element> FillByPixel<T> {
    /// Copies `count` channels, masked.
    ///
    /// # Safety
    /// The source and the target have them.
    #[inline(always)]
    unsafe fn copy<S: Lanes<T>>(&self, simd: S, offset: usize, count: usize, target: *mut T) {
        // SAFETY: the caller answers for `count` elements from each pointer on.
        unsafe {
            let source = self.patches.source.add(offset);
            let masked = !self.patches.relu_output.is_null();
            let relu_output =
                if masked { self.patches.relu_output.add(offset) } else { std::ptr::null() };
            let mut done = 0;
            while done + S::LANES <= count {
                let mut value = simd.load(source.add(done));
                if masked {
                    value = simd.relu_gradient(simd.load(relu_output.add(done)), value);
                }
                simd.store(target.add(done), value);
                done += S::LANES;
            }
            if done < count {
                let rest = count - done;
                let mut value = simd.load_first(rest, source.add(done));
                if masked {
                    value = simd.relu_gradient(simd.load_first(rest, relu_output.add(done)), value);
                }
                simd.store_first(rest, target.add(done), value);
            }
        }
    }
}
