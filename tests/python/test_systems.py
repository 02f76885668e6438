"""The five systems of systems.py beside the library: their numbers, convention by convention, in
f64 to 1e-12 and in f32 to 2e-5 of the largest element, for many shapes and on every instruction
set that the processor has."""

import os
import unittest
from dataclasses import astuple, dataclass, replace

import numpy as np

import cnnkern
import systems

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}
RANDOM_SHAPES = 50


def contexts():
    """A context on each instruction set; those that the processor lacks are named."""
    asked = os.environ.get("CNNKERN_ISA")
    made = []
    try:
        for isa in ("portable", "avx2", "avx512"):
            os.environ["CNNKERN_ISA"] = isa
            try:
                made.append(cnnkern.Context())
            except cnnkern.Error as error:
                print(f"skipped: the five systems in NumPy on {isa}: {error.message}", flush=True)
    finally:
        os.environ.pop("CNNKERN_ISA")
        if asked is not None:
            os.environ["CNNKERN_ISA"] = asked
    return made


@dataclass(frozen=True)
class Window:
    kernel: tuple
    stride: tuple = (1, 1)
    pad: tuple = (0, 0)

    def fields(self):
        """As fields of the library's params."""
        return dict(stride_height=self.stride[0], stride_width=self.stride[1],
                    pad_top=self.pad[0], pad_bottom=self.pad[0],
                    pad_left=self.pad[1], pad_right=self.pad[1])


@dataclass(frozen=True)
class Shape:
    batch: int
    channels: int
    height: int
    width: int
    window: Window
    filters: int = 1

    def params(self, **changes):
        return cnnkern.conv2d_params(*astuple(self)[:4], self.filters, *self.window.kernel,
                                     **self.window.fields(), **changes)


CONVOLUTIONS = [
    Shape(8, 1, 28, 28, Window((5, 5)), 6),
    Shape(4, 6, 12, 12, Window((5, 5)), 16),
    Shape(2, 16, 28, 28, Window((3, 3), pad=(1, 1)), 32),
    Shape(2, 3, 32, 32, Window((7, 7), (2, 2), (3, 3)), 8),
    Shape(4, 8, 15, 15, Window((1, 1), (2, 2)), 16),
    Shape(1, 1, 1, 1, Window((1, 1)), 1),
    Shape(3, 2, 1, 9, Window((1, 4), (1, 3), (0, 1)), 5),
    Shape(2, 3, 9, 7, Window((2, 3), (3, 2)), 4),        # strides that leave a rest
    Shape(2, 2, 8, 8, Window((2, 2), (5, 3)), 3),        # strides wider than the kernel
    Shape(2, 3, 4, 5, Window((3, 2), (2, 1), (5, 4)), 2),    # padding wider than the kernel
    Shape(2, 3, 2, 3, Window((6, 5), pad=(2, 1)), 4),    # a kernel larger than the image
    Shape(0, 3, 8, 8, Window((3, 3), pad=(1, 1)), 4),    # no image at all
]

POOLS = [
    Shape(8, 6, 24, 24, Window((2, 2), (2, 2))),
    Shape(4, 5, 13, 13, Window((3, 3), (2, 2), (1, 1))),     # overlap and padding
    Shape(2, 3, 7, 9, Window((5, 2), (1, 1))),
    Shape(2, 1, 1, 1, Window((1, 1))),
    Shape(3, 2, 5, 6, Window((2, 3), (3, 5))),           # cells that no window looks at
    Shape(2, 2, 4, 4, Window((2, 2), (1, 2), (4, 3))),   # windows of nothing but padding
    Shape(1, 2, 20, 20, Window((16, 16), (3, 1), (2, 0))),   # the most cells that a u8 numbers
    Shape(0, 2, 8, 8, Window((2, 2), (2, 2))),
]


def random_window(rng, largest):
    kernel, stride = rng.integers(1, largest + 1, 2), rng.integers(1, 5, 2)
    pad = [rng.integers(0, k + 1) for k in kernel]
    return Window(*(tuple(map(int, pair)) for pair in (kernel, stride, pad)))


def random_shape(rng, largest_kernel):
    window = random_window(rng, largest_kernel)
    height, width = (
        max(1, kernel - 2 * pad) + int(rng.integers(0, 14))
        for kernel, pad in zip(window.kernel, window.pad)
    )
    batch, channels, filters = map(int, rng.integers(1, (5, 10, 10)))
    return Shape(batch, channels, height, width, window, filters)


def uniform(rng, shape, dtype):
    # Not centred on 0: a long sum would nearly cancel, and a tolerance that is relative to the
    # largest element could not tell rounding from a wrong result.
    return rng.uniform(-0.5, 1, shape).astype(dtype)


class Systems(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.contexts = contexts()

    @classmethod
    def tearDownClass(cls):
        for context in cls.contexts:
            context.close()

    def for_each(self, shapes, check):
        """check(shape, dtype, rng) for each shape and type, with a random generator of its own."""
        for index, shape in enumerate(shapes):
            for dtype in TOLERANCE:
                with self.subTest(shape=shape, dtype=dtype.__name__):
                    check(shape, dtype, np.random.default_rng(index))

    def assert_close(self, name, got, want):
        self.assertEqual(got.shape, want.shape, name)
        if want.size == 0:
            return
        largest = np.abs(want).max()
        error = np.abs(got - want).max()
        # Also false where a NaN came out.
        self.assertTrue(error <= TOLERANCE[got.dtype.type] * largest,
                        f"{name} is off by {error:.3g} where the largest element is {largest:.3g}")

    def assert_equal(self, name, got, want):
        np.testing.assert_array_equal(got, want, err_msg=name)

    def check_convolution(self, params, context, x, w, bias, dy, system, options=None):
        """Forward and backward of a system without an activation."""
        y, dx, dw, db = unwritten(dy, x, w, bias)
        cnnkern.conv2d_forward(params, x, w, bias, y, context=context)
        cnnkern.conv2d_backward(params, x, w, dy, options=options, dx=dx, dw=dw, db=db,
                                context=context)
        self.assert_close("y", y, system.y)
        for name, got, want in zip(("dx", "dw", "db"), (dx, dw, db), system.backward(widened(dy))):
            if params.batch > 0:  # a batch of 0 does nothing: dw and db keep what they held
                self.assert_close(name, got, want)

    def check_unfolding(self, params, context, layout, col, x, rng):
        """im2col gives the column matrix itself; col2im the sum of one's patches."""
        got, back = unwritten(col.astype(x.dtype), x)
        cnnkern.im2col(params, layout, x, got, context=context)
        self.assert_equal("im2col", got, col)
        # <im2col(x), z> = <x, col2im(z)> says what col2im is, in whatever layout.
        z = uniform(rng, col.shape, x.dtype)
        cnnkern.col2im(params, layout, z, back, context=context)
        self.assert_close("col2im", np.array([np.vdot(widened(x), widened(back))]).astype(x.dtype),
                          np.array([np.vdot(col, widened(z))]))

    def test_s1_convolution_a_row_per_patch(self):
        def check(shape, dtype, rng):
            x, w, bias, dy = convolution_data(shape, dtype, rng)
            window = shape.window
            system = systems.RowConvolution(
                widened(x), widened(w), widened(bias), window.stride, window.pad)
            for context in self.contexts:
                self.check_convolution(shape.params(), context, x, w, bias, dy, system)
                self.check_unfolding(shape.params(), context, cnnkern.COL_PATCH_ROWS,
                                     system.col, x, rng)

        self.for_each(CONVOLUTIONS + random_shapes(1, 5), check)

    def test_s2_max_pool_a_row_per_window(self):
        def check(shape, dtype, rng):
            x = pool_data(shape, dtype, rng)
            window = shape.window
            system = systems.RowMaxPool(widened(x), window.kernel, window.stride, window.pad)
            dy = uniform(rng, system.y.shape, dtype)
            for context in self.contexts:
                for argmax_type in (cnnkern.ARGMAX_I32, cnnkern.ARGMAX_U8):
                    params = cnnkern.pool2d_params(
                        *astuple(shape)[:4], *window.kernel, **window.fields(),
                        padding=cnnkern.POOL_PADDING_ZERO, argmax_type=argmax_type)
                    self.check_max_pool(params, context, x, dy, system)

        self.for_each(POOLS + random_shapes(2, 4), check)

    def test_s3_max_pool_a_column_per_window(self):
        def check(shape_window_pad, dtype, rng):
            shape, window, pad = shape_window_pad
            x = pool_data(shape, dtype, rng)
            system = systems.ColumnMaxPool(widened(x), window, pad)
            dy = uniform(rng, system.y.shape, dtype)
            below, right = (max(0, window * -(-extent // window) - extent - pad)
                            for extent in (shape.height, shape.width))
            for context in self.contexts:
                params = cnnkern.pool2d_params(
                    *astuple(shape)[:4], window, window, padding=cnnkern.POOL_PADDING_ZERO,
                    pad_top=pad, pad_left=pad, pad_bottom=below, pad_right=right)
                self.check_max_pool(params, context, x, dy, system)

        shapes = [(replace(shape, window=None), window, pad)
                  for shape in POOLS + random_shapes(3, 4)
                  for window in {shape.window.kernel[0], 2}
                  for pad in {0, 1, shape.window.pad[1]}]
        self.assertTrue(any(s.height % p and s.width % p and pad == 0 for s, p, pad in shapes))
        self.assertTrue(any(pad >= p for s, p, pad in shapes))
        self.for_each(shapes, check)

    def check_max_pool(self, params, context, x, dy, system):
        rows, columns = cnnkern.pool2d_output_size(params)
        # As large as the system's own, except where S3's padding holds a whole window.
        theirs = np.s_[:, :, :dy.shape[2], :dy.shape[3]]
        full_dy = np.zeros((*dy.shape[:2], rows, columns), x.dtype)
        full_dy[theirs] = dy
        index = np.uint8 if params.argmax_type == cnnkern.ARGMAX_U8 else np.int32
        y, dx = unwritten(full_dy, x)
        argmax = np.full(y.shape, 255, index)
        cnnkern.maxpool2d_forward(params, x, y, argmax, context=context)
        cnnkern.maxpool2d_backward(params, full_dy, argmax, dx, context=context)
        self.assert_equal("y", y[theirs], system.y)
        self.assert_equal("argmax", argmax[theirs], system.argmax)
        self.assert_close("dx", dx, system.backward(widened(dy)))

    def test_s4_convolution_relu_a_column_per_patch(self):
        def check(shape, dtype, rng):
            x, w, bias, dy = convolution_data(shape, dtype, rng)
            # Pre-activations of both signs.
            bias -= dtype(np.median(systems.ColumnConvolutionRelu(
                x, w, 0 * bias, shape.window.stride, shape.window.pad).u)) if x.size else 0
            system = systems.ColumnConvolutionRelu(
                widened(x), widened(w), widened(bias), shape.window.stride, shape.window.pad)
            params = shape.params()
            for context in self.contexts:
                u, y = unwritten(dy, dy)
                cnnkern.conv2d_forward(params, x, w, bias, u, context=context)
                cnnkern.conv2d_forward(params, x, w, bias, y, context=context,
                                       activation=cnnkern.ACTIVATION_RELU)
                self.assert_close("u", u, system.u)
                self.assert_equal("y", y, np.maximum(u, 0))
                # The system's own u, rounded: near 0, u may differ from it in its sign.
                for kept in (system.u, system.y):
                    dx, dw, db = unwritten(x, w, bias)
                    kept = np.ascontiguousarray(kept, dtype)
                    cnnkern.conv2d_backward(params, x, w, dy, relu_output=kept,
                                            dx=dx, dw=dw, db=db, context=context)
                    for name, got, want in zip(("dx", "dw", "db"), (dx, dw, db),
                                               system.backward(widened(dy))):
                        if shape.batch > 0:  # as in check_convolution
                            self.assert_close(name, got, want)
                self.check_unfolding(params, context, cnnkern.COL_PATCH_COLUMNS,
                                     system.cols, x, rng)

        self.for_each(CONVOLUTIONS + random_shapes(4, 5), check)

    def test_s5_convolution_nhwc_averaged(self):
        def check(shape, dtype, rng):
            kernel, stride, pad = astuple(shape.window)
            params = shape.params(layout=cnnkern.LAYOUT_NHWC, filter_layout=cnnkern.FILTER_HWIO)
            x = uniform(rng, (shape.batch, shape.height, shape.width, shape.channels), dtype)
            w = uniform(rng, (kernel[0] * kernel[1] * shape.channels, shape.filters), dtype)
            bias = uniform(rng, shape.filters, dtype)
            system = systems.AveragedConvolution(
                widened(x), widened(w), widened(bias), kernel, stride, pad)
            dy = uniform(rng, system.y.shape, dtype)
            options = cnnkern.Conv2dGradientOptions(
                dx_alpha=1 / (kernel[0] * kernel[1]),
                dw_alpha=1 / shape.batch, db_alpha=1 / shape.batch)
            for context in self.contexts:
                self.check_convolution(params, context, x, w, bias, dy, system, options)
                self.check_unfolding(params, context, cnnkern.COL_PATCH_ROWS, system.col, x, rng)

        # An average over no image is none.
        shapes = [shape for shape in CONVOLUTIONS + random_shapes(5, 5) if shape.batch > 0]
        self.assertTrue(any(shape.window.pad == (0, 0) for shape in shapes))
        self.for_each(shapes, check)


def random_shapes(seed, largest_kernel):
    rng = np.random.default_rng(seed)
    return [random_shape(rng, largest_kernel) for _ in range(RANDOM_SHAPES)]


def convolution_data(shape, dtype, rng):
    """x, w, bias and dy in the default layouts."""
    out = cnnkern.conv2d_output_size(shape.params())
    return (uniform(rng, (shape.batch, shape.channels, shape.height, shape.width), dtype),
            uniform(rng, (shape.filters, shape.channels, *shape.window.kernel), dtype),
            uniform(rng, shape.filters, dtype),
            uniform(rng, (shape.batch, shape.filters, *out), dtype))


def pool_data(shape, dtype, rng):
    """Few different values, so that maxima tie and zeros of the padding win or tie."""
    return (rng.integers(-6, 3, (shape.batch, shape.channels, shape.height, shape.width))
            / 2).astype(dtype)


def widened(array):
    return array.astype(np.float64)


def unwritten(*like):
    """Outputs that show what was not written."""
    return [np.full(array.shape, np.nan, array.dtype) for array in like]


if __name__ == "__main__":
    unittest.main()
