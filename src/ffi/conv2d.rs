//! Convolution.

use std::ffi::c_char;

use super::args::{Array, Extent, no_overlap, write_output_size};
use super::context::context_or_default;
use super::convert;
use super::guard::guard;
use super::types::*;
use crate::conv2d::{self, BackwardInputs, Gradients};
use crate::shape::ConvShape;
use crate::simd::Element;

/// The parameters of a plain convolution: stride 1, no padding, dense, one group, NCHW, OIHW, AUTO.
/// Nothing is checked here, but by the functions that take them.
#[unsafe(no_mangle)]
pub extern "C" fn cnnkern_conv2d_params_default(
    batch: usize,
    in_channels: usize,
    in_height: usize,
    in_width: usize,
    out_channels: usize,
    kernel_height: usize,
    kernel_width: usize,
) -> cnnkern_conv2d_params {
    cnnkern_conv2d_params {
        batch,
        in_channels,
        in_height,
        in_width,
        out_channels,
        kernel_height,
        kernel_width,
        stride_height: 1,
        stride_width: 1,
        pad_top: 0,
        pad_bottom: 0,
        pad_left: 0,
        pad_right: 0,
        dilation_height: 1,
        dilation_width: 1,
        groups: 1,
        layout: CNNKERN_LAYOUT_NCHW,
        filter_layout: CNNKERN_FILTER_OIHW,
        algorithm: CNNKERN_ALGORITHM_AUTO,
    }
}

/// Rows and columns of y: (in + padding before and after - window) / stride + 1, rounded down, where
/// window = (kernel - 1) * dilation + 1. No pointer may be NULL.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT or SIZE_OVERFLOW for params that no convolution has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_output_size(
    params: *const cnnkern_conv2d_params,
    out_height: *mut usize,
    out_width: *mut usize,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let params = unsafe { convert::conv2d_params(params)? };
        // SAFETY: the caller's promise.
        unsafe { write_output_size(params.output_size()?, out_height, out_width) }
    })
}

/// What a pass on f32 will do and need in this context, without doing it.
///
/// algorithm: the one that the pass takes, never CNNKERN_ALGORITHM_AUTO. scratch_bytes: scratch
/// memory that the call takes from the context, at most; the context keeps it for later calls, which
/// share it. reason: the way, and why, in words; a string that lives as long as the library. Each may
/// be NULL where not wanted. context may be NULL.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, pass, a misaligned pointer or an overlap;
/// SIZE_OVERFLOW; OUT_OF_MEMORY; UNSUPPORTED for an algorithm that does not cover params.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_query_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pass: cnnkern_pass,
    algorithm: *mut cnnkern_algorithm,
    scratch_bytes: *mut usize,
    reason: *mut *const c_char,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { query::<f32>(context, params, pass, algorithm, scratch_bytes, reason) }
}

/// cnnkern_conv2d_query_f32() for a pass on f64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_query_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pass: cnnkern_pass,
    algorithm: *mut cnnkern_algorithm,
    scratch_bytes: *mut usize,
    reason: *mut *const c_char,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { query::<f64>(context, params, pass, algorithm, scratch_bytes, reason) }
}

/// y = activation(conv(x, w) + bias), a cross-correlation as in the field.
///
/// x: [batch, in_channels, in_height, in_width] in params->layout. w: in params->filter_layout.
/// bias: [out_channels], or NULL for none. y: [batch, out_channels, out_height, out_width] in
/// params->layout; may overlap none of them. context may be NULL. With a batch of 0 no tensor is
/// looked at, and all may be NULL.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, activation, a misaligned pointer or an
/// overlap; SIZE_OVERFLOW; OUT_OF_MEMORY; UNSUPPORTED for an algorithm that does not cover params.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_forward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    activation: cnnkern_activation,
    y: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, params, x, w, bias, activation, y) }
}

/// cnnkern_conv2d_forward_f32() in double precision.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_forward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const f64,
    w: *const f64,
    bias: *const f64,
    activation: cnnkern_activation,
    y: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { forward(context, params, x, w, bias, activation, y) }
}

/// The whole backward pass in one call: any of dx, dw and db.
///
/// x and dx: as x in the forward pass. w and dw: as w there. dy and relu_output: as y there. db:
/// [out_channels]. dx, dw, db: NULL where not wanted. x is read for dw only, w for dx only, and may
/// be NULL otherwise. relu_output: NULL, or the forward pass's pre-activation u, or its output
/// y = relu(u): dy counts as 0 where it is <= 0. options: NULL means every alpha 1, every beta 0.
/// The gradients may overlap neither each other nor an array that is read. context may be NULL.
///
/// With a batch of 0 no tensor is looked at, and all may be NULL: dw and db keep what they held, and
/// beta is not applied.
///
/// Errors: NULL_POINTER; INVALID_ARGUMENT for params, a misaligned pointer or an overlap;
/// SIZE_OVERFLOW; OUT_OF_MEMORY; UNSUPPORTED for an algorithm that does not cover params.
#[allow(clippy::too_many_arguments, reason = "the whole backward pass in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_backward_f32(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const f32,
    w: *const f32,
    dy: *const f32,
    relu_output: *const f32,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut f32,
    dw: *mut f32,
    db: *mut f32,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, params, x, w, dy, relu_output, options, dx, dw, db) }
}

/// cnnkern_conv2d_backward_f32() in double precision.
#[allow(clippy::too_many_arguments, reason = "the whole backward pass in one call")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnnkern_conv2d_backward_f64(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const f64,
    w: *const f64,
    dy: *const f64,
    relu_output: *const f64,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut f64,
    dw: *mut f64,
    db: *mut f64,
) -> cnnkern_status {
    // SAFETY: the caller's promise.
    unsafe { backward(context, params, x, w, dy, relu_output, options, dx, dw, db) }
}

unsafe fn query<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    pass: cnnkern_pass,
    algorithm: *mut cnnkern_algorithm,
    scratch_bytes: *mut usize,
    reason: *mut *const c_char,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::conv2d_params(params)? };
        let query = conv2d::query::<T>(context, &params, convert::pass(pass)?)?;
        let algorithm = Array::optional("algorithm", algorithm, 1)?;
        let scratch_bytes = Array::optional("scratch_bytes", scratch_bytes, 1)?;
        let reason = Array::optional("reason", reason, 1)?;
        let extents = [
            algorithm.and_then(Array::extent),
            scratch_bytes.and_then(Array::extent),
            reason.and_then(Array::extent),
        ];
        no_overlap(&extents, &[])?;
        // SAFETY: none overlaps another; the rest is the caller's promise.
        unsafe {
            if let Some(algorithm) = algorithm {
                algorithm.write(convert::algorithm_constant(query.algorithm));
            }
            if let Some(scratch_bytes) = scratch_bytes {
                scratch_bytes.write(query.scratch_bytes);
            }
            if let Some(reason) = reason {
                reason.write(query.reason.as_ptr());
            }
        }
        Ok(())
    })
}

unsafe fn forward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const T,
    w: *const T,
    bias: *const T,
    activation: cnnkern_activation,
    y: *mut T,
) -> cnnkern_status {
    guard(|| {
        // SAFETY: the caller's promise.
        let context = unsafe { context_or_default(context)? };
        // SAFETY: the caller's promise.
        let params = unsafe { convert::conv2d_params(params)? };
        let activation = convert::activation(activation)?;
        let shape = ConvShape::new(&params, size_of::<T>())?;
        if shape.batch == 0 {
            return Ok(());
        }
        let x = Array::new("x", x, shape.input_len())?;
        let w = Array::new("w", w, shape.filter_len())?;
        let bias = Array::optional("bias", bias, shape.out_channels)?;
        let y = Array::new("y", y, shape.output_len())?;
        no_overlap(&[y.extent()], &[x.extent(), w.extent(), bias.and_then(Array::extent)])?;
        // SAFETY: y overlaps no other; the rest is the caller's promise.
        unsafe {
            let bias = bias.map(|bias| bias.slice());
            conv2d::forward(context, &params, x.slice(), w.slice(), bias, activation, y.slice_mut())
        }
    })
}

#[allow(clippy::too_many_arguments, reason = "the whole backward pass in one call")]
unsafe fn backward<T: Element>(
    context: *mut cnnkern_context,
    params: *const cnnkern_conv2d_params,
    x: *const T,
    w: *const T,
    dy: *const T,
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
        let options = unsafe { convert::gradient_options(options)? };
        let shape = ConvShape::new(&params, size_of::<T>())?;
        if shape.batch == 0 {
            return Ok(());
        }
        let (read, gradients) = ([x, w, dy, relu_output], [dx, dw, db]);
        let arrays = BackwardArrays::new(&shape, shape.output_len(), read, gradients)?;
        arrays.no_overlap(None)?;
        // SAFETY: no gradient overlaps another array; the rest is the caller's promise.
        let (inputs, gradients) = unsafe { arrays.slices() };
        conv2d::backward(context, &params, &inputs, &options, gradients)
    })
}

/// What a backward pass reads, and the gradients that are wanted.
pub(super) struct BackwardArrays<T> {
    x: Option<Array<T>>,
    w: Option<Array<T>>,
    dy: Array<T>,
    relu_output: Option<Array<T>>,
    gradients: [Option<Array<T>>; 3],
}

impl<T> BackwardArrays<T> {
    /// `read` are x, w, dy and relu_output, `gradients` dx, dw and db; dy and relu_output have `output`
    /// elements.
    pub fn new(
        shape: &ConvShape,
        output: usize,
        [x, w, dy, relu_output]: [*const T; 4],
        [dx, dw, db]: [*mut T; 3],
    ) -> crate::Result<Self> {
        let (input, filter) = (shape.input_len(), shape.filter_len());
        let dx = Array::optional("dx", dx, input)?;
        let dw = Array::optional("dw", dw, filter)?;
        let db = Array::optional("db", db, shape.out_channels)?;
        Ok(BackwardArrays {
            // x and w that are not read are not looked at either.
            x: dw.map(|_| Array::new("x", x, input)).transpose()?,
            w: dx.map(|_| Array::new("w", w, filter)).transpose()?,
            dy: Array::new("dy", dy, output)?,
            relu_output: Array::optional("relu_output", relu_output, output)?,
            gradients: [dx, dw, db],
        })
    }

    /// Fails when a gradient overlaps what is read, `other` too, or another gradient.
    pub fn no_overlap(&self, other: Option<Extent>) -> crate::Result<()> {
        let extent = |array: Option<Array<T>>| array.and_then(Array::extent);
        let [x, w, dy, relu_output] = [self.x, self.w, Some(self.dy), self.relu_output].map(extent);
        no_overlap(&self.gradients.map(extent), &[x, w, dy, other, relu_output])
    }

    /// # Safety
    /// As for [`Array::slice`] and [`Array::slice_mut`].
    pub unsafe fn slices<'a>(self) -> (BackwardInputs<'a, T>, Gradients<'a, T>) {
        let [dx, dw, db] = self.gradients;
        // SAFETY: the caller's promise.
        unsafe {
            let inputs = BackwardInputs {
                x: self.x.map(|x| x.slice()),
                w: self.w.map(|w| w.slice()),
                dy: self.dy.slice(),
                relu_output: self.relu_output.map(|relu_output| relu_output.slice()),
            };
            let gradients = Gradients {
                dx: dx.map(|dx| dx.slice_mut()),
                dw: dw.map(|dw| dw.slice_mut()),
                db: db.map(|db| db.slice_mut()),
            };
            (inputs, gradients)
        }
    }
}
