//! How products are cut: along the depth into blocks, and across into tasks. By the shape alone.

/// The most products that are summed before the sum is added to C. The same for every element type
/// and instruction set: the order of every sum depends on it. A column panel of so many steps takes
/// 25 KB (AVX2), so that it stays in the first-level cache, or 50 KB (AVX-512). The pixels of eight images
/// of 7 x 7, of two of 14 x 14 and of half an image of 28 x 28 are one block.
pub(crate) const DEPTH_BLOCK: usize = 392;

/// Cuts `depth` into blocks of equal length, but for rounding: yields (start, length).
pub(crate) fn depth_blocks(depth: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = block_length(depth);
    (0..depth).step_by(length).map(move |start| (start, length.min(depth - start)))
}

/// The longest block that `depth_blocks` yields; at least 1.
pub(crate) fn block_length(depth: usize) -> usize {
    depth.div_ceil(depth.div_ceil(DEPTH_BLOCK).max(1)).max(1)
}

/// Fewer multiply-adds than this, some five microseconds of work, are not worth a task.
pub(crate) const TASK_WORK: usize = 1 << 18;

/// Enough tasks to keep several threads busy to the end.
pub(crate) const TASKS: usize = 16;

/// A grid of tasks over the rows and columns of C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub rows: usize,
    pub columns: usize,
    /// Rows of a task, but for the last.
    pub task_rows: usize,
    /// Columns of a task, but for the last.
    pub task_columns: usize,
}

impl Grid {
    /// Cuts `rows` x `columns` sums of `depth` products each, of which there are `copies`.
    /// Task extents are multiples of the granules, but for the last ones, and at most the limits
    /// rounded up to granules.
    pub fn new(
        [rows, columns, depth]: [usize; 3],
        copies: usize,
        [row_granule, column_granule]: [usize; 2],
        [row_limit, column_limit]: [usize; 2],
    ) -> Self {
        let work = rows.saturating_mul(columns).saturating_mul(depth).saturating_mul(copies);
        let wanted = (work / TASK_WORK).clamp(1, TASKS).div_ceil(copies.max(1));
        let mut parts = [rows.div_ceil(row_limit).max(1), columns.div_ceil(column_limit).max(1)];
        let size = |parts: [usize; 2]| {
            let even = |extent: usize, parts: usize, granule: usize| {
                extent.div_ceil(parts).next_multiple_of(granule).max(1)
            };
            [even(rows, parts[0], row_granule), even(columns, parts[1], column_granule)]
        };
        // Halves the longer side of a task, since each side is packed once for the other, or the one that can be.
        while parts[0] * parts[1] < wanted {
            let [task_rows, task_columns] = size(parts);
            let side = match [task_rows > row_granule, task_columns > column_granule] {
                [false, false] => break,
                [true, true] => usize::from(task_columns >= task_rows),
                [_, columns] => usize::from(columns),
            };
            parts[side] *= 2;
        }
        let [task_rows, task_columns] = size(parts);
        Grid { rows, columns, task_rows, task_columns }
    }

    /// Tasks from top to bottom, and from left to right.
    pub fn tasks(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.task_rows), self.columns.div_ceil(self.task_columns)]
    }

    pub fn len(&self) -> usize {
        self.tasks().iter().product()
    }

    /// The rows and the columns of task `index`, each as (first, count).
    pub fn task(&self, index: usize) -> [(usize, usize); 2] {
        let [tall, _] = self.tasks();
        let (row, column) = (index % tall * self.task_rows, index / tall * self.task_columns);
        [
            (row, self.task_rows.min(self.rows - row)),
            (column, self.task_columns.min(self.columns - column)),
        ]
    }
}
