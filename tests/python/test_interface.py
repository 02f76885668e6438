"""The C interface from Python: the binding is the header's, errors are statuses with a sentence,
and results are the same bits on any threads and in a forked child."""

import concurrent.futures
import ctypes
import os
import pathlib
import re
import signal
import threading
import unittest
from ctypes import byref

import numpy as np

import cnnkern

ROOT = pathlib.Path(__file__).resolve().parents[2]


def random(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


class Header(unittest.TestCase):
    """cnnkern.py says the same as include/cnnkern.h."""

    @classmethod
    def setUpClass(cls):
        text = (ROOT / "include/cnnkern.h").read_text()
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
        cls.text = re.sub(r"//[^\n]*", " ", text)

    def test_constants(self):
        constants = dict(re.findall(r"#define CNNKERN_(\w+) (\d+)\b", self.text))
        ours = {name: str(value) for name, value in vars(cnnkern).items()
                if name.isupper() and isinstance(value, int)}
        self.assertGreater(len(ours), 20)
        self.assertEqual({name: constants.get(name) for name in ours}, ours)
        # The other way round: whatever kind of constant the binding has, it has all of.
        kinds = ("STATUS_", "LAYOUT_", "FILTER_", "ALGORITHM_", "PASS_", "ACTIVATION_",
                 "COL_", "POOL_PADDING_", "ARGMAX_")
        self.assertEqual(set(), {name for name in constants if name.startswith(kinds)} - set(ours))

    def test_structs(self):
        types = {"size_t": ctypes.c_size_t, "double": ctypes.c_double}
        for name, struct in (("conv2d_params", cnnkern.Conv2dParams),
                             ("pool2d_params", cnnkern.Pool2dParams),
                             ("conv2d_gradient_options", cnnkern.Conv2dGradientOptions)):
            body = re.search(rf"struct cnnkern_{name}\s*{{(.*?)}}", self.text, re.DOTALL).group(1)
            fields = [(field, types.get(kind, ctypes.c_int32))
                      for kind, field in re.findall(r"(\w+)\s+(\w+)\s*;", body)]
            self.assertEqual(struct._fields_, fields, name)

    def test_functions(self):
        declared = {}
        for name, arguments in re.findall(r"\b(cnnkern_\w+)\s*\(([^()]*)\)\s*;", self.text):
            declared[name] = [] if arguments.strip() in ("", "void") else arguments.split(",")
        self.assertGreater(len(declared), 30)
        for name, arguments in declared.items():
            ours = getattr(cnnkern.lib, name).argtypes
            self.assertIsNotNone(ours, f"{name} is not in the binding")
            self.assertEqual(len(ours), len(arguments), name)
            for our, their in zip(ours, arguments):
                is_pointer = issubclass(our, ctypes.c_void_p) or hasattr(our, "contents")
                self.assertEqual(is_pointer, "*" in their, f"{name}: {their}")
                if not is_pointer:
                    scalar = {"size_t": ctypes.c_size_t, "float": ctypes.c_float,
                              "double": ctypes.c_double}.get(their.split()[-2], ctypes.c_int32)
                    self.assertEqual(our, scalar, f"{name}: {their}")

    def test_version(self):
        manifest = (ROOT / "Cargo.toml").read_text()
        self.assertEqual(cnnkern.version(), re.search(r'^version = "(.*)"', manifest, re.M)[1])
        self.assertGreater(cnnkern.lib.cnnkern_abi_version(), 0)


class Errors(unittest.TestCase):
    def assert_refused(self, status, words, call, *arguments, **named):
        with self.assertRaises(cnnkern.Error) as caught:
            call(*arguments, **named)
        self.assertEqual(caught.exception.status, status, caught.exception)
        for word in words:
            self.assertIn(word, caught.exception.message)

    def test_status_names(self):
        names = {name: value for name, value in vars(cnnkern).items() if name.startswith("STATUS_")}
        for name, value in names.items():
            self.assertEqual(cnnkern.lib.cnnkern_status_name(value).decode(), f"CNNKERN_{name}")
        for unknown in (-1, 7, 2**31 - 1):
            self.assertTrue(cnnkern.lib.cnnkern_status_name(unknown))

    def test_params_that_are_no_convolution(self):
        for changes, status, words in (
            ({"stride_width": 0}, cnnkern.STATUS_INVALID_ARGUMENT, ["stride_width", "0"]),
            ({"dilation_height": 0}, cnnkern.STATUS_INVALID_ARGUMENT, ["dilation_height", "0"]),
            ({"in_height": 0}, cnnkern.STATUS_INVALID_ARGUMENT, ["in_height", "0"]),
            ({"groups": 0}, cnnkern.STATUS_INVALID_ARGUMENT, ["groups", "0"]),
            ({"groups": 2}, cnnkern.STATUS_INVALID_ARGUMENT, ["in_channels", "3", "2"]),
            ({"kernel_height": 9}, cnnkern.STATUS_INVALID_ARGUMENT, ["kernel_height", "9"]),
            ({"layout": 7}, cnnkern.STATUS_INVALID_ARGUMENT, ["layout", "7"]),
            ({"filter_layout": -1}, cnnkern.STATUS_INVALID_ARGUMENT, ["filter_layout", "-1"]),
            ({"algorithm": 77}, cnnkern.STATUS_INVALID_ARGUMENT, ["algorithm", "77"]),
            ({"pad_left": 2**63}, cnnkern.STATUS_SIZE_OVERFLOW, ["pad_left", str(2**63)]),
            ({"batch": 2**40, "in_channels": 2**30, "out_channels": 1},
             cnnkern.STATUS_SIZE_OVERFLOW, ["x", str(2**40)]),
        ):
            with self.subTest(changes=changes):
                params = cnnkern.conv2d_params(2, 3, 8, 8, 4, 3, 3)
                for name, value in changes.items():
                    setattr(params, name, value)
                self.assert_refused(status, words, cnnkern.conv2d_output_size, params)
                y = random(1, 2 * 4 * 6 * 6)
                before = y.copy()
                got = cnnkern.lib.cnnkern_conv2d_forward_f32(
                    None, byref(params), y.ctypes.data, y.ctypes.data, None, 0, y.ctypes.data)
                self.assertEqual(got, status)
                np.testing.assert_array_equal(y, before)

    def test_null(self):
        params = cnnkern.conv2d_params(1, 2, 5, 5, 2, 3, 3)
        x, w, y = random(1, 50), random(2, 36), random(3, 18)
        before = y.copy()
        arguments = [byref(params), x.ctypes.data, w.ctypes.data, None, 0, y.ctypes.data]
        for index, name in ((0, "params"), (1, "x"), (2, "w"), (5, "y")):
            without = [None if i == index else a for i, a in enumerate(arguments)]
            status = cnnkern.lib.cnnkern_conv2d_forward_f32(None, *without)
            self.assertEqual(status, cnnkern.STATUS_NULL_POINTER)
            message = cnnkern.lib.cnnkern_last_error().decode()
            self.assertRegex(message, rf"\b{name}\b")
            np.testing.assert_array_equal(y, before)
        cnnkern.check(cnnkern.lib.cnnkern_conv2d_forward_f32(None, *arguments))

    def test_inputs_of_gradients_that_are_not_wanted_may_be_null(self):
        params = cnnkern.conv2d_params(1, 2, 5, 5, 2, 3, 3)
        x, w, dy = random(1, 50), random(2, 36), random(3, 18)
        all_three = [np.full_like(a, np.nan) for a in (x, w, dy[:2])]
        cnnkern.conv2d_backward(params, x, w, dy, **dict(zip(("dx", "dw", "db"), all_three)))
        dx, dw, db = (np.full_like(a, np.nan) for a in (x, w, dy[:2]))
        cnnkern.conv2d_backward(params, None, w, dy, dx=dx)
        cnnkern.conv2d_backward(params, x, None, dy, dw=dw)
        cnnkern.conv2d_backward(params, None, None, dy, db=db)
        for got, want in zip((dx, dw, db), all_three):
            np.testing.assert_array_equal(got, want)
        self.assert_refused(cnnkern.STATUS_NULL_POINTER, ["x"],
                            cnnkern.conv2d_backward, params, None, w, dy, dw=dw)
        self.assert_refused(cnnkern.STATUS_NULL_POINTER, ["w"],
                            cnnkern.conv2d_backward, params, x, None, dy, dx=dx)

    def test_last_error_is_the_threads_own(self):
        params = cnnkern.conv2d_params(1, 1, 4, 4, 1, 3, 3, stride_height=0)
        self.assert_refused(cnnkern.STATUS_INVALID_ARGUMENT, ["stride_height"],
                            cnnkern.conv2d_output_size, params)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(cnnkern.lib.cnnkern_last_error()))
        thread.start()
        thread.join()
        self.assertEqual(seen, [b""])

    def test_algorithm_that_does_not_apply(self):
        # Winograd is for small dense kernels of stride 1.
        params = cnnkern.conv2d_params(1, 1, 40, 40, 1, 11, 11, stride_height=5, stride_width=3,
                                       algorithm=cnnkern.ALGORITHM_WINOGRAD)
        y = np.zeros(cnnkern.conv2d_output_size(params), np.float32)
        self.assert_refused(cnnkern.STATUS_UNSUPPORTED, [], cnnkern.conv2d_forward, params,
                            random(1, 40, 40), random(2, 11, 11), None, y)


class Contexts(unittest.TestCase):
    def create(self, environment):
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            return cnnkern.Context()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def test_threads_and_isa(self):
        for threads in (1, 2, 5):
            with cnnkern.Context(num_threads=threads) as context:
                self.assertEqual(context.num_threads, threads)
                self.assertIn(context.isa, ("portable", "avx2", "avx512"))
        with self.create({"CNNKERN_NUM_THREADS": "3"}) as context:
            self.assertEqual(context.num_threads, 3)
        with self.create({"CNNKERN_ISA": "portable"}) as context:
            self.assertEqual(context.isa, "portable")
        self.assertGreater(cnnkern.lib.cnnkern_context_num_threads(None), 0)
        cnnkern.lib.cnnkern_context_destroy(None)

    def test_environment_that_cannot_be_used(self):
        for environment in ({"CNNKERN_ISA": "sse9"}, {"CNNKERN_NUM_THREADS": "many"}):
            (name, value), = environment.items()
            with self.assertRaises(cnnkern.Error) as caught:
                self.create(environment)
            self.assertEqual(caught.exception.status, cnnkern.STATUS_INVALID_ARGUMENT)
            self.assertIn(name, caught.exception.message)
            self.assertIn(value, caught.exception.message)

    def test_options_of_an_older_header(self):
        # An options_size that ends before a field leaves that field at its default.
        options = cnnkern.ContextOptions(num_threads=2)
        handle = ctypes.c_void_p()
        cnnkern.check(cnnkern.lib.cnnkern_context_create(
            byref(options), ctypes.sizeof(ctypes.c_size_t), byref(handle)))
        self.assertEqual(cnnkern.lib.cnnkern_context_num_threads(handle), 2)
        cnnkern.lib.cnnkern_context_destroy(handle)


class SameBits(unittest.TestCase):
    """A training step gives the same bits whoever's threads run it."""

    PARAMS = dict(pad_top=1, pad_bottom=1, pad_left=1, pad_right=1)

    @classmethod
    def setUpClass(cls):
        cls.params = cnnkern.conv2d_params(5, 6, 21, 19, 11, 3, 3, **cls.PARAMS)
        cls.x, cls.w = random(1, 5, 6, 21, 19), random(2, 11, 6, 3, 3)
        cls.bias, cls.dy = random(3, 11), random(4, 5, 11, 21, 19)
        with cnnkern.Context(num_threads=1) as context:
            cls.alone = cls.step(context)

    @classmethod
    def step(cls, context):
        y, dx, dw, db = (np.full_like(a, np.nan) for a in (cls.dy, cls.x, cls.w, cls.bias))
        cnnkern.conv2d_forward(cls.params, cls.x, cls.w, cls.bias, y,
                               activation=cnnkern.ACTIVATION_RELU, context=context)
        cnnkern.conv2d_backward(cls.params, cls.x, cls.w, cls.dy, relu_output=y,
                                dx=dx, dw=dw, db=db, context=context)
        return [a.tobytes() for a in (y, dx, dw, db)]

    def test_any_number_of_threads(self):
        for threads in (0, 2, 3, 7):
            with cnnkern.Context(num_threads=threads) as context:
                self.assertEqual(self.step(context), self.alone)
        self.assertEqual(self.step(None), self.alone)

    def test_a_pool_of_pythons_own(self):
        used = []
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            def parallel_for(count, task):
                used.append(count)
                list(pool.map(task, range(count)))

            with cnnkern.Context(num_threads=3, parallel_for=parallel_for) as context:
                self.assertEqual(self.step(context), self.alone)
        self.assertTrue(used)

    def test_one_context_used_by_several_threads(self):
        with cnnkern.Context(num_threads=2) as context:
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for result in pool.map(lambda _: self.step(context), range(12)):
                    self.assertEqual(result, self.alone)

    def test_a_forked_child(self):
        with cnnkern.Context(num_threads=2) as context:
            self.assertEqual(self.step(context), self.alone)
            self.assertEqual(self.step(None), self.alone)
            child = os.fork()
            if child == 0:
                # An alarm ends a child that hangs; nothing of the test runner may run in it.
                signal.alarm(60)
                try:
                    same = [self.step(c) for c in (context, None)] == [self.alone] * 2
                    os._exit(0 if same else 1)
                finally:
                    os._exit(2)
            _, status = os.waitpid(child, 0)
            self.assertEqual(status, 0, "1 << 8 = other bits, 2 << 8 = an exception, "
                                        f"{signal.SIGALRM} = a hang")
            self.assertEqual(self.step(context), self.alone)


class Operations(unittest.TestCase):
    """What the five systems do not reach: a plain comparison each."""

    def test_gradients_accumulate(self):
        params = cnnkern.conv2d_params(2, 3, 6, 6, 4, 3, 3)
        x, w, dy = random(1, 2, 3, 6, 6), random(2, 4, 3, 3, 3), random(3, 2, 4, 4, 4)
        plain = [np.empty_like(a) for a in (x, w, dy[0, :, 0, 0])]
        cnnkern.conv2d_backward(params, x, w, dy, **dict(zip(("dx", "dw", "db"), plain)))
        held = [np.ones_like(a) for a in plain]
        options = cnnkern.Conv2dGradientOptions(
            dx_alpha=0.5, dx_beta=2, dw_alpha=0.25, dw_beta=1, db_alpha=1, db_beta=-3)
        cnnkern.conv2d_backward(params, x, w, dy, options=options,
                                **dict(zip(("dx", "dw", "db"), held)))
        for got, g, (alpha, beta) in zip(held, plain, ((0.5, 2), (0.25, 1), (1, -3))):
            # Two roundings of at most 2^-24 each, of numbers that the largest element bounds.
            np.testing.assert_allclose(got, alpha * g + beta, rtol=0,
                                       atol=2**-22 * (np.abs(g).max() + 3))

    def test_max_pool_argmax_types(self):
        x = random(1, 2, 3, 9, 10)
        kept = []
        for argmax_type, index in ((cnnkern.ARGMAX_I32, np.int32), (cnnkern.ARGMAX_U8, np.uint8)):
            params = cnnkern.pool2d_params(2, 3, 9, 10, 3, 2, stride_height=2, stride_width=1,
                                           argmax_type=argmax_type)
            y = np.empty((2, 3, *cnnkern.pool2d_output_size(params)), np.float32)
            argmax, dx = np.empty(y.shape, index), np.empty_like(x)
            cnnkern.maxpool2d_forward(params, x, y, argmax)
            cnnkern.maxpool2d_backward(params, y, argmax, dx)
            kept.append((y, argmax, dx))
        for one, other in zip(*kept):
            np.testing.assert_array_equal(one, other)

    def test_max_pool_argmax_outside_the_window(self):
        for argmax_type, index, bad in ((cnnkern.ARGMAX_I32, np.int32, -1),
                                        (cnnkern.ARGMAX_I32, np.int32, 4),
                                        (cnnkern.ARGMAX_U8, np.uint8, 4)):
            params = cnnkern.pool2d_params(1, 1, 4, 4, 2, 2, argmax_type=argmax_type)
            argmax = np.array([0, 1, 3, bad], index)
            dx = random(1, 4, 4)
            before = dx.copy()
            with self.assertRaises(cnnkern.Error) as caught:
                cnnkern.maxpool2d_backward(params, random(2, 4), argmax, dx)
            self.assertEqual(caught.exception.status, cnnkern.STATUS_INVALID_ARGUMENT)
            self.assertRegex(caught.exception.message, rf"argmax.*\b{abs(bad)}\b")
            np.testing.assert_array_equal(dx, before)

    def test_max_pool_window_too_large_for_a_u8(self):
        params = cnnkern.pool2d_params(1, 1, 20, 20, 1, 257, pad_right=300,
                                       argmax_type=cnnkern.ARGMAX_U8)
        y = np.zeros(cnnkern.pool2d_output_size(params), np.float32)
        with self.assertRaises(cnnkern.Error) as caught:
            cnnkern.maxpool2d_forward(params, random(1, 20, 20), y, y.astype(np.uint8))
        self.assertEqual(caught.exception.status, cnnkern.STATUS_INVALID_ARGUMENT)
        self.assertIn("argmax", caught.exception.message)

    def test_convolution_and_max_pool_in_one_call(self):
        places = ((cnnkern.ARGMAX_I32, np.int32), (cnnkern.ARGMAX_U8, np.uint8))
        for dtype in (np.float32, np.float64):
            for argmax_type, index in places:
                for activation in (cnnkern.ACTIVATION_NONE, cnnkern.ACTIVATION_RELU):
                    with self.subTest(dtype=dtype, index=index, activation=activation):
                        self.check_one_call(dtype, argmax_type, index, activation)

    def check_one_call(self, dtype, argmax_type, index, activation):
        params = cnnkern.conv2d_params(3, 5, 14, 13, 18, 3, 3, pad_top=1, pad_bottom=1)
        pool = cnnkern.pool2d_params(3, 18, 14, 11, 3, 3, stride_height=2, stride_width=2,
                                     pad_left=1, argmax_type=argmax_type)
        x, w = random(1, 3, 5, 14, 13, dtype=dtype), random(2, 18, 5, 3, 3, dtype=dtype)
        bias, dy = random(3, 18, dtype=dtype), random(4, 3, 18, 6, 5, dtype=dtype)
        options = cnnkern.Conv2dGradientOptions(dx_alpha=0.5, dw_alpha=3, dw_beta=-1, db_alpha=2)
        relu = activation == cnnkern.ACTIVATION_RELU

        def outputs():
            # dw is added to, so that it holds numbers.
            dx, db, y = (np.full_like(array, np.nan) for array in (x, bias, dy))
            return y, np.full(dy.shape, 77, index), {"dx": dx, "dw": w.copy(), "db": db}

        y, argmax, gradients = outputs()
        u, du = (np.full((3, 18, 14, 11), np.nan, dtype) for _ in range(2))
        cnnkern.conv2d_forward(params, x, w, bias, u, activation)
        cnnkern.maxpool2d_forward(pool, u, y, argmax)
        cnnkern.maxpool2d_backward(pool, dy, argmax, du)
        cnnkern.conv2d_backward(params, x, w, du, relu_output=u if relu else None,
                                options=options, **gradients)

        y_too, argmax_too, gradients_too = outputs()
        cnnkern.conv2d_maxpool2d_forward(params, pool, x, w, bias, y_too, argmax_too, activation)
        cnnkern.conv2d_maxpool2d_backward(params, pool, x, w, dy, argmax_too,
                                          relu_output=y_too if relu else None,
                                          options=options, **gradients_too)
        for one, other in zip((y, argmax, *gradients.values()),
                              (y_too, argmax_too, *gradients_too.values())):
            self.assertFalse(np.isnan(one).any())
            self.assertEqual(one.tobytes(), other.tobytes())

    def test_average_pool(self):
        x = random(1, 2, 3, 8, 6, dtype=np.float64)
        params = cnnkern.pool2d_params(2, 3, 8, 6, 2, 3)
        y, dx = np.empty((2, 3, 4, 2)), np.empty_like(x)
        cnnkern.avgpool2d_forward(params, x, y)
        np.testing.assert_allclose(y, x.reshape(2, 3, 4, 2, 2, 3).mean(axis=(3, 5)),
                                   rtol=0, atol=6 * 2**-53)
        cnnkern.avgpool2d_backward(params, y, dx)
        np.testing.assert_allclose(dx, y.repeat(2, axis=2).repeat(3, axis=3) / 6,
                                   rtol=2**-52, atol=0)

    def test_gemm(self):
        m, n, k, alpha, beta = 5, 11, 17, 0.5, -2
        for dtype, epsilon in ((np.float32, 2.0**-23), (np.float64, 2.0**-52)):
            for transa in (False, True):
                for transb in (False, True):
                    # Parts of wider matrices.
                    a = random(1, *((k, m + 2) if transa else (m, k + 2)), dtype=dtype)[:, :-2]
                    b = random(2, *((n, k + 1) if transb else (k, n + 1)), dtype=dtype)[:, :-1]
                    c = random(3, m, n + 3, dtype=dtype)
                    op_a, op_b = (a.T if transa else a), (b.T if transb else b)
                    want = c.astype(np.float64)
                    want[:, :n] = (alpha * op_a.astype(np.float64) @ op_b.astype(np.float64)
                                   + beta * want[:, :n])
                    cnnkern.gemm(a, b, c[:, :n], alpha=alpha, beta=beta,
                                 transa=transa, transb=transb)
                    # k products, two scalings and their sum; all elements are below 1.
                    np.testing.assert_allclose(c, want, rtol=0, atol=(k + 3) * epsilon * (k + 2))
                    np.testing.assert_array_equal(c[:, n:], want[:, n:])

    def test_gemm_batched(self):
        a, b = random(1, 4, 6, dtype=np.float64), random(2, 3, 6, 5, dtype=np.float64)
        c = np.full((3, 4, 5), np.nan)
        cnnkern.gemm_batched(a, b, c)
        np.testing.assert_allclose(c, a @ b, rtol=0, atol=2 * 6 * 2.0**-52 * 6)

    def test_relu(self):
        u = np.array([-1, -0.0, 0, 2, np.nan, np.inf, -np.inf], np.float32)
        y = np.empty_like(u)
        cnnkern.relu_forward(u, y)
        np.testing.assert_array_equal(y, [0, 0, 0, 2, np.nan, np.inf, 0])
        dy = np.arange(1, 8, dtype=np.float32)
        cnnkern.relu_backward(u[[0, 1, 2, 3, 5, 6]], dy[:6], y[:6])
        np.testing.assert_array_equal(y[:6], [0, 0, 0, 4, 5, 0])


if __name__ == "__main__":
    unittest.main()
