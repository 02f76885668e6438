//! im2col and col2im.

use super::args::{self, Array, no_overlap};
use super::context::context_or_default;
use super::convert;
use super::guard::guard;
use super::types::*;
use crate::im2col;
use crate::shape::ConvShape;
use crate::simd::Element;

/// Elements of the column matrix of params, in every layout of it: batch * out_height * out_width *
/// in_channels * kernel_height * kernel_width. No pointer may be NULL. As in cnnkern_im2col_f32(),
/// out_channels, filter_layout and algorithm are not read, and groups must be 1.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT or SIZE_OVERFLOW for params that im2col does not take.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_col_len(
    params: *const cnnkern_conv2d_params,
    len: *mut usize,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let params = unsafe { convert::im2col_params(params)? };
        // SAFETY: the caller's promise.
        unsafe { args::write("len", len, im2col::col_len::<f32>(&params)?) }
    })
}

/// Writes every patch of x into a column matrix; padded cells are 0.
///
/// x: [batch, in_channels, in_height, in_width] in params->layout. col: in col_layout, with as many
/// elements as cnnkern_col_len() says; may not overlap x. out_channels, filter_layout and algorithm
/// are not read; groups must be 1. context may be NULL; with a batch of 0 x and col may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, col_layout, a misaligned pointer or an
/// overlap; SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_im2col_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    x: *const f32,
    col: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { im2col(context, params, col_layout, x, col) }
}

/// cnnkern_im2col_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_im2col_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    x: *const f64,
    col: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { im2col(context, params, col_layout, x, col) }
}

/// The adjoint of cnnkern_im2col_f32(): x is overwritten with the sums of the cells of col that came
/// from it; cells of the padding are dropped. Arguments and errors as there, but col is read and x
/// is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_col2im_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    col: *const f32,
    x: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { col2im(context, params, col_layout, col, x) }
}

/// cnnkern_col2im_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_col2im_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    col: *const f64,
    x: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { col2im(context, params, col_layout, col, x) }
}

unsafe fn im2col<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    x: *const T,
    col: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::im2col_params(params)? };
        let col_layout = convert::col_layout(col_layout)?;
        let col_len = im2col::col_len::<T>(&params)?;
        let x = Array::new("x", x, ConvShape::of_windows(&params, size_of::<T>())?.input_len())?;
        let col = Array::new("col", col, col_len)?;
        no_overlap(&[col.extent()], &[x.extent()])?;
        // SAFETY: col does not overlap x; the rest is the caller's promise.
        unsafe { im2col::im2col(context, &params, col_layout, x.slice(), col.slice_mut()) }
    })
}

unsafe fn col2im<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    col_layout: cnnkern_col_layout,
    col: *const T,
    x: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::im2col_params(params)? };
        let col_layout = convert::col_layout(col_layout)?;
        let col_len = im2col::col_len::<T>(&params)?;
        let col = Array::new("col", col, col_len)?;
        let x = Array::new("x", x, ConvShape::of_windows(&params, size_of::<T>())?.input_len())?;
        no_overlap(&[x.extent()], &[col.extent()])?;
        // SAFETY: x does not overlap col; the rest is the caller's promise.
        unsafe { im2col::col2im(context, &params, col_layout, col.slice(), x.slice_mut()) }
    })
}
