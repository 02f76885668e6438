//! A checked call of gemm, cut into tasks.

use super::ahead::Ahead;
use super::blocking::{DEPTH_BLOCK, Grid, TASK_WORK, block_length, depth_blocks};
use super::in_place::InPlaceProduct;
use super::kernel::{BlockProduct, Panels, Places};
use super::pack::{Depth, PackMatrix, PanelShape, TileShape};
use super::update::{Bias, Update};
use super::vector::{MatrixByVectors, VectorByMatrix};
use crate::context::Context;
use crate::error::Result;
use crate::runs::Transpose;
use crate::scratch::{Scratch, ScratchLen};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};

/// The largest block of C that one task computes: its operands' panels, of one depth block, take
/// 1.2 MB in f32.
pub(crate) const TASK_ROWS: usize = 252;
pub(crate) const TASK_COLUMNS: usize = 512;

/// Up to this many multiply-adds nothing is packed where B's rows are read as they lie.
const SMALL_WORK: usize = 1 << 20;
/// Nor with so few rows of C: each element of B is used once or twice.
const FEW_ROWS: usize = 8;
/// Nor with so few products in a sum: C is written row by row, some of B stays in the first-level cache: so much.
const FEW_STEPS: usize = 8;
const CACHED_BYTES: usize = 40 * 1024;
/// With rows of C at least so long: twelve vectors of AVX-512.
const LONG_ROW: usize = 192;
/// Up to this many multiply-adds, or with so few rows, rows of A are read as they lie, and only B is packed: an
/// element of A is used too seldom to pay for its transposition, or they stay in the second-level cache.
const MIDDLE_WORK: usize = 1 << 28;
const ROWS_IN_PLACE: usize = 384;
/// Up to so many rows of C each task packs some panels of B at a time, just before they are used: a panel from
/// another thread's cache would take longer to read than to pack.
const ROWS_BY_PANELS: usize = 512;
/// Where there are fewer panels than this, parts of the rows share one, of at least so many rows.
const PANEL_TASKS: usize = 4;
const PANEL_ROWS: usize = 126;
/// Panels of B that are packed at once then: of AVX2 and a whole depth block, 192 KB.
const PANELS_TOGETHER: usize = 8;
/// With rows of C so short, half a vector of AVX2, A's rows are multiplied by each column of B, or rows and columns
/// are exchanged.
const SHORT_ROW_BYTES: usize = 16;
/// From this many multiply-adds on, the operands are packed once for all tasks. Below, each task
/// packs what it needs, some of it again, and the threads meet once instead of twice a depth block.
const SHARED_WORK: usize = 1 << 19;
/// What is packed at once for all tasks: 6 MB in f32, whatever the matrices' size.
const SHARED_ROWS: usize = 8 * TASK_ROWS;
const SHARED_COLUMNS: usize = 4 * TASK_COLUMNS;
/// Columns of a task then: more tasks balance better, and nothing is packed again.
const SHARED_TASK_COLUMNS: usize = TASK_COLUMNS / 2;

/// C = alpha * A B + beta * C for each matrix of a batch, of any strides.
pub(super) struct Product<'a, T> {
    pub count: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: T,
    pub beta: T,
    pub a: Operand<T>,
    pub b: Operand<T>,
    pub c: SharedMut<'a, T>,
    /// Strides of C along (matrix, row, column).
    pub c_strides: [usize; 3],
}

/// A, or B transposed: a line for each row, or column, of C.
#[derive(Clone, Copy)]
pub(super) struct Operand<T> {
    pub start: *const T,
    /// Strides along (matrix, line, depth).
    pub strides: [usize; 3],
}

// SAFETY: the tasks read A and B, and write disjoint blocks of C.
unsafe impl<T: Element> Sync for Product<'_, T> {}

/// First and number of some rows or columns.
type Part = (usize, usize);

/// Where some packed lines of a depth block lie.
#[derive(Clone, Copy)]
struct Packed<T> {
    panels: PanelShape,
    start: *mut T,
}

impl<T: Element> Product<'_, T> {
    pub fn run(self, context: &Context) -> Result<()> {
        let product = match self.has_short_rows() && !self.has_few_columns() {
            true => self.transposed(),
            false => self,
        };
        if product.has_long_rows() {
            product.run_by_rows(context);
        } else if product.has_few_columns() {
            product.run_by_columns(context)?;
        } else if product.fits_in_place() {
            product.run_in_place(context);
        } else if product.has_rows_in_place() && product.m <= ROWS_BY_PANELS {
            product.run_by_panels(context)?;
        } else if product.work() < SHARED_WORK {
            product.run_apart(context)?;
        } else {
            product.run_shared(context)?;
        }
        Ok(())
    }

    /// Multiply-adds of a matrix.
    fn work(&self) -> usize {
        self.m.saturating_mul(self.n).saturating_mul(self.k)
    }

    /// Whether packing would take longer than it saves.
    fn fits_in_place(&self) -> bool {
        let small = self.work() <= SMALL_WORK && self.k <= DEPTH_BLOCK;
        let in_lanes = self.b.strides[1] == 1 && self.c_strides[2] == 1;
        in_lanes && (small || self.m <= FEW_ROWS)
    }

    /// Whether A is read in place, row by row, and only B packed.
    fn has_rows_in_place(&self) -> bool {
        let in_rows = self.a.strides[2] == 1 && self.c_strides[2] == 1;
        let seldom = self.m <= ROWS_IN_PLACE || self.work() <= MIDDLE_WORK;
        in_rows && self.k > 0 && seldom
    }

    /// Rows of B and C contiguous, and one row of C or few of B.
    fn has_long_rows(&self) -> bool {
        let in_lanes = self.b.strides[1] == 1 && self.c_strides[2] == 1;
        in_lanes && (self.m == 1 || self.k <= FEW_STEPS && self.n >= LONG_ROW)
    }

    /// So few columns of C that lanes would be left empty, where those are not read as they lie.
    fn has_short_rows(&self) -> bool {
        let short = self.n * size_of::<T>() <= SHORT_ROW_BYTES && self.m > self.n;
        short && !self.fits_in_place()
    }

    /// A few columns of C, and A's rows contiguous.
    fn has_few_columns(&self) -> bool {
        let vector = self.n == 1 && self.b.strides[2] == 1;
        self.a.strides[2] == 1 && (vector || self.has_short_rows())
    }

    /// The same product with rows and columns exchanged: few columns would leave lanes empty.
    fn transposed(self) -> Self {
        let [of_matrix, of_row, of_column] = self.c_strides;
        Product {
            m: self.n,
            n: self.m,
            a: self.b,
            b: self.a,
            c_strides: [of_matrix, of_column, of_row],
            ..self
        }
    }

    fn run_shared(&self, context: &Context) -> Result<()> {
        let Product { m, n, k, .. } = *self;
        let block = block_length(k);
        let tile = TileShape::of::<T>(context.level());
        let row_len = m.min(SHARED_ROWS).next_multiple_of(tile.rows) * block;
        let column_len = n.min(SHARED_COLUMNS).next_multiple_of(tile.columns) * block;
        let scratch = context.scratch::<T>(ScratchLen::for_all(row_len + column_len))?;
        for matrix in 0..self.count {
            for column in (0..n).step_by(SHARED_COLUMNS) {
                for row in (0..m).step_by(SHARED_ROWS) {
                    let rows = (row, SHARED_ROWS.min(m - row));
                    let columns = (column, SHARED_COLUMNS.min(n - column));
                    self.run_together(context, matrix, rows, columns, &scratch, row_len);
                }
            }
        }
        Ok(())
    }

    /// Tasks that read their operands in place: some matrices each, or a part of one.
    fn run_in_place(&self, context: &Context) {
        let Product { count, m, n, k, .. } = *self;
        let work = self.work();
        if work <= TASK_WORK {
            let of_task = (TASK_WORK / work.max(1)).clamp(1, count);
            context.run(count.div_ceil(of_task), &|_, task| {
                for matrix in task * of_task..count.min((task + 1) * of_task) {
                    self.multiply_in_place(context, matrix, (0, m), (0, n));
                }
            });
            return;
        }
        let tile = TileShape::of::<T>(context.level());
        let limits = [TASK_ROWS, TASK_COLUMNS];
        let grid = Grid::new([m, n, k], count, [tile.rows, tile.columns], limits);
        context.run(grid.len() * count, &|_, task| {
            let [rows, columns] = grid.task(task % grid.len());
            self.multiply_in_place(context, task / grid.len(), rows, columns);
        });
    }

    fn multiply_in_place(&self, context: &Context, matrix: usize, rows: Part, columns: Part) {
        let level = context.level();
        let (b, ldb) = (self.b.line(matrix, columns.0), self.b.strides[2]);
        if self.k == 0 {
            // C = beta * C: a product without a depth.
            self.multiply_rows(level, matrix, rows, columns, (0, 0), b, ldb);
        }
        for depth in depth_blocks(self.k) {
            let b = b.wrapping_add(depth.0 * ldb);
            self.multiply_rows(level, matrix, rows, columns, depth, b, ldb);
        }
    }

    /// Multiplies one depth block, A's in place, into a block of C.
    #[allow(clippy::too_many_arguments, reason = "two operands and where they meet")]
    fn multiply_rows(
        &self,
        level: Level,
        matrix: usize,
        (row, rows): Part,
        (column, columns): Part,
        (start, depth): Part,
        b: *const T,
        ldb: usize,
    ) {
        let [_, a_row, a_depth] = self.a.strides;
        let product = InPlaceProduct {
            m: rows,
            n: columns,
            k: depth,
            alpha: self.alpha,
            a: self.a.line(matrix, row).wrapping_add(start * a_depth),
            a_strides: [a_row, a_depth],
            b,
            ldb,
            beta: if start == 0 { self.beta } else { T::from_f64(1.0) },
            c: self.c.at(matrix * self.c_strides[0] + row * self.c_strides[1] + column),
            ldc: self.c_strides[1],
        };
        T::dispatch(level, product);
    }

    /// Tasks that read A in place and pack some panels of B at a time.
    fn run_by_panels(&self, context: &Context) -> Result<()> {
        let Product { m, n, k, .. } = *self;
        let level = context.level();
        let tile = TileShape::of::<T>(level);
        let mut row_parts = PANEL_TASKS.div_ceil(n.div_ceil(tile.columns).max(1));
        while row_parts > 1 && m / row_parts < PANEL_ROWS {
            row_parts /= 2;
        }
        let rows = m.div_ceil(row_parts).next_multiple_of(tile.rows);
        let grid = Grid::new([m, n, k], self.count, [rows, tile.columns], [m, TASK_COLUMNS]);
        let panels = PanelShape::columns(tile);
        let together = PANELS_TOGETHER * panels.width;
        let len = together * block_length(k);
        let scratch = context.scratch::<T>(ScratchLen::for_each(len))?;
        context.run(grid.len() * self.count, &|slot, index| {
            let [rows, columns] = grid.task(index % grid.len());
            let matrix = index / grid.len();
            let packed = Packed { panels, start: scratch.slot(slot) };
            for depth in depth_blocks(k) {
                for first in (0..columns.1).step_by(together) {
                    let columns = (columns.0 + first, together.min(columns.1 - first));
                    self.pack_columns(level, matrix, columns, depth, packed);
                    self.multiply_panels(level, matrix, rows, columns, depth, packed);
                }
            }
        });
        Ok(())
    }

    /// Multiplies one depth block, A's in place and B's packed, into a block of C.
    fn multiply_panels(
        &self,
        level: Level,
        matrix: usize,
        rows: Part,
        (column, columns): Part,
        depth: Part,
        Packed { panels, start }: Packed<T>,
    ) {
        for panel in 0..columns.div_ceil(panels.width) {
            let first = panel * panels.width;
            let part = (column + first, panels.width.min(columns - first));
            let b = start.wrapping_add(first * depth.1);
            let ldb = panels.lines_of(panel, columns);
            self.multiply_rows(level, matrix, rows, part, depth, b, ldb);
        }
    }

    /// Tasks that write some rows, or a part of one, at a time.
    fn run_by_rows(&self, context: &Context) {
        let Product { m, n, k, .. } = *self;
        let level = context.level();
        let tile = TileShape::of::<T>(level);
        let vectors = tile.rows * tile.columns;
        // Whole rows where there are several.
        let granule = if m == 1 { vectors } else { n };
        let grid = Grid::new([m, n, k], self.count, [1, granule], [m, n]);
        context.run(grid.len() * self.count, &|_, task| {
            let [(first, rows), (column, columns)] = grid.task(task % grid.len());
            let matrix = task / grid.len();
            // What the rows read of B in turn stays in the cache.
            let parts = (k * columns * size_of::<T>()).div_ceil(CACHED_BYTES).max(1);
            let some = columns.div_ceil(parts).next_multiple_of(vectors);
            for start in (0..columns).step_by(some) {
                let (column, columns) = (column + start, some.min(columns - start));
                for row in first..first + rows {
                    let c = matrix * self.c_strides[0] + row * self.c_strides[1] + column;
                    let product = VectorByMatrix {
                        n: columns,
                        k,
                        alpha: self.alpha,
                        x: self.a.line(matrix, row),
                        x_stride: self.a.strides[2],
                        b: self.b.line(matrix, column),
                        ldb: self.b.strides[2],
                        beta: self.beta,
                        y: self.c.at(c),
                    };
                    T::dispatch(level, product);
                }
            }
        });
    }

    /// Tasks of some rows each.
    fn run_by_columns(&self, context: &Context) -> Result<()> {
        let Product { m, n, k, .. } = *self;
        let level = context.level();
        let [_, of_column, of_depth] = self.b.strides;
        // B's columns are made contiguous, a matrix after the other; its rows are, then.
        let packed = of_depth != 1;
        let together = if packed { 1 } else { self.count };
        let scratch = context.scratch::<T>(ScratchLen::for_all(if packed { n * k } else { 0 }))?;
        let granule = TileShape::of::<T>(level).rows;
        let grid = Grid::new([m, n, k], together, [granule, n], [m, n]);
        for first in (0..self.count).step_by(together) {
            if packed {
                let columns = Transpose {
                    extents: [k, n],
                    source: self.b.line(first, 0),
                    source_stride: of_depth,
                    target: scratch.shared(),
                    target_stride: k,
                };
                T::dispatch(level, columns);
            }
            context.run(grid.len() * together, &|_, task| {
                let [(row, rows), _] = grid.task(task % grid.len());
                let matrix = first + task / grid.len();
                let product = MatrixByVectors {
                    m: rows,
                    n,
                    k,
                    alpha: self.alpha,
                    a: self.a.line(matrix, row),
                    lda: self.a.strides[1],
                    b: if packed { scratch.shared().cast_const() } else { self.b.line(matrix, 0) },
                    b_stride: if packed { k } else { of_column },
                    beta: self.beta,
                    c: self.c.at(matrix * self.c_strides[0] + row * self.c_strides[1]),
                    c_strides: [self.c_strides[1], self.c_strides[2]],
                };
                T::dispatch(level, product);
            });
        }
        Ok(())
    }

    /// Tasks that each pack their own operands.
    fn run_apart(&self, context: &Context) -> Result<()> {
        let Product { m, n, k, .. } = *self;
        let level = context.level();
        let tile = TileShape::of::<T>(level);
        let limits = [TASK_ROWS, TASK_COLUMNS];
        let grid = Grid::new([m, n, k], self.count, [tile.rows, tile.columns], limits);
        let row_panels = PanelShape::rows(grid.task_rows, tile);
        let column_panels = PanelShape::columns(tile);
        let row_len = row_panels.len(grid.task_rows, block_length(k));
        let column_len = column_panels.len(grid.task_columns, block_length(k));
        let scratch = context.scratch::<T>(ScratchLen::for_each(row_len + column_len))?;
        context.run(grid.len() * self.count, &|slot, index| {
            let [rows, columns] = grid.task(index % grid.len());
            let matrix = index / grid.len();
            let start = scratch.slot(slot);
            let row_panels = Packed { panels: row_panels, start };
            // SAFETY: the slot has `row_len` elements, and the column panels behind them.
            let start = unsafe { start.add(row_len) };
            let column_panels = Packed { panels: column_panels, start };
            if k == 0 {
                // C = beta * C: a product without a depth.
                self.multiply(level, matrix, rows, columns, (0, 0), row_panels, column_panels);
            }
            for depth in depth_blocks(k) {
                self.pack_rows(level, matrix, rows, depth, row_panels);
                self.pack_columns(level, matrix, columns, depth, column_panels);
                self.multiply(level, matrix, rows, columns, depth, row_panels, column_panels);
            }
        });
        Ok(())
    }

    /// Tasks that share a large block's operands: all pack a depth block, then all multiply it.
    fn run_together(
        &self,
        context: &Context,
        matrix: usize,
        (row, rows): Part,
        (column, columns): Part,
        scratch: &Scratch<'_, T>,
        row_len: usize,
    ) {
        let level = context.level();
        let tile = TileShape::of::<T>(level);
        let limits = [TASK_ROWS, SHARED_TASK_COLUMNS];
        let grid = Grid::new([rows, columns, self.k], 1, [tile.rows, tile.columns], limits);
        let [row_tasks, column_tasks] = grid.tasks();
        // The task in some row or column of the grid, its place in the matrices.
        let rows_of = |task: usize| {
            let [(first, count), _] = grid.task(task);
            (row + first, count)
        };
        let columns_of = |task: usize| {
            let [_, (first, count)] = grid.task(task * row_tasks);
            (column + first, count)
        };
        for depth in depth_blocks(self.k) {
            // SAFETY: the panels of the tasks before lie in front, within the scratch memory.
            let row_panels = |task: usize| unsafe {
                let start = scratch.shared().add(task * grid.task_rows * depth.1);
                Packed { panels: PanelShape::rows(rows_of(task).1, tile), start }
            };
            // SAFETY: as above, behind the row panels.
            let column_panels = |task: usize| unsafe {
                let start = scratch.shared().add(row_len + task * grid.task_columns * depth.1);
                Packed { panels: PanelShape::columns(tile), start }
            };
            context.run(row_tasks + column_tasks, &|_, task| match task.checked_sub(row_tasks) {
                None => self.pack_rows(level, matrix, rows_of(task), depth, row_panels(task)),
                Some(task) => {
                    let columns = columns_of(task);
                    self.pack_columns(level, matrix, columns, depth, column_panels(task));
                }
            });
            context.run(row_tasks * column_tasks, &|_, task| {
                let (row_task, column_task) = (task % row_tasks, task / row_tasks);
                self.multiply(
                    level,
                    matrix,
                    rows_of(row_task),
                    columns_of(column_task),
                    depth,
                    row_panels(row_task),
                    column_panels(column_task),
                );
            });
        }
    }

    fn pack_rows(
        &self,
        level: Level,
        matrix: usize,
        (row, rows): Part,
        depth: Part,
        packed: Packed<T>,
    ) {
        if self.has_rows_in_place() {
            return;
        }
        let [_, of_row, of_depth] = self.a.strides;
        pack(level, self.a.line(matrix, row), [of_row, of_depth], rows, depth, packed);
    }

    fn pack_columns(
        &self,
        level: Level,
        matrix: usize,
        (column, columns): Part,
        depth: Part,
        packed: Packed<T>,
    ) {
        let [_, of_column, of_depth] = self.b.strides;
        pack(level, self.b.line(matrix, column), [of_column, of_depth], columns, depth, packed);
    }

    /// Multiplies one depth block into a block of C.
    #[allow(clippy::too_many_arguments, reason = "two operands and where they meet")]
    fn multiply(
        &self,
        level: Level,
        matrix: usize,
        (row, rows): Part,
        (column, columns): Part,
        (start, depth): Part,
        row_panels: Packed<T>,
        column_panels: Packed<T>,
    ) {
        if self.has_rows_in_place() {
            let (columns, depth) = ((column, columns), (start, depth));
            return self.multiply_panels(level, matrix, (row, rows), columns, depth, column_panels);
        }
        let panels = |packed: Packed<T>| Panels::packed(packed.start, packed.panels.width, depth);
        let beta = if start == 0 { self.beta } else { T::from_f64(1.0) };
        let product = BlockProduct {
            depth,
            rows,
            columns,
            row_panels: panels(row_panels),
            column_panels: panels(column_panels),
            target: self.c.at(matrix * self.c_strides[0]),
            first_row: row,
            first_column: column,
            row_places: Places::every(self.c_strides[1]),
            column_places: Places::every(self.c_strides[2]),
            update: Update {
                alpha: self.alpha,
                beta,
                bias: Bias::None,
                relu: false,
                streams: false,
            },
            transposed: None,
            ahead: [Ahead::none(); 2],
            asks_for_rows: false,
        };
        T::dispatch(level, product);
    }
}

impl<T> Operand<T> {
    /// The first element of a line.
    fn line(&self, matrix: usize, line: usize) -> *const T {
        self.start.wrapping_add(matrix * self.strides[0] + line * self.strides[1])
    }
}

/// Packs some lines of one depth block.
fn pack<T: Element>(
    level: Level,
    source: *const T,
    [of_line, of_depth]: [usize; 2],
    lines: usize,
    (start, count): Part,
    packed: Packed<T>,
) {
    debug_assert!(count <= DEPTH_BLOCK);
    let pack = PackMatrix {
        source,
        relu_output: std::ptr::null(),
        line_stride: of_line,
        depth: Depth::every(of_depth),
        lines,
        start,
        count,
        panels: packed.panels,
        target: packed.start,
        panel_stride: packed.panels.width * count,
    };
    T::dispatch(level, pack);
}
