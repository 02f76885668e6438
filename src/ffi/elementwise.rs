//! ReLU.

use super::args::{Array, no_overlap};
use super::context::context_or_default;
use super::guard::guard;
use super::types::*;
use crate::elementwise::{
    relu_backward, relu_backward_in_place, relu_forward, relu_forward_in_place,
};
use crate::simd::Element;

/// y = max(u, 0) for count elements; NaN stays NaN. y == u (in place) is fine, any other overlap is
/// not. context may be NULL; with a count of 0 u and y may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for a misaligned pointer or an overlap; SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_relu_forward_f32(
    context: *mut cnnkern_context,
    count: usize,
    u: *const f32,
    y: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, count, u, y) }
}

/// cnnkern_relu_forward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_relu_forward_f64(
    context: *mut cnnkern_context,
    count: usize,
    u: *const f64,
    y: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, count, u, y) }
}

/// dx = dy, but 0 where u_or_y, the forward pass's input or its output, is <= 0, for count elements.
/// dx == dy (in place) is fine, any other overlap of dx is not. context may be NULL; with a count of
/// 0 the others may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for a misaligned pointer or an overlap; SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_relu_backward_f32(
    context: *mut cnnkern_context,
    count: usize,
    u_or_y: *const f32,
    dy: *const f32,
    dx: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, count, u_or_y, dy, dx) }
}

/// cnnkern_relu_backward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_relu_backward_f64(
    context: *mut cnnkern_context,
    count: usize,
    u_or_y: *const f64,
    dy: *const f64,
    dx: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, count, u_or_y, dy, dx) }
}

unsafe fn forward<T: Element>(
    context: *mut cnnkern_context,
    count: usize,
    u: *const T,
    y: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        let u = Array::new("u", u, count)?;
        let y = Array::new("y", y, count)?;
        if y.is_same_as(&u) {
            // SAFETY: the only slice; the rest is the caller's promise.
            return relu_forward_in_place(context, unsafe { y.slice_mut() });
        }
        no_overlap(&[y.extent()], &[u.extent()])?;
        // SAFETY: y does not overlap u; the rest is the caller's promise.
        unsafe { relu_forward(context, u.slice(), y.slice_mut()) }
    })
}

unsafe fn backward<T: Element>(
    context: *mut cnnkern_context,
    count: usize,
    u_or_y: *const T,
    dy: *const T,
    dx: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        let u_or_y = Array::new("u_or_y", u_or_y, count)?;
        let dy = Array::new("dy", dy, count)?;
        let dx = Array::new("dx", dx, count)?;
        no_overlap(&[dx.extent()], &[u_or_y.extent()])?;
        if dx.is_same_as(&dy) {
            // SAFETY: dx does not overlap u_or_y; the rest is the caller's promise.
            return unsafe { relu_backward_in_place(context, u_or_y.slice(), dx.slice_mut()) };
        }
        no_overlap(&[dx.extent()], &[dy.extent()])?;
        // SAFETY: dx overlaps neither; the rest is the caller's promise.
        unsafe { relu_backward(context, u_or_y.slice(), dy.slice(), dx.slice_mut()) }
    })
}
