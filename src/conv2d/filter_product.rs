//! Filters times patches: what the forward pass and the backward pass to the data both are.
//!
//! The filters are packed once per call, or by the one task that uses them. Each task packs some pixels'
//! patches straight from the image, or reads them there where a patch is just its pixel, and multiplies:
//! NCHW has the pixels in the lanes and the filters' outputs as rows of the tile, NHWC the other way
//! round, so that results are written as they lie. Small images of NCHW, whose rows would leave lanes empty
//! or straddle cache lines, are multiplied as NHWC is, and their tiles transposed as they are written.

use super::filter_plan::{Part, Plan};
use super::filter_task::Task;
use super::patches::Patches;
use crate::context::Context;
use crate::gemm::ahead::Ahead;
use crate::gemm::blocking::depth_blocks;
use crate::gemm::kernel::Places;
use crate::gemm::pack::{Depth, PackMatrix};
use crate::runs;
use crate::scratch::{Scratch, ScratchLen};
use crate::shape::Layout;
use crate::simd::{Element, Level};

/// The filters as a matrix in memory, a line per output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filters<T> {
    /// The first group's first output at the first tap of each axis.
    pub start: *const T,
    /// From group to group.
    pub group_stride: usize,
    /// From output to output.
    pub line_stride: usize,
    /// Along the cells of a patch.
    pub depth: Depth,
}

/// Where the results lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Results<T> {
    pub start: *mut T,
    pub image_stride: usize,
    pub group_stride: usize,
    pub outputs: Places,
    pub pixels: Places,
}

/// outputs = activation(alpha * filters * patches + beta * outputs + bias), for every image and group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterProduct<T> {
    pub batch: usize,
    pub groups: usize,
    /// Outputs of a group.
    pub outputs: usize,
    /// Pixels of an image's grid.
    pub pixels: usize,
    /// The first image's and group's.
    pub patches: Patches<T>,
    pub image_stride: usize,
    pub filters: Filters<T>,
    pub results: Results<T>,
    pub alpha: T,
    pub beta: T,
    /// An element per output of all groups; null for none.
    pub bias: *const T,
    pub relu: bool,
}

// SAFETY: tasks read the sources, and write disjoint parts of the results.
unsafe impl<T: Element> Sync for FilterProduct<T> {}

impl<T: Element> FilterProduct<T> {
    pub fn scratch_len(&self, level: Level) -> ScratchLen {
        let plan = self.plan(level);
        let per_slot = plan.patches_len + plan.own_filters_len + plan.sums_len;
        ScratchLen { shared: plan.filters_len, per_slot }
    }

    /// Computes all results, with scratch memory of `scratch_len`.
    pub fn run(&self, context: &Context, scratch: &Scratch<'_, T>) {
        let level = context.level();
        let plan = self.plan(level);
        if plan.filters_len > 0 {
            self.pack_filters(context, &plan, scratch);
        }
        let tasks = self.batch * self.groups * plan.grid.len();
        context.run(tasks, &|slot, index| {
            // What this thread does next, but for the end of its share.
            let next = Some(index + 1).filter(|&next| next < tasks);
            self.task(level, &plan, scratch.shared(), scratch.slot(slot), index, next);
        });
    }

    /// The pixels' elements of a depth block, where the patches are a matrix in memory.
    fn ahead(&self, plan: &Plan, index: usize, (start, count): (usize, usize)) -> Ahead<T> {
        if !(self.patches.are_pixels() && self.patches.rows.extent == 1) {
            return Ahead::none();
        }
        let Part { image, group, outputs: _, pixels } = self.part(plan, index);
        let [of_channel, _, of_pixel] = self.patches.strides;
        let channel = group * self.patches.channels + start;
        let (pixel, run, runs, stride) = match self.patches.layout {
            // Stores that end within a cache line wait for it behind all that was asked for: measured, where the
            // results do not stay in the cache, up to three times as long.
            Layout::Nchw if !(plan.transposes || self.lines_up()) => return Ahead::none(),
            Layout::Nchw => (pixels.0, pixels.1, count, of_channel),
            // Parts of pixels are long, and foreseen by the processor.
            Layout::Nhwc if count < plan.depth => return Ahead::none(),
            Layout::Nhwc => (pixels.0, count, pixels.1, of_pixel),
        };
        let offset = image * self.image_stride + channel * of_channel + pixel * of_pixel;
        let start = self.patches.source.wrapping_add(offset);
        Ahead::new(start, run, runs, stride)
    }

    /// Packs the filters of every group, task part and depth block.
    fn pack_filters(&self, context: &Context, plan: &Plan, scratch: &Scratch<'_, T>) {
        let part_outputs = plan.task_outputs();
        let parts = self.outputs.div_ceil(part_outputs);
        let (blocks, level) = (depth_blocks(plan.depth).count(), context.level());
        context.run(self.groups * parts * blocks, &|_, index| {
            let (start, count) = depth_blocks(plan.depth).nth(index % blocks).expect("a block");
            let part = index / blocks % parts;
            let group = index / blocks / parts;
            let place = self.packed_offset(plan, group, part, start);
            let target = scratch.shared().wrapping_add(place);
            self.pack_part(level, plan, (group, part), (start, count), target);
        });
    }

    /// Packs a depth block of a task part's filters.
    fn pack_part(
        &self,
        level: Level,
        plan: &Plan,
        (group, part): (usize, usize),
        (start, count): (usize, usize),
        target: *mut T,
    ) {
        let part_outputs = plan.task_outputs();
        let first = part * part_outputs;
        let pack = PackMatrix {
            // SAFETY: the part's first output lies within the filters.
            source: unsafe {
                let group = self.filters.start.add(group * self.filters.group_stride);
                group.add(first * self.filters.line_stride)
            },
            relu_output: std::ptr::null(),
            line_stride: self.filters.line_stride,
            depth: self.filters.depth,
            lines: part_outputs.min(self.outputs - first),
            start,
            count,
            panels: plan.filters,
            target,
            panel_stride: plan.filters.width * count,
        };
        T::dispatch(level, pack);
    }

    /// Where the packed filters of a group, task part and depth block begin.
    fn packed_offset(&self, plan: &Plan, group: usize, part: usize, start: usize) -> usize {
        let part_outputs = plan.task_outputs();
        let parts = self.outputs.div_ceil(part_outputs);
        let place_len = plan.filters.len(part_outputs, 1);
        ((group * parts + part) * plan.depth + start) * place_len
    }

    /// Some outputs of some pixels of one image and group.
    fn task(
        &self,
        level: Level,
        plan: &Plan,
        packed: *const T,
        slot: *mut T,
        index: usize,
        next: Option<usize>,
    ) {
        let Part { image, group, outputs, pixels } = self.part(plan, index);
        if pixels.1 == 0 {
            return;
        }
        let mut patches = self.patches;
        let offset = image * self.image_stride + group * patches.channels * patches.strides[0];
        // SAFETY: the image's and group's first elements lie within the tensors.
        let target = unsafe {
            patches.source = patches.source.add(offset);
            if !patches.relu_output.is_null() {
                patches.relu_output = patches.relu_output.add(offset);
            }
            let offset = image * self.results.image_stride + group * self.results.group_stride;
            self.results.start.add(offset)
        };
        let part = outputs.0 / plan.task_outputs();
        let task = Task {
            product: self,
            level,
            plan,
            slot,
            patches,
            outputs,
            pixels,
            target,
            // The group's; no element where there are none.
            bias: self.bias.wrapping_add(group * self.outputs),
        };
        let multiply = |start: usize, count: usize| {
            let following = depth_blocks(plan.depth).find(|block| block.0 > start);
            let ahead = match (following, next, depth_blocks(plan.depth).next()) {
                (Some(block), ..) => self.ahead(plan, index, block),
                (None, Some(next), Some(block)) => self.ahead(plan, next, block),
                _ => Ahead::none(),
            };
            let filters = match plan.own_filters_len {
                0 => packed.wrapping_add(self.packed_offset(plan, group, part, start)),
                _ => {
                    let own = slot.wrapping_add(plan.patches_len);
                    self.pack_part(level, plan, (group, part), (start, count), own);
                    own
                }
            };
            task.multiply((start, count), filters, ahead);
        };
        if plan.transposes && self.beta != T::default() {
            T::dispatch(level, task.old_results());
        }
        if plan.depth == 0 {
            // No tap reaches these pixels: their sums are empty.
            return multiply(0, 0);
        }
        for (start, count) in depth_blocks(plan.depth) {
            multiply(start, count);
        }
        if plan.streams {
            runs::end_stream();
        }
    }
}
