//! How the memory-bound operations are cut into tasks: by their shape alone.

use std::ops::Range;

/// Elements that a task reads or writes, about: enough that handing it out costs nothing beside it
/// (some ten microseconds against 0.1), few enough that many threads balance.
pub(crate) const GRAIN: usize = 1 << 15;

/// Tasks that are enough for any number of threads: more of them are no reason to cut rows, which memory gives the
/// sooner the longer they are.
const MANY: usize = 16;

/// A grid of `rows` by `lanes`, cut into tasks of about [`GRAIN`] elements, or of more where there are [`MANY`]: several
/// rows, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tasks {
    rows: usize,
    lanes: usize,
    rows_per_task: usize,
    lanes_per_task: usize,
}

impl Tasks {
    /// `work` is the number of elements that a lane of a row reads or writes. Rows are cut at
    /// multiples of `step` lanes only.
    pub fn new(rows: usize, lanes: usize, work: usize, step: usize) -> Tasks {
        let row_work = lanes.saturating_mul(work).max(1);
        let (rows_per_task, lanes_per_task) = if row_work < GRAIN {
            (GRAIN.div_ceil(row_work), lanes)
        } else {
            let least = lanes.div_ceil(MANY.div_ceil(rows.max(1)));
            (1, GRAIN.div_ceil(work).max(least).next_multiple_of(step))
        };
        Tasks {
            rows,
            lanes,
            rows_per_task: rows_per_task.min(rows).max(1),
            lanes_per_task: lanes_per_task.min(lanes).max(1),
        }
    }

    /// The number of tasks.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task) * self.lane_parts()
    }

    /// The rows and the lanes of a task. Tasks that follow each other share rows.
    pub fn part(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let row = index / self.lane_parts() * self.rows_per_task;
        let lane = index % self.lane_parts() * self.lanes_per_task;
        (
            row..(row + self.rows_per_task).min(self.rows),
            lane..(lane + self.lanes_per_task).min(self.lanes),
        )
    }

    fn lane_parts(&self) -> usize {
        self.lanes.div_ceil(self.lanes_per_task)
    }
}

/// Rows of many planes, `height` each, as (plane, rows of it).
#[inline(always)]
pub(crate) fn by_plane(
    rows: Range<usize>,
    height: usize,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    (rows.start / height..rows.end.div_ceil(height)).map(move |plane| {
        let first = plane * height;
        (plane, rows.start.max(first) - first..rows.end.min(first + height) - first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_the_grid_once() {
        for (rows, lanes, work, step) in [
            (0, 5, 1, 1),
            (1, 1, 1, 1),
            (3, 100_000, 1, 16),
            (1000, 100, 3, 16),
            (1000, 100, usize::MAX, 1),
            (2, 70, 1000, 16),
            (1, 1 << 20, 1, 16),
        ] {
            let tasks = Tasks::new(rows, lanes, work, step);
            let mut seen = vec![0; rows * lanes];
            for index in 0..tasks.count() {
                let (row_range, lane_range) = tasks.part(index);
                assert!(lane_range.start % step == 0 && !lane_range.is_empty());
                for row in row_range {
                    for lane in lane_range.clone() {
                        seen[row * lanes + lane] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{tasks:?}");
        }
    }

    #[test]
    fn small_work_is_one_task_and_large_work_is_many() {
        assert_eq!(Tasks::new(10, 100, 9, 16).count(), 1);
        assert!(Tasks::new(1, 1 << 20, 1, 16).count() >= 16);
        assert!(Tasks::new(1 << 20, 1, 1, 1).count() >= 16);
        assert!(Tasks::new(1, 64, 1 << 20, 16).count() == 4);
    }
}
