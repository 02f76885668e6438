//! General matrix multiplication.

pub(crate) mod ahead;
pub(crate) mod blocking;
pub(crate) mod in_place;
pub(crate) mod kernel;
pub(crate) mod lines;
pub(crate) mod pack;
pub(crate) mod product;
pub(crate) mod transposed;
pub(crate) mod update;
mod vector;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::shared_mut::SharedMut;
use crate::simd::Element;
use product::{Operand, Product};

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
    let [a_row, a_column] = strides(params.transa, params.lda);
    let [b_row, b_column] = strides(params.transb, params.ldb);
    let product = Product {
        count: batch.count,
        m: params.m,
        n: params.n,
        k,
        alpha,
        beta,
        a: Operand { start: a.as_ptr(), strides: [batch.stride_a, a_row, a_column] },
        b: Operand { start: b.as_ptr(), strides: [batch.stride_b, b_column, b_row] },
        c: SharedMut::new(c),
        c_strides: [batch.stride_c, params.ldc, 1],
    };
    product.run(context)
}

/// The strides along (row, column) of op(X), given the leading dimension of X.
fn strides(transpose: Transpose, ld: usize) -> [usize; 2] {
    match transpose {
        Transpose::No => [ld, 1],
        Transpose::Yes => [1, ld],
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
