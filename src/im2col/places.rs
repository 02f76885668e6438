//! Where elements of a tensor and cells of a column matrix lie.

use super::ColLayout;
use crate::shape::{ConvShape, Layout};

/// Strides of x and of the column matrix along what they share.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub image: usize,
    pub row: usize,
    pub column: usize,
    pub channel: usize,
    pub kernel_row: usize,
    pub kernel_column: usize,
}

impl Places {
    /// Rows and columns are x's own.
    pub fn of_x(shape: &ConvShape) -> Self {
        let [image, channel, row, column] = shape.input_strides;
        Places { image, row, column, channel, kernel_row: 0, kernel_column: 0 }
    }

    /// Rows and columns are those of the patches.
    pub fn of_col(shape: &ConvShape, col_layout: ColLayout) -> Self {
        let (h, w) = (&shape.height, &shape.width);
        let (pixels, cells) = (h.output * w.output, shape.in_channels * shape.window());
        let (image, pixel, cell) = match col_layout {
            ColLayout::PatchRows => (pixels * cells, cells, 1),
            ColLayout::PatchColumns => (pixels, 1, shape.batch * pixels),
            ColLayout::PerImage => (pixels * cells, 1, pixels),
        };
        Places { image, ..Places::of_patches(shape, pixel, cell) }
    }

    /// Patches of one image, with so many elements from pixel to pixel and from cell to cell.
    fn of_patches(shape: &ConvShape, pixel: usize, cell: usize) -> Self {
        let (h, w) = (&shape.height, &shape.width);
        let [channel, kernel_row, kernel_column] = match shape.layout {
            Layout::Nchw => [h.kernel * w.kernel, w.kernel, 1],
            Layout::Nhwc => [1, w.kernel * shape.in_channels, shape.in_channels],
        };
        Places {
            image: 0,
            row: w.output * pixel,
            column: pixel,
            channel: channel * cell,
            kernel_row: kernel_row * cell,
            kernel_column: kernel_column * cell,
        }
    }

    /// Whether the cells of a patch follow each other, and not the patches in a cell.
    #[inline(always)]
    pub fn is_patch_rows(&self) -> bool {
        self.column != 1
    }

    /// Where a cell of an image's patch lies.
    #[inline(always)]
    pub fn at(
        &self,
        [row, column, channel]: [usize; 3],
        (kernel_row, kernel_column): (usize, usize),
    ) -> usize {
        row * self.row
            + column * self.column
            + channel * self.channel
            + kernel_row * self.kernel_row
            + kernel_column * self.kernel_column
    }
}

/// Some cells of some rows of patches in scratch memory, to be transposed.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub channels: usize,
    /// Elements of memory.
    pub len: usize,
}

/// Elements of a block of columns, where few channels are enough: it stays in the first-level cache.
const CACHED: usize = 1 << 13;

/// Channels that are worked on together, at least, where they follow each other in a patch: what is read or
/// written of it at a time fills cache lines.
pub(super) const CHANNELS: usize = 8;

/// The most elements of a block.
const MOST: usize = 1 << 19;

/// Channels that are too few to be transposed.
const FEW_CHANNELS: usize = 8;

impl Block {
    /// As many channels of so many rows as columns as stay in the cache; none where one takes too much.
    pub fn new(shape: &ConvShape, rows: usize) -> Option<Block> {
        let len = shape.window().checked_mul(rows)?.checked_mul(shape.out_width)?;
        let channels = (CACHED / len.max(1)).max(CHANNELS).min(shape.in_channels);
        (len <= MOST / channels).then_some(Block { channels, len: channels * len })
    }

    /// The pixels of one tap in so many rows, with all of their channels.
    pub fn of_pixels(shape: &ConvShape, rows: usize) -> Option<Block> {
        let channels = shape.in_channels;
        let len = channels.checked_mul(rows)?.checked_mul(shape.out_width)?;
        (len <= MOST && channels >= FEW_CHANNELS).then_some(Block { channels, len })
    }

    /// Where the cells of so many pixels lie in columns.
    #[inline(always)]
    pub fn places(&self, shape: &ConvShape, pixels: usize) -> Places {
        Places::of_patches(shape, 1, pixels)
    }
}
