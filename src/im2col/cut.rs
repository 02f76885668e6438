//! How the work on an image is cut into tasks: by its shape alone.

use std::ops::Range;

use crate::shape::ConvShape;

/// Equal parts of an image.
pub(super) struct Cut {
    all_rows: usize,
    all_channels: usize,
    rows: usize,
    pub channels: usize,
}

/// Cells of the column matrix that are worth a task.
const WORK: usize = 1 << 18;

/// Pixels of a task, at least, where there are as many: a vector's lanes.
const PIXELS: usize = 16;

impl Cut {
    /// For `rows` rows of x or of patches, with no fewer channels together than `least_channels`.
    pub fn new(shape: &ConvShape, rows: usize, least_channels: usize) -> Cut {
        let all_channels = shape.in_channels;
        let columns = shape.out_width.max(shape.width.input);
        let row = shape.window().saturating_mul(columns);
        let some = WORK / row.saturating_mul(least_channels);
        let some = some.max(PIXELS.div_ceil(shape.out_width)).min(rows);
        let channels = (WORK / row.saturating_mul(some)).clamp(least_channels, all_channels);
        Cut { all_rows: rows, all_channels, rows: some, channels }
    }

    /// The same with so many rows in a part, at least.
    pub fn with_rows(self, rows: usize) -> Cut {
        Cut { rows: self.rows.max(rows).min(self.all_rows), ..self }
    }

    /// The tasks of an image.
    pub fn parts(&self) -> usize {
        self.all_rows.div_ceil(self.rows) * self.all_channels.div_ceil(self.channels)
    }

    /// The image, rows and channels of a task.
    pub fn part(&self, index: usize) -> (usize, Range<usize>, Range<usize>) {
        let (image, part) = (index / self.parts(), index % self.parts());
        let parts = self.all_channels.div_ceil(self.channels);
        let (row, channel) = (part / parts * self.rows, part % parts * self.channels);
        (
            image,
            row..self.all_rows.min(row + self.rows),
            channel..self.all_channels.min(channel + self.channels),
        )
    }
}
