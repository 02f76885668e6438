//! Adds up the sums that the parts of a batch have of dw, and updates dw with them.

use crate::context::Context;
use crate::shape::ConvShape;
use crate::simd::{Element, Kernel, Lanes, TILE_LANES};

/// Elements of dw of a task, some microseconds of work.
const TASK_ELEMENTS: usize = 1 << 14;
/// Outputs of a task where they are contiguous: a cache line of them.
const TASK_OUTPUTS: usize = 16;

/// How parts' sums update a gradient.
#[derive(Clone, Copy)]
pub(super) struct PartUpdate<T> {
    pub parts: usize,
    /// Elements of a part.
    pub part_len: usize,
    pub alpha: T,
    pub beta: T,
}

/// The parts' sums of dw, and where they go.
#[derive(Clone, Copy)]
pub(super) struct PartSums<'a, T> {
    pub shape: &'a ConvShape,
    /// Part by part, in each group by group `[outputs, taps, channels]`, or `[taps, channels, outputs]`.
    pub sums: *const T,
    pub update: PartUpdate<T>,
    /// Whether the channels are contiguous, not the outputs.
    pub cells_in_lanes: bool,
    pub dw: *mut T,
}

// SAFETY: tasks read the sums, and write disjoint parts of dw.
unsafe impl<T: Element> Sync for PartSums<'_, T> {}

impl<T: Element> PartSums<'_, T> {
    pub fn add_up(&self, context: &Context) {
        let outputs_of_task = match self.cells_in_lanes {
            true => TASK_ELEMENTS.div_ceil(self.shape.patch_len()),
            false => TASK_OUTPUTS,
        };
        let tasks = self.shape.group_out.div_ceil(outputs_of_task);
        context.run(self.shape.groups * tasks, &|_, index| {
            let (group, first) = (index / tasks, index % tasks * outputs_of_task);
            let outputs = outputs_of_task.min(self.shape.group_out - first);
            T::dispatch(context.level(), AddUp { parts: *self, group, first, outputs });
        });
    }
}

/// Some outputs of a group.
struct AddUp<'a, T> {
    parts: PartSums<'a, T>,
    group: usize,
    first: usize,
    outputs: usize,
}

impl<T: Element> Kernel<T> for AddUp<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let shape = self.parts.shape;
        let [w_out, w_in, w_row, w_column] = shape.filter_strides();
        let (kernel_width, channels) = (shape.width.kernel, shape.group_in);
        let taps = shape.height.kernel * kernel_width;
        let output = self.group * shape.group_out + self.first;
        // SAFETY: the sums have the outputs' cells, and dw has them; no other task has these outputs.
        unsafe {
            let dw = self.parts.dw.add(output * w_out);
            if self.parts.cells_in_lanes {
                for number in 0..self.outputs {
                    let sums = self.parts.sums.add((output + number) * taps * channels);
                    for tap in 0..taps {
                        let place = tap / kernel_width * w_row + tap % kernel_width * w_column;
                        let dw = dw.add(number * w_out + place);
                        self.parts.update.line(simd, sums.add(tap * channels), channels, dw, w_in);
                    }
                }
                return;
            }
            let group = self.group * taps * channels * shape.group_out;
            let sums = self.parts.sums.add(group + self.first);
            for channel in 0..channels {
                for row in 0..shape.height.kernel {
                    for column in 0..kernel_width {
                        let cell = (row * kernel_width + column) * channels + channel;
                        let sums = sums.add(cell * shape.group_out);
                        let dw = dw.add(channel * w_in + row * w_row + column * w_column);
                        self.parts.update.line(simd, sums, self.outputs, dw, w_out);
                    }
                }
            }
        }
    }
}

/// The parts' sums `[rows, group's inputs, columns, outputs]` of dw and behind them `[outputs]` of db, and where they go.
#[derive(Clone, Copy)]
pub(super) struct OutputSums<'a, T> {
    pub shape: &'a ConvShape,
    pub sums: *const T,
    /// 0 without dw.
    pub taps: usize,
    /// Null for none.
    pub dw: *mut T,
    pub db: *mut T,
    pub updates: [PartUpdate<T>; 2],
}

// SAFETY: tasks read the sums, and write disjoint parts of dw and db.
unsafe impl<T: Element> Sync for OutputSums<'_, T> {}

impl<T: Element> OutputSums<'_, T> {
    pub fn add_up(&self, context: &Context) {
        let outputs = self.shape.out_channels;
        let of_output = (self.taps + 1) * self.updates[0].parts;
        let of_task = TASK_ELEMENTS.div_ceil(of_output).next_multiple_of(TASK_OUTPUTS);
        context.run(outputs.div_ceil(of_task), &|_, index| {
            let first = index * of_task;
            let count = of_task.min(outputs - first);
            T::dispatch(context.level(), AddUpOutputs { sums: *self, first, count });
        });
    }
}

/// Some outputs.
struct AddUpOutputs<'a, T> {
    sums: OutputSums<'a, T>,
    first: usize,
    count: usize,
}

impl<T: Element> Kernel<T> for AddUpOutputs<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes<T>>(self, simd: S) {
        let AddUpOutputs { sums: OutputSums { shape, sums, taps, dw, db, updates }, first, count } =
            self;
        let [w_out, w_in, w_row, w_column] = shape.filter_strides();
        let sums = |tap: usize| sums.wrapping_add(tap * shape.out_channels + first);
        // SAFETY: the sums have the outputs, and so have dw and db; no other task has these.
        unsafe {
            for tap in 0..if dw.is_null() { 0 } else { taps } {
                let (line, column) = (tap / shape.width.kernel, tap % shape.width.kernel);
                let (row, term) = (line / shape.group_in, line % shape.group_in);
                let place = row * w_row + term * w_in + column * w_column;
                updates[0].line(simd, sums(tap), count, dw.add(first * w_out + place), w_out);
            }
            if !db.is_null() {
                updates[1].line(simd, sums(taps), count, db.add(first), 1);
            }
        }
    }
}

impl<T: Element> PartUpdate<T> {
    /// Adds up `count` contiguous sums, for elements of dw that lie `stride` apart.
    ///
    /// # Safety
    /// The pointers have them.
    #[inline(always)]
    pub unsafe fn line<S: Lanes<T>>(
        &self,
        simd: S,
        sums: *const T,
        count: usize,
        dw: *mut T,
        stride: usize,
    ) {
        let PartUpdate { parts, part_len, alpha, beta } = *self;
        for first in (0..count).step_by(S::LANES) {
            let count = S::LANES.min(count - first);
            // SAFETY: the caller answers for the elements.
            unsafe {
                let mut sum = simd.splat(T::default());
                for part in 0..parts {
                    let sums = sums.add(part * part_len + first);
                    let addend = match count == S::LANES {
                        true => simd.load(sums),
                        false => simd.load_first(count, sums),
                    };
                    sum = simd.add(sum, addend);
                }
                let dw = dw.add(first * stride);
                let mut value = simd.mul(simd.splat(alpha), sum);
                if beta != T::default() {
                    let mask = simd.mask_between(0, count);
                    let old = simd.gather_where(mask, dw, stride as isize);
                    value = simd.mul_add(simd.splat(beta), old, value);
                }
                if stride == 1 {
                    simd.store_first(count, dw, value);
                    continue;
                }
                let mut lanes = [T::default(); TILE_LANES];
                simd.store(lanes.as_mut_ptr(), value);
                for (lane, &value) in lanes.iter().enumerate().take(count) {
                    *dw.add(lane * stride) = value;
                }
            }
        }
    }
}
