//! Convolution and max-pooling as one step.

use std::ffi::c_void;

use super::args::{Array, no_overlap};
use super::context::context_or_default;
use super::conv2d::BackwardArrays;
use super::convert;
use super::guard::guard;
use super::pool2d::ArgmaxArray;
use super::types::*;
use crate::conv2d::maxpool;
use crate::shape::{ConvShape, PoolShape};
use crate::simd::Element;

/// y = maxpool(activation(conv(x, w) + bias)), argmax = the place of each maximum in its window: bit
/// for bit what cnnkern_conv2d_forward_f32() and cnnkern_maxpool2d_forward_f32() give. What lies
/// between them is never stored whole.
///
/// x, w, bias, activation: as for cnnkern_conv2d_forward_f32(). pool: a pooling of the convolution's
/// output, with the batch, the channels, the extents and the layout of that. y and argmax: as for
/// cnnkern_maxpool2d_forward_f32(); argmax may be NULL where no backward pass follows. y and argmax may
/// overlap no other array. context may be NULL. With a batch of 0 no tensor is looked at, and all may
/// be NULL.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, pool, activation, a U8 argmax with a window of
/// more than 256 cells, a misaligned pointer or an overlap; SIZE_OVERFLOW; OUT_OF_MEMORY; UNSUPPORTED
/// for an algorithm that does not cover params.
#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_maxpool2d_forward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    activation: cnnkern_activation,
    y: *mut f32,
    argmax: *mut c_void,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, params, pool, x, w, bias, activation, y, argmax) }
}

/// cnnkern_conv2d_maxpool2d_forward_f32() in double precision.
#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_maxpool2d_forward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const f64,
    w: *const f64,
    bias: *const f64,
    activation: cnnkern_activation,
    y: *mut f64,
    argmax: *mut c_void,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, params, pool, x, w, bias, activation, y, argmax) }
}

/// The backward pass of cnnkern_conv2d_maxpool2d_forward_f32(): from the gradient of the pooled output
/// to any of dx, dw and db, bit for bit what cnnkern_maxpool2d_backward_f32() and
/// cnnkern_conv2d_backward_f32() give. The gradient between them is never stored whole, but under
/// CNNKERN_ALGORITHM_REFERENCE.
///
/// params, pool, x, w: as there. dy: as y there. argmax: the one that it wrote. relu_output: the pooled
/// output y where activation was CNNKERN_ACTIVATION_RELU: dy counts as 0 where it is <= 0; NULL where it
/// was not. options, dx, dw, db, and which of x and w are read: as for cnnkern_conv2d_backward_f32(). The
/// gradients may overlap neither each other nor an array that is read. context may be NULL. With a batch
/// of 0 no tensor is looked at, and all may be NULL.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, pool, a U8 argmax with a window of more than 256
/// cells, a place outside its window, a misaligned pointer or an overlap; SIZE_OVERFLOW; OUT_OF_MEMORY;
/// UNSUPPORTED for an algorithm that does not cover params.
#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_maxpool2d_backward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const f32,
    w: *const f32,
    dy: *const f32,
    argmax: *const c_void,
    relu_output: *const f32,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut f32,
    dw: *mut f32,
    db: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, params, pool, x, w, dy, argmax, relu_output, options, dx, dw, db) }
}

/// cnnkern_conv2d_maxpool2d_backward_f32() in double precision.
#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_maxpool2d_backward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const f64,
    w: *const f64,
    dy: *const f64,
    argmax: *const c_void,
    relu_output: *const f64,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut f64,
    dw: *mut f64,
    db: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, params, pool, x, w, dy, argmax, relu_output, options, dx, dw, db) }
}

#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
unsafe fn forward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const T,
    w: *const T,
    bias: *const T,
    activation: cnnkern_activation,
    y: *mut T,
    argmax: *mut c_void,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::conv2d_params(params)? };
        // SAFETY: the caller's promise.
        let (pool, argmax_type) = unsafe { convert::pool2d_params("pool", pool)? };
        let argmax_type = convert::argmax_type(argmax_type)?;
        let activation = convert::activation(activation)?;
        let conv = ConvShape::new(&params, size_of::<T>())?;
        let pooled = PoolShape::new(&pool, size_of::<T>())?;
        maxpool::check_match(&conv, &pooled)?;
        if conv.batch == 0 {
            return Ok(());
        }
        let x = Array::new("x", x, conv.input_len())?;
        let w = Array::new("w", w, conv.filter_len())?;
        let bias = Array::optional("bias", bias, conv.out_channels)?;
        let y = Array::new("y", y, pooled.output_len())?;
        let argmax = (!argmax.is_null())
            .then(|| ArgmaxArray::new(argmax_type, argmax, pooled.output_len()))
            .transpose()?;
        no_overlap(
            &[y.extent(), argmax.and_then(ArgmaxArray::extent)],
            &[x.extent(), w.extent(), bias.and_then(Array::extent)],
        )?;
        // SAFETY: neither output overlaps another array; the rest is the caller's promise.
        unsafe {
            let (bias, argmax) = (bias.map(|b| b.slice()), argmax.map(|argmax| argmax.slice_mut()));
            let (x, w, y) = (x.slice(), w.slice(), y.slice_mut());
            maxpool::forward(context, &params, &pool, x, w, bias, activation, y, argmax)
        }
    })
}

#[allow(clippy::too_many_arguments, reason = "two passes in one call")]
unsafe fn backward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pool: *const cnnkern_pool2d_params,
    x: *const T,
    w: *const T,
    dy: *const T,
    argmax: *const c_void,
    relu_output: *const T,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut T,
    dw: *mut T,
    db: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::conv2d_params(params)? };
        // SAFETY: the caller's promise.
        let (pool, argmax_type) = unsafe { convert::pool2d_params("pool", pool)? };
        let argmax_type = convert::argmax_type(argmax_type)?;
        // SAFETY: the caller's promise.
        let options = unsafe { convert::gradient_options(options)? };
        let conv = ConvShape::new(&params, size_of::<T>())?;
        let pooled = PoolShape::new(&pool, size_of::<T>())?;
        maxpool::check_match(&conv, &pooled)?;
        if conv.batch == 0 {
            return Ok(());
        }
        let (read, gradients) = ([x, w, dy, relu_output], [dx, dw, db]);
        let arrays = BackwardArrays::new(&conv, pooled.output_len(), read, gradients)?;
        let argmax = ArgmaxArray::new(argmax_type, argmax, pooled.output_len())?;
        arrays.no_overlap(argmax.extent())?;
        // SAFETY: no gradient overlaps another array; the rest is the caller's promise.
        let ((inputs, gradients), argmax) = unsafe { (arrays.slices(), argmax.slice()) };
        maxpool::backward(context, &params, &pool, &inputs, argmax, &options, gradients)
    })
}
