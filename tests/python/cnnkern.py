"""cnnkern from Python: include/cnnkern.h through ctypes, on NumPy arrays.

One file, to be copied. The functions are the header's, without the prefix and without the _f32 or
_f64, which the arrays decide. Outputs are arrays that the caller passes; None stands for NULL.
A status other than OK is raised as `Error`. `lib` has the plain C functions.

The library is $CNNKERN_LIBRARY, or else the one that `cargo build --release` makes in the
repository around this file, or else the libcnnkern.so.0 that the loader finds.
"""

import ctypes
import math
import os
import pathlib
from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_double, c_float, c_int32, c_size_t, c_void_p

import numpy as np

STATUS_OK = 0
STATUS_NULL_POINTER = 1
STATUS_INVALID_ARGUMENT = 2
STATUS_SIZE_OVERFLOW = 3
STATUS_OUT_OF_MEMORY = 4
STATUS_UNSUPPORTED = 5
STATUS_INTERNAL = 6

LAYOUT_NCHW = 0
LAYOUT_NHWC = 1

FILTER_OIHW = 0
FILTER_OHWI = 1
FILTER_HWIO = 2

ALGORITHM_AUTO = 0
ALGORITHM_REFERENCE = 1
ALGORITHM_GEMM = 2
ALGORITHM_WINOGRAD = 3

PASS_FORWARD = 0
PASS_BACKWARD_DATA = 1
PASS_BACKWARD_WEIGHTS = 2

ACTIVATION_NONE = 0
ACTIVATION_RELU = 1

COL_PATCH_ROWS = 0
COL_PATCH_COLUMNS = 1
COL_PER_IMAGE = 2

POOL_PADDING_EXCLUDED = 0
POOL_PADDING_ZERO = 1

ARGMAX_I32 = 0
ARGMAX_U8 = 1

NO_TRANSPOSE = 0
TRANSPOSE = 1


class Error(Exception):
    """A call that was refused: its status, and the library's sentence about it."""

    def __init__(self, status):
        self.status = status
        self.name = lib.cnnkern_status_name(status).decode()
        self.message = lib.cnnkern_last_error().decode()
        super().__init__(f"{self.name}: {self.message}")


# Structs and callbacks, field by field as in the header.

Task = CFUNCTYPE(None, c_void_p, c_size_t)
ParallelFor = CFUNCTYPE(None, c_void_p, c_size_t, Task, c_void_p)


class ContextOptions(ctypes.Structure):
    _fields_ = [("num_threads", c_size_t), ("parallel_for", ParallelFor), ("user_data", c_void_p)]


class Conv2dParams(ctypes.Structure):
    _fields_ = [
        *[(name, c_size_t) for name in (
            "batch", "in_channels", "in_height", "in_width",
            "out_channels", "kernel_height", "kernel_width",
            "stride_height", "stride_width",
            "pad_top", "pad_bottom", "pad_left", "pad_right",
            "dilation_height", "dilation_width",
            "groups",
        )],
        ("layout", c_int32),
        ("filter_layout", c_int32),
        ("algorithm", c_int32),
    ]


class Conv2dGradientOptions(ctypes.Structure):
    _fields_ = [(name, c_double) for name in (
        "dx_alpha", "dx_beta", "dw_alpha", "dw_beta", "db_alpha", "db_beta",
    )]

    def __init__(self, dx_alpha=1, dx_beta=0, dw_alpha=1, dw_beta=0, db_alpha=1, db_beta=0):
        super().__init__(dx_alpha, dx_beta, dw_alpha, dw_beta, db_alpha, db_beta)


class Pool2dParams(ctypes.Structure):
    _fields_ = [
        *[(name, c_size_t) for name in (
            "batch", "channels", "in_height", "in_width",
            "kernel_height", "kernel_width", "stride_height", "stride_width",
            "pad_top", "pad_bottom", "pad_left", "pad_right",
            "dilation_height", "dilation_width",
        )],
        ("ceil_mode", c_int32),
        ("padding", c_int32),
        ("argmax_type", c_int32),
        ("layout", c_int32),
    ]


# The C functions.

def _load():
    path = os.environ.get("CNNKERN_LIBRARY")
    built = pathlib.Path(__file__).resolve().parents[2] / "target/release/libcnnkern.so"
    return ctypes.CDLL(path or (built if built.exists() else "libcnnkern.so.0"))


def _declare(name, result, *arguments):
    function = getattr(lib, name)
    function.restype = result
    function.argtypes = arguments


lib = _load()

_conv2d = POINTER(Conv2dParams)
_pool2d = POINTER(Pool2dParams)
_options = POINTER(Conv2dGradientOptions)
_extent = POINTER(c_size_t)
_context = c_void_p
_array = c_void_p

_declare("cnnkern_status_name", c_char_p, c_int32)
_declare("cnnkern_last_error", c_char_p)
_declare("cnnkern_version", c_char_p)
_declare("cnnkern_abi_version", ctypes.c_uint32)
_declare("cnnkern_context_create", c_int32, POINTER(ContextOptions), c_size_t, POINTER(_context))
_declare("cnnkern_context_destroy", None, _context)
_declare("cnnkern_context_num_threads", c_size_t, _context)
_declare("cnnkern_context_isa", c_char_p, _context)
_declare("cnnkern_conv2d_params_default", Conv2dParams, *[c_size_t] * 7)
_declare("cnnkern_conv2d_output_size", c_int32, _conv2d, _extent, _extent)
_declare("cnnkern_col_len", c_int32, _conv2d, _extent)
_declare("cnnkern_pool2d_params_default", Pool2dParams, *[c_size_t] * 6)
_declare("cnnkern_pool2d_output_size", c_int32, _pool2d, _extent, _extent)
for _suffix, _scalar in (("f32", c_float), ("f64", c_double)):
    _conv = [_context, _conv2d]
    _pool = [_context, _pool2d]
    _gemm = [_context, c_int32, c_int32, c_size_t, c_size_t, c_size_t,
             _scalar, _array, c_size_t, _array, c_size_t, _scalar, _array, c_size_t]
    for _name, _arguments in {
        "conv2d_query": [*_conv, c_int32, *[_array] * 3],
        "conv2d_forward": [*_conv, _array, _array, _array, c_int32, _array],
        "conv2d_backward": [*_conv, *[_array] * 4, _options, *[_array] * 3],
        "conv2d_maxpool2d_forward": [*_conv, _pool2d, *[_array] * 3, c_int32, *[_array] * 2],
        "conv2d_maxpool2d_backward": [*_conv, _pool2d, *[_array] * 5, _options, *[_array] * 3],
        "im2col": [*_conv, c_int32, _array, _array],
        "col2im": [*_conv, c_int32, _array, _array],
        "maxpool2d_forward": [*_pool, _array, _array, _array],
        "maxpool2d_backward": [*_pool, _array, _array, _array],
        "avgpool2d_forward": [*_pool, _array, _array],
        "avgpool2d_backward": [*_pool, _array, _array],
        "gemm": _gemm,
        "gemm_batched": [*_gemm, *[c_size_t] * 4],
        "relu_forward": [_context, c_size_t, _array, _array],
        "relu_backward": [_context, c_size_t, _array, _array, _array],
    }.items():
        _declare(f"cnnkern_{_name}_{_suffix}", c_int32, *_arguments)


# The same on NumPy arrays. C trusts sizes, so they are checked here.

def check(status):
    if status != STATUS_OK:
        raise Error(status)


def version():
    return lib.cnnkern_version().decode()


class Context:
    """Threads and scratch memory. `parallel_for(count, task)` replaces the threads: it calls
    task(i) once for each i below count and returns when all are done."""

    def __init__(self, num_threads=0, parallel_for=None):
        def call_back(_user_data, count, task, task_data):
            parallel_for(count, lambda index: task(task_data, index))

        # The library keeps the function pointer, so the object behind it must live as long.
        self._call_back = ParallelFor(call_back) if parallel_for else ParallelFor()
        options = ContextOptions(num_threads, self._call_back, None)
        self.handle = _context()
        check(lib.cnnkern_context_create(byref(options), ctypes.sizeof(options), byref(self.handle)))

    @property
    def num_threads(self):
        return lib.cnnkern_context_num_threads(self.handle)

    @property
    def isa(self):
        return lib.cnnkern_context_isa(self.handle).decode()

    def close(self):
        lib.cnnkern_context_destroy(self.handle)
        self.handle = _context()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


def conv2d_params(batch, in_channels, in_height, in_width, out_channels,
                  kernel_height, kernel_width, **changes):
    """The defaults, with the fields named in `changes` set."""
    return _changed(lib.cnnkern_conv2d_params_default(
        batch, in_channels, in_height, in_width, out_channels, kernel_height, kernel_width), changes)


def pool2d_params(batch, channels, in_height, in_width, kernel_height, kernel_width, **changes):
    """The defaults, with the fields named in `changes` set."""
    return _changed(lib.cnnkern_pool2d_params_default(
        batch, channels, in_height, in_width, kernel_height, kernel_width), changes)


def _changed(params, changes):
    for name, value in changes.items():
        if not hasattr(params, name):
            raise TypeError(f"{type(params).__name__} has no field {name}")
        setattr(params, name, value)
    return params


def conv2d_output_size(params):
    height, width = c_size_t(), c_size_t()
    check(lib.cnnkern_conv2d_output_size(byref(params), byref(height), byref(width)))
    return height.value, width.value


def pool2d_output_size(params):
    height, width = c_size_t(), c_size_t()
    check(lib.cnnkern_pool2d_output_size(byref(params), byref(height), byref(width)))
    return height.value, width.value


def conv2d_forward(params, x, w, bias, y, activation=ACTIVATION_NONE, context=None):
    size = _conv2d_sizes(params)
    _call("conv2d_forward", context, y.dtype, byref(params),
          _in(x, size["x"], y), _in(w, size["w"], y), _in(bias, params.out_channels, y),
          activation, _out(y, size["y"], y))


def conv2d_backward(params, x, w, dy, *, relu_output=None, options=None,
                    dx=None, dw=None, db=None, context=None):
    size = _conv2d_sizes(params)
    _call("conv2d_backward", context, dy.dtype, byref(params),
          _in(x, size["x"], dy), _in(w, size["w"], dy), _in(dy, size["y"], dy),
          _in(relu_output, size["y"], dy), byref(options) if options else None,
          _out(dx, size["x"], dy), _out(dw, size["w"], dy), _out(db, params.out_channels, dy))


def col_len(params):
    length = c_size_t()
    check(lib.cnnkern_col_len(byref(params), byref(length)))
    return length.value


def im2col(params, col_layout, x, col, context=None):
    _call("im2col", context, x.dtype, byref(params), col_layout,
          _in(x, _conv2d_x_size(params), x), _out(col, col_len(params), x))


def col2im(params, col_layout, col, x, context=None):
    _call("col2im", context, x.dtype, byref(params), col_layout,
          _in(col, col_len(params), x), _out(x, _conv2d_x_size(params), x))


def maxpool2d_forward(params, x, y, argmax=None, context=None):
    size = _pool2d_sizes(params)
    _call("maxpool2d_forward", context, x.dtype, byref(params), _in(x, size["x"], x),
          _out(y, size["y"], x), _out(argmax, size["y"], _argmax_like(params)))


def maxpool2d_backward(params, dy, argmax, dx, context=None):
    size = _pool2d_sizes(params)
    _call("maxpool2d_backward", context, dy.dtype, byref(params), _in(dy, size["y"], dy),
          _in(argmax, size["y"], _argmax_like(params)), _out(dx, size["x"], dy))


def conv2d_maxpool2d_forward(params, pool, x, w, bias, y, argmax=None,
                             activation=ACTIVATION_NONE, context=None):
    size, pooled = _conv2d_sizes(params), _pool2d_sizes(pool)["y"]
    _call("conv2d_maxpool2d_forward", context, y.dtype, byref(params), byref(pool),
          _in(x, size["x"], y), _in(w, size["w"], y), _in(bias, params.out_channels, y),
          activation, _out(y, pooled, y), _out(argmax, pooled, _argmax_like(pool)))


def conv2d_maxpool2d_backward(params, pool, x, w, dy, argmax, *, relu_output=None, options=None,
                              dx=None, dw=None, db=None, context=None):
    size, pooled = _conv2d_sizes(params), _pool2d_sizes(pool)["y"]
    _call("conv2d_maxpool2d_backward", context, dy.dtype, byref(params), byref(pool),
          _in(x, size["x"], dy), _in(w, size["w"], dy), _in(dy, pooled, dy),
          _in(argmax, pooled, _argmax_like(pool)), _in(relu_output, pooled, dy),
          byref(options) if options else None,
          _out(dx, size["x"], dy), _out(dw, size["w"], dy), _out(db, params.out_channels, dy))


def avgpool2d_forward(params, x, y, context=None):
    size = _pool2d_sizes(params)
    _call("avgpool2d_forward", context, x.dtype, byref(params),
          _in(x, size["x"], x), _out(y, size["y"], x))


def avgpool2d_backward(params, dy, dx, context=None):
    size = _pool2d_sizes(params)
    _call("avgpool2d_backward", context, dy.dtype, byref(params),
          _in(dy, size["y"], dy), _out(dx, size["x"], dy))


def gemm(a, b, c, *, alpha=1, beta=0, transa=False, transb=False, context=None):
    """c = alpha * op(a) @ op(b) + beta * c; slices of wider rows are fine."""
    (m, n), k = c.shape, a.shape[0 if transa else 1]
    if a.shape != ((k, m) if transa else (m, k)) or b.shape != ((n, k) if transb else (k, n)):
        raise ValueError(f"op({a.shape}) @ op({b.shape}) is no {c.shape}")
    _call("gemm", context, c.dtype, transa, transb, m, n, k, alpha,
          *_matrix(a, c), *_matrix(b, c), beta, *_matrix(c, c))


def gemm_batched(a, b, c, *, alpha=1, beta=0, transa=False, transb=False, context=None):
    """`gemm` for each c[i] of [count, m, n]; an a or b of two dimensions is shared by all."""
    (count, m, n), k = c.shape, a.shape[-2 if transa else -1]
    for array, shape in ((a, (k, m) if transa else (m, k)), (b, (n, k) if transb else (k, n))):
        if array.shape not in (shape, (count, *shape)):
            raise ValueError(f"op({a.shape}) @ op({b.shape}) is no {c.shape}")
    step = [array.shape[-2] * array.shape[-1] if array.ndim == 3 else 0 for array in (a, b, c)]
    _call("gemm_batched", context, c.dtype, transa, transb, m, n, k, alpha,
          _in(a, a.size, c), a.shape[-1], _in(b, b.size, c), b.shape[-1], beta,
          _out(c, c.size, c), n, count, *step)


def relu_forward(u, y, context=None):
    _call("relu_forward", context, u.dtype, u.size, _in(u, u.size, u), _out(y, u.size, u))


def relu_backward(u_or_y, dy, dx, context=None):
    _call("relu_backward", context, dy.dtype, dy.size, _in(u_or_y, dy.size, dy),
          _in(dy, dy.size, dy), _out(dx, dy.size, dy))


_SUFFIX = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64"}


def _call(operation, context, dtype, *arguments):
    if dtype not in _SUFFIX:
        raise TypeError(f"{operation} takes arrays of float32 or float64, not of {dtype}")
    function = getattr(lib, f"cnnkern_{operation}_{_SUFFIX[dtype]}")
    check(function(context.handle if context else None, *arguments))


def _in(array, size, like):
    """The address of an array of `size` elements of `like`'s type."""
    if array is None:
        return None
    if array.dtype != like.dtype or not array.flags.c_contiguous or array.size != size:
        raise ValueError(f"needs a contiguous array of {size} {like.dtype}, "
                         f"but got {array.dtype}{list(array.shape)} with strides {array.strides}")
    return array.ctypes.data


def _out(array, size, like):
    if array is not None and not array.flags.writeable:
        raise ValueError("an output is read-only")
    return _in(array, size, like)


def _matrix(array, like):
    """The address and the leading dimension of a matrix whose rows are contiguous."""
    rows, columns = array.shape
    if array.dtype != like.dtype or columns > 1 and array.strides[1] != array.itemsize:
        raise ValueError(f"needs contiguous rows of {like.dtype}, but got {array.dtype} "
                         f"with strides {array.strides}")
    leading = array.strides[0] // array.itemsize if rows > 1 else max(columns, 1)
    if leading < columns:
        raise ValueError(f"rows of {columns} elements overlap: strides {array.strides}")
    return array.ctypes.data, leading


def _argmax_like(params):
    return np.empty(0, np.uint8 if params.argmax_type == ARGMAX_U8 else np.int32)


def _conv2d_x_size(p):
    return p.batch * p.in_channels * p.in_height * p.in_width


def _conv2d_sizes(p):
    places = p.batch * math.prod(conv2d_output_size(p))
    patch = p.in_channels // p.groups * p.kernel_height * p.kernel_width
    return {"x": _conv2d_x_size(p), "w": p.out_channels * patch, "y": places * p.out_channels}


def _pool2d_sizes(p):
    return {
        "x": p.batch * p.channels * p.in_height * p.in_width,
        "y": p.batch * p.channels * math.prod(pool2d_output_size(p)),
    }
