//! Rows of some NHWC channels, copied with their padding: pixels lie close together, wherever they
//! are in the image, so that they share the first-level cache even where channels are a power of two.
//!
//! The copy is a ring: each row of the source is copied once, while the rows of the grid pass by.

use super::band::CopiedAxis;
use crate::conv2d::patches::Taps;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::shape::{Axis, ConvShape};
use crate::simd::{Element, Lanes, TILE_LANES};

/// What the ring should take: less than half of a second-level cache. (Fewer channels would keep it in the
/// first level, but then only a part of each pixel is read and written at a time, which takes longer.)
const RING_BYTES: usize = 192 * 1024;
/// The most channels that are copied at once.
const MOST_CHANNELS: usize = 128;
/// Beyond this many elements, for windows with very large extents, the copy does not pay.
const RING_LIMIT: usize = 1 << 20;

/// Whether the ring of a pass over this convolution is small enough.
pub(in crate::conv2d) fn fits(shape: &ConvShape) -> bool {
    let reach = |axis: &Axis| (axis.kernel - 1) * axis.dilation + axis.stride;
    let width = shape.width.input + shape.width.pad_before + shape.width.pad_after;
    let rows = reach(&shape.height);
    width.saturating_mul(rows).saturating_mul(TILE_LANES) <= RING_LIMIT
        && shape.height.kernel.saturating_mul(shape.width.kernel) <= DEPTH_BLOCK
}

/// How the ring lies: rows of pixels of `channels` elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct NhwcBand {
    rows: CopiedAxis,
    columns: CopiedAxis,
    /// Pixels of a row.
    width: usize,
    /// Channels of a block, a multiple of `TILE_LANES`.
    pub channels: usize,
}

/// Where an image's channels come from.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    /// The image's first pixel at the block's first channel.
    pub start: *const T,
    /// What masks it, likewise; null for none.
    pub relu_output: *const T,
    /// Strides along (row, column).
    pub strides: [usize; 2],
    /// Channels of the block.
    pub count: usize,
}

impl NhwcBand {
    /// For passes with these taps over (rows, columns), a grid of this width at the most and this
    /// many channels.
    pub fn new<T>(
        passes: impl Iterator<Item = (Taps, Taps)> + Clone,
        grid_width: usize,
        channels: usize,
    ) -> Self {
        let rows = CopiedAxis::new(passes.clone().map(|(rows, _)| rows));
        let columns = CopiedAxis::new(passes.map(|(_, columns)| columns));
        let width = columns.span(grid_width);
        let fitting = RING_BYTES / size_of::<T>() / ((rows.reach + 1) * width);
        let fitting = fitting / TILE_LANES * TILE_LANES;
        let channels = channels.next_multiple_of(TILE_LANES);
        let most = fitting.clamp(TILE_LANES, MOST_CHANNELS);
        // As even as can be.
        let blocks = channels.div_ceil(most);
        let channels = channels.div_ceil(blocks).next_multiple_of(TILE_LANES);
        NhwcBand { rows, columns, width, channels }
    }

    /// Elements of the ring.
    pub fn len(&self) -> usize {
        (self.rows.reach + 1) * self.width * self.channels
    }

    /// Where the pixel that a tap reads for the first output of a grid row begins in the ring.
    #[inline(always)]
    pub fn start(
        &self,
        (rows, row_tap): (&Taps, usize),
        (columns, column_tap): (&Taps, usize),
        row: usize,
    ) -> usize {
        let position = row * self.rows.step + self.rows.position(rows, row_tap);
        let row = position % (self.rows.reach + 1) * self.width;
        (row + self.columns.position(columns, column_tap)) * self.channels
    }

    /// Copies the rows that grid row `row` reads and the one before did not; all of them where it is
    /// the `first`.
    ///
    /// # Safety
    /// The source holds the image's channels, the ring has `len` elements.
    #[inline(always)]
    pub unsafe fn fill<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: &Source<T>,
        row: usize,
        first: bool,
        ring: *mut T,
    ) {
        let rows = self.rows.reach + 1;
        let new = if first { rows } else { rows.min(self.rows.step) };
        let end = row * self.rows.step + rows;
        for position in end - new..end {
            let target = ring.wrapping_add(position % rows * self.width * self.channels);
            let y = position as isize + self.rows.least;
            // SAFETY: a row of the ring.
            unsafe {
                if y < 0 || y >= self.rows.extent as isize {
                    target.write_bytes(0, self.width * self.channels);
                    continue;
                }
                self.copy_row(simd, source, y as usize * source.strides[0], target);
            }
        }
    }

    /// # Safety
    /// The source has the row at `offset`, `target` is a row of the ring.
    #[inline(always)]
    unsafe fn copy_row<T: Element, S: Lanes<T>>(
        &self,
        simd: S,
        source: &Source<T>,
        offset: usize,
        target: *mut T,
    ) {
        let before = ((-self.columns.least).max(0) as usize).min(self.width);
        let inside = self.columns.extent as isize - self.columns.least;
        let end = inside.clamp(before as isize, self.width as isize) as usize;
        // SAFETY: pixels of the row of the ring, of which those from `before` to `end` lie in the
        // image.
        unsafe {
            target.write_bytes(0, before * self.channels);
            target.add(end * self.channels).write_bytes(0, (self.width - end) * self.channels);
            let column = (before as isize + self.columns.least).max(0) as usize;
            let offset = offset + column * source.strides[1];
            let start = source.start.wrapping_add(offset);
            let target = target.add(before * self.channels);
            if source.relu_output.is_null() {
                self.copy_pixels::<T, S, false>(simd, source, start, start, end - before, target);
            } else {
                let outputs = source.relu_output.wrapping_add(offset);
                self.copy_pixels::<T, S, true>(simd, source, start, outputs, end - before, target);
            }
        }
    }

    /// Copies `pixels` pixels, masked by `outputs` where `MASKED`, with zeros behind their channels.
    ///
    /// # Safety
    /// The source, and `outputs` where it is read, have them from `start` on.
    #[inline(always)]
    unsafe fn copy_pixels<T: Element, S: Lanes<T>, const MASKED: bool>(
        &self,
        simd: S,
        source: &Source<T>,
        start: *const T,
        outputs: *const T,
        pixels: usize,
        target: *mut T,
    ) {
        let whole = source.count / S::LANES * S::LANES;
        // SAFETY: the caller answers for the pixels.
        unsafe {
            for pixel in 0..pixels {
                let start = start.add(pixel * source.strides[1]);
                let outputs = outputs.add(pixel * source.strides[1]);
                let target = target.add(pixel * self.channels);
                for channel in (0..whole).step_by(S::LANES) {
                    let mut value = simd.load(start.add(channel));
                    if MASKED {
                        value = simd.relu_gradient(simd.load(outputs.add(channel)), value);
                    }
                    simd.store(target.add(channel), value);
                }
                for channel in (whole..self.channels).step_by(S::LANES) {
                    let count = source.count.saturating_sub(channel).min(S::LANES);
                    let mut value = simd.load_first(count, start.wrapping_add(channel));
                    if MASKED {
                        let outputs = simd.load_first(count, outputs.wrapping_add(channel));
                        value = simd.relu_gradient(outputs, value);
                    }
                    simd.store(target.add(channel), value);
                }
            }
        }
    }
}
