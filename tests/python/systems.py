"""Five NumPy backward passes as people write them by hand, each with its own conventions.

They differ in where the channels lie, in whether a patch is a row or a column of the column
matrix, in how a gradient is averaged and in what padding means to a pool. All of them unfold the
whole batch into one column matrix: easy to trust, which is all that is asked of them here.

Where a system is commonly written with a defect (an empty gradient without padding, extents that
the window has to divide), this is the system without it.
"""

import numpy as np


# Patches of an image, and their sum back into one.

def unfold(x, kernel, stride, pad):
    """Zero-pads x [N, C, H, W] by `pad` on each side and returns its patches
    [N, C, OH, OW, KH, KW]. `pad` is ((top, bottom), (left, right))."""
    padded = np.pad(x, ((0, 0), (0, 0), *pad))
    patches = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return patches[:, :, ::stride[0], ::stride[1]]


def fold(patches, shape, stride, pad):
    """Adds patches [N, C, OH, OW, KH, KW] up into an image of `shape`: what `unfold` is the
    transpose of. What falls on the padding is lost."""
    n, c, h, w = shape
    (top, bottom), (left, right) = pad
    out_height, out_width, kernel_height, kernel_width = patches.shape[2:]
    padded = np.zeros((n, c, top + h + bottom, left + w + right))
    for i in range(kernel_height):
        rows = slice(i, i + stride[0] * out_height, stride[0])
        for j in range(kernel_width):
            columns = slice(j, j + stride[1] * out_width, stride[1])
            padded[:, :, rows, columns] += patches[..., i, j]
    return padded[:, :, top:top + h, left:left + w]


def symmetric(pad):
    """`pad` rows above and below, `pad` columns left and right."""
    return tuple((p, p) for p in pad)


# S1: convolution on [N, C, H, W], a row per patch.

class RowConvolution:
    def __init__(self, x, w, bias, stride, pad):
        self.x_shape, self.w, self.stride, self.pad = x.shape, w, stride, symmetric(pad)
        patches = unfold(x, w.shape[2:], stride, self.pad)
        self.grid = patches.shape[2:4]
        self.col = rows_of(patches)
        f = len(w)
        y = self.col @ w.reshape(f, -1).T + bias
        self.y = y.reshape(len(x), *self.grid, f).transpose(0, 3, 1, 2)

    def backward(self, dy):
        f, c, kernel_height, kernel_width = self.w.shape
        rows = dy.transpose(0, 2, 3, 1).reshape(len(self.col), f)
        db = rows.sum(axis=0)
        dw = (self.col.T @ rows).T.reshape(self.w.shape)
        dcol = rows @ self.w.reshape(f, -1)
        patches = dcol.reshape(len(dy), *self.grid, c, kernel_height, kernel_width)
        dx = fold(patches.transpose(0, 3, 1, 2, 4, 5), self.x_shape, self.stride, self.pad)
        return dx, dw, db


def rows_of(patches):
    """[N, C, OH, OW, KH, KW] to [N*OH*OW, C*KH*KW]."""
    n, c, out_height, out_width, kernel_height, kernel_width = patches.shape
    return patches.transpose(0, 2, 3, 1, 4, 5).reshape(
        n * out_height * out_width, c * kernel_height * kernel_width)


# S2: max-pool on [N, C, H, W] with any window, stride and padding, a row per window.

class RowMaxPool:
    """Padding is zeros that compete. Windows may overlap."""

    def __init__(self, x, window, stride, pad):
        self.x_shape, self.window, self.stride, self.pad = x.shape, window, stride, symmetric(pad)
        patches = unfold(x, window, stride, self.pad)
        n, c, out_height, out_width = patches.shape[:4]
        rows = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, window[0] * window[1])
        self.grid = (n, out_height, out_width, c)
        self.row_argmax = rows.argmax(axis=1)
        self.argmax = self.row_argmax.reshape(self.grid).transpose(0, 3, 1, 2)
        self.y = rows.max(axis=1).reshape(self.grid).transpose(0, 3, 1, 2)

    def backward(self, dy):
        drows = np.zeros((self.row_argmax.size, self.window[0] * self.window[1]))
        drows[np.arange(len(drows)), self.row_argmax] = dy.transpose(0, 2, 3, 1).ravel()
        patches = drows.reshape(*self.grid, *self.window).transpose(0, 3, 1, 2, 4, 5)
        return fold(patches, self.x_shape, self.stride, self.pad)


# S3: max-pool whose window is its stride, output rounded up, a column per window.

class ColumnMaxPool:
    """`pad` zeros above and left; below and right as many as whole windows need. All compete."""

    def __init__(self, x, window, pad):
        n, c, h, w = x.shape
        grid = (-(-h // window), -(-w // window))
        missing = [max(0, window * out - extent - pad) for out, extent in zip(grid, (h, w))]
        self.x_shape, self.window, self.grid = x.shape, window, (n, *grid)
        self.pad = ((pad, missing[0]), (pad, missing[1]))
        # Padding of a window or more leaves more windows than the output has places: those at
        # the far end are not looked at.
        patches = unfold(x, (window, window), (window, window), self.pad)
        patches = patches[:, :, :grid[0], :grid[1]]
        columns = patches.transpose(4, 5, 0, 2, 3, 1).reshape(window * window, -1)
        self.column_argmax = columns.argmax(axis=0)
        self.argmax = self.column_argmax.reshape(*self.grid, c).transpose(0, 3, 1, 2)
        self.y = columns.max(axis=0).reshape(*self.grid, c).transpose(0, 3, 1, 2)

    def backward(self, dy):
        n, c, window = len(dy), dy.shape[1], self.window
        columns = np.zeros((window * window, self.column_argmax.size))
        columns[self.column_argmax, np.arange(columns.shape[1])] = dy.transpose(0, 2, 3, 1).ravel()
        # [P*P, N*OH*OW*C] to [C*P*P, N*OH*OW], as a column matrix of a convolution is.
        places = n * self.grid[1] * self.grid[2]
        columns = columns.reshape(window * window, places, c).transpose(2, 0, 1)
        columns = columns.reshape(c * window * window, places)
        patches = columns.reshape(c, window, window, *self.grid).transpose(3, 0, 4, 5, 1, 2)
        return fold(patches, self.x_shape, (window, window), self.pad)


# S4: convolution with ReLU on [N, C, H, W], a column per patch.

class ColumnConvolutionRelu:
    def __init__(self, x, w, bias, stride, pad):
        self.x_shape, self.w, self.stride, self.pad = x.shape, w, stride, symmetric(pad)
        patches = unfold(x, w.shape[2:], stride, self.pad)
        self.grid = patches.shape[2:4]
        self.cols = columns_of(patches)
        f = len(w)
        u = w.reshape(f, -1) @ self.cols + bias[:, None]
        self.u = u.reshape(f, len(x), *self.grid).transpose(1, 0, 2, 3)
        self.y = np.maximum(self.u, 0)

    def backward(self, dy):
        f, c, kernel_height, kernel_width = self.w.shape
        delta = np.where(self.u > 0, dy, 0)
        db = delta.sum(axis=(0, 2, 3))
        delta = delta.transpose(1, 0, 2, 3).reshape(f, self.cols.shape[1])
        dw = (self.cols @ delta.T).T.reshape(self.w.shape)
        dcols = self.w.reshape(f, -1).T @ delta
        patches = dcols.reshape(c, kernel_height, kernel_width, len(dy), *self.grid)
        dx = fold(patches.transpose(3, 0, 4, 5, 1, 2), self.x_shape, self.stride, self.pad)
        return dx, dw, db


def columns_of(patches):
    """[N, C, OH, OW, KH, KW] to [C*KH*KW, N*OH*OW]."""
    n, c, out_height, out_width, kernel_height, kernel_width = patches.shape
    return patches.transpose(1, 4, 5, 0, 2, 3).reshape(
        c * kernel_height * kernel_width, n * out_height * out_width)


# S5: convolution on [N, H, W, C] with weights [KH*KW*C, F], its gradients averaged.

class AveragedConvolution:
    """dw and db are divided by N, dx by KH*KW."""

    def __init__(self, x, w, bias, kernel, stride, pad):
        self.w, self.kernel, self.stride, self.pad = w, kernel, stride, symmetric(pad)
        x = x.transpose(0, 3, 1, 2)
        self.x_shape = x.shape
        patches = unfold(x, kernel, stride, self.pad)
        n, c, out_height, out_width = patches.shape[:4]
        self.grid = (n, out_height, out_width)
        self.col = patches.transpose(0, 2, 3, 4, 5, 1).reshape(n * out_height * out_width, len(w))
        self.y = (self.col @ w + bias).reshape(*self.grid, w.shape[1])

    def backward(self, dy):
        n = len(dy)
        rows = dy.reshape(len(self.col), dy.shape[3])
        db = rows.sum(axis=0) / n
        dw = self.col.T @ rows / n
        dcol = rows @ self.w.T
        patches = dcol.reshape(*self.grid, *self.kernel, self.x_shape[1])
        dx = fold(patches.transpose(0, 5, 1, 2, 3, 4), self.x_shape, self.stride, self.pad)
        return dx.transpose(0, 2, 3, 1) / (self.kernel[0] * self.kernel[1]), dw, db
