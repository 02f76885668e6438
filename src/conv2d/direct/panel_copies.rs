//! Rows of some channels copied, each pixel's channels side by side, and with their padding where it is wide: what the
//! depthwise kernels of NHWC read without special cases. For NCHW their results are copied too.

use std::mem::MaybeUninit;

use super::band::CopiedAxis;
use super::nhwc_pixels::Edges;
use crate::conv2d::gather::{Gather, masked_at};
use crate::runs;
use crate::shape::{ConvShape, Layout};
use crate::simd::{Element, Lanes, TILE_LANES};
use crate::taps::Taps;

/// Channels of a panel.
pub(super) const CHANNELS: usize = TILE_LANES;
/// With fewer, too many of a panel's lanes would be empty.
const LEAST_CHANNELS: usize = CHANNELS / 2;
/// What the copies of a panel's source and target take where they can, so that they stay in the
/// second-level cache, and the most pixels of them, beyond which a row is too long.
const PANEL_BYTES: usize = 256 * 1024;
const MOST_PIXELS: usize = 1 << 16;

/// Rows with at most so many pixels leave many lanes of a vector of them empty.
const NARROW: usize = TILE_LANES / 2;
/// In NHWC rows with at most so many pixels are mostly edges, with special cases that copies with their
/// padding have not, and windows with so many taps take longer than copies.
const MOSTLY_EDGES: usize = 2 * TILE_LANES;
const MANY_TAPS: usize = 25;

/// Whether copies of panels are worth it for rows of so many outputs; `unrolled` where NCHW has another
/// kernel for the windows.
pub(super) fn pay(shape: &ConvShape, width: usize, unrolled: bool) -> bool {
    let dense = shape.height.stride == 1 && shape.width.stride == 1;
    match shape.layout {
        Layout::Nchw => width <= NARROW || !unrolled,
        Layout::Nhwc => width <= MOSTLY_EDGES && shape.window() >= MANY_TAPS && dense,
    }
}

/// Whether there can be copies of panels.
pub(super) fn fits(shape: &ConvShape) -> bool {
    let (height, width) = (&shape.height, &shape.width);
    // At least what one row of a grid reads and writes.
    let rows = height.window().min(height.input) + height.stride.min(height.input) + 1;
    let columns = width.padded().max(width.output + width.window());
    let one_to_one = shape.group_in == 1 && shape.group_out == 1;
    let small = rows.saturating_mul(columns) <= MOST_PIXELS;
    one_to_one && shape.in_channels >= LEAST_CHANNELS && small
}

/// A convolution of one image of a panel, in NHWC.
pub(super) fn shape_of_panel(shape: &ConvShape) -> ConvShape {
    let panel = ConvShape {
        batch: 1,
        groups: CHANNELS,
        in_channels: CHANNELS,
        out_channels: CHANNELS,
        ..*shape
    };
    panel.with_layout(Layout::Nhwc)
}

/// How the rows of planes are cut into bands: each is some rows of a grid, and what they read and write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bands {
    rows: CopiedAxis,
    columns: CopiedAxis,
    /// Pixels of a row of the source's copy, with its padding or without.
    row_len: usize,
    /// Rows and columns of a plane of the target, and its rows to a row of the grid.
    target: [usize; 2],
    target_step: usize,
    height: usize,
    /// Rows of the grid of a band, but for the last.
    pub grid_rows: usize,
    pub count: usize,
}

/// A band.
#[derive(Debug, Clone, Copy)]
pub(super) struct Band {
    /// First row of the grid, and the one behind the last.
    pub grid: (usize, usize),
    /// Of the source, and of the target.
    pub source: (usize, usize),
    pub target: (usize, usize),
    /// The column of the source that a copied row begins with.
    first_column: isize,
    row_len: usize,
}

impl Bands {
    /// For passes with these taps over (rows, columns) and a grid of this height and width at the most, each
    /// of whose rows has `target_step` of the target's.
    pub fn new<T>(
        layout: Layout,
        passes: impl Iterator<Item = (Taps, Taps)> + Clone,
        [height, width]: [usize; 2],
        target: [usize; 2],
        target_step: usize,
    ) -> Self {
        let rows = CopiedAxis::new(passes.clone().map(|(rows, _)| rows));
        let mut columns = CopiedAxis::new(passes.map(|(_, columns)| columns));
        let mut row_len = columns.span(width);
        // Where the padding is narrow, the kernels know its columns; whole rows are copied sooner than each by itself.
        let behind = columns.least + row_len as isize - columns.extent as isize;
        if layout == Layout::Nchw && behind.max(-columns.least) <= Edges::LACKS {
            row_len = columns.extent;
            columns.least = 0;
        }
        let pixels = PANEL_BYTES / size_of::<T>() / CHANNELS;
        let reach = rows.reach.min(rows.extent) * row_len;
        let row = rows.step.min(rows.extent) * row_len + target_step * target[1];
        let grid_rows = (pixels.saturating_sub(reach) / row).clamp(1, height);
        // As even as can be.
        let grid_rows = height.div_ceil(height.div_ceil(grid_rows));
        let count = height.div_ceil(grid_rows);
        Bands { rows, columns, row_len, target, target_step, height, grid_rows, count }
    }

    /// Elements of a panel's copy of its source, and behind them what a block of pixels has too many.
    pub fn source_len(&self) -> usize {
        let rows = self.rows.span(self.grid_rows).min(self.rows.extent);
        (rows * self.row_len + TILE_LANES) * CHANNELS
    }

    /// The same of its target.
    pub fn target_len(&self) -> usize {
        let rows = (self.target_step * self.grid_rows).min(self.target[0]);
        (rows * self.target[1] + TILE_LANES) * CHANNELS
    }

    pub fn row_len(&self) -> usize {
        self.row_len
    }

    pub fn target_width(&self) -> usize {
        self.target[1]
    }

    pub fn band(&self, number: usize) -> Band {
        let first = number * self.grid_rows;
        let grid = (first, self.height.min(first + self.grid_rows));
        let start = (first * self.rows.step) as isize + self.rows.least;
        let end = start + self.rows.span(grid.1 - first) as isize;
        let inside = |row: isize| row.clamp(0, self.rows.extent as isize) as usize;
        Band {
            grid,
            source: (inside(start), inside(end)),
            target: (first * self.target_step, self.target[0].min(grid.1 * self.target_step)),
            first_column: self.columns.least,
            row_len: self.row_len,
        }
    }
}

impl Band {
    /// The taps of a pass as they lie in the copy: the band's first row of the grid is 0, and so is its source's.
    pub fn taps(&self, rows: &Taps, columns: &Taps) -> [Taps; 2] {
        let first = (self.grid.0 * rows.step) as isize - self.source.0 as isize;
        let extent = self.source.1 - self.source.0;
        let rows = Taps { first_offset: rows.first_offset + first, extent, ..*rows };
        let first_offset = columns.first_offset - self.first_column;
        [rows, Taps { first_offset, extent: self.row_len, ..*columns }]
    }

    /// Copies what the band reads of some channels, from its first row on: each pixel's side by side, and
    /// zeros where there are none, or no pixels. Masked if something masks them. `strides` are those of
    /// (channel, row, column).
    ///
    /// # Safety
    /// The source has the rows, of `width` pixels; the copy has `source_len` elements.
    #[inline(always)]
    pub unsafe fn copy<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: [*const T; 2],
        [of_channel, of_row, of_column]: [usize; 3],
        channels: usize,
        width: usize,
        copy: *mut T,
    ) {
        // Columns of the copy before the first that the source has, and before the first behind those.
        let before = (-self.first_column).clamp(0, self.row_len as isize) as usize;
        let end =
            (width as isize - self.first_column).clamp(before as isize, self.row_len as isize);
        let (end, column) = (end as usize, self.first_column.max(0) as usize);
        let rows = self.source.1 - self.source.0;
        if (before, end) == (0, self.row_len) && of_row == width * of_column && width == end {
            // SAFETY: the rows, which follow each other.
            unsafe {
                to_panel(simd, source, [of_channel, of_column], [channels, rows * width], copy);
            }
            return;
        }
        for row in 0..rows {
            let row_copy = copy.wrapping_add(row * self.row_len * CHANNELS);
            let source = masked_at(source, row * of_row + column * of_column);
            let (strides, shape) = ([of_channel, of_column], [channels, end - before]);
            // SAFETY: a row of the source and of the copy, behind which a block has room.
            unsafe {
                to_panel(simd, source, strides, shape, row_copy.add(before * CHANNELS));
                clear(simd, row_copy, before);
                clear(simd, row_copy.add(end * CHANNELS), self.row_len - end);
            }
        }
    }
}

/// Writes zeros to some pixels of a panel.
///
/// # Safety
/// The panel has them.
#[inline(always)]
unsafe fn clear<T: Element, S: Lanes<T>>(simd: S, panel: *mut T, pixels: usize) {
    for place in (0..pixels * CHANNELS).step_by(S::LANES) {
        // SAFETY: the caller answers for the pixels.
        unsafe { simd.store(panel.add(place), simd.splat(T::default())) };
    }
}

/// Copies neighbouring pixels, masked if something masks them, of channels and pixels that lie so far apart.
///
/// # Safety
/// The source has the pixels; the panel has whole blocks of them.
#[inline(always)]
pub(super) unsafe fn to_panel<T: Element, S: Lanes<T>>(
    simd: S,
    source: [*const T; 2],
    [of_channel, of_pixel]: [usize; 2],
    shape: [usize; 2],
    panel: *mut T,
) {
    // SAFETY: the caller answers for the pixels.
    unsafe {
        match of_channel {
            1 => copy_pixels(simd, source, of_pixel, shape, panel),
            _ => transpose_planes(simd, source, of_channel, shape, panel),
        }
    }
}

/// Copies some channels of pixels that lie `stride` apart.
///
/// # Safety
/// The source has them, and the panel the pixels.
#[inline(always)]
unsafe fn copy_pixels<T: Element, S: Lanes<T>>(
    simd: S,
    source: [*const T; 2],
    stride: usize,
    [channels, pixels]: [usize; 2],
    panel: *mut T,
) {
    for pixel in 0..pixels {
        for channel in (0..CHANNELS).step_by(S::LANES) {
            let count = S::LANES.min(channels.saturating_sub(channel));
            let [source, relu_output] = masked_at(source, pixel * stride + channel);
            // SAFETY: the caller answers for the pixels.
            unsafe {
                let mut value = runs::load(simd, count, source);
                if !relu_output.is_null() {
                    value = simd.relu_gradient(runs::load(simd, count, relu_output), value);
                }
                simd.store(panel.add(pixel * CHANNELS + channel), value);
            }
        }
    }
}

/// Copies neighbouring pixels of some planes.
///
/// # Safety
/// The planes, `stride` apart, have the pixels; the panel has whole blocks of them.
#[inline(always)]
unsafe fn transpose_planes<T: Element, S: Lanes<T>>(
    simd: S,
    planes: [*const T; 2],
    stride: usize,
    [channels, pixels]: [usize; 2],
    panel: *mut T,
) {
    let mut block = MaybeUninit::<[T; TILE_LANES * TILE_LANES]>::uninit();
    let block = block.as_mut_ptr().cast::<T>();
    let masked = !planes[1].is_null();
    for pixel in (0..pixels).step_by(S::LANES) {
        let count = S::LANES.min(pixels - pixel);
        for channel in (0..CHANNELS).step_by(S::LANES) {
            let lanes = S::LANES.min(channels.saturating_sub(channel));
            let [source, relu_output] = masked_at(planes, channel * stride + pixel);
            // SAFETY: the caller answers for the planes and the panel; the block has as many vectors.
            unsafe {
                let target = panel.add(pixel * CHANNELS + channel);
                if count == S::LANES && lanes == S::LANES && !masked {
                    simd.transpose([lanes, S::LANES], source, stride, target, CHANNELS);
                    continue;
                }
                for lane in 0..S::LANES {
                    let mut value = simd.splat(T::default());
                    if lane < lanes {
                        value = runs::load(simd, count, source.add(lane * stride));
                    }
                    if lane < lanes && masked {
                        let output = runs::load(simd, count, relu_output.add(lane * stride));
                        value = simd.relu_gradient(output, value);
                    }
                    simd.store(block.add(lane * S::LANES), value);
                }
                simd.transpose([S::LANES; 2], block, S::LANES, target, CHANNELS);
            }
        }
    }
}

/// Writes `pixels` sums of the channels from `first` on to their planes, from `target` on and `stride`
/// apart, as results of a pass.
///
/// # Safety
/// The planes have the pixels, and nobody else uses them; the panel has whole blocks of them.
#[inline(always)]
pub(super) unsafe fn from_panel<T: Element, S: Lanes<T>>(
    simd: S,
    pass: &Gather<T>,
    panel: *const T,
    [channels, pixels]: [usize; 2],
    first: usize,
    (target, stride): (*mut T, usize),
) {
    let mut block = MaybeUninit::<[T; TILE_LANES * TILE_LANES]>::uninit();
    let block = block.as_mut_ptr().cast::<T>();
    for pixel in (0..pixels).step_by(S::LANES) {
        let count = S::LANES.min(pixels - pixel);
        for channel in (0..channels).step_by(S::LANES) {
            // SAFETY: the caller answers for the planes and the panel; the block has as many vectors.
            unsafe {
                let source = panel.add(pixel * CHANNELS + channel);
                simd.transpose([count, S::LANES], source, CHANNELS, block, S::LANES);
                for lane in 0..S::LANES.min(channels - channel) {
                    let channel = channel + lane;
                    let target = target.add(channel * stride + pixel);
                    let sum = runs::load(simd, count, block.add(lane * S::LANES));
                    let old = match pass.adds() {
                        true => runs::load(simd, count, target),
                        false => sum,
                    };
                    let bias = match pass.bias.is_null() {
                        true => T::default(),
                        false => *pass.bias.add(first + channel),
                    };
                    let value = pass.result(simd, sum, old, simd.splat(bias));
                    runs::store(simd, count, target, value);
                }
            }
        }
    }
}
