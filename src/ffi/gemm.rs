//! Matrix products.

use super::args::{Array, no_overlap};
use super::context::context_or_default;
use super::convert;
use super::guard::guard;
use super::types::*;
use crate::gemm::{self, GemmBatch, GemmParams, GemmShape};
use crate::simd::Element;

/// C[m,n] = alpha * op(A)[m,k] * op(B)[k,n] + beta * C, all row-major.
///
/// A lies as [m, k], or as [k, m] where transa is CNNKERN_TRANSPOSE; B as [k, n] or [n, k]. lda,
/// ldb, ldc: elements from row to row of a matrix as it lies, at least a row's length and 1. With
/// beta = 0 C is not read, and with alpha = 0 or k = 0 neither A nor B is, and both may be NULL. With
/// m = 0 or n = 0 no matrix is touched, and all may be NULL. What lies between the rows of C is left
/// alone. C may overlap neither A nor B, the gaps between their rows included. context may be NULL.
///
/// The error is at most (k + 2) * u / (1 - (k + 2) * u) * (|alpha| * |op(A)| * |op(B)| + |beta * C|),
/// where u is 2^-24 in f32 and 2^-53 in f64.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for transa, transb, lda, ldb, ldc, a misaligned pointer or
/// an overlap; SIZE_OVERFLOW; OUT_OF_MEMORY.
#[allow(clippy::too_many_arguments, reason = "the arguments of BLAS's gemm")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_gemm_f32(
    context: *mut cnnkern_context,
    transa: cnnkern_transpose,
    transb: cnnkern_transpose,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    beta: f32,
    c: *mut f32,
    ldc: usize,
) -> cnnkern_status {
    let matrices = Matrices { alpha, a, b, beta, c };
    // SAFETY: the caller's promise.
    unsafe { multiply(context, [transa, transb], [m, n, k], [lda, ldb, ldc], matrices, ONE) }
}

/// cnnkern_gemm_f32() in double precision.
#[allow(clippy::too_many_arguments, reason = "the arguments of BLAS's gemm")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_gemm_f64(
    context: *mut cnnkern_context,
    transa: cnnkern_transpose,
    transb: cnnkern_transpose,
    m: usize,
    n: usize,
    k: usize,
    alpha: f64,
    a: *const f64,
    lda: usize,
    b: *const f64,
    ldb: usize,
    beta: f64,
    c: *mut f64,
    ldc: usize,
) -> cnnkern_status {
    let matrices = Matrices { alpha, a, b, beta, c };
    // SAFETY: the caller's promise.
    unsafe { multiply(context, [transa, transb], [m, n, k], [lda, ldb, ldc], matrices, ONE) }
}

/// batch_count products as cnnkern_gemm_f32() makes one.
///
/// stride_a, stride_b, stride_c: elements from one matrix to the next. A stride of 0 shares A or B;
/// the C's may not overlap each other. A batch_count of 0 touches no matrix. Arguments and errors
/// else as there.
#[allow(clippy::too_many_arguments, reason = "the arguments of BLAS's gemm_batch_strided")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_gemm_batched_f32(
    context: *mut cnnkern_context,
    transa: cnnkern_transpose,
    transb: cnnkern_transpose,
    m: usize,
    n: usize,
    k: usize,
    alpha: f32,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    beta: f32,
    c: *mut f32,
    ldc: usize,
    batch_count: usize,
    stride_a: usize,
    stride_b: usize,
    stride_c: usize,
) -> cnnkern_status {
    let matrices = Matrices { alpha, a, b, beta, c };
    let batch = GemmBatch { count: batch_count, stride_a, stride_b, stride_c };
    // SAFETY: the caller's promise.
    unsafe { multiply(context, [transa, transb], [m, n, k], [lda, ldb, ldc], matrices, batch) }
}

/// cnnkern_gemm_batched_f32() in double precision.
#[allow(clippy::too_many_arguments, reason = "the arguments of BLAS's gemm_batch_strided")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_gemm_batched_f64(
    context: *mut cnnkern_context,
    transa: cnnkern_transpose,
    transb: cnnkern_transpose,
    m: usize,
    n: usize,
    k: usize,
    alpha: f64,
    a: *const f64,
    lda: usize,
    b: *const f64,
    ldb: usize,
    beta: f64,
    c: *mut f64,
    ldc: usize,
    batch_count: usize,
    stride_a: usize,
    stride_b: usize,
    stride_c: usize,
) -> cnnkern_status {
    let matrices = Matrices { alpha, a, b, beta, c };
    let batch = GemmBatch { count: batch_count, stride_a, stride_b, stride_c };
    // SAFETY: the caller's promise.
    unsafe { multiply(context, [transa, transb], [m, n, k], [lda, ldb, ldc], matrices, batch) }
}

const ONE: GemmBatch = GemmBatch { count: 1, stride_a: 0, stride_b: 0, stride_c: 0 };

/// What C = alpha * A * B + beta * C names.
struct Matrices<T> {
    alpha: T,
    a: *const T,
    b: *const T,
    beta: T,
    c: *mut T,
}

unsafe fn multiply<T: Element>(
    context: *mut cnnkern_context,
    [transa, transb]: [cnnkern_transpose; 2],
    [m, n, k]: [usize; 3],
    [lda, ldb, ldc]: [usize; 3],
    Matrices { alpha, a, b, beta, c }: Matrices<T>,
    batch: GemmBatch,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        let transa = convert::transpose("transa", transa)?;
        let transb = convert::transpose("transb", transb)?;
        let params = GemmParams { transa, transb, m, n, k, lda, ldb, ldc };
        let asked = GemmShape::new(&params, &batch, size_of::<T>())?;
        if asked.c_len == 0 {
            return Ok(());
        }
        // A product that counts for nothing is one of no terms: A and B are not looked at.
        let params = GemmParams { k: if alpha == T::default() { 0 } else { k }, ..params };
        let shape = GemmShape::new(&params, &batch, size_of::<T>())?;
        let a = Array::new("a", a, shape.a_len)?;
        let b = Array::new("b", b, shape.b_len)?;
        let c = Array::new("c", c, shape.c_len)?;
        no_overlap(&[c.extent()], &[a.extent(), b.extent()])?;
        // SAFETY: c overlaps neither a nor b; the rest is the caller's promise.
        unsafe {
            let (a, b, c) = (a.slice(), b.slice(), c.slice_mut());
            gemm::gemm_batched(context, &params, &batch, alpha, a, b, beta, c)
        }
    })
}
