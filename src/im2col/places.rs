//! Where elements of a tensor and cells of a column matrix lie.

use std::ops::Range;

use super::ColLayout;
use crate::shape::{ConvShape, Layout};

/// Strides of the column matrix along the images, the windows of an image and the cells of a patch.
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
    pub fn of_col(shape: &ConvShape, col_layout: ColLayout) -> Self {
        let (h, w) = (&shape.height, &shape.width);
        let (pixels, cells) = (h.output * w.output, shape.in_channels * shape.window());
        let (image, pixel, cell) = match col_layout {
            ColLayout::PatchRows => (pixels * cells, cells, 1),
            ColLayout::PatchColumns => (pixels, 1, shape.batch * pixels),
            ColLayout::PerImage => (pixels * cells, 1, pixels),
        };
        let [channel, kernel_row, kernel_column] = match shape.layout {
            Layout::Nchw => [h.kernel * w.kernel, w.kernel, 1],
            Layout::Nhwc => [1, w.kernel * shape.in_channels, shape.in_channels],
        };
        Places {
            image,
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

/// What a row of a window reads of a row of x in NHWC: runs of elements, which follow each other in a patch.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub count: usize,
    pub len: usize,
}

impl Run {
    /// All taps' channels where they are neighbours in x, else each tap's.
    pub fn new(shape: &ConvShape) -> Run {
        let (width, channels) = (&shape.width, shape.in_channels);
        match width.dilation {
            1 => Run { count: 1, len: width.kernel * channels },
            _ => Run { count: width.kernel, len: channels },
        }
    }

    /// Where a window's run would begin in a row of x if all of it existed, and the elements that do.
    #[inline(always)]
    pub fn of_window(
        &self,
        shape: &ConvShape,
        column: usize,
        number: usize,
    ) -> (usize, Range<usize>) {
        let (width, channels) = (&shape.width, shape.in_channels);
        let padded = column * width.stride + number * width.dilation;
        let taps = match self.count {
            1 => width.taps(column),
            _ => 0..usize::from(width.source(column, number).is_some()),
        };
        let first = padded.wrapping_sub(width.pad_before).wrapping_mul(channels);
        (first, taps.start * channels..taps.end * channels)
    }
}
