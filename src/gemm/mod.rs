//! General matrix multiplication.

pub(crate) mod blocking;
pub(crate) mod kernel;
pub(crate) mod pack;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};
use blocking::{Grid, block_length, depth_blocks};
use kernel::{Bias, BlockProduct, Panels, Places, Update};
use pack::{Depth, PackMatrix, PanelShape, TileShape};

/// Whether a matrix is used as it lies or transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transpose {
    /// As it lies.
    No,
    /// Rows as columns.
    Yes,
}

/// The shape of C\[m, n\] = alpha * op(A)\[m, k\] * op(B)\[k, n\] + beta * C, all row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmParams {
    /// Whether A lies as `[m, k]` or as `[k, m]`.
    pub transa: Transpose,
    /// Whether B lies as `[k, n]` or as `[n, k]`.
    pub transb: Transpose,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Products in a sum.
    pub k: usize,
    /// Elements from row to row of A, as it lies.
    pub lda: usize,
    /// Elements from row to row of B, as it lies.
    pub ldb: usize,
    /// Elements from row to row of C.
    pub ldc: usize,
}

/// How many products of one shape, and the elements from one matrix to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GemmBatch {
    /// Products.
    pub count: usize,
    /// From A to A; 0 shares one.
    pub stride_a: usize,
    /// From B to B; 0 shares one.
    pub stride_b: usize,
    /// From C to C; the C's may not overlap.
    pub stride_c: usize,
}

/// C = alpha * op(A) * op(B) + beta * C. With beta = 0 C is not read, with alpha = 0 neither A nor B.
///
/// ```
/// use cnnkern::gemm::{GemmParams, Transpose, gemm};
/// use cnnkern::{Context, ContextOptions};
/// let context = Context::new(&ContextOptions::default())?;
/// let (transa, transb) = (Transpose::No, Transpose::No);
/// let params = GemmParams { transa, transb, m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2 };
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 0.0f32]);
/// let mut c = [1.0; 4];
/// gemm(&context, &params, 1.0, &a, &b, 10.0, &mut c)?;
/// assert_eq!(c, [12.0, 11.0, 14.0, 13.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
#[allow(
    clippy::too_many_arguments,
    reason = "the arguments of BLAS's gemm, grouped as far as it goes"
)]
pub fn gemm<T: Element>(
    context: &Context,
    params: &GemmParams,
    alpha: T,
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) -> Result<()> {
    let batch = GemmBatch { count: 1, stride_a: 0, stride_b: 0, stride_c: 0 };
    gemm_batched(context, params, &batch, alpha, a, b, beta, c)
}

/// `batch.count` products of one shape: see [`gemm`].
///
/// ```
/// use cnnkern::gemm::{GemmBatch, GemmParams, Transpose, gemm_batched};
/// use cnnkern::{Context, ContextOptions};
/// let context = Context::new(&ContextOptions::default())?;
/// let (transa, transb) = (Transpose::No, Transpose::No);
/// let params = GemmParams { transa, transb, m: 1, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2 };
/// // two rows, one after the other, by one matrix
/// let batch = GemmBatch { count: 2, stride_a: 2, stride_b: 0, stride_c: 2 };
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 0.0f32]);
/// let mut c = [0.0; 4];
/// gemm_batched(&context, &params, &batch, 1.0, &a, &b, 0.0, &mut c)?;
/// assert_eq!(c, [2.0, 1.0, 4.0, 3.0]);
/// # Ok::<(), cnnkern::Error>(())
/// ```
#[allow(
    clippy::too_many_arguments,
    reason = "the arguments of BLAS's gemm, grouped as far as it goes"
)]
pub fn gemm_batched<T: Element>(
    context: &Context,
    params: &GemmParams,
    batch: &GemmBatch,
    alpha: T,
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) -> Result<()> {
    T::gemm_batched(context, params, batch, alpha, a, b, beta, c)
}

/// [`gemm_batched`], compiled by `Operations` for each element type.
#[allow(
    clippy::too_many_arguments,
    reason = "the arguments of BLAS's gemm, grouped as far as it goes"
)]
pub(crate) fn run_gemm_batched<T: Element>(
    context: &Context,
    params: &GemmParams,
    batch: &GemmBatch,
    alpha: T,
    a: &[T],
    b: &[T],
    beta: T,
    c: &mut [T],
) -> Result<()> {
    let shape = GemmShape::new(params, batch, size_of::<T>())?;
    check("a", a, shape.a_len)?;
    check("b", b, shape.b_len)?;
    check("c", c, shape.c_len)?;
    if params.m == 0 || params.n == 0 || batch.count == 0 {
        return Ok(());
    }
    // Nothing of A or B is read then, so that their NaNs stay out of C.
    let k = if alpha == T::default() { 0 } else { params.k };
    let product = Product {
        params: GemmParams { k, ..*params },
        batch: *batch,
        alpha,
        a: a.as_ptr(),
        b: b.as_ptr(),
        beta,
        c: SharedMut::new(c),
    };
    product.run(context)
}

/// The largest block of C that one task computes: its operands' panels, of one depth block, take
/// 0.75 MB in f32.
pub(crate) const TASK_ROWS: usize = 252;
pub(crate) const TASK_COLUMNS: usize = 512;

/// A checked call, ready to be cut into tasks.
struct Product<'a, T> {
    params: GemmParams,
    batch: GemmBatch,
    alpha: T,
    a: *const T,
    b: *const T,
    beta: T,
    c: SharedMut<'a, T>,
}

// SAFETY: the tasks read A and B, and write disjoint blocks of C.
unsafe impl<T: Element> Sync for Product<'_, T> {}

impl<T: Element> Product<'_, T> {
    fn run(&self, context: &Context) -> Result<()> {
        let GemmParams { m, n, k, .. } = self.params;
        let tile = TileShape::of::<T>(context.level());
        let limits = [TASK_ROWS, TASK_COLUMNS];
        let grid = Grid::new([m, n, k], self.batch.count, [tile.rows, tile.columns], limits);
        let depth = block_length(k);
        let row_panels = PanelShape::rows(grid.task_rows, tile);
        let column_panels = PanelShape::columns(tile);
        let row_len = row_panels.len(grid.task_rows, depth);
        let scratch =
            context.scratch::<T>(0, row_len + column_panels.len(grid.task_columns, depth))?;
        context.run(grid.len() * self.batch.count, &|slot, index| {
            let row_target = scratch.slot(slot);
            // SAFETY: the slot has `row_len` elements, and the column panels behind them.
            let column_target = unsafe { row_target.add(row_len) };
            let matrix = index / grid.len();
            let [rows, columns] = grid.task(index % grid.len());
            let panels = [(row_panels, row_target), (column_panels, column_target)];
            self.block(context.level(), matrix, rows, columns, panels);
        });
        Ok(())
    }

    /// One block of one C, over the whole depth.
    fn block(
        &self,
        level: Level,
        matrix: usize,
        (row, rows): (usize, usize),
        (column, columns): (usize, usize),
        [(row_panels, row_target), (column_panels, column_target)]: [(PanelShape, *mut T); 2],
    ) {
        let GemmParams { transa, transb, k, lda, ldb, ldc, .. } = self.params;
        let a_start = matrix * self.batch.stride_a;
        let b_start = matrix * self.batch.stride_b;
        let (a_row, a_depth) = strides(transa, lda);
        let (b_depth, b_column) = strides(transb, ldb);
        let mut update =
            Update { alpha: self.alpha, beta: self.beta, bias: Bias::None, relu: false };
        let product = BlockProduct {
            depth: 0,
            rows,
            columns,
            row_panels: Panels { start: row_target, width: row_panels.width, stride: 0 },
            column_panels: Panels { start: column_target, width: column_panels.width, stride: 0 },
            target: self.c.at(matrix * self.batch.stride_c),
            first_row: row,
            first_column: column,
            row_places: Places::every(ldc),
            column_places: Places::every(1),
            update,
        };
        if k == 0 {
            // C = beta * C: a product without a depth.
            return T::dispatch(level, BlockProduct { update, ..product });
        }
        for (start, count) in depth_blocks(k) {
            let pack = PackMatrix {
                // SAFETY: the block's first line lies within A.
                source: unsafe { self.a.add(a_start + row * a_row) },
                relu_output: std::ptr::null(),
                line_stride: a_row,
                depth: Depth::every(a_depth),
                lines: rows,
                start,
                count,
                panels: row_panels,
                target: row_target,
                panel_stride: row_panels.width * count,
            };
            T::dispatch(level, pack);
            let pack = PackMatrix {
                // SAFETY: the block's first line lies within B.
                source: unsafe { self.b.add(b_start + column * b_column) },
                line_stride: b_column,
                depth: Depth::every(b_depth),
                lines: columns,
                panels: column_panels,
                target: column_target,
                panel_stride: column_panels.width * count,
                ..pack
            };
            T::dispatch(level, pack);
            let mut product = BlockProduct { depth: count, update, ..product };
            product.row_panels.stride = row_panels.width * count;
            product.column_panels.stride = column_panels.width * count;
            T::dispatch(level, product);
            update.beta = T::from_f64(1.0);
        }
    }
}

/// The strides along (row, column) of op(X), given the leading dimension of X.
fn strides(transpose: Transpose, ld: usize) -> (usize, usize) {
    match transpose {
        Transpose::No => (ld, 1),
        Transpose::Yes => (1, ld),
    }
}

/// Parameters that were checked, and the least that each slice must hold.
pub(crate) struct GemmShape {
    pub a_len: usize,
    pub b_len: usize,
    pub c_len: usize,
}

impl GemmShape {
    pub fn new(params: &GemmParams, batch: &GemmBatch, element_size: usize) -> Result<Self> {
        let GemmParams { transa, transb, m, n, k, lda, ldb, ldc } = *params;
        let lies = |transpose, rows, columns| match transpose {
            Transpose::No => (rows, columns),
            Transpose::Yes => (columns, rows),
        };
        let matrix = |name: &str,
                      ld_name: &str,
                      (rows, columns): (usize, usize),
                      ld: usize,
                      stride: usize| {
            if ld < columns.max(1) {
                return Err(Error::invalid(format!(
                    "{ld_name} must be at least {}, a row of {name}, but is {ld}",
                    columns.max(1)
                )));
            }
            if rows == 0 || columns == 0 || batch.count == 0 {
                return Ok(0);
            }
            let length = || {
                let matrix = (rows - 1).checked_mul(ld)?.checked_add(columns)?;
                let length = (batch.count - 1).checked_mul(stride)?.checked_add(matrix)?;
                let bytes = length.checked_mul(element_size)?;
                (bytes <= isize::MAX as usize).then_some(length)
            };
            length().ok_or_else(|| {
                Error::overflow(format!(
                    "{name} takes more than PTRDIFF_MAX bytes: {rows} rows of {columns}, {ld_name} \
                     {ld}, {} matrices {stride} apart",
                    batch.count
                ))
            })
        };
        let a_len = matrix("a", "lda", lies(transa, m, k), lda, batch.stride_a)?;
        let b_len = matrix("b", "ldb", lies(transb, k, n), ldb, batch.stride_b)?;
        let c_len = matrix("c", "ldc", (m, n), ldc, batch.stride_c)?;
        // c_len > 0: the matrix's own extent did not overflow
        if batch.count > 1 && c_len > 0 && batch.stride_c < (m - 1) * ldc + n {
            return Err(Error::invalid(format!(
                "stride_c must be at least {}, the extent of c, but is {}: the C's may not overlap",
                (m - 1) * ldc + n,
                batch.stride_c
            )));
        }
        Ok(GemmShape { a_len, b_len, c_len })
    }
}

fn check<T>(argument: &'static str, slice: &[T], least: usize) -> Result<()> {
    if slice.len() < least {
        return Err(Error::invalid(format!(
            "{argument} must have at least {least} elements, as its shape says, but has {}",
            slice.len()
        )));
    }
    Ok(())
}
