//! dw = alpha * (the gradient of the weights) + beta * dw, and db likewise.
//!
//! For few outputs, for many of single pixels, and for db alone: `direct/channel_weights.rs` has the others. dw
//! is a product of dy and the patches of x, whose depth is the pixels of all images. It is cut into
//! blocks, and these into parts, by the shape alone; each part's sum goes to scratch memory of its own,
//! and the parts are added up in their order. So the order of every sum is the shape's. The bias
//! gradient is summed from the same panels of dy, masked as they were packed. A large dw is one part, and the panels
//! of a block are packed once for all its tasks.

use super::GradientOptions;
use super::add_parts::{PartSums, PartUpdate};
use super::gradient::Gradient;
use super::weights_panels::{SumPanels, ahead, cells_in_place, pack_gradient, pack_patches};
use super::weights_plan::{DepthBlock, Plan, Task};
use super::weights_shared::SharedBlocks;
use crate::context::Context;
use crate::error::Result;
use crate::gemm::ahead::Ahead;
use crate::gemm::kernel::{BlockProduct, Panels, Places};
use crate::gemm::update::{Bias, Update};
use crate::scratch::ScratchLen;
use crate::shape::ConvShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};

/// What the pass reads and how it updates.
#[derive(Clone, Copy)]
pub(super) struct BackwardWeights<'a, T> {
    /// Read for dw only.
    pub x: Option<&'a [T]>,
    pub gradient: Gradient<'a, T>,
    pub dw_alpha: T,
    pub dw_beta: T,
    pub db_alpha: T,
    pub db_beta: T,
}

impl<'a, T: Element> BackwardWeights<'a, T> {
    pub fn new(
        x: Option<&'a [T]>,
        gradient: Gradient<'a, T>,
        options: &GradientOptions,
    ) -> BackwardWeights<'a, T> {
        BackwardWeights {
            x,
            gradient,
            dw_alpha: T::from_f64(options.dw_alpha),
            dw_beta: T::from_f64(options.dw_beta),
            db_alpha: T::from_f64(options.db_alpha),
            db_beta: T::from_f64(options.db_beta),
        }
    }

    /// A pass whose shape only is looked at: how much scratch memory it would need.
    fn of_nothing() -> Self {
        BackwardWeights::new(Some(&[]), Gradient::none(), &GradientOptions::default())
    }

    pub fn run(
        &self,
        context: &Context,
        shape: &ConvShape,
        mut dw: Option<&mut [T]>,
        db: Option<&mut [T]>,
    ) -> Result<()> {
        let level = context.level();
        let plan = Plan::new(level, shape, self, dw.is_some());
        let scratch = context.scratch::<T>(plan.scratch_len())?;
        let are_dw = plan.sums_are_dw();
        let direct = dw.as_deref_mut().filter(|_| are_dw).map(SharedMut::new);
        let sums = || scratch.shared().wrapping_add(plan.shared_len());
        let sums_of_dw = || direct.map_or(sums(), |dw| dw.at(0));
        let sums_of_db = || sums().wrapping_add(plan.parts * plan.part_len());
        match plan.shared_blocks {
            0 => context.run(plan.tasks(), &|slot, index| {
                task(level, &plan, [sums_of_dw(), sums_of_db()], scratch.slot(slot), index);
            }),
            together => {
                for first in (0..plan.blocks).step_by(together) {
                    let blocks = SharedBlocks {
                        plan: &plan,
                        first,
                        count: together.min(plan.blocks - first),
                        panels: scratch.shared(),
                    };
                    context.run(blocks.packs(), &|slot, index| {
                        blocks.pack(level, index, scratch.slot(slot));
                    });
                    context.run(plan.tasks(), &|_, index| {
                        blocks.multiply(level, index, [sums_of_dw(), sums_of_db()]);
                    });
                }
            }
        }
        if let Some(dw) = dw.filter(|_| !are_dw) {
            let parts = PartSums {
                shape,
                sums: sums(),
                update: PartUpdate {
                    parts: plan.parts,
                    part_len: plan.part_len(),
                    alpha: self.dw_alpha,
                    beta: self.dw_beta,
                },
                cells_in_lanes: plan.cells_in_lanes,
                dw: dw.as_mut_ptr(),
            };
            parts.add_up(context);
        }
        if let Some(db) = db {
            // SAFETY: written by the tasks above.
            let sums = unsafe {
                std::slice::from_raw_parts(sums_of_db(), plan.parts * shape.out_channels)
            };
            for (output, db) in db.iter_mut().enumerate() {
                let parts = sums.iter().skip(output).step_by(shape.out_channels);
                let sum = parts.fold(T::default(), |sum, &part| sum + part);
                *db = updated(self.db_alpha, sum, self.db_beta, *db);
            }
        }
        Ok(())
    }
}

pub(super) fn scratch_len<T: Element>(
    level: Level,
    shape: &ConvShape,
    with_dw: bool,
) -> ScratchLen {
    Plan::new(level, shape, &BackwardWeights::<T>::of_nothing(), with_dw).scratch_len()
}

/// alpha * sum + beta * old; beta = 0 does not read old.
#[inline(always)]
pub(super) fn updated<T: Element>(alpha: T, sum: T, beta: T, old: T) -> T {
    if beta == T::default() { alpha * sum } else { alpha * sum + beta * old }
}

/// Where a task's sums of dw, from the group's first on, and of db lie.
///
/// # Safety
/// The pointers have those of all parts.
pub(super) unsafe fn sums_of<T: Element>(
    plan: &Plan<'_, T>,
    &Task { part, group, outputs: (output, _), .. }: &Task,
    [dw, db]: [*mut T; 2],
) -> [*mut T; 2] {
    let shape = plan.shape;
    // SAFETY: the caller answers for each part's dw, group by group, and db of every output.
    unsafe {
        let dw = dw.add(part * plan.part_len() + group * shape.group_out * plan.cells);
        [dw, db.add(part * shape.out_channels + group * shape.group_out + output)]
    }
}

/// One part's sums of some outputs and cells of one group.
fn task<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    sums: [*mut T; 2],
    slot: *mut T,
    index: usize,
) {
    let task = plan.task(index);
    let [dy_len, cells_len, filled_len, _] = plan.slot_lens();
    // SAFETY: the slot has these parts; the sums are those of all parts.
    let (cell_target, filled, region, [dw, db]) = unsafe {
        let cell_target = slot.add(dy_len);
        let filled = cell_target.add(cells_len);
        (cell_target, filled, filled.add(filled_len), sums_of(plan, &task, sums))
    };
    // What this thread reads behind the task's blocks, but for the end of its share.
    let next_task = (index + 1 < plan.tasks()).then(|| plan.task(index + 1));
    let first_of_next =
        next_task.and_then(|task| Some((task, plan.depth_blocks(task.part).next()?)));
    let mut blocks = plan.depth_blocks(task.part).peekable();
    let mut is_first = true;
    while let Some(block) = blocks.next() {
        pack_gradient(level, plan, block, &task, slot, region);
        sum_bias(level, plan, &task, is_first, slot, block, db);
        let Some(patches) = &plan.patches else {
            is_first = false;
            continue;
        };
        if plan.packs_cells() {
            pack_patches(level, plan, patches, block, &task, cell_target, filled);
        }
        let next = blocks.peek().map(|&block| (task, block)).or(first_of_next);
        let ahead = next.map_or([Ahead::none(); 2], |(task, block)| ahead(plan, block, &task));
        multiply(level, plan, &task, is_first, [slot, cell_target], block, ahead, dw);
        is_first = false;
    }
}

/// Adds a block's sums of a task's panels of dy to those of db, which are none before the first block.
pub(super) fn sum_bias<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    &Task { outputs: (_, outputs), cells: (cell, _), .. }: &Task,
    is_first: bool,
    panels: *const T,
    block: DepthBlock,
    db: *mut T,
) {
    if cell > 0 {
        return;
    }
    if is_first {
        // SAFETY: the task's outputs.
        unsafe { db.write_bytes(0, outputs) };
    }
    let (shape, depth) = (plan.output_panels, block.depth());
    T::dispatch(level, SumPanels { panels, shape, lines: outputs, depth, sums: db });
}

/// Adds the products of a block's panels to the sums, which are none before the first block.
#[allow(clippy::too_many_arguments, reason = "two operands and where they meet")]
pub(super) fn multiply<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    task: &Task,
    is_first: bool,
    [outputs, cells]: [*const T; 2],
    block: DepthBlock,
    ahead: [Ahead<T>; 2],
    dw: *mut T,
) {
    let Some(patches) = &plan.patches else { return };
    let (depth, group_out) = (block.depth(), plan.shape.group_out);
    let column_panels = match plan.cells_in_place {
        true => cells_in_place(plan, patches, block, task),
        false => Panels::packed(cells, plan.cell_panels.width, depth),
    };
    let product = BlockProduct {
        depth,
        rows: task.outputs.1,
        columns: task.cells.1,
        row_panels: Panels::packed(outputs, plan.output_panels.width, depth),
        column_panels,
        target: dw,
        first_row: task.outputs.0,
        first_column: task.cells.0,
        row_places: Places::every(if plan.cells_in_lanes { plan.cells } else { 1 }),
        column_places: Places::every(if plan.cells_in_lanes { 1 } else { group_out }),
        update: Update {
            alpha: T::from_f64(1.0),
            beta: if is_first { T::default() } else { T::from_f64(1.0) },
            bias: Bias::None,
            relu: false,
            streams: false,
        },
        transposed: None,
        ahead,
        asks_for_rows: false,
    };
    T::dispatch(level, if plan.cells_in_lanes { product } else { product.transposed() });
}
