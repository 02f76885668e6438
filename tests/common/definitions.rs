//! Each operation by its definition, one element at a time, with sums in double precision. Nothing
//! here calls the crate: it is what the crate is tested against.

use cnnkern::gemm::{GemmParams, Transpose};
use cnnkern::im2col::ColLayout;
use cnnkern::{Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding};

use super::real::Real;
use super::sum::Sum;

/// Where [image, channel, row, column] lies in a tensor of [channels, rows, columns] an image.
fn tensor_index(
    layout: Layout,
    [channels, rows, columns]: [usize; 3],
    [image, channel, row, column]: [usize; 4],
) -> usize {
    match layout {
        Layout::Nchw => ((image * channels + channel) * rows + row) * columns + column,
        Layout::Nhwc => ((image * rows + row) * columns + column) * channels + channel,
    }
}

/// Calls `visit` with every position in a tensor of these extents.
fn for_each_position(extents: [usize; 4], mut visit: impl FnMut([usize; 4])) {
    for a in 0..extents[0] {
        for b in 0..extents[1] {
            for c in 0..extents[2] {
                for d in 0..extents[3] {
                    visit([a, b, c, d]);
                }
            }
        }
    }
}

/// A tensor of the given extents whose elements are `element(position)`, stored at `index(position)`.
fn collect<E: Copy + Default>(
    extents: [usize; 4],
    index: impl Fn([usize; 4]) -> usize,
    element: impl Fn([usize; 4]) -> E,
) -> Vec<E> {
    let mut tensor = vec![E::default(); extents.iter().product()];
    for_each_position(extents, |position| tensor[index(position)] = element(position));
    tensor
}

/// Rows (or columns) of an output: how many windows fit.
fn windows(
    [input, before, after]: [usize; 3],
    [kernel, dilation, stride]: [usize; 3],
    round_up: bool,
) -> usize {
    let free = input + before + after - ((kernel - 1) * dilation + 1);
    let inside = free / stride + 1;
    // Rounded up, a last window may reach past the end, but not start there.
    let one_more = round_up && free % stride != 0 && inside * stride < before + input;
    inside + usize::from(one_more)
}

/// Where a padded coordinate lies in the input, or None in the padding.
fn unpadded(padded: usize, before: usize, input: usize) -> Option<usize> {
    padded.checked_sub(before).filter(|&position| position < input)
}

/// The output coordinate whose window has this input coordinate at its tap `kernel`.
fn output_of(
    position: usize,
    before: usize,
    [kernel, dilation, stride]: [usize; 3],
    outputs: usize,
) -> Option<usize> {
    let start = (position + before).checked_sub(kernel * dilation)?;
    (start % stride == 0 && start / stride < outputs).then_some(start / stride)
}

/// A convolution.
pub struct Conv {
    pub params: Conv2dParams,
    pub out_height: usize,
    pub out_width: usize,
}

impl Conv {
    pub fn new(params: &Conv2dParams) -> Conv {
        let p = params;
        Conv {
            params: *p,
            out_height: windows(
                [p.in_height, p.pad_top, p.pad_bottom],
                [p.kernel_height, p.dilation_height, p.stride_height],
                false,
            ),
            out_width: windows(
                [p.in_width, p.pad_left, p.pad_right],
                [p.kernel_width, p.dilation_width, p.stride_width],
                false,
            ),
        }
    }

    /// [batch, in_channels, in_height, in_width]
    pub fn x_extents(&self) -> [usize; 4] {
        let p = &self.params;
        [p.batch, p.in_channels, p.in_height, p.in_width]
    }

    /// [batch, out_channels, out_height, out_width]
    pub fn y_extents(&self) -> [usize; 4] {
        [self.params.batch, self.params.out_channels, self.out_height, self.out_width]
    }

    /// [out_channels, in_channels / groups, kernel_height, kernel_width]
    pub fn w_extents(&self) -> [usize; 4] {
        let p = &self.params;
        [p.out_channels, self.group_in(), p.kernel_height, p.kernel_width]
    }

    pub fn x_len(&self) -> usize {
        self.x_extents().iter().product()
    }

    pub fn y_len(&self) -> usize {
        self.y_extents().iter().product()
    }

    pub fn w_len(&self) -> usize {
        self.w_extents().iter().product()
    }

    pub fn x_index(&self, position: [usize; 4]) -> usize {
        let [_, channels, rows, columns] = self.x_extents();
        tensor_index(self.params.layout, [channels, rows, columns], position)
    }

    pub fn y_index(&self, position: [usize; 4]) -> usize {
        let [_, channels, rows, columns] = self.y_extents();
        tensor_index(self.params.layout, [channels, rows, columns], position)
    }

    pub fn w_index(&self, [o, i, kh, kw]: [usize; 4]) -> usize {
        let [os, is, khs, kws] = self.w_extents();
        match self.params.filter_layout {
            FilterLayout::Oihw => ((o * is + i) * khs + kh) * kws + kw,
            FilterLayout::Ohwi => ((o * khs + kh) * kws + kw) * is + i,
            FilterLayout::Hwio => ((kh * kws + kw) * is + i) * os + o,
        }
    }

    fn group_in(&self) -> usize {
        self.params.in_channels / self.params.groups
    }

    fn group_out(&self) -> usize {
        self.params.out_channels / self.params.groups
    }

    /// The value of x that the window at (oh, ow) has under (kh, kw): 0 in the padding.
    fn input<T: Real>(
        &self,
        x: &[T],
        [n, c]: [usize; 2],
        [oh, ow]: [usize; 2],
        [kh, kw]: [usize; 2],
    ) -> f64 {
        let p = &self.params;
        let row = oh * p.stride_height + kh * p.dilation_height;
        let column = ow * p.stride_width + kw * p.dilation_width;
        let position =
            (unpadded(row, p.pad_top, p.in_height), unpadded(column, p.pad_left, p.in_width));
        match position {
            (Some(h), Some(w)) => x[self.x_index([n, c, h, w])].widen(),
            _ => 0.0,
        }
    }

    /// An element of conv(x, w) + bias.
    pub fn y_at<T: Real>(
        &self,
        x: &[T],
        w: &[T],
        bias: Option<&[T]>,
        [n, o, oh, ow]: [usize; 4],
    ) -> Sum {
        let mut sum = Sum::default();
        let first = o / self.group_out() * self.group_in();
        for i in 0..self.group_in() {
            for kh in 0..self.params.kernel_height {
                for kw in 0..self.params.kernel_width {
                    let value = self.input(x, [n, first + i], [oh, ow], [kh, kw]);
                    sum.add(value * w[self.w_index([o, i, kh, kw])].widen());
                }
            }
        }
        if let Some(bias) = bias {
            sum.add(bias[o].widen());
        }
        sum
    }

    /// An element of the gradient of x.
    pub fn dx_at<T: Real>(&self, w: &[T], dy: &[T], [n, c, row, column]: [usize; 4]) -> Sum {
        let p = &self.params;
        let mut sum = Sum::default();
        let (group, i) = (c / self.group_in(), c % self.group_in());
        for kh in 0..p.kernel_height {
            let window = [kh, p.dilation_height, p.stride_height];
            let Some(oh) = output_of(row, p.pad_top, window, self.out_height) else { continue };
            for kw in 0..p.kernel_width {
                let window = [kw, p.dilation_width, p.stride_width];
                let Some(ow) = output_of(column, p.pad_left, window, self.out_width) else {
                    continue;
                };
                for o in group * self.group_out()..(group + 1) * self.group_out() {
                    let dy = dy[self.y_index([n, o, oh, ow])].widen();
                    sum.add(dy * w[self.w_index([o, i, kh, kw])].widen());
                }
            }
        }
        sum
    }

    /// An element of the gradient of w.
    pub fn dw_at<T: Real>(&self, x: &[T], dy: &[T], [o, i, kh, kw]: [usize; 4]) -> Sum {
        let mut sum = Sum::default();
        let c = o / self.group_out() * self.group_in() + i;
        for n in 0..self.params.batch {
            for oh in 0..self.out_height {
                for ow in 0..self.out_width {
                    let value = self.input(x, [n, c], [oh, ow], [kh, kw]);
                    sum.add(value * dy[self.y_index([n, o, oh, ow])].widen());
                }
            }
        }
        sum
    }

    /// An element of the gradient of the bias.
    pub fn db_at<T: Real>(&self, dy: &[T], o: usize) -> Sum {
        let mut sum = Sum::default();
        for n in 0..self.params.batch {
            for oh in 0..self.out_height {
                for ow in 0..self.out_width {
                    sum.add(dy[self.y_index([n, o, oh, ow])].widen());
                }
            }
        }
        sum
    }

    pub fn y<T: Real>(&self, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<Sum> {
        collect(self.y_extents(), |p| self.y_index(p), |p| self.y_at(x, w, bias, p))
    }

    pub fn dx<T: Real>(&self, w: &[T], dy: &[T]) -> Vec<Sum> {
        collect(self.x_extents(), |p| self.x_index(p), |p| self.dx_at(w, dy, p))
    }

    pub fn dw<T: Real>(&self, x: &[T], dy: &[T]) -> Vec<Sum> {
        collect(self.w_extents(), |p| self.w_index(p), |p| self.dw_at(x, dy, p))
    }

    pub fn db<T: Real>(&self, dy: &[T]) -> Vec<Sum> {
        (0..self.params.out_channels).map(|o| self.db_at(dy, o)).collect()
    }

    /// Elements of a column matrix.
    pub fn col_len(&self) -> usize {
        let p = &self.params;
        p.batch
            * self.out_height
            * self.out_width
            * p.in_channels
            * p.kernel_height
            * p.kernel_width
    }

    /// Where the cell (c, kh, kw) of the patch at (n, oh, ow) lies in a column matrix.
    pub fn col_index(
        &self,
        col_layout: ColLayout,
        [n, oh, ow]: [usize; 3],
        [c, kh, kw]: [usize; 3],
    ) -> usize {
        let p = &self.params;
        let pixels = self.out_height * self.out_width;
        let pixel = oh * self.out_width + ow;
        let cells = p.in_channels * p.kernel_height * p.kernel_width;
        let cell = match p.layout {
            Layout::Nchw => (c * p.kernel_height + kh) * p.kernel_width + kw,
            Layout::Nhwc => (kh * p.kernel_width + kw) * p.in_channels + c,
        };
        match col_layout {
            ColLayout::PatchRows => (n * pixels + pixel) * cells + cell,
            ColLayout::PatchColumns => cell * (p.batch * pixels) + n * pixels + pixel,
            ColLayout::PerImage => (n * cells + cell) * pixels + pixel,
        }
    }

    fn for_each_col(&self, mut visit: impl FnMut([usize; 3], [usize; 3])) {
        let p = &self.params;
        for n in 0..p.batch {
            for_each_position([self.out_height, self.out_width, p.in_channels, 1], |position| {
                let [oh, ow, c, _] = position;
                for kh in 0..p.kernel_height {
                    for kw in 0..p.kernel_width {
                        visit([n, oh, ow], [c, kh, kw]);
                    }
                }
            });
        }
    }

    pub fn im2col<T: Real>(&self, col_layout: ColLayout, x: &[T]) -> Vec<T> {
        let mut col = vec![T::NAN; self.col_len()];
        self.for_each_col(|[n, oh, ow], [c, kh, kw]| {
            col[self.col_index(col_layout, [n, oh, ow], [c, kh, kw])] =
                T::narrow(self.input(x, [n, c], [oh, ow], [kh, kw]));
        });
        col
    }

    pub fn col2im<T: Real>(&self, col_layout: ColLayout, col: &[T]) -> Vec<Sum> {
        let p = &self.params;
        let mut sums = vec![Sum::default(); self.x_len()];
        self.for_each_col(|[n, oh, ow], [c, kh, kw]| {
            let row = oh * p.stride_height + kh * p.dilation_height;
            let column = ow * p.stride_width + kw * p.dilation_width;
            let position =
                (unpadded(row, p.pad_top, p.in_height), unpadded(column, p.pad_left, p.in_width));
            if let (Some(h), Some(w)) = position {
                let cell = col[self.col_index(col_layout, [n, oh, ow], [c, kh, kw])];
                sums[self.x_index([n, c, h, w])].add(cell.widen());
            }
        });
        sums
    }
}

/// max(u, 0), but a NaN stays.
pub fn relu<T: Real>(u: T) -> T {
    if u.widen() <= 0.0 { T::narrow(0.0) } else { u }
}

/// [`relu`] of a sum: no value moves away from another by it, so the bound stays.
pub fn relu_of_sum(sum: &Sum) -> Sum {
    Sum { value: relu(sum.value), ..*sum }
}

/// dy, but 0 where the ReLU's input (or output) is <= 0.
pub fn relu_mask<T: Real>(dy: &[T], u_or_y: &[T]) -> Vec<T> {
    dy.iter()
        .zip(u_or_y)
        .map(|(&dy, &u)| if u.widen() <= 0.0 { T::narrow(0.0) } else { dy })
        .collect()
}

/// A pooling.
pub struct Pool {
    pub params: Pool2dParams,
    pub out_height: usize,
    pub out_width: usize,
}

impl Pool {
    pub fn new(params: &Pool2dParams) -> Pool {
        let p = params;
        Pool {
            params: *p,
            out_height: windows(
                [p.in_height, p.pad_top, p.pad_bottom],
                [p.kernel_height, p.dilation_height, p.stride_height],
                p.ceil_mode,
            ),
            out_width: windows(
                [p.in_width, p.pad_left, p.pad_right],
                [p.kernel_width, p.dilation_width, p.stride_width],
                p.ceil_mode,
            ),
        }
    }

    /// [batch, channels, in_height, in_width]
    pub fn x_extents(&self) -> [usize; 4] {
        let p = &self.params;
        [p.batch, p.channels, p.in_height, p.in_width]
    }

    /// [batch, channels, out_height, out_width]
    pub fn y_extents(&self) -> [usize; 4] {
        [self.params.batch, self.params.channels, self.out_height, self.out_width]
    }

    pub fn x_len(&self) -> usize {
        self.x_extents().iter().product()
    }

    pub fn y_len(&self) -> usize {
        self.y_extents().iter().product()
    }

    pub fn x_index(&self, position: [usize; 4]) -> usize {
        let [_, channels, rows, columns] = self.x_extents();
        tensor_index(self.params.layout, [channels, rows, columns], position)
    }

    pub fn y_index(&self, position: [usize; 4]) -> usize {
        let [_, channels, rows, columns] = self.y_extents();
        tensor_index(self.params.layout, [channels, rows, columns], position)
    }

    /// The cells of a window that count: (place in the window, index of x or None in the padding).
    /// A window that was rounded up may reach past the padding: there is no cell there.
    pub fn cells(&self, [n, c, oh, ow]: [usize; 4]) -> Vec<(usize, Option<usize>)> {
        let p = &self.params;
        let mut cells = Vec::new();
        for kh in 0..p.kernel_height {
            for kw in 0..p.kernel_width {
                let row = oh * p.stride_height + kh * p.dilation_height;
                let column = ow * p.stride_width + kw * p.dilation_width;
                if row >= p.pad_top + p.in_height + p.pad_bottom
                    || column >= p.pad_left + p.in_width + p.pad_right
                {
                    continue;
                }
                let source = match (
                    unpadded(row, p.pad_top, p.in_height),
                    unpadded(column, p.pad_left, p.in_width),
                ) {
                    (Some(h), Some(w)) => Some(self.x_index([n, c, h, w])),
                    _ => None,
                };
                if source.is_some() || p.padding == PoolPadding::Zero {
                    cells.push((kh * p.kernel_width + kw, source));
                }
            }
        }
        cells
    }

    /// Each window's maximum and its place: the first NaN, or else the first largest. A window
    /// without a cell that counts has -infinity, at place 0.
    pub fn max<T: Real>(&self, x: &[T]) -> (Vec<T>, Vec<usize>) {
        let best = collect(
            self.y_extents(),
            |p| self.y_index(p),
            |position| {
                let cells: Vec<(usize, f64)> = self
                    .cells(position)
                    .into_iter()
                    .map(|(place, source)| (place, source.map_or(0.0, |source| x[source].widen())))
                    .collect();
                let largest = cells.iter().map(|cell| cell.1).fold(f64::NEG_INFINITY, f64::max);
                let is_best = |value: f64| value.is_nan() || value == largest;
                let first_nan = cells.iter().find(|cell| cell.1.is_nan());
                let first_best = cells.iter().find(|cell| is_best(cell.1));
                *first_nan.or(first_best).unwrap_or(&(0, f64::NEG_INFINITY))
            },
        );
        best.into_iter().map(|(place, value)| (T::narrow(value), place)).unzip()
    }

    /// The gradient of x, given each window's place.
    pub fn max_gradient<T: Real>(&self, dy: &[T], places: &[usize]) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.x_len()];
        for_each_position(self.y_extents(), |position| {
            let index = self.y_index(position);
            for (place, source) in self.cells(position) {
                if let (true, Some(source)) = (place == places[index], source) {
                    sums[source].add(dy[index].widen());
                }
            }
        });
        sums
    }

    /// Each window's mean; 0 where no cell counts.
    pub fn mean<T: Real>(&self, x: &[T]) -> Vec<Sum> {
        collect(
            self.y_extents(),
            |p| self.y_index(p),
            |position| {
                let cells = self.cells(position);
                let mut sum = Sum::default();
                cells
                    .iter()
                    .filter_map(|cell| cell.1)
                    .for_each(|source| sum.add(x[source].widen()));
                sum.divided(cells.len().max(1))
            },
        )
    }

    /// The gradient of x: each gradient spread evenly over its window.
    pub fn mean_gradient<T: Real>(&self, dy: &[T]) -> Vec<Sum> {
        let mut sums = vec![Sum::default(); self.x_len()];
        for_each_position(self.y_extents(), |position| {
            let cells = self.cells(position);
            for source in cells.iter().filter_map(|cell| cell.1) {
                sums[source].add(dy[self.y_index(position)].widen() / cells.len() as f64);
            }
        });
        // a division, or a product with the rounded reciprocal
        sums.iter().map(|sum| sum.with_roundings(2)).collect()
    }
}

/// An element of alpha * op(A) * op(B) + beta * C. With alpha = 0 neither A nor B is read, with
/// beta = 0 not C.
pub fn gemm_at<T: Real>(
    params: &GemmParams,
    alpha: T,
    a: &[T],
    b: &[T],
    beta: T,
    c: &[T],
    [i, j]: [usize; 2],
) -> Sum {
    let index = |transpose, row: usize, column: usize, ld: usize| match transpose {
        Transpose::No => row * ld + column,
        Transpose::Yes => column * ld + row,
    };
    let mut sum = Sum::default();
    if alpha.widen() != 0.0 {
        for p in 0..params.k {
            let a = a[index(params.transa, i, p, params.lda)].widen();
            sum.add(a * b[index(params.transb, p, j, params.ldb)].widen());
        }
    }
    sum.update(alpha.widen(), beta.widen(), c[i * params.ldc + j].widen())
}
