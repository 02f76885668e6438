//! Panels of dw's products that all tasks read: those of some depth blocks, packed at once. Else each task would pack
//! again what the others do of the same outputs or cells.

use super::backward_weights::{multiply, sum_bias, sums_of};
use super::weights_panels::{pack_gradient, pack_patches};
use super::weights_plan::{Plan, Task};
use crate::gemm::ahead::Ahead;
use crate::simd::{Element, Level};

/// Some depth blocks, whose panels all tasks read.
pub(super) struct SharedBlocks<'a, T> {
    pub plan: &'a Plan<'a, T>,
    pub first: usize,
    pub count: usize,
    /// Block by block those of dy, and behind them those of the patches, both group by group.
    pub panels: *mut T,
}

// SAFETY: tasks write disjoint parts of the panels, or read them.
unsafe impl<T: Element> Sync for SharedBlocks<'_, T> {}

impl<T: Element> SharedBlocks<'_, T> {
    /// The panels of a task's outputs and of its cells, of one of the blocks.
    fn panels(&self, number: usize, &Task { group, outputs, cells, .. }: &Task) -> [*mut T; 2] {
        let Plan { shape, cells: cells_of_group, .. } = *self.plan;
        let [dy_len, cells_len] = self.plan.panel_lens([shape.group_out, cells_of_group]);
        let depth = self.plan.block(self.first + number).depth();
        let block = self.panels.wrapping_add(number * self.plan.shared_block_len());
        [
            block.wrapping_add(group * dy_len + outputs.0 * depth),
            block.wrapping_add(shape.groups * dy_len + group * cells_len + cells.0 * depth),
        ]
    }

    /// Pieces to pack: some outputs or some cells of a group, of a block.
    pub fn packs(&self) -> usize {
        self.count * self.plan.shape.groups * self.pieces()
    }

    /// Those of a group.
    fn pieces(&self) -> usize {
        self.plan.grid.tasks().iter().sum()
    }

    pub fn pack(&self, level: Level, index: usize, slot: *mut T) {
        let plan = self.plan;
        let (rest, piece) = (index / self.pieces(), index % self.pieces());
        let (number, group) = (rest / plan.shape.groups, rest % plan.shape.groups);
        let [tall, _] = plan.grid.tasks();
        // The first tasks of the grid have its rows, those of every `tall`th its columns.
        let cell = if piece < tall { piece } else { (piece - tall) * tall };
        let [outputs, cells] = plan.grid.task(cell);
        let task = Task { part: 0, group, outputs, cells };
        let (block, [dy, patches]) = (plan.block(self.first + number), self.panels(number, &task));
        let [.., filled_len, _] = plan.slot_lens();
        match &plan.patches {
            Some(source) if piece >= tall => {
                pack_patches(level, plan, source, block, &task, patches, slot);
            }
            _ => {
                let region = slot.wrapping_add(filled_len);
                pack_gradient(level, plan, block, &task, dy, region);
            }
        }
    }

    pub fn multiply(&self, level: Level, index: usize, sums: [*mut T; 2]) {
        let plan = self.plan;
        let task = plan.task(index);
        // SAFETY: the sums are those of the only part.
        let [dw, db] = unsafe { sums_of(plan, &task, sums) };
        let next_task = (index + 1 < plan.tasks()).then(|| plan.task(index + 1));
        for number in 0..self.count {
            let block = plan.block(self.first + number);
            let [dy, patches] = self.panels(number, &task);
            let is_first = self.first + number == 0;
            sum_bias(level, plan, &task, is_first, dy, block, db);
            let next = match number + 1 < self.count {
                true => Some((number + 1, task)),
                false => next_task.map(|task| (0, task)),
            };
            let ahead = next.map_or([Ahead::none(); 2], |(number, task)| self.ahead(number, &task));
            multiply(level, plan, &task, is_first, [dy, patches], block, ahead, dw);
        }
    }

    /// A task's panels of a block.
    fn ahead(&self, number: usize, task: &Task) -> [Ahead<T>; 2] {
        let depth = self.plan.block(self.first + number).depth();
        let [dy, patches] = self.panels(number, task);
        let panels = |start: *mut T, lines: usize| Ahead::new(start, lines * depth, 1, 0);
        [panels(dy, task.outputs.1), panels(patches, task.cells.1)]
    }
}
