//! Every numeric function, in the precision of the module around.

use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};

use cnnkern::ffi::*;

use super::*;
use crate::refused::*;

/// A pointer that no element may have.
pub fn misaligned<T>(pointer: *mut T) -> *mut T {
    pointer.wrapping_byte_add(1)
}

/// A pointer half an array further: its array overlaps the one at `pointer`.
pub fn shifted(pointer: *const Real) -> *mut Real {
    pointer.wrapping_add(2).cast_mut()
}

// Convolution: x [1, 2, 5, 5], w [2, 2, 2, 2], y [1, 2, 4, 4].

pub type Conv = cnnkern_conv2d_params;

pub fn conv_params() -> Conv {
    cnnkern_conv2d_params_default(1, 2, 5, 5, 2, 2, 2)
}

/// What convolution, im2col and col2im refuse alike.
pub const WINDOWS: &[Case<Conv>] = &[
    (|p| p.in_channels = 0, INVALID, &["in_channels", "0"]),
    (|p| p.in_height = 0, INVALID, &["in_height", "0"]),
    (|p| p.in_width = 0, INVALID, &["in_width", "0"]),
    (|p| p.kernel_height = 0, INVALID, &["kernel_height", "0"]),
    (|p| p.kernel_width = 0, INVALID, &["kernel_width", "0"]),
    (|p| p.stride_height = 0, INVALID, &["stride_height", "0"]),
    (|p| p.stride_width = 0, INVALID, &["stride_width", "0"]),
    (|p| p.dilation_height = 0, INVALID, &["dilation_height", "0"]),
    (|p| p.dilation_width = 0, INVALID, &["dilation_width", "0"]),
    (|p| p.groups = 0, INVALID, &["groups", "0"]),
    (|p| p.kernel_height = 6, INVALID, &["kernel_height", "6", "in_height", "5"]),
    (|p| p.kernel_width = 6, INVALID, &["kernel_width", "6", "in_width", "5"]),
    (|p| p.dilation_height = 5, INVALID, &["dilation_height", "5"]),
    (|p| p.dilation_width = 5, INVALID, &["dilation_width", "5"]),
    (|p| p.layout = 2, INVALID, &["layout", "2", "CNNKERN_LAYOUT_NHWC"]),
    (|p| p.layout = -1, INVALID, &["layout", "-1"]),
    (|p| p.layout = i32::MIN, INVALID, &["layout", "-2147483648"]),
    (|p| p.batch = usize::MAX, OVERFLOW, &["x", SIZE_MAX]),
    (|p| p.in_channels = usize::MAX, OVERFLOW, &["x", SIZE_MAX]),
    (|p| p.in_height = usize::MAX, OVERFLOW, &["in_height", SIZE_MAX]),
    (|p| p.in_width = usize::MAX, OVERFLOW, &["in_width", SIZE_MAX]),
    (|p| p.kernel_height = usize::MAX, OVERFLOW, &["kernel_height", SIZE_MAX]),
    (|p| p.kernel_width = usize::MAX, OVERFLOW, &["kernel_width", SIZE_MAX]),
    (|p| p.stride_height = usize::MAX, OVERFLOW, &["stride_height", SIZE_MAX]),
    (|p| p.stride_width = usize::MAX, OVERFLOW, &["stride_width", SIZE_MAX]),
    (|p| p.pad_top = usize::MAX, OVERFLOW, &["pad_top", SIZE_MAX]),
    (|p| p.pad_bottom = usize::MAX, OVERFLOW, &["pad_bottom", SIZE_MAX]),
    (|p| p.pad_left = usize::MAX, OVERFLOW, &["pad_left", SIZE_MAX]),
    (|p| p.pad_right = usize::MAX, OVERFLOW, &["pad_right", SIZE_MAX]),
    (|p| p.dilation_height = usize::MAX, OVERFLOW, &["dilation_height", SIZE_MAX]),
    (|p| p.dilation_width = usize::MAX, OVERFLOW, &["dilation_width", SIZE_MAX]),
    // 2^70 elements, a number that wraps to 0.
    (|p| (p.batch, p.in_channels) = (1 << 40, 1 << 30), OVERFLOW, &["x", "1099511627776"]),
    // No batch is no excuse.
    (|p| (p.batch, p.in_channels) = (0, usize::MAX), OVERFLOW, &["x", SIZE_MAX]),
    (|p| (p.batch, p.stride_width) = (0, 0), INVALID, &["stride_width", "0"]),
];

/// What convolution refuses besides.
pub const CONVOLUTIONS: &[Case<Conv>] = &[
    (|p| p.out_channels = 0, INVALID, &["out_channels", "0"]),
    (|p| p.groups = 3, INVALID, &["in_channels", "2", "groups", "3"]),
    (|p| (p.groups, p.out_channels) = (2, 3), INVALID, &["out_channels", "3", "groups", "2"]),
    (|p| p.groups = usize::MAX, INVALID, &["groups", SIZE_MAX]),
    (|p| p.out_channels = usize::MAX, OVERFLOW, &["y", SIZE_MAX]),
    (|p| p.filter_layout = 3, INVALID, &["filter_layout", "3", "CNNKERN_FILTER_HWIO"]),
    (|p| p.filter_layout = -1, INVALID, &["filter_layout", "-1"]),
    (|p| p.algorithm = 4, INVALID, &["algorithm", "4", "CNNKERN_ALGORITHM_GEMM"]),
    (|p| p.algorithm = -1, INVALID, &["algorithm", "-1"]),
    (|p| (p.batch, p.algorithm) = (0, 99), INVALID, &["algorithm", "99"]),
];

struct OutputSize {
    params: *mut Conv,
    out_height: *mut usize,
    out_width: *mut usize,
}

impl Call for OutputSize {
    fn new(memory: &mut Memory) -> Self {
        OutputSize {
            params: memory.slot_with(0, conv_params()),
            out_height: memory.slot(1),
            out_width: memory.slot(2),
        }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { cnnkern_conv2d_output_size(self.params, self.out_height, self.out_width) }
    }
}

impl Params<Conv> for OutputSize {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

#[test]
fn conv2d_output_size() {
    refuse_params::<Conv, OutputSize>(WINDOWS);
    refuse_params::<Conv, OutputSize>(CONVOLUTIONS);
    refuse::<OutputSize>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.out_height = null_mut(), NULL, &["out_height"]),
        (|c| c.out_width = null_mut(), NULL, &["out_width"]),
        (|c| c.params = misaligned(c.params), INVALID, &["params", "aligned"]),
        (|c| c.out_height = misaligned(c.out_height), INVALID, &["out_height", "aligned"]),
        (|c| c.out_width = misaligned(c.out_width), INVALID, &["out_width", "aligned"]),
        (|c| c.out_width = c.out_height, INVALID, &["out_height", "out_width", "overlap"]),
    ]);
}

struct Query {
    context: *mut cnnkern_context,
    params: *mut Conv,
    pass: cnnkern_pass,
    algorithm: *mut cnnkern_algorithm,
    scratch_bytes: *mut usize,
    reason: *mut *const c_char,
}

impl Call for Query {
    fn new(memory: &mut Memory) -> Self {
        Query {
            context: null_mut(),
            params: memory.slot_with(0, conv_params()),
            pass: CNNKERN_PASS_BACKWARD_WEIGHTS,
            algorithm: memory.slot(1),
            scratch_bytes: memory.slot(2),
            reason: memory.slot(3),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Query { context, params, pass, algorithm, scratch_bytes, reason } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { conv2d_query(context, params, pass, algorithm, scratch_bytes, reason) }
    }
}

impl Params<Conv> for Query {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

#[test]
fn conv2d_query_() {
    refuse_params::<Conv, Query>(WINDOWS);
    refuse_params::<Conv, Query>(CONVOLUTIONS);
    refuse_params::<Conv, Query>(BYTES);
    refuse_params::<Conv, Query>(PRODUCTS);
    refuse_params::<Conv, Query>(NO_WINOGRAD);
    refuse::<Query>(&[
        (|c| c.context = misaligned(c.reason.cast()), INVALID, &["context", "aligned"]),
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.pass = 3, INVALID, &["pass", "3", "CNNKERN_PASS_BACKWARD_DATA"]),
        (|c| c.pass = -1, INVALID, &["pass", "-1"]),
        (|c| c.algorithm = misaligned(c.algorithm), INVALID, &["algorithm", "aligned"]),
        (|c| c.scratch_bytes = misaligned(c.scratch_bytes), INVALID, &["scratch_bytes", "aligned"]),
        (|c| c.reason = misaligned(c.reason), INVALID, &["reason", "aligned"]),
        (|c| c.reason = c.scratch_bytes.cast(), INVALID, &["scratch_bytes", "reason", "overlap"]),
    ]);
    accept::<Query>(&[
        |c| c.algorithm = null_mut(),
        |c| c.scratch_bytes = null_mut(),
        |c| c.reason = null_mut(),
        // SAFETY: good parameters.
        |c| unsafe { ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40) },
    ]);
}

struct Forward {
    context: *mut cnnkern_context,
    params: *mut Conv,
    x: *const Real,
    w: *const Real,
    bias: *const Real,
    activation: cnnkern_activation,
    y: *mut Real,
}

impl Call for Forward {
    fn new(memory: &mut Memory) -> Self {
        Forward {
            context: null_mut(),
            params: memory.slot_with(0, conv_params()),
            x: memory.slot(1),
            w: memory.slot(2),
            bias: memory.slot(3),
            activation: CNNKERN_ACTIVATION_RELU,
            y: memory.slot(4),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Forward { context, params, x, w, bias, activation, y } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { conv2d_forward(context, params, x, w, bias, activation, y) }
    }
}

impl Params<Conv> for Forward {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

/// Tensors whose elements can be counted, but whose bytes cannot.
pub const BYTES: &[Case<Conv>] = &[(
    |p| (p.in_channels, p.in_height, p.in_width) = (1, 1 << 30, 1 << 31),
    OVERFLOW,
    &["x", "1073741824", "2147483648", "PTRDIFF_MAX"],
)];

/// Tensors that can be counted, but whose products cannot.
pub const PRODUCTS: &[Case<Conv>] = &[(
    |p| (p.in_channels, p.out_channels, p.in_height, p.in_width) = (1 << 25, 1 << 24, 99, 99),
    OVERFLOW,
    &["too large", "99", "16777216", "134217728"],
)];

/// Winograd's transforms know no stride.
const NO_WINOGRAD: &[Case<Conv>] = &[(
    |p| (p.stride_width, p.algorithm) = (2, CNNKERN_ALGORITHM_WINOGRAD),
    UNSUPPORTED,
    &["algorithm"],
)];

#[test]
fn conv2d_forward_() {
    refuse_params::<Conv, Forward>(WINDOWS);
    refuse_params::<Conv, Forward>(CONVOLUTIONS);
    refuse_params::<Conv, Forward>(BYTES);
    refuse_params::<Conv, Forward>(PRODUCTS);
    refuse_params::<Conv, Forward>(NO_WINOGRAD);
    refuse::<Forward>(&[
        (|c| c.context = misaligned(c.y.cast()), INVALID, &["context", "aligned"]),
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.x = null(), NULL, &["x"]),
        (|c| c.w = null(), NULL, &["w"]),
        (|c| c.y = null_mut(), NULL, &["y"]),
        (|c| c.activation = 2, INVALID, &["activation", "2", "CNNKERN_ACTIVATION_RELU"]),
        (|c| c.activation = -7, INVALID, &["activation", "-7"]),
        (|c| c.x = misaligned(c.x.cast_mut()), INVALID, &["x", "aligned"]),
        (|c| c.w = misaligned(c.w.cast_mut()), INVALID, &["w", "aligned"]),
        (|c| c.bias = misaligned(c.bias.cast_mut()), INVALID, &["bias", "aligned"]),
        (|c| c.y = misaligned(c.y), INVALID, &["y", "aligned"]),
        (|c| c.y = c.x.cast_mut(), INVALID, &["y", "x", "overlap"]),
        (|c| c.y = shifted(c.x), INVALID, &["y", "x", "overlap"]),
        (|c| c.y = shifted(c.w), INVALID, &["y", "w", "overlap"]),
        (|c| c.bias = shifted(c.y), INVALID, &["y", "bias", "overlap"]),
        (|c| c.x = usize::MAX as *const Real, INVALID, &["x", "aligned"]),
        (|c| c.x = (usize::MAX - 15) as *const Real, OVERFLOW, &["x", "0xfffffffffffffff0"]),
    ]);
    accept::<Forward>(&[
        |c| c.bias = null(),
        |c| c.w = c.x,
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.x, c.w, c.bias, c.y) = (null(), null(), null(), null_mut());
        },
    ]);
}

struct Backward {
    context: *mut cnnkern_context,
    params: *mut Conv,
    x: *const Real,
    w: *const Real,
    dy: *const Real,
    relu_output: *const Real,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut Real,
    dw: *mut Real,
    db: *mut Real,
}

impl Call for Backward {
    fn new(memory: &mut Memory) -> Self {
        let options = cnnkern_conv2d_gradient_options {
            dx_alpha: 1.0,
            dx_beta: 1.0,
            dw_alpha: 1.0,
            dw_beta: 1.0,
            db_alpha: 1.0,
            db_beta: 1.0,
        };
        Backward {
            context: null_mut(),
            params: memory.slot_with(0, conv_params()),
            x: memory.slot(1),
            w: memory.slot(2),
            dy: memory.slot(3),
            relu_output: memory.slot(4),
            options: memory.slot_with(5, options),
            dx: memory.slot(6),
            dw: memory.slot(7),
            db: memory.slot(8),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Backward { context, params, x, w, dy, relu_output, options, dx, dw, db } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { conv2d_backward(context, params, x, w, dy, relu_output, options, dx, dw, db) }
    }
}

impl Params<Conv> for Backward {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

#[test]
fn conv2d_backward_() {
    refuse_params::<Conv, Backward>(WINDOWS);
    refuse_params::<Conv, Backward>(CONVOLUTIONS);
    refuse_params::<Conv, Backward>(BYTES);
    refuse_params::<Conv, Backward>(PRODUCTS);
    refuse_params::<Conv, Backward>(NO_WINOGRAD);
    refuse::<Backward>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.x = null(), NULL, &["x"]),
        (|c| c.w = null(), NULL, &["w"]),
        (|c| c.dy = null(), NULL, &["dy"]),
        (|c| c.x = misaligned(c.x.cast_mut()), INVALID, &["x", "aligned"]),
        (|c| c.w = misaligned(c.w.cast_mut()), INVALID, &["w", "aligned"]),
        (|c| c.dy = misaligned(c.dy.cast_mut()), INVALID, &["dy", "aligned"]),
        (
            |c| c.relu_output = misaligned(c.relu_output.cast_mut()),
            INVALID,
            &["relu_output", "aligned"],
        ),
        (|c| c.options = misaligned(c.options.cast_mut()), INVALID, &["options", "aligned"]),
        (|c| c.dx = misaligned(c.dx), INVALID, &["dx", "aligned"]),
        (|c| c.dw = misaligned(c.dw), INVALID, &["dw", "aligned"]),
        (|c| c.db = misaligned(c.db), INVALID, &["db", "aligned"]),
        (|c| c.dx = c.dw, INVALID, &["dx", "dw", "overlap"]),
        (|c| c.db = shifted(c.dx), INVALID, &["dx", "db", "overlap"]),
        (|c| c.db = shifted(c.dw), INVALID, &["dw", "db", "overlap"]),
        (|c| c.dx = c.x.cast_mut(), INVALID, &["dx", "x", "overlap"]),
        (|c| c.dx = shifted(c.dy), INVALID, &["dx", "dy", "overlap"]),
        (|c| c.dw = c.w.cast_mut(), INVALID, &["dw", "w", "overlap"]),
        (|c| c.db = c.relu_output.cast_mut(), INVALID, &["db", "relu_output", "overlap"]),
    ]);
    accept::<Backward>(&[
        |c| (c.relu_output, c.options) = (null(), null()),
        |c| (c.dx, c.w) = (null_mut(), null()),
        |c| (c.dw, c.x) = (null_mut(), null()),
        // What is not read may be anything.
        |c| (c.dw, c.x) = (null_mut(), c.dx),
        |c| (c.dx, c.dw, c.x, c.w) = (null_mut(), null_mut(), null(), null()),
        |c| (c.dx, c.dw, c.db) = (null_mut(), null_mut(), null_mut()),
        |c| c.relu_output = c.dy,
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.x, c.w, c.dy, c.relu_output) = (null(), null(), null(), null());
        },
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.x, c.w, c.dy, c.relu_output) = (null(), null(), null(), null());
            (c.dx, c.dw, c.db) = (null_mut(), null_mut(), null_mut());
        },
    ]);
}

// The column matrix: [16, 8].

/// What im2col and col2im refuse besides.
const COLUMNS: &[Case<Conv>] = &[
    (|p| p.groups = 2, INVALID, &["groups", "2"]),
    // x and y are small, col is not.
    (
        |p| {
            (p.in_height, p.in_width) = (1 << 30, 1 << 28);
            (p.kernel_height, p.kernel_width) = (1 << 29, 1 << 27);
        },
        OVERFLOW,
        &["col", "536870912", "134217728"],
    ),
];

struct ColLen {
    params: *mut Conv,
    len: *mut usize,
}

impl Call for ColLen {
    fn new(memory: &mut Memory) -> Self {
        ColLen { params: memory.slot_with(0, conv_params()), len: memory.slot(1) }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { cnnkern_col_len(self.params, self.len) }
    }
}

impl Params<Conv> for ColLen {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

#[test]
fn col_len() {
    refuse_params::<Conv, ColLen>(WINDOWS);
    refuse_params::<Conv, ColLen>(COLUMNS);
    refuse::<ColLen>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.len = null_mut(), NULL, &["len"]),
        (|c| c.len = misaligned(c.len), INVALID, &["len", "aligned"]),
    ]);
}

/// The arguments of im2col, and of col2im in their order.
struct Columns<const TO_IMAGE: bool> {
    params: *mut Conv,
    col_layout: cnnkern_col_layout,
    from: *const Real,
    to: *mut Real,
}

impl<const TO_IMAGE: bool> Call for Columns<TO_IMAGE> {
    fn new(memory: &mut Memory) -> Self {
        Columns {
            params: memory.slot_with(0, conv_params()),
            col_layout: CNNKERN_COL_PER_IMAGE,
            from: memory.slot(1),
            to: memory.slot(2),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Columns { params, col_layout, from, to } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            match TO_IMAGE {
                true => col2im(null_mut(), params, col_layout, from, to),
                false => im2col(null_mut(), params, col_layout, from, to),
            }
        }
    }
}

impl<const TO_IMAGE: bool> Params<Conv> for Columns<TO_IMAGE> {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

fn accept_columns<const TO_IMAGE: bool>() {
    accept::<Columns<TO_IMAGE>>(&[
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).out_channels, (*c.params).filter_layout, (*c.params).algorithm) =
                (0, 99, 99);
        },
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.from, c.to) = (null(), null_mut());
        },
    ]);
}

#[test]
fn im2col_() {
    refuse_params::<Conv, Columns<false>>(WINDOWS);
    refuse_params::<Conv, Columns<false>>(COLUMNS);
    refuse_params::<Conv, Columns<false>>(BYTES);
    refuse::<Columns<false>>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.from = null(), NULL, &["x"]),
        (|c| c.to = null_mut(), NULL, &["col"]),
        (|c| c.col_layout = 3, INVALID, &["col_layout", "3", "CNNKERN_COL_PER_IMAGE"]),
        (|c| c.col_layout = -1, INVALID, &["col_layout", "-1"]),
        (|c| c.from = misaligned(c.to), INVALID, &["x", "aligned"]),
        (|c| c.to = misaligned(c.to), INVALID, &["col", "aligned"]),
        (|c| c.to = shifted(c.from), INVALID, &["col", "x", "overlap"]),
    ]);
    accept_columns::<false>();
}

#[test]
fn col2im_() {
    refuse_params::<Conv, Columns<true>>(WINDOWS);
    refuse_params::<Conv, Columns<true>>(COLUMNS);
    refuse_params::<Conv, Columns<true>>(BYTES);
    refuse::<Columns<true>>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.from = null(), NULL, &["col"]),
        (|c| c.to = null_mut(), NULL, &["x"]),
        (|c| c.col_layout = 3, INVALID, &["col_layout", "3", "CNNKERN_COL_PER_IMAGE"]),
        (|c| c.from = misaligned(c.to), INVALID, &["col", "aligned"]),
        (|c| c.to = misaligned(c.to), INVALID, &["x", "aligned"]),
        (|c| c.to = shifted(c.from), INVALID, &["x", "col", "overlap"]),
    ]);
    accept_columns::<true>();
}

// Pooling: x [1, 2, 4, 4], y and argmax [1, 2, 2, 2], windows of 2 x 2.

pub type Pool = cnnkern_pool2d_params;

pub fn pool_params() -> Pool {
    cnnkern_pool2d_params_default(1, 2, 4, 4, 2, 2)
}

/// What every pooling refuses.
pub const POOLS: &[Case<Pool>] = &[
    (|p| p.channels = 0, INVALID, &["channels", "0"]),
    (|p| p.in_height = 0, INVALID, &["in_height", "0"]),
    (|p| p.in_width = 0, INVALID, &["in_width", "0"]),
    (|p| p.kernel_height = 0, INVALID, &["kernel_height", "0"]),
    (|p| p.kernel_width = 0, INVALID, &["kernel_width", "0"]),
    (|p| p.stride_height = 0, INVALID, &["stride_height", "0"]),
    (|p| p.stride_width = 0, INVALID, &["stride_width", "0"]),
    (|p| p.dilation_height = 0, INVALID, &["dilation_height", "0"]),
    (|p| p.dilation_width = 0, INVALID, &["dilation_width", "0"]),
    (|p| p.kernel_height = 5, INVALID, &["kernel_height", "5", "in_height", "4"]),
    (|p| (p.kernel_width, p.ceil_mode) = (5, 1), INVALID, &["kernel_width", "5"]),
    (|p| p.dilation_height = 4, INVALID, &["dilation_height", "4"]),
    (|p| p.layout = 2, INVALID, &["layout", "2", "CNNKERN_LAYOUT_NHWC"]),
    (|p| p.padding = 2, INVALID, &["padding", "2", "CNNKERN_POOL_PADDING_ZERO"]),
    (|p| p.padding = -1, INVALID, &["padding", "-1"]),
    (|p| p.batch = usize::MAX, OVERFLOW, &["x", SIZE_MAX]),
    (|p| p.channels = usize::MAX, OVERFLOW, &["x", SIZE_MAX]),
    (|p| p.in_height = usize::MAX, OVERFLOW, &["in_height", SIZE_MAX]),
    (|p| p.in_width = usize::MAX, OVERFLOW, &["in_width", SIZE_MAX]),
    (|p| p.kernel_height = usize::MAX, OVERFLOW, &["kernel_height", SIZE_MAX]),
    (|p| p.kernel_width = usize::MAX, OVERFLOW, &["kernel_width", SIZE_MAX]),
    (|p| p.stride_height = usize::MAX, OVERFLOW, &["stride_height", SIZE_MAX]),
    (|p| p.stride_width = usize::MAX, OVERFLOW, &["stride_width", SIZE_MAX]),
    (|p| p.pad_top = usize::MAX, OVERFLOW, &["pad_top", SIZE_MAX]),
    (|p| p.pad_bottom = usize::MAX, OVERFLOW, &["pad_bottom", SIZE_MAX]),
    (|p| p.pad_left = usize::MAX, OVERFLOW, &["pad_left", SIZE_MAX]),
    (|p| p.pad_right = usize::MAX, OVERFLOW, &["pad_right", SIZE_MAX]),
    (|p| p.dilation_height = usize::MAX, OVERFLOW, &["dilation_height", SIZE_MAX]),
    (|p| p.dilation_width = usize::MAX, OVERFLOW, &["dilation_width", SIZE_MAX]),
    (|p| (p.batch, p.channels) = (1 << 40, 1 << 30), OVERFLOW, &["x", "1099511627776"]),
    (|p| (p.batch, p.stride_width) = (0, 0), INVALID, &["stride_width", "0"]),
    // A place of 2^31 is no int32_t.
    (
        |p| {
            (p.in_height, p.in_width) = (1 << 16, 1 << 15);
            (p.kernel_height, p.kernel_width) = (1 << 16, 1 << 15);
        },
        OVERFLOW,
        &["kernel_height", "65536", "32768"],
    ),
];

/// What max-pooling refuses besides.
pub const ARGMAX_TYPES: &[Case<Pool>] = &[
    (|p| p.argmax_type = 2, INVALID, &["argmax_type", "2", "CNNKERN_ARGMAX_U8"]),
    (|p| p.argmax_type = -1, INVALID, &["argmax_type", "-1"]),
];

/// A place of 256 is no uint8_t.
const LARGE_WINDOW: &[Case<Pool>] = &[(
    |p| {
        (p.in_height, p.in_width, p.kernel_height, p.kernel_width) = (17, 16, 17, 16);
        p.argmax_type = CNNKERN_ARGMAX_U8;
    },
    INVALID,
    &["argmax_type", "256", "17", "16"],
)];

struct PoolOutputSize {
    params: *mut Pool,
    out_height: *mut usize,
    out_width: *mut usize,
}

impl Call for PoolOutputSize {
    fn new(memory: &mut Memory) -> Self {
        PoolOutputSize {
            params: memory.slot_with(0, pool_params()),
            out_height: memory.slot(1),
            out_width: memory.slot(2),
        }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { cnnkern_pool2d_output_size(self.params, self.out_height, self.out_width) }
    }
}

impl Params<Pool> for PoolOutputSize {
    fn params(&mut self) -> *mut Pool {
        self.params
    }
}

#[test]
fn pool2d_output_size() {
    refuse_params::<Pool, PoolOutputSize>(POOLS);
    refuse::<PoolOutputSize>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.out_height = null_mut(), NULL, &["out_height"]),
        (|c| c.out_width = null_mut(), NULL, &["out_width"]),
        (|c| c.out_width = c.out_height, INVALID, &["out_height", "out_width", "overlap"]),
    ]);
}

struct MaxForward {
    params: *mut Pool,
    x: *const Real,
    y: *mut Real,
    argmax: *mut c_void,
}

impl Call for MaxForward {
    fn new(memory: &mut Memory) -> Self {
        MaxForward {
            params: memory.slot_with(0, pool_params()),
            x: memory.slot(1),
            y: memory.slot(2),
            argmax: memory.slot(3),
        }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { maxpool2d_forward(null_mut(), self.params, self.x, self.y, self.argmax) }
    }
}

impl Params<Pool> for MaxForward {
    fn params(&mut self) -> *mut Pool {
        self.params
    }
}

#[test]
fn maxpool2d_forward_() {
    refuse_params::<Pool, MaxForward>(POOLS);
    refuse_params::<Pool, MaxForward>(ARGMAX_TYPES);
    refuse_params::<Pool, MaxForward>(LARGE_WINDOW);
    refuse::<MaxForward>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.x = null(), NULL, &["x"]),
        (|c| c.y = null_mut(), NULL, &["y"]),
        (|c| c.y = misaligned(c.y), INVALID, &["y", "aligned"]),
        (|c| c.argmax = misaligned(c.argmax), INVALID, &["argmax", "aligned"]),
        (|c| c.y = shifted(c.x), INVALID, &["y", "x", "overlap"]),
        (|c| c.argmax = c.y.cast(), INVALID, &["y", "argmax", "overlap"]),
        (|c| c.argmax = shifted(c.x).cast(), INVALID, &["argmax", "x", "overlap"]),
    ]);
    accept::<MaxForward>(&[
        |c| c.argmax = null_mut(),
        // SAFETY: good parameters.
        |c| unsafe {
            (*c.params).argmax_type = CNNKERN_ARGMAX_U8;
            c.argmax = misaligned(c.argmax);
        },
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.x, c.y, c.argmax) = (null(), null_mut(), null_mut());
        },
    ]);
}

struct MaxBackward {
    params: *mut Pool,
    dy: *const Real,
    argmax: *mut i32,
    dx: *mut Real,
}

impl MaxBackward {
    fn place(&mut self, index: usize, place: i32) {
        // SAFETY: indices are below 8.
        unsafe { self.argmax.add(index).write(place) };
    }

    /// Makes it an argmax of bytes.
    fn places(&mut self, places: [u8; 8]) {
        // SAFETY: good pointers.
        unsafe {
            (*self.params).argmax_type = CNNKERN_ARGMAX_U8;
            self.argmax.cast::<[u8; 8]>().write(places);
        }
    }
}

impl Call for MaxBackward {
    fn new(memory: &mut Memory) -> Self {
        MaxBackward {
            params: memory.slot_with(0, pool_params()),
            dy: memory.slot(1),
            argmax: memory.slot_with(2, [0, 1, 2, 3, 3, 2, 1, 0i32]).cast(),
            dx: memory.slot(3),
        }
    }

    fn call(&self) -> cnnkern_status {
        let MaxBackward { params, dy, argmax, dx } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { maxpool2d_backward(null_mut(), params, dy, argmax.cast(), dx) }
    }
}

impl Params<Pool> for MaxBackward {
    fn params(&mut self) -> *mut Pool {
        self.params
    }
}

#[test]
fn maxpool2d_backward_() {
    refuse_params::<Pool, MaxBackward>(POOLS);
    refuse_params::<Pool, MaxBackward>(ARGMAX_TYPES);
    refuse_params::<Pool, MaxBackward>(LARGE_WINDOW);
    refuse::<MaxBackward>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.dy = null(), NULL, &["dy"]),
        (|c| c.argmax = null_mut(), NULL, &["argmax"]),
        (|c| c.dx = null_mut(), NULL, &["dx"]),
        (|c| c.argmax = misaligned(c.argmax), INVALID, &["argmax", "aligned"]),
        (|c| c.dx = misaligned(c.dx), INVALID, &["dx", "aligned"]),
        (|c| c.dx = shifted(c.dy), INVALID, &["dx", "dy", "overlap"]),
        (|c| c.dx = c.argmax.cast(), INVALID, &["dx", "argmax", "overlap"]),
        // The window has the places 0 to 3.
        (|c| c.place(7, 4), INVALID, &["argmax", "4", "7"]),
        (|c| c.place(3, -1), INVALID, &["argmax", "-1", "3"]),
        (|c| c.place(0, i32::MIN), INVALID, &["argmax", "-2147483648", "0"]),
        (|c| c.place(7, i32::MAX), INVALID, &["argmax", "2147483647", "7"]),
        (|c| c.places([0, 0, 0, 0, 0, 0, 0, 4]), INVALID, &["argmax", "4", "7"]),
        (|c| c.places([0, 255, 0, 0, 0, 0, 0, 0]), INVALID, &["argmax", "255", "1"]),
    ]);
    accept::<MaxBackward>(&[
        |c| c.places([3; 8]),
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.dy, c.argmax, c.dx) = (null(), null_mut(), null_mut());
        },
    ]);
}

/// The arguments of an average pooling, forward or backward.
struct Average<const BACKWARD: bool> {
    params: *mut Pool,
    from: *const Real,
    to: *mut Real,
}

impl<const BACKWARD: bool> Call for Average<BACKWARD> {
    fn new(memory: &mut Memory) -> Self {
        Average {
            params: memory.slot_with(0, pool_params()),
            from: memory.slot(1),
            to: memory.slot(2),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Average { params, from, to } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            match BACKWARD {
                true => avgpool2d_backward(null_mut(), params, from, to),
                false => avgpool2d_forward(null_mut(), params, from, to),
            }
        }
    }
}

impl<const BACKWARD: bool> Params<Pool> for Average<BACKWARD> {
    fn params(&mut self) -> *mut Pool {
        self.params
    }
}

fn accept_averages<const BACKWARD: bool>() {
    accept::<Average<BACKWARD>>(&[
        // SAFETY: good parameters.
        |c| unsafe { (*c.params).argmax_type = 99 },
        // SAFETY: good parameters.
        |c| unsafe {
            ((*c.params).batch, (*c.params).in_height) = (0, 1 << 40);
            (c.from, c.to) = (null(), null_mut());
        },
    ]);
}

#[test]
fn avgpool2d_forward_() {
    refuse_params::<Pool, Average<false>>(POOLS);
    refuse::<Average<false>>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.from = null(), NULL, &["x"]),
        (|c| c.to = null_mut(), NULL, &["y"]),
        (|c| c.to = misaligned(c.to), INVALID, &["y", "aligned"]),
        (|c| c.to = shifted(c.from), INVALID, &["y", "x", "overlap"]),
    ]);
    accept_averages::<false>();
}

#[test]
fn avgpool2d_backward_() {
    refuse_params::<Pool, Average<true>>(POOLS);
    refuse::<Average<true>>(&[
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.from = null(), NULL, &["dy"]),
        (|c| c.to = null_mut(), NULL, &["dx"]),
        (|c| c.to = misaligned(c.to), INVALID, &["dx", "aligned"]),
        (|c| c.to = shifted(c.from), INVALID, &["dx", "dy", "overlap"]),
    ]);
    accept_averages::<true>();
}

/// Matrix products, alone and (where `BATCHED`) two at a time: A [2, 3], B [3, 2], C [2, 2].
struct Gemm<const BATCHED: bool> {
    transposes: [cnnkern_transpose; 2],
    m: usize,
    n: usize,
    k: usize,
    alpha: Real,
    a: *const Real,
    lda: usize,
    b: *const Real,
    ldb: usize,
    beta: Real,
    c: *mut Real,
    ldc: usize,
    count: usize,
    stride_a: usize,
    stride_b: usize,
    stride_c: usize,
}

impl<const BATCHED: bool> Call for Gemm<BATCHED> {
    fn new(memory: &mut Memory) -> Self {
        let (a, b, c) = (memory.slot(1), memory.slot(2), memory.slot(3));
        Gemm {
            transposes: [CNNKERN_NO_TRANSPOSE, CNNKERN_NO_TRANSPOSE],
            m: 2,
            n: 2,
            k: 3,
            alpha: 1.0,
            a,
            lda: 4,
            b,
            ldb: 2,
            beta: 1.0,
            c,
            ldc: 2,
            count: 2,
            stride_a: 0,
            stride_b: 6,
            stride_c: 4,
        }
    }

    fn call(&self) -> cnnkern_status {
        let Gemm {
            transposes: [transa, transb], m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, ..
        } = *self;
        let Gemm { count, stride_a, stride_b, stride_c, .. } = *self;
        let context = null_mut();
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            match BATCHED {
                true => gemm_batched(
                    context, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, count,
                    stride_a, stride_b, stride_c,
                ),
                false => {
                    gemm(context, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
                }
            }
        }
    }
}

fn refuse_products<const BATCHED: bool>() {
    refuse::<Gemm<BATCHED>>(&[
        (|g| g.transposes[0] = 2, INVALID, &["transa", "2", "CNNKERN_TRANSPOSE"]),
        (|g| g.transposes[1] = -1, INVALID, &["transb", "-1", "CNNKERN_NO_TRANSPOSE"]),
        (|g| g.lda = 2, INVALID, &["lda", "2", "3"]),
        (|g| g.ldb = 1, INVALID, &["ldb", "1", "2"]),
        (|g| g.ldc = 1, INVALID, &["ldc", "1", "2"]),
        (|g| (g.transposes[0], g.lda) = (CNNKERN_TRANSPOSE, 1), INVALID, &["lda", "1", "2"]),
        (|g| (g.transposes[1], g.ldb) = (CNNKERN_TRANSPOSE, 2), INVALID, &["ldb", "2", "3"]),
        (|g| (g.n, g.ldc) = (0, 0), INVALID, &["ldc", "0", "1"]),
        (|g| (g.m, g.lda) = (0, 0), INVALID, &["lda", "0", "3"]),
        (|g| g.a = null(), NULL, &["a"]),
        (|g| g.b = null(), NULL, &["b"]),
        (|g| g.c = null_mut(), NULL, &["c"]),
        (|g| (g.k, g.c) = (0, null_mut()), NULL, &["c"]),
        (|g| g.a = misaligned(g.a.cast_mut()), INVALID, &["a", "aligned"]),
        (|g| g.b = misaligned(g.b.cast_mut()), INVALID, &["b", "aligned"]),
        (|g| g.c = misaligned(g.c), INVALID, &["c", "aligned"]),
        (|g| g.c = shifted(g.a), INVALID, &["c", "a", "overlap"]),
        (|g| g.c = shifted(g.b), INVALID, &["c", "b", "overlap"]),
        (|g| g.m = usize::MAX, OVERFLOW, &["a", SIZE_MAX]),
        (|g| (g.n, g.ldb) = (usize::MAX, usize::MAX), OVERFLOW, &["b", SIZE_MAX]),
        (|g| (g.k, g.m, g.ldc) = (0, usize::MAX, usize::MAX), OVERFLOW, &["c", SIZE_MAX]),
        (|g| (g.k, g.lda) = (usize::MAX, usize::MAX), OVERFLOW, &["a", SIZE_MAX]),
        (|g| g.lda = usize::MAX, OVERFLOW, &["a", "lda", SIZE_MAX]),
        (|g| g.ldb = usize::MAX, OVERFLOW, &["b", "ldb", SIZE_MAX]),
        (|g| g.ldc = usize::MAX, OVERFLOW, &["c", "ldc", SIZE_MAX]),
        // Elements that can be counted, bytes that cannot.
        (|g| g.ldc = 1 << 62, OVERFLOW, &["c", "ldc", "4611686018427387904"]),
        // A product that is not wanted has bad arguments all the same.
        (|g| (g.alpha, g.lda) = (0.0, 2), INVALID, &["lda", "2"]),
    ]);
    accept::<Gemm<BATCHED>>(&[
        |g| (g.m, g.a, g.b, g.c) = (0, null(), null(), null_mut()),
        |g| (g.n, g.a, g.b, g.c) = (0, null(), null(), null_mut()),
        |g| (g.k, g.a, g.b) = (0, null(), null()),
        |g| (g.alpha, g.a, g.b) = (0.0, null(), null()),
        |g| (g.alpha, g.a, g.b) = (0.0, g.c, g.c),
        |g| g.b = g.a,
    ]);
}

#[test]
fn gemm_() {
    refuse_products::<false>();
}

#[test]
fn gemm_batched_() {
    refuse_products::<true>();
    refuse::<Gemm<true>>(&[
        (|g| g.stride_c = 0, INVALID, &["stride_c", "0", "4"]),
        (|g| g.stride_c = 3, INVALID, &["stride_c", "3", "4"]),
        (|g| g.count = usize::MAX, OVERFLOW, &["b", SIZE_MAX]),
        (|g| g.stride_a = usize::MAX, OVERFLOW, &["a", SIZE_MAX]),
        (|g| g.stride_b = usize::MAX, OVERFLOW, &["b", SIZE_MAX]),
        (|g| g.stride_c = usize::MAX, OVERFLOW, &["c", SIZE_MAX]),
        // Only the second C overlaps A.
        (|g| g.a = g.c.wrapping_add(6), INVALID, &["c", "a", "overlap"]),
    ]);
    accept::<Gemm<true>>(&[
        |g| (g.count, g.a, g.b, g.c) = (0, null(), null(), null_mut()),
        |g| (g.count, g.stride_c) = (1, 0),
    ]);
}

#[test]
fn a_product_with_alpha_0_scales_c() {
    let mut c = [1.0, 2.0, 3.0, 4.0];
    let (context, none) = (null_mut(), null());
    // SAFETY: C is as large as it says.
    assert_ok(unsafe {
        gemm(context, 0, 0, 2, 2, 3, 0.0, none, 3, none, 2, 0.5, c.as_mut_ptr(), 2)
    });
    assert_eq!(c, [0.5, 1.0, 1.5, 2.0]);
}

/// ReLU over 4 elements.
struct ReluForward {
    count: usize,
    u: *const Real,
    y: *mut Real,
}

impl Call for ReluForward {
    fn new(memory: &mut Memory) -> Self {
        ReluForward { count: 4, u: memory.slot(1), y: memory.slot(2) }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { relu_forward(null_mut(), self.count, self.u, self.y) }
    }
}

#[test]
fn relu_forward_() {
    refuse::<ReluForward>(&[
        (|c| c.u = null(), NULL, &["u"]),
        (|c| c.y = null_mut(), NULL, &["y"]),
        (|c| c.count = usize::MAX, OVERFLOW, &["u", SIZE_MAX]),
        (|c| c.count = 1 << 61, OVERFLOW, &["u", "2305843009213693952"]),
        (|c| c.u = misaligned(c.y), INVALID, &["u", "aligned"]),
        (|c| c.y = misaligned(c.y), INVALID, &["y", "aligned"]),
        (|c| c.y = shifted(c.u), INVALID, &["y", "u", "overlap"]),
        (|c| c.u = shifted(c.y), INVALID, &["y", "u", "overlap"]),
    ]);
    accept::<ReluForward>(&[
        |c| c.y = c.u.cast_mut(),
        |c| (c.count, c.u, c.y) = (0, null(), null_mut()),
        // SAFETY: two arrays that touch.
        |c| c.y = unsafe { c.u.add(4) }.cast_mut(),
    ]);
}

/// The gradient of ReLU over 4 elements.
struct ReluBackward {
    count: usize,
    u_or_y: *const Real,
    dy: *const Real,
    dx: *mut Real,
}

impl Call for ReluBackward {
    fn new(memory: &mut Memory) -> Self {
        let (u_or_y, dy, dx) = (memory.slot(1), memory.slot(2), memory.slot(3));
        ReluBackward { count: 4, u_or_y, dy, dx }
    }

    fn call(&self) -> cnnkern_status {
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe { relu_backward(null_mut(), self.count, self.u_or_y, self.dy, self.dx) }
    }
}

#[test]
fn relu_backward_() {
    refuse::<ReluBackward>(&[
        (|c| c.u_or_y = null(), NULL, &["u_or_y"]),
        (|c| c.dy = null(), NULL, &["dy"]),
        (|c| c.dx = null_mut(), NULL, &["dx"]),
        (|c| c.count = usize::MAX, OVERFLOW, &["u_or_y", SIZE_MAX]),
        (|c| c.u_or_y = misaligned(c.dx), INVALID, &["u_or_y", "aligned"]),
        (|c| c.dy = misaligned(c.dx), INVALID, &["dy", "aligned"]),
        (|c| c.dx = misaligned(c.dx), INVALID, &["dx", "aligned"]),
        (|c| c.dx = shifted(c.dy), INVALID, &["dx", "dy", "overlap"]),
        (|c| c.dx = shifted(c.u_or_y), INVALID, &["dx", "u_or_y", "overlap"]),
        (|c| c.dx = c.u_or_y.cast_mut(), INVALID, &["dx", "u_or_y", "overlap"]),
        (|c| (c.dy, c.dx) = (c.u_or_y, c.u_or_y.cast_mut()), INVALID, &["dx", "u_or_y"]),
    ]);
    accept::<ReluBackward>(&[
        |c| c.dx = c.dy.cast_mut(),
        |c| c.dy = c.u_or_y,
        |c| (c.count, c.u_or_y, c.dy, c.dx) = (0, null(), null(), null_mut()),
    ]);
}
