//! How the work on an image is cut into tasks: by its shape alone.

use std::ops::Range;

use super::ColLayout;
use crate::shape::{ConvShape, Layout};

/// Equal parts of each image, and the tasks that do them.
pub(super) struct Cut {
    batch: usize,
    all_rows: usize,
    all_channels: usize,
    pub rows: usize,
    pub channels: usize,
    /// Whether the same part of all images is done before the next one, so many at a time.
    images_first: bool,
    together: usize,
}

/// Cells of the column matrix that are worth a task.
const WORK: usize = 1 << 18;

/// Pixels of a task, at least, where there are as many: a vector's lanes.
const PIXELS: usize = 16;

/// An image's windows that are few beside those of others: cache lines have some of several images in the columns, so
/// that these had better be done at much the same time, by parts of few cells. (In NHWC a channel's columns lie too far
/// apart for that.)
const FEW_WINDOWS: usize = 512;
const FEW_CELLS: usize = 1 << 13;

impl Cut {
    /// For `rows` rows of x or of patches, with a multiple of `least_channels` together, or all that there are.
    pub fn new(
        shape: &ConvShape,
        rows: usize,
        least_channels: usize,
        col_layout: ColLayout,
    ) -> Cut {
        let all_channels = shape.in_channels;
        let columns = shape.out_width.max(shape.width.input);
        let row = shape.window().saturating_mul(columns);
        let some = WORK / row.saturating_mul(least_channels);
        let some = some.max(PIXELS.div_ceil(shape.out_width)).min(rows);
        let side_by_side = col_layout == ColLayout::PatchColumns && shape.layout == Layout::Nchw;
        let images_first = side_by_side && shape.out_height * shape.out_width < FEW_WINDOWS;
        let work = if images_first { FEW_CELLS } else { WORK };
        let channels = work / row.saturating_mul(some) / least_channels * least_channels;
        let channels = channels.clamp(least_channels, all_channels);
        let cells = row.saturating_mul(some).saturating_mul(channels);
        let together = if images_first { (WORK / cells).max(1) } else { 1 };
        Cut {
            batch: shape.batch,
            all_rows: rows,
            all_channels,
            rows: some,
            channels,
            images_first,
            together,
        }
    }

    /// The same with so many rows in a part, at least.
    pub fn with_rows(self, rows: usize) -> Cut {
        Cut { rows: self.rows.max(rows).min(self.all_rows), ..self }
    }

    /// The parts of an image.
    fn parts(&self) -> usize {
        self.all_rows.div_ceil(self.rows) * self.all_channels.div_ceil(self.channels)
    }

    pub fn tasks(&self) -> usize {
        (self.batch * self.parts()).div_ceil(self.together)
    }

    /// The image, rows and channels of each part of a task.
    pub fn task(
        &self,
        index: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> + '_ {
        let first = index * self.together;
        let end = (self.batch * self.parts()).min(first + self.together);
        (first..end).map(|number| {
            let (image, part) = match self.images_first {
                true => (number % self.batch, number / self.batch),
                false => (number / self.parts(), number % self.parts()),
            };
            let parts = self.all_channels.div_ceil(self.channels);
            let (row, channel) = (part / parts * self.rows, part % parts * self.channels);
            (
                image,
                row..self.all_rows.min(row + self.rows),
                channel..self.all_channels.min(channel + self.channels),
            )
        })
    }
}
