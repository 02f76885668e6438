//! What the benchmarks need of the inside: not part of the interface, and free to change.

use crate::context::Context;
use crate::error::Result;
use crate::gemm::ahead::Ahead;
use crate::gemm::blocking::DEPTH_BLOCK;
use crate::gemm::kernel::{BlockProduct, Panels, Places};
use crate::gemm::pack::{PanelShape, TileShape};
use crate::gemm::product::{TASK_COLUMNS, TASK_ROWS};
use crate::gemm::update::{Bias, Update};
use crate::scratch::{Scratch, ScratchLen};
use crate::simd::{Element, Level};

/// Rows, columns and depth of the largest block that a task of `gemm` multiplies at once.
pub const LARGEST_BLOCK: [usize; 3] = [TASK_ROWS, TASK_COLUMNS, DEPTH_BLOCK];

/// Rows and columns of the register tile of the context's instruction set.
pub fn register_tile<T: Element>(context: &Context) -> [usize; 2] {
    let tile = TileShape::of::<T>(context.level());
    [tile.rows, tile.columns]
}

/// The block product alone, on panels that are packed already.
pub struct PackedProduct<'a, T> {
    level: Level,
    product: BlockProduct<T>,
    /// Where the panels and C lie.
    _scratch: Scratch<'a, T>,
}

impl<'a, T: Element> PackedProduct<'a, T> {
    /// A product with every element of the operands 1.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`]
    pub fn new(context: &'a Context, [rows, columns, depth]: [usize; 3]) -> Result<Self> {
        let level = context.level();
        let tile = TileShape::of::<T>(level);
        let (row_panels, column_panels) = (PanelShape::rows(rows, tile), PanelShape::columns(tile));
        let row_len = row_panels.len(rows, depth);
        let packed_len = row_len + column_panels.len(columns, depth);
        let scratch = context.scratch::<T>(ScratchLen::for_all(packed_len + rows * columns))?;
        for place in 0..packed_len + rows * columns {
            // SAFETY: the scratch memory has that many elements.
            unsafe { scratch.shared().add(place).write(T::from_f64(1.0)) };
        }
        let panels = |start, width| Panels::packed(start, width, depth);
        // SAFETY: within the scratch memory, which has the row panels first, then the column
        // panels, then C.
        let (column_start, target) =
            unsafe { (scratch.shared().add(row_len), scratch.shared().add(packed_len)) };
        let product = BlockProduct {
            depth,
            rows,
            columns,
            row_panels: panels(scratch.shared(), row_panels.width),
            column_panels: panels(column_start, column_panels.width),
            target,
            first_row: 0,
            first_column: 0,
            row_places: Places::every(columns),
            column_places: Places::every(1),
            update: Update {
                alpha: T::from_f64(1.0),
                beta: T::default(),
                bias: Bias::None,
                relu: false,
                streams: false,
            },
            transposed: None,
            ahead: [Ahead::none(); 2],
            asks_for_rows: false,
        };
        Ok(PackedProduct { level, product, _scratch: scratch })
    }

    /// Computes C.
    pub fn run(&mut self) {
        T::dispatch(self.level, self.product);
    }
}

/// Runs `task(index)` for each index below `count` on the context's threads, as operations do.
pub fn region(context: &Context, count: usize, task: &(dyn Fn(usize) + Sync)) {
    context.run(count, &|_, index| task(index));
}
