//! Convolution and max-pooling as one step, in the precision of the module around.
//!
//! x [1, 2, 5, 5], w [2, 2, 2, 2], between them [1, 2, 4, 4]; y and argmax [1, 2, 2, 2].

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use cnnkern::ffi::*;

use super::numeric::*;
use super::*;
use crate::refused::*;

/// What both passes take, and refuse alike.
trait Step: Params<Conv> + Params<Pool> {
    fn conv(&mut self) -> &mut Conv {
        // SAFETY: arguments as they are made point to parameters, and no case that spoils the
        // pointer looks at them.
        unsafe { &mut *Params::<Conv>::params(self) }
    }

    fn pool(&mut self) -> &mut Pool {
        // SAFETY: as above.
        unsafe { &mut *Params::<Pool>::params(self) }
    }
}

fn refuse_both_shapes<C: Step>() {
    for cases in [WINDOWS, CONVOLUTIONS, BYTES, PRODUCTS] {
        refuse_params::<Conv, C>(cases);
    }
    for cases in [POOLS, ARGMAX_TYPES, OTHER_POOLS] {
        refuse_params::<Pool, C>(cases);
    }
    refuse::<C>(&[
        // Either has a batch of 0, but not both.
        (|c| c.conv().batch = 0, INVALID, &["pooling", "batch", "0", "1"]),
        (|c| c.pool().batch = 0, INVALID, &["pooling", "batch", "1", "0"]),
        (|c| c.conv().layout = CNNKERN_LAYOUT_NHWC, INVALID, &["pooling", "layout"]),
        (|c| c.conv().out_channels = 4, INVALID, &["pooling", "channels", "4", "2"]),
        (|c| c.conv().stride_height = 2, INVALID, &["pooling", "in_height", "2", "4"]),
        // A place of 256 is no uint8_t.
        (
            |c| {
                (c.conv().in_height, c.conv().in_width) = (18, 17);
                (c.pool().in_height, c.pool().in_width) = (17, 16);
                (c.pool().kernel_height, c.pool().kernel_width) = (17, 16);
                c.pool().argmax_type = CNNKERN_ARGMAX_U8;
            },
            INVALID,
            &["argmax_type", "256", "17", "16"],
        ),
        // Winograd's transforms know neither this window nor a stride.
        (|c| c.conv().algorithm = CNNKERN_ALGORITHM_WINOGRAD, UNSUPPORTED, &["algorithm"]),
        (
            |c| {
                let conv = c.conv();
                (conv.in_height, conv.kernel_height, conv.stride_height) = (9, 3, 2);
                (conv.in_width, conv.kernel_width, conv.stride_width) = (9, 3, 2);
                conv.algorithm = CNNKERN_ALGORITHM_WINOGRAD;
            },
            UNSUPPORTED,
            &["algorithm"],
        ),
    ]);
}

/// Poolings, but not of what the convolution gives.
const OTHER_POOLS: &[Case<Pool>] = &[
    (|p| p.batch = 2, INVALID, &["pooling", "batch", "1", "2"]),
    (|p| p.channels = 3, INVALID, &["pooling", "channels", "2", "3"]),
    (|p| p.in_height = 5, INVALID, &["pooling", "in_height", "4", "5"]),
    (|p| p.in_width = 3, INVALID, &["pooling", "in_width", "4", "3"]),
    (|p| p.layout = CNNKERN_LAYOUT_NHWC, INVALID, &["pooling", "layout"]),
];

struct Forward {
    context: *mut cnnkern_context,
    params: *mut Conv,
    pool: *mut Pool,
    x: *const Real,
    w: *const Real,
    bias: *const Real,
    activation: cnnkern_activation,
    y: *mut Real,
    argmax: *mut c_void,
}

impl Call for Forward {
    fn new(memory: &mut Memory) -> Self {
        Forward {
            context: null_mut(),
            params: memory.slot_with(0, conv_params()),
            pool: memory.slot_with(1, pool_params()),
            x: memory.slot(2),
            w: memory.slot(3),
            bias: memory.slot(4),
            activation: CNNKERN_ACTIVATION_RELU,
            y: memory.slot(5),
            argmax: memory.slot(6),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Forward { context, params, pool, x, w, bias, activation, y, argmax } = *self;
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            conv2d_maxpool2d_forward(context, params, pool, x, w, bias, activation, y, argmax)
        }
    }
}

impl Params<Conv> for Forward {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

impl Params<Pool> for Forward {
    fn params(&mut self) -> *mut Pool {
        self.pool
    }
}

impl Step for Forward {}

#[test]
fn conv2d_maxpool2d_forward_() {
    refuse_both_shapes::<Forward>();
    refuse::<Forward>(&[
        (|c| c.context = misaligned(c.y.cast()), INVALID, &["context", "aligned"]),
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.pool = null_mut(), NULL, &["pool"]),
        (|c| c.x = null(), NULL, &["x"]),
        (|c| c.w = null(), NULL, &["w"]),
        (|c| c.y = null_mut(), NULL, &["y"]),
        (|c| c.activation = 2, INVALID, &["activation", "2", "CNNKERN_ACTIVATION_RELU"]),
        (|c| c.activation = -7, INVALID, &["activation", "-7"]),
        (|c| c.params = misaligned(c.params), INVALID, &["params", "aligned"]),
        (|c| c.pool = misaligned(c.pool), INVALID, &["pool", "aligned"]),
        (|c| c.x = misaligned(c.x.cast_mut()), INVALID, &["x", "aligned"]),
        (|c| c.w = misaligned(c.w.cast_mut()), INVALID, &["w", "aligned"]),
        (|c| c.bias = misaligned(c.bias.cast_mut()), INVALID, &["bias", "aligned"]),
        (|c| c.y = misaligned(c.y), INVALID, &["y", "aligned"]),
        (|c| c.argmax = misaligned(c.argmax), INVALID, &["argmax", "aligned"]),
        (|c| c.y = c.argmax.cast(), INVALID, &["y", "argmax", "overlap"]),
        (|c| c.y = shifted(c.x), INVALID, &["y", "x", "overlap"]),
        (|c| c.y = shifted(c.w), INVALID, &["y", "w", "overlap"]),
        (|c| c.bias = shifted(c.y), INVALID, &["y", "bias", "overlap"]),
        (|c| c.argmax = shifted(c.x).cast(), INVALID, &["argmax", "x", "overlap"]),
        (|c| c.argmax = shifted(c.w).cast(), INVALID, &["argmax", "w", "overlap"]),
        (|c| c.argmax = c.bias.cast_mut().cast(), INVALID, &["argmax", "bias", "overlap"]),
        // The last byte of y is the first of the places.
        (
            |c| {
                c.pool().argmax_type = CNNKERN_ARGMAX_U8;
                c.argmax = c.y.wrapping_add(8).wrapping_byte_sub(1).cast();
            },
            INVALID,
            &["y", "argmax", "overlap"],
        ),
        (|c| c.x = (usize::MAX - 15) as *const Real, OVERFLOW, &["x", "0xfffffffffffffff0"]),
        (|c| c.argmax = (usize::MAX - 15) as *mut c_void, OVERFLOW, &["argmax"]),
    ]);
    accept::<Forward>(&[
        |c| c.bias = null(),
        |c| c.argmax = null_mut(),
        |c| c.w = c.x,
        // Bytes are never misaligned.
        |c| {
            c.pool().argmax_type = CNNKERN_ARGMAX_U8;
            c.argmax = misaligned(c.argmax);
        },
        |c| {
            (c.conv().batch, c.pool().batch) = (0, 0);
            (c.x, c.w, c.bias, c.y, c.argmax) = (null(), null(), null(), null_mut(), null_mut());
        },
    ]);
}

struct Backward {
    context: *mut cnnkern_context,
    params: *mut Conv,
    pool: *mut Pool,
    x: *const Real,
    w: *const Real,
    dy: *const Real,
    argmax: *mut i32,
    relu_output: *const Real,
    options: *const cnnkern_conv2d_gradient_options,
    dx: *mut Real,
    dw: *mut Real,
    db: *mut Real,
}

impl Backward {
    fn place(&mut self, index: usize, place: i32) {
        // SAFETY: indices are below 8.
        unsafe { self.argmax.add(index).write(place) };
    }

    /// Makes it an argmax of bytes.
    fn places(&mut self, places: [u8; 8]) {
        self.pool().argmax_type = CNNKERN_ARGMAX_U8;
        // SAFETY: a good pointer.
        unsafe { self.argmax.cast::<[u8; 8]>().write(places) };
    }

    /// Wants those gradients alone.
    fn want(&mut self, wanted: [bool; 3]) {
        for (gradient, wanted) in [&mut self.dx, &mut self.dw, &mut self.db].into_iter().zip(wanted)
        {
            if !wanted {
                *gradient = null_mut();
            }
        }
    }
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
            pool: memory.slot_with(1, pool_params()),
            x: memory.slot(2),
            w: memory.slot(3),
            dy: memory.slot(4),
            argmax: memory.slot_with(5, [0, 1, 2, 3, 3, 2, 1, 0i32]).cast(),
            relu_output: memory.slot(6),
            options: memory.slot_with(7, options),
            dx: memory.slot(8),
            dw: memory.slot(9),
            db: memory.slot(10),
        }
    }

    fn call(&self) -> cnnkern_status {
        let Backward { context, params, pool, x, w, dy, argmax, relu_output, .. } = *self;
        let Backward { options, dx, dw, db, .. } = *self;
        let argmax = argmax.cast();
        // SAFETY: pointers that are neither NULL nor misaligned point into the memory.
        unsafe {
            conv2d_maxpool2d_backward(
                context,
                params,
                pool,
                x,
                w,
                dy,
                argmax,
                relu_output,
                options,
                dx,
                dw,
                db,
            )
        }
    }
}

impl Params<Conv> for Backward {
    fn params(&mut self) -> *mut Conv {
        self.params
    }
}

impl Params<Pool> for Backward {
    fn params(&mut self) -> *mut Pool {
        self.pool
    }
}

impl Step for Backward {}

#[test]
fn conv2d_maxpool2d_backward_() {
    refuse_both_shapes::<Backward>();
    refuse::<Backward>(&[
        (|c| c.context = misaligned(c.dx.cast()), INVALID, &["context", "aligned"]),
        (|c| c.params = null_mut(), NULL, &["params"]),
        (|c| c.pool = null_mut(), NULL, &["pool"]),
        (|c| c.x = null(), NULL, &["x"]),
        (|c| c.w = null(), NULL, &["w"]),
        (|c| c.dy = null(), NULL, &["dy"]),
        (|c| c.argmax = null_mut(), NULL, &["argmax"]),
        (|c| c.params = misaligned(c.params), INVALID, &["params", "aligned"]),
        (|c| c.pool = misaligned(c.pool), INVALID, &["pool", "aligned"]),
        (|c| c.x = misaligned(c.x.cast_mut()), INVALID, &["x", "aligned"]),
        (|c| c.w = misaligned(c.w.cast_mut()), INVALID, &["w", "aligned"]),
        (|c| c.dy = misaligned(c.dy.cast_mut()), INVALID, &["dy", "aligned"]),
        (|c| c.argmax = misaligned(c.argmax), INVALID, &["argmax", "aligned"]),
        (
            |c| c.relu_output = misaligned(c.relu_output.cast_mut()),
            INVALID,
            &["relu_output", "aligned"],
        ),
        (|c| c.options = misaligned(c.options.cast_mut()), INVALID, &["options", "aligned"]),
        (|c| c.dx = misaligned(c.dx), INVALID, &["dx", "aligned"]),
        (|c| c.dw = misaligned(c.dw), INVALID, &["dw", "aligned"]),
        (|c| c.db = misaligned(c.db), INVALID, &["db", "aligned"]),
        (|c| c.dy = (usize::MAX - 15) as *const Real, OVERFLOW, &["dy", "0xfffffffffffffff0"]),
        // Not what is wanted alone decides what is refused.
        (
            |c| {
                c.want([false, true, false]);
                c.conv().algorithm = CNNKERN_ALGORITHM_WINOGRAD;
            },
            UNSUPPORTED,
            &["algorithm"],
        ),
    ]);
    accept::<Backward>(&[
        |c| (c.relu_output, c.options) = (null(), null()),
        |c| (c.dx, c.w) = (null_mut(), null()),
        |c| (c.dw, c.x) = (null_mut(), null()),
        // What is not read may be anything.
        |c| (c.dw, c.x) = (null_mut(), c.dx),
        |c| (c.dx, c.dw, c.x, c.w) = (null_mut(), null_mut(), null(), null()),
        |c| c.want([false; 3]),
        |c| c.relu_output = c.dy,
        |c| {
            (c.conv().batch, c.pool().batch) = (0, 0);
            (c.x, c.w, c.dy, c.argmax) = (null(), null(), null(), null_mut());
            (c.relu_output, c.options) = (null(), null());
            c.want([false; 3]);
        },
    ]);
}

#[test]
fn conv2d_maxpool2d_gradients_that_overlap() {
    refuse::<Backward>(&[
        (|c| c.dx = shifted(c.dw), INVALID, &["dx", "dw", "overlap"]),
        (|c| c.db = shifted(c.dx), INVALID, &["dx", "db", "overlap"]),
        (|c| c.db = shifted(c.dw), INVALID, &["dw", "db", "overlap"]),
        (|c| c.dx = c.x.cast_mut(), INVALID, &["dx", "x", "overlap"]),
        (|c| c.dx = shifted(c.w), INVALID, &["dx", "w", "overlap"]),
        (|c| c.dx = shifted(c.dy), INVALID, &["dx", "dy", "overlap"]),
        (|c| c.dx = c.argmax.cast(), INVALID, &["dx", "argmax", "overlap"]),
        (|c| c.dx = shifted(c.relu_output), INVALID, &["dx", "relu_output", "overlap"]),
        (|c| c.dw = shifted(c.x), INVALID, &["dw", "x", "overlap"]),
        (|c| c.dw = c.w.cast_mut(), INVALID, &["dw", "w", "overlap"]),
        (|c| c.dw = shifted(c.dy), INVALID, &["dw", "dy", "overlap"]),
        (|c| c.dw = c.argmax.cast(), INVALID, &["dw", "argmax", "overlap"]),
        (|c| c.dw = shifted(c.relu_output), INVALID, &["dw", "relu_output", "overlap"]),
        (|c| c.db = shifted(c.x), INVALID, &["db", "x", "overlap"]),
        (|c| c.db = shifted(c.w), INVALID, &["db", "w", "overlap"]),
        (|c| c.db = shifted(c.dy), INVALID, &["db", "dy", "overlap"]),
        (|c| c.db = c.argmax.cast(), INVALID, &["db", "argmax", "overlap"]),
        (|c| c.db = c.relu_output.cast_mut(), INVALID, &["db", "relu_output", "overlap"]),
    ]);
}

/// The window has the places 0 to 3.
#[test]
fn conv2d_maxpool2d_places_outside_their_windows() {
    refuse::<Backward>(&[
        (|c| c.place(7, 4), INVALID, &["argmax", "4", "7"]),
        (|c| c.place(3, -1), INVALID, &["argmax", "-1", "3"]),
        (|c| c.place(0, i32::MIN), INVALID, &["argmax", "-2147483648", "0"]),
        (|c| c.place(7, i32::MAX), INVALID, &["argmax", "2147483647", "7"]),
        (|c| c.places([0, 0, 0, 0, 0, 0, 0, 4]), INVALID, &["argmax", "4", "7"]),
        (|c| c.places([0, 255, 0, 0, 0, 0, 0, 0]), INVALID, &["argmax", "255", "1"]),
        // Whichever gradient is wanted.
        (|c| (c.place(7, 4), c.want([true, false, false])).1, INVALID, &["argmax", "4", "7"]),
        (|c| (c.place(7, 4), c.want([false, true, false])).1, INVALID, &["argmax", "4", "7"]),
        (|c| (c.place(7, 4), c.want([false, false, true])).1, INVALID, &["argmax", "4", "7"]),
        (
            |c| {
                c.place(7, 4);
                c.conv().algorithm = CNNKERN_ALGORITHM_REFERENCE;
            },
            INVALID,
            &["argmax", "4", "7"],
        ),
    ]);
    accept::<Backward>(&[|c| c.places([3; 8])]);
}
