//! Pooling.

use std::ffi::c_void;

use super::args::{Array, no_overlap, write_output_size};
use super::context::context_or_default;
use super::convert::{self, ArgmaxType};
use super::guard::guard;
use super::types::*;
use crate::pool2d::{self, Argmax, ArgmaxMut};
use crate::shape::PoolShape;
use crate::simd::Element;

/// The parameters of a plain pooling: stride = kernel, no padding, dense, extents rounded down,
/// EXCLUDED, I32, NCHW. Nothing is checked here, but by the functions that take them.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_pool2d_params_default(
    batch: usize,
    channels: usize,
    in_height: usize,
    in_width: usize,
    kernel_height: usize,
    kernel_width: usize,
) -> cnnkern_pool2d_params {
    cnnkern_pool2d_params {
        batch,
        channels,
        in_height,
        in_width,
        kernel_height,
        kernel_width,
        stride_height: kernel_height,
        stride_width: kernel_width,
        pad_top: 0,
        pad_bottom: 0,
        pad_left: 0,
        pad_right: 0,
        dilation_height: 1,
        dilation_width: 1,
        ceil_mode: 0,
        padding: CNNKERN_POOL_PADDING_EXCLUDED,
        argmax_type: CNNKERN_ARGMAX_I32,
        layout: CNNKERN_LAYOUT_NCHW,
    }
}

/// Rows and columns of y: (in + padding before and after - window) / stride + 1, rounded as
/// ceil_mode says, where window = (kernel - 1) * dilation + 1. No pointer may be NULL. argmax_type
/// is not read.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT or SIZE_OVERFLOW for params that no pooling has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_pool2d_output_size(
    params: *const cnnkern_pool2d_params,
    out_height: *mut usize,
    out_width: *mut usize,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let (params, _) = unsafe { convert::pool2d_params("params", params)? };
        // SAFETY: the caller's promise.
        unsafe { write_output_size(params.output_size()?, out_height, out_width) }
    })
}

/// y = the maximum of each window, argmax = its place in the window, kh * kernel_width + kw.
///
/// x: [batch, channels, in_height, in_width] in params->layout. y: [batch, channels, out_height,
/// out_width] in params->layout. argmax: shaped as y, of params->argmax_type; NULL where no backward
/// pass follows. None may overlap another. context may be NULL; with a batch of 0 x and y may be,
/// too.
///
/// The first maximum in the order of places wins; a NaN beats every number, and the first NaN wins.
/// A window without a cell that counts has the maximum -infinity at place 0.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, a U8 argmax with a window of more than 256
/// cells, a misaligned pointer or an overlap; SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_maxpool2d_forward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const f32,
    y: *mut f32,
    argmax: *mut c_void,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { max_forward(context, params, x, y, argmax) }
}

/// cnnkern_maxpool2d_forward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_maxpool2d_forward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const f64,
    y: *mut f64,
    argmax: *mut c_void,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { max_forward(context, params, x, y, argmax) }
}

/// dx = each gradient of dy, added to the cell of x that argmax names for it. dx is overwritten;
/// where windows overlap, gradients add up; one whose argmax lies in the padding is dropped.
///
/// dy and argmax: as y and argmax of cnnkern_maxpool2d_forward_f32(). dx: as x there; may overlap
/// neither. context may be NULL; with a batch of 0 the others but params may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, a U8 argmax with a window of more than 256
/// cells, a place outside the window, a misaligned pointer or an overlap; SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_maxpool2d_backward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const f32,
    argmax: *const c_void,
    dx: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { max_backward(context, params, dy, argmax, dx) }
}

/// cnnkern_maxpool2d_backward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_maxpool2d_backward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const f64,
    argmax: *const c_void,
    dx: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { max_backward(context, params, dy, argmax, dx) }
}

/// y = the mean of each window: the sum of the cells that count, divided by their number; 0 where
/// there is none. params->padding says whether cells in the padding count.
///
/// x: [batch, channels, in_height, in_width] in params->layout. y: [batch, channels, out_height,
/// out_width] in params->layout; may not overlap x. params->argmax_type is not read. context may be
/// NULL; with a batch of 0 x and y may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, a misaligned pointer or an overlap;
/// SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_avgpool2d_forward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const f32,
    y: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { avg_forward(context, params, x, y) }
}

/// cnnkern_avgpool2d_forward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_avgpool2d_forward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const f64,
    y: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { avg_forward(context, params, x, y) }
}

/// dx = each gradient of dy, spread evenly over the cells of its window that count. dx is
/// overwritten; where windows overlap, gradients add up; what falls on the padding is dropped.
///
/// dy: as y of cnnkern_avgpool2d_forward_f32(). dx: as x there; may not overlap dy.
/// params->argmax_type is not read. context may be NULL; with a batch of 0 dy and dx may be, too.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, a misaligned pointer or an overlap;
/// SIZE_OVERFLOW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_avgpool2d_backward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const f32,
    dx: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { avg_backward(context, params, dy, dx) }
}

/// cnnkern_avgpool2d_backward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_avgpool2d_backward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const f64,
    dx: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { avg_backward(context, params, dy, dx) }
}

/// An argmax, of one type or the other.
#[derive(Clone, Copy)]
pub(super) enum ArgmaxArray {
    I32(Array<i32>),
    U8(Array<u8>),
}

impl ArgmaxArray {
    pub fn new(argmax_type: ArgmaxType, pointer: *const c_void, len: usize) -> crate::Result<Self> {
        Ok(match argmax_type {
            ArgmaxType::I32 => ArgmaxArray::I32(Array::new("argmax", pointer.cast(), len)?),
            ArgmaxType::U8 => ArgmaxArray::U8(Array::new("argmax", pointer.cast(), len)?),
        })
    }

    pub fn extent(self) -> Option<super::args::Extent> {
        match self {
            ArgmaxArray::I32(places) => places.extent(),
            ArgmaxArray::U8(places) => places.extent(),
        }
    }

    /// # Safety
    /// As for [`Array::slice`].
    pub unsafe fn slice<'a>(self) -> Argmax<'a> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                ArgmaxArray::I32(places) => Argmax::I32(places.slice()),
                ArgmaxArray::U8(places) => Argmax::U8(places.slice()),
            }
        }
    }

    /// # Safety
    /// As for [`Array::slice_mut`].
    pub unsafe fn slice_mut<'a>(self) -> ArgmaxMut<'a> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                ArgmaxArray::I32(places) => ArgmaxMut::I32(places.slice_mut()),
                ArgmaxArray::U8(places) => ArgmaxMut::U8(places.slice_mut()),
            }
        }
    }
}

unsafe fn max_forward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const T,
    y: *mut T,
    argmax: *mut c_void,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let (params, argmax_type) = unsafe { convert::pool2d_params("params", params)? };
        let argmax_type = convert::argmax_type(argmax_type)?;
        let shape = PoolShape::new(&params, size_of::<T>())?;
        let x = Array::new("x", x, shape.input_len())?;
        let y = Array::new("y", y, shape.output_len())?;
        let argmax = (!argmax.is_null())
            .then(|| ArgmaxArray::new(argmax_type, argmax, shape.output_len()))
            .transpose()?;
        no_overlap(&[y.extent(), argmax.and_then(ArgmaxArray::extent)], &[x.extent()])?;
        // SAFETY: neither output overlaps another array; the rest is the caller's promise.
        unsafe {
            let argmax = argmax.map(|argmax| argmax.slice_mut());
            pool2d::max_forward(context, &params, x.slice(), y.slice_mut(), argmax)
        }
    })
}

unsafe fn max_backward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const T,
    argmax: *const c_void,
    dx: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let (params, argmax_type) = unsafe { convert::pool2d_params("params", params)? };
        let argmax_type = convert::argmax_type(argmax_type)?;
        let shape = PoolShape::new(&params, size_of::<T>())?;
        let dy = Array::new("dy", dy, shape.output_len())?;
        let argmax = ArgmaxArray::new(argmax_type, argmax, shape.output_len())?;
        let dx = Array::new("dx", dx, shape.input_len())?;
        no_overlap(&[dx.extent()], &[dy.extent(), argmax.extent()])?;
        // SAFETY: dx overlaps no other array; the rest is the caller's promise.
        unsafe {
            pool2d::max_backward(context, &params, dy.slice(), argmax.slice(), dx.slice_mut())
        }
    })
}

unsafe fn avg_forward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    x: *const T,
    y: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let (params, _) = unsafe { convert::pool2d_params("params", params)? };
        let shape = PoolShape::new(&params, size_of::<T>())?;
        let x = Array::new("x", x, shape.input_len())?;
        let y = Array::new("y", y, shape.output_len())?;
        no_overlap(&[y.extent()], &[x.extent()])?;
        // SAFETY: y does not overlap x; the rest is the caller's promise.
        unsafe { pool2d::avg_forward(context, &params, x.slice(), y.slice_mut()) }
    })
}

unsafe fn avg_backward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_pool2d_params,
    dy: *const T,
    dx: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let (params, _) = unsafe { convert::pool2d_params("params", params)? };
        let shape = PoolShape::new(&params, size_of::<T>())?;
        let dy = Array::new("dy", dy, shape.output_len())?;
        let dx = Array::new("dx", dx, shape.input_len())?;
        no_overlap(&[dx.extent()], &[dy.extent()])?;
        // SAFETY: dx does not overlap dy; the rest is the caller's promise.
        unsafe { pool2d::avg_backward(context, &params, dy.slice(), dx.slice_mut()) }
    })
}
