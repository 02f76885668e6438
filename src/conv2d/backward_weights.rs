//! dw = alpha * (the gradient of the weights) + beta * dw, and db likewise.
//!
//! For few outputs, for many of single pixels, and for db alone: `direct/channel_weights.rs` has the others. dw
//! is a product of dy and the patches of x, whose depth is the pixels of all images. It is cut into
//! blocks, and these into parts, by the shape alone; each part's sum goes to scratch memory of its own,
//! and the parts are added up in their order. So the order of every sum is the shape's. The bias
//! gradient is summed from the same panels of dy, masked as they were packed.

use super::GradientOptions;
use super::add_parts::{PartSums, PartUpdate};
use super::gradient::Gradient;
use super::weights_panels::{SumPanels, ahead, cells_in_place, pack_gradient, pack_patches};
use super::weights_plan::{Plan, Task};
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
        let sums_of_dw = || direct.map_or(scratch.shared(), |dw| dw.at(0));
        let sums_of_db = || scratch.shared().wrapping_add(plan.parts * plan.part_len());
        context.run(plan.tasks(), &|slot, index| {
            task(level, &plan, [sums_of_dw(), sums_of_db()], scratch.slot(slot), index);
        });
        if let Some(dw) = dw.filter(|_| !are_dw) {
            let parts = PartSums {
                shape,
                sums: scratch.shared(),
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

/// One part's sums of some outputs and cells of one group.
fn task<T: Element>(
    level: Level,
    plan: &Plan<'_, T>,
    [sums_of_dw, sums_of_db]: [*mut T; 2],
    slot: *mut T,
    index: usize,
) {
    let shape = plan.shape;
    let task = plan.task(index);
    let Task { part, group, outputs: (output, outputs), cells: (cell, cells) } = task;
    let [dy_len, cells_len, filled_len, _] = plan.slot_lens();
    // SAFETY: the slot has these parts; each part of the sums has the group's dw, row by row, and
    // the db of every output.
    let (cell_target, filled, region, dw, db) = unsafe {
        let cell_target = slot.add(dy_len);
        let filled = cell_target.add(cells_len);
        let group_len = shape.group_out * plan.cells;
        let dw = sums_of_dw.add(part * plan.part_len() + group * group_len);
        let db = sums_of_db.add(part * shape.out_channels);
        let db = db.add(group * shape.group_out + output);
        (cell_target, filled, filled.add(filled_len), dw, db)
    };
    let with_db = cell == 0;
    if with_db {
        // SAFETY: this task's outputs.
        unsafe { db.write_bytes(0, outputs) };
    }
    // What this thread reads behind the task's blocks, but for the end of its share.
    let next_task = (index + 1 < plan.tasks()).then(|| plan.task(index + 1));
    let first_of_next =
        next_task.and_then(|task| Some((task, plan.depth_blocks(task.part).next()?)));
    let mut beta = T::default();
    let mut blocks = plan.depth_blocks(part).peekable();
    while let Some(block) = blocks.next() {
        let depth = block.depth();
        pack_gradient(level, plan, block, &task, slot, region);
        if with_db {
            let sum = SumPanels {
                panels: slot,
                shape: plan.output_panels,
                lines: outputs,
                depth,
                sums: db,
            };
            T::dispatch(level, sum);
        }
        let Some(patches) = &plan.patches else { continue };
        let column_panels = match plan.cells_in_place {
            true => cells_in_place(plan, patches, block, &task),
            false => {
                pack_patches(level, plan, patches, block, &task, cell_target, filled);
                Panels::packed(cell_target, plan.cell_panels.width, depth)
            }
        };
        let next = blocks.peek().map(|&block| (task, block)).or(first_of_next);
        let product = BlockProduct {
            depth,
            rows: outputs,
            columns: cells,
            row_panels: Panels::packed(slot, plan.output_panels.width, depth),
            column_panels,
            target: dw,
            first_row: output,
            first_column: cell,
            row_places: Places::every(if plan.cells_in_lanes { plan.cells } else { 1 }),
            column_places: Places::every(if plan.cells_in_lanes { 1 } else { shape.group_out }),
            update: Update {
                alpha: T::from_f64(1.0),
                beta,
                bias: Bias::None,
                relu: false,
                streams: false,
            },
            transposed: None,
            ahead: next.map_or([Ahead::none(); 2], |(task, block)| ahead(plan, block, &task)),
            asks_for_rows: false,
        };
        T::dispatch(level, if plan.cells_in_lanes { product } else { product.transposed() });
        beta = T::from_f64(1.0);
    }
}
