//! Five backward passes that people write by hand in NumPy, with explicit column matrices, and the
//! calls that replace them: the same numbers, in f64 to 1e-12 and in f32 to 2e-5 of the largest
//! element.
//!
//! The formulas are computed in double precision as their programs do it: pad the image, copy every
//! window into a matrix, multiply matrices, add the matrix's cells back into a padded image, crop.
mod common;

use cnnkern::conv2d::GradientOptions;
use cnnkern::im2col::ColLayout;
use cnnkern::{
    Activation, Algorithm, Context, Conv2dParams, FilterLayout, Layout, Pool2dParams, PoolPadding,
};

use common::calls::{self, Backward, Places};
use common::cases::for_each_seed;
use common::contexts::contexts;
use common::guarded::Placement;
use common::random::{Data, Random};
use common::real::Real;

/// A row-major matrix.
#[derive(Debug, Clone)]
struct Matrix {
    rows: usize,
    columns: usize,
    cells: Vec<f64>,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { rows, columns, cells: vec![0.0; rows * columns] }
    }

    /// The same cells in the same order with another number of rows.
    fn reshaped(cells: &[f64], rows: usize) -> Matrix {
        Matrix { rows, columns: cells.len() / rows, cells: cells.to_vec() }
    }

    fn at(&mut self, row: usize, column: usize) -> &mut f64 {
        &mut self.cells[row * self.columns + column]
    }

    fn row(&self, row: usize) -> &[f64] {
        &self.cells[row * self.columns..(row + 1) * self.columns]
    }

    fn transposed(&self) -> Matrix {
        let mut result = Matrix::zeros(self.columns, self.rows);
        for row in 0..self.rows {
            for (column, &cell) in self.row(row).iter().enumerate() {
                *result.at(column, row) = cell;
            }
        }
        result
    }

    fn times(&self, other: &Matrix) -> Matrix {
        assert_eq!(self.columns, other.rows);
        let mut result = Matrix::zeros(self.rows, other.columns);
        for row in 0..self.rows {
            for (depth, &factor) in self.row(row).iter().enumerate() {
                for (column, &cell) in other.row(depth).iter().enumerate() {
                    *result.at(row, column) += factor * cell;
                }
            }
        }
        result
    }

    fn column_sums(&self) -> Vec<f64> {
        (0..self.columns).map(|c| (0..self.rows).map(|r| self.row(r)[c]).sum()).collect()
    }

    fn row_sums(&self) -> Vec<f64> {
        (0..self.rows).map(|row| self.row(row).iter().sum()).collect()
    }

    fn divided(mut self, divisor: usize) -> Matrix {
        self.cells.iter_mut().for_each(|cell| *cell /= divisor as f64);
        self
    }
}

/// A tensor of four axes in row-major order.
#[derive(Debug, Clone)]
struct Tensor {
    extents: [usize; 4],
    cells: Vec<f64>,
}

impl Tensor {
    fn zeros(extents: [usize; 4]) -> Tensor {
        Tensor { extents, cells: vec![0.0; extents.iter().product()] }
    }

    fn new<T: Real>(extents: [usize; 4], values: &[T]) -> Tensor {
        assert_eq!(extents.iter().product::<usize>(), values.len());
        Tensor { extents, cells: values.iter().map(|value| value.widen()).collect() }
    }

    fn at(&mut self, [a, b, c, d]: [usize; 4]) -> &mut f64 {
        let [_, bs, cs, ds] = self.extents;
        &mut self.cells[((a * bs + b) * cs + c) * ds + d]
    }

    /// NumPy's transpose: axis i of the result is axis `axes[i]` of this tensor.
    fn transposed(&self, axes: [usize; 4]) -> Tensor {
        let mut result = Tensor::zeros(axes.map(|axis| self.extents[axis]));
        let mut cells = self.cells.iter();
        let [a, b, c, d] = self.extents;
        for a in 0..a {
            for b in 0..b {
                for c in 0..c {
                    for d in 0..d {
                        *result.at(axes.map(|axis| [a, b, c, d][axis])) =
                            *cells.next().expect("a cell for each position");
                    }
                }
            }
        }
        result
    }
}

/// Windows over an NCHW image with zeros before and after its rows and columns.
#[derive(Debug, Clone, Copy)]
struct Windows {
    /// [N, C, H, W]
    image: [usize; 4],
    window: [usize; 2],
    stride: usize,
    pad_before: usize,
    /// Rows and columns with all padding.
    padded: [usize; 2],
    /// Windows down and across.
    out: [usize; 2],
}

impl Windows {
    /// As many as fit, with the same padding on every side.
    fn symmetric(image: [usize; 4], window: [usize; 2], stride: usize, pad: usize) -> Windows {
        let padded = [image[2] + 2 * pad, image[3] + 2 * pad];
        let out = [0, 1].map(|axis| (padded[axis] - window[axis]) / stride + 1);
        Windows { image, window, stride, pad_before: pad, padded, out }
    }

    /// Patches of the image.
    fn patches(&self) -> usize {
        self.image[0] * self.out[0] * self.out[1]
    }

    /// Calls `visit(patch, [c, kh, kw], position in the padded image)`, patches in the order
    /// n, oh, ow.
    fn for_each(&self, mut visit: impl FnMut(usize, [usize; 3], [usize; 4])) {
        let [images, channels, _, _] = self.image;
        let mut patch = 0;
        for n in 0..images {
            for oh in 0..self.out[0] {
                for ow in 0..self.out[1] {
                    for c in 0..channels {
                        for kh in 0..self.window[0] {
                            for kw in 0..self.window[1] {
                                let (h, w) = (oh * self.stride + kh, ow * self.stride + kw);
                                visit(patch, [c, kh, kw], [n, c, h, w]);
                            }
                        }
                    }
                    patch += 1;
                }
            }
        }
    }

    /// A row per patch, [C, KH, KW] along it.
    fn im2col(&self, x: &Tensor) -> Matrix {
        let mut padded = self.padded_image();
        let [images, channels, rows, columns] = self.image;
        let mut cells = x.cells.iter();
        for n in 0..images {
            for c in 0..channels {
                for h in 0..rows {
                    for w in 0..columns {
                        *padded.at([n, c, h + self.pad_before, w + self.pad_before]) =
                            *cells.next().expect("a cell for each position");
                    }
                }
            }
        }
        let [kernel_rows, kernel_columns] = self.window;
        let mut col = Matrix::zeros(self.patches(), channels * kernel_rows * kernel_columns);
        self.for_each(|patch, [c, kh, kw], position| {
            *col.at(patch, (c * kernel_rows + kh) * kernel_columns + kw) = *padded.at(position);
        });
        col
    }

    /// The sums of a matrix with a row per patch, cropped of the padding.
    fn col2im(&self, mut col: Matrix) -> Tensor {
        let mut padded = self.padded_image();
        let [kernel_rows, kernel_columns] = self.window;
        self.for_each(|patch, [c, kh, kw], position| {
            *padded.at(position) += *col.at(patch, (c * kernel_rows + kh) * kernel_columns + kw);
        });
        let mut x = Tensor::zeros(self.image);
        let [images, channels, rows, columns] = self.image;
        for n in 0..images {
            for c in 0..channels {
                for h in 0..rows {
                    for w in 0..columns {
                        *x.at([n, c, h, w]) =
                            *padded.at([n, c, h + self.pad_before, w + self.pad_before]);
                    }
                }
            }
        }
        x
    }

    fn padded_image(&self) -> Tensor {
        Tensor::zeros([self.image[0], self.image[1], self.padded[0], self.padded[1]])
    }
}

/// The two are the same numbers, to the accuracy promised for T.
#[track_caller]
fn assert_near<T: Real>(what: &str, result: &[T], expected: &[f64]) {
    assert_eq!(result.len(), expected.len(), "{what}: number of elements");
    let accuracy = if size_of::<T>() == 4 { 2e-5 } else { 1e-12 };
    let largest = expected.iter().map(|value| value.abs()).fold(0.0, f64::max);
    for (index, (result, expected)) in result.iter().zip(expected).enumerate() {
        let error = (result.widen() - expected).abs();
        assert!(
            error <= accuracy * largest,
            "{what}[{index}] is {result:?}, but should be {expected} (largest element {largest})"
        );
    }
}

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Auto, Algorithm::Gemm, Algorithm::Reference];

/// Calls `check` with each algorithm on each instruction set.
fn for_each_way(
    contexts: &[Context],
    params: &Conv2dParams,
    check: impl Fn(&Context, &Conv2dParams),
) {
    for context in contexts {
        for algorithm in ALGORITHMS {
            check(context, &Conv2dParams { algorithm, ..*params });
        }
    }
}

/// A convolution with symmetric padding and one stride.
#[derive(Debug, Clone, Copy)]
struct ConvCase {
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    f: usize,
    fh: usize,
    fw: usize,
    stride: usize,
    pad: usize,
}

impl ConvCase {
    fn random(random: &mut Random) -> ConvCase {
        loop {
            let case = ConvCase {
                n: random.within(1..=4),
                c: random.pick(&[1, 2, 3, 5, 8, 17]),
                h: random.within(1..=14),
                w: random.within(1..=18),
                f: random.pick(&[1, 2, 6, 7, 16, 19]),
                fh: random.pick(&[1, 2, 3, 3, 5]),
                fw: random.pick(&[1, 2, 3, 3, 5, 7]),
                stride: random.within(1..=3),
                pad: random.pick(&[0, 0, 1, 2, 3]),
            };
            if case.fh <= case.h + 2 * case.pad && case.fw <= case.w + 2 * case.pad {
                return case;
            }
        }
    }

    fn windows(&self) -> Windows {
        let image = [self.n, self.c, self.h, self.w];
        Windows::symmetric(image, [self.fh, self.fw], self.stride, self.pad)
    }

    fn params(&self) -> Conv2dParams {
        let ConvCase { n, c, h, w, f, fh, fw, stride, pad } = *self;
        Conv2dParams {
            stride_height: stride,
            stride_width: stride,
            pad_top: pad,
            pad_bottom: pad,
            pad_left: pad,
            pad_right: pad,
            ..Conv2dParams::new(n, c, h, w, f, fh, fw)
        }
    }

    fn y_extents(&self) -> [usize; 4] {
        let [out_rows, out_columns] = self.windows().out;
        [self.n, self.f, out_rows, out_columns]
    }

    fn x_len(&self) -> usize {
        self.n * self.c * self.h * self.w
    }

    fn w_len(&self) -> usize {
        self.f * self.c * self.fh * self.fw
    }

    fn y_len(&self) -> usize {
        self.y_extents().iter().product()
    }
}

/// Convolution, NCHW, a row per patch.
fn s1_convolution<T: Real>() {
    let contexts = contexts();
    for_each_seed(60, ConvCase::random, |case, random| {
        let windows = case.windows();
        let x: Vec<T> = random.values(case.x_len(), Data::Fractions);
        let w: Vec<T> = random.values(case.w_len(), Data::Fractions);
        let dy: Vec<T> = random.values(case.y_len(), Data::Fractions);

        let rows = Tensor::new(case.y_extents(), &dy).transposed([0, 2, 3, 1]);
        let rows = Matrix::reshaped(&rows.cells, windows.patches());
        let col = windows.im2col(&Tensor::new(windows.image, &x));
        let filters = Matrix::reshaped(&widened(&w), case.f);
        let db = rows.column_sums();
        let dw = col.transposed().times(&rows).transposed();
        let d_col = rows.times(&filters);
        let dx = windows.col2im(d_col.clone());

        for_each_way(&contexts, &case.params(), |context, params| {
            let gradients = calls::conv_gradients(context, params, &x, &w, &dy, None);
            assert_near("dx", &gradients[0], &dx.cells);
            assert_near("dw", &gradients[1], &dw.cells);
            assert_near("db", &gradients[2], &db);
        });
        for context in &contexts {
            let (params, layout, end) = (case.params(), ColLayout::PatchRows, Placement::End);
            let result = calls::im2col(context, &params, layout, &x, end);
            assert_near("col", &result, &col.cells);
            let d_col: Vec<T> = d_col.cells.iter().map(|&cell| T::narrow(cell)).collect();
            let result = calls::col2im(context, &params, layout, &d_col, end);
            assert_near("dx by col2im", &result, &dx.cells);
        }
    });
}

fn widened<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.widen()).collect()
}

/// The first maximum of a row, and its place.
fn first_maximum(row: &[f64]) -> (usize, f64) {
    let mut best = (0, row[0]);
    for (place, &value) in row.iter().enumerate() {
        if value > best.1 {
            best = (place, value);
        }
    }
    best
}

/// Max-pool, NCHW, any window, stride and padding: padded zeros compete.
fn s2_max_pool<T: Real>() {
    #[derive(Debug)]
    struct Case {
        image: [usize; 4],
        window: [usize; 2],
        stride: usize,
        pad: usize,
    }
    let make = |random: &mut Random| loop {
        let case = Case {
            image: [
                random.within(1..=3),
                random.pick(&[1, 3, 4, 9, 17]),
                random.within(1..=13),
                random.within(1..=19),
            ],
            window: [random.within(1..=4), random.within(1..=4)],
            stride: random.within(1..=4),
            pad: random.pick(&[0, 0, 1, 2]),
        };
        let [_, _, h, w] = case.image;
        if case.window[0] <= h + 2 * case.pad && case.window[1] <= w + 2 * case.pad {
            return case;
        }
    };
    let contexts = contexts();
    for_each_seed(100, make, |case, random| {
        let windows = Windows::symmetric(case.image, case.window, case.stride, case.pad);
        let [n, c, h, w] = case.image;
        let y_extents = [n, c, windows.out[0], windows.out[1]];
        // integers tie, also with the padding's zeros
        let data = random.data();
        let x: Vec<T> = random.values(case.image.iter().product(), data);
        let dy: Vec<T> = random.values(y_extents.iter().product(), data);

        let col = windows.im2col(&Tensor::new(case.image, &x));
        // a row per window: [N*OH*OW*C, PH*PW]
        let per_window = Matrix::reshaped(&col.cells, windows.patches() * c);
        let best: Vec<(usize, f64)> =
            (0..per_window.rows).map(|row| first_maximum(per_window.row(row))).collect();
        let d_rows = Tensor::new(y_extents, &dy).transposed([0, 2, 3, 1]);
        let mut d_max = Matrix::zeros(per_window.rows, per_window.columns);
        for (row, (&(place, _), &d)) in best.iter().zip(&d_rows.cells).enumerate() {
            *d_max.at(row, place) = d;
        }
        let dx = windows.col2im(Matrix::reshaped(&d_max.cells, windows.patches()));

        let in_rows = [n, windows.out[0], windows.out[1], c];
        let back_to_nchw = |of: fn(&(usize, f64)) -> f64| {
            let cells: Vec<f64> = best.iter().map(of).collect();
            Tensor::new(in_rows, &cells).transposed([0, 3, 1, 2]).cells
        };
        let params = Pool2dParams {
            stride_height: case.stride,
            stride_width: case.stride,
            pad_top: case.pad,
            pad_bottom: case.pad,
            pad_left: case.pad,
            pad_right: case.pad,
            padding: PoolPadding::Zero,
            ..Pool2dParams::new(n, c, h, w, case.window[0], case.window[1])
        };
        check_max_pool(
            &contexts,
            &params,
            (&x, &dy),
            [&back_to_nchw(|best| best.1), &back_to_nchw(|best| best.0 as f64), &dx.cells],
        );
    });
}

/// `expected`: y, its places, dx.
fn check_max_pool<T: Real>(
    contexts: &[Context],
    params: &Pool2dParams,
    (x, dy): (&[T], &[T]),
    [y, places, dx]: [&[f64]; 3],
) {
    for context in contexts {
        for kind in [Places::I32, Places::U8] {
            let end = Placement::End;
            let (result, argmax) = calls::max_forward(context, params, x, kind, end);
            assert_near("y", &result, y);
            let argmax_as_f64: Vec<f64> = argmax.iter().map(|&place| place as f64).collect();
            assert_eq!(argmax_as_f64, places, "argmax");
            let result = calls::max_backward(context, params, dy, &argmax, kind, end);
            assert_near("dx", &result, dx);
        }
    }
}

/// Max-pool with the window as its stride, output extents rounded up, a column per window.
fn s3_max_pool_rounded_up<T: Real>() {
    #[derive(Debug)]
    struct Case {
        image: [usize; 4],
        window: usize,
        pad: usize,
    }
    let make = |random: &mut Random| {
        let window = random.within(1..=4);
        Case {
            image: [
                random.within(1..=3),
                random.pick(&[1, 2, 6, 17]),
                random.within(1..=13),
                random.within(1..=19),
            ],
            window,
            // from a padding as wide as the window on, the windows that are rounded up from the
            // input alone no longer are all that fit
            pad: random.within(0..=window - 1),
        }
    };
    let contexts = contexts();
    for_each_seed(150, make, |case, random| {
        let Case { image, window, pad } = *case;
        let [n, c, h, w] = image;
        let out = [h.div_ceil(window), w.div_ceil(window)];
        let windows = Windows {
            image,
            window: [window; 2],
            stride: window,
            pad_before: pad,
            padded: [(h + pad).max(window * out[0]), (w + pad).max(window * out[1])],
            out,
        };
        let y_extents = [n, c, out[0], out[1]];
        let data = random.data();
        let x: Vec<T> = random.values(image.iter().product(), data);
        let dy: Vec<T> = random.values(y_extents.iter().product(), data);

        // [C*PH*PW, N*OH*OW], and a column per window: [PH*PW, N*OH*OW*C]
        let cells = window * window;
        let mut columns = windows.im2col(&Tensor::new(image, &x)).transposed();
        let mut per_window = Matrix::zeros(cells, windows.patches() * c);
        for channel in 0..c {
            for cell in 0..cells {
                for patch in 0..windows.patches() {
                    *per_window.at(cell, patch * c + channel) =
                        *columns.at(channel * cells + cell, patch);
                }
            }
        }
        let windows_in_rows = per_window.transposed();
        let best: Vec<(usize, f64)> =
            (0..windows_in_rows.rows).map(|row| first_maximum(windows_in_rows.row(row))).collect();
        let d_rows = Tensor::new(y_extents, &dy).transposed([0, 2, 3, 1]);
        let mut d_max = Matrix::zeros(cells, best.len());
        for (column, (&(place, _), &d)) in best.iter().zip(&d_rows.cells).enumerate() {
            *d_max.at(place, column) = d;
        }
        let mut d_columns = Matrix::zeros(c * cells, windows.patches());
        for channel in 0..c {
            for cell in 0..cells {
                for patch in 0..windows.patches() {
                    *d_columns.at(channel * cells + cell, patch) =
                        *d_max.at(cell, patch * c + channel);
                }
            }
        }
        let dx = windows.col2im(d_columns.transposed());

        let back_to_nchw = |of: fn(&(usize, f64)) -> f64| {
            let cells: Vec<f64> = best.iter().map(of).collect();
            Tensor::new([n, out[0], out[1], c], &cells).transposed([0, 3, 1, 2]).cells
        };
        let after = |extent: usize, out: usize| (window * out).saturating_sub(extent + pad);
        let params = Pool2dParams {
            pad_top: pad,
            pad_left: pad,
            pad_bottom: after(h, out[0]),
            pad_right: after(w, out[1]),
            padding: PoolPadding::Zero,
            ..Pool2dParams::new(n, c, h, w, window, window)
        };
        assert_eq!(params.output_size(), Ok((out[0], out[1])));
        check_max_pool(
            &contexts,
            &params,
            (&x, &dy),
            [&back_to_nchw(|best| best.1), &back_to_nchw(|best| best.0 as f64), &dx.cells],
        );
    });
}

/// Convolution and ReLU, NCHW, a column per patch.
fn s4_convolution_and_relu<T: Real>() {
    let contexts = contexts();
    for_each_seed(60, ConvCase::random, |case, random| {
        let windows = case.windows();
        let x: Vec<T> = random.values(case.x_len(), Data::Fractions);
        let w: Vec<T> = random.values(case.w_len(), Data::Fractions);
        let bias: Vec<T> = random.values(case.f, Data::Fractions);
        let dy: Vec<T> = random.values(case.y_len(), Data::Fractions);

        // [C*FH*FW, N*OH*OW]
        let columns = windows.im2col(&Tensor::new(windows.image, &x)).transposed();
        let filters = Matrix::reshaped(&widened(&w), case.f);
        let mut u_rows = filters.times(&columns);
        for (f, bias) in bias.iter().enumerate() {
            for patch in 0..windows.patches() {
                *u_rows.at(f, patch) += bias.widen();
            }
        }
        let [n, f, out_rows, out_columns] = case.y_extents();
        let channels_first = [f, n, out_rows, out_columns];
        let u = Tensor::new(channels_first, &u_rows.cells).transposed([1, 0, 2, 3]);

        for_each_way(&contexts, &case.params(), |context, params| {
            let forward = |activation| {
                calls::conv_forward(
                    context,
                    params,
                    &x,
                    &w,
                    Some(&bias),
                    activation,
                    Placement::End,
                )
            };
            let (u_kept, y_kept) = (forward(Activation::None), forward(Activation::Relu));
            assert_near("u", &u_kept, &u.cells);
            let relu_of_u: Vec<T> = u_kept.iter().map(|&u| common::definitions::relu(u)).collect();
            assert_eq!(y_kept[..], relu_of_u, "y = relu(u)");

            // The mask is that of the pre-activation that the forward pass kept.
            let delta: Vec<f64> = dy
                .iter()
                .zip(u_kept.iter())
                .map(|(dy, u)| if u.widen() > 0.0 { dy.widen() } else { 0.0 })
                .collect();
            let delta = Tensor::new(case.y_extents(), &delta).transposed([1, 0, 2, 3]);
            let delta = Matrix::reshaped(&delta.cells, case.f);
            let db = delta.row_sums();
            let dw = delta.times(&columns.transposed());
            let d_columns = filters.transposed().times(&delta);
            let dx = windows.col2im(d_columns.transposed());
            for relu_output in [&u_kept, &y_kept] {
                let gradients =
                    calls::conv_gradients(context, params, &x, &w, &dy, Some(relu_output));
                assert_near("dx", &gradients[0], &dx.cells);
                assert_near("dw", &gradients[1], &dw.cells);
                assert_near("db", &gradients[2], &db);
            }
        });
        for context in &contexts {
            let (params, layout, end) = (case.params(), ColLayout::PatchColumns, Placement::End);
            let result = calls::im2col(context, &params, layout, &x, end);
            assert_near("columns", &result, &columns.cells);
        }
    });
}

/// Convolution, NHWC, weights [KH*KW*C, F], gradients averaged. (A program that crops with a
/// negative index returns an empty dx where the padding is 0; here it is whole.)
fn s5_averaged_convolution<T: Real>() {
    let contexts = contexts();
    for_each_seed(60, ConvCase::random, |case, random| {
        let ConvCase { n, c, h, w: width, f, fh, fw, .. } = *case;
        let windows = case.windows();
        let [out_rows, out_columns] = windows.out;
        let x: Vec<T> = random.values(case.x_len(), Data::Fractions);
        let w: Vec<T> = random.values(case.w_len(), Data::Fractions);
        let dy: Vec<T> = random.values(case.y_len(), Data::Fractions);

        // [N*OH*OW, F] is how dy lies; the patches' cells are [KH, KW, C]
        let rows = Matrix::reshaped(&widened(&dy), n * out_rows * out_columns);
        let nchw = Tensor::new([n, h, width, c], &x).transposed([0, 3, 1, 2]);
        let patches = windows.patches();
        let col = windows.im2col(&nchw);
        let cells = Tensor { extents: [patches, c, fh, fw], cells: col.cells };
        let col = Matrix::reshaped(&cells.transposed([0, 2, 3, 1]).cells, patches);
        let filters = Matrix::reshaped(&widened(&w), fh * fw * c);
        let db: Vec<f64> = rows.column_sums().iter().map(|sum| sum / n as f64).collect();
        let dw = col.transposed().times(&rows).divided(n);
        let d_col = rows.times(&filters.transposed());
        let d_cells = Tensor { extents: [patches, fh, fw, c], cells: d_col.cells };
        let d_col = Matrix::reshaped(&d_cells.transposed([0, 3, 1, 2]).cells, patches);
        let dx = windows.col2im(d_col.divided(fh * fw)).transposed([0, 2, 3, 1]);

        let params = Conv2dParams {
            layout: Layout::Nhwc,
            filter_layout: FilterLayout::Hwio,
            ..case.params()
        };
        let [nan_x, nan_w, nan_b] = [x.len(), w.len(), f].map(|len| vec![T::NAN; len]);
        let call = Backward {
            x: Some(&x),
            w: Some(&w),
            dy: &dy,
            options: GradientOptions {
                dx_alpha: 1.0 / (fh * fw) as f64,
                dw_alpha: 1.0 / n as f64,
                db_alpha: 1.0 / n as f64,
                ..GradientOptions::default()
            },
            dx: Some(&nan_x),
            dw: Some(&nan_w),
            db: Some(&nan_b),
            ..Backward::default()
        };
        for_each_way(&contexts, &params, |context, params| {
            let [result_x, result_w, result_b] =
                calls::conv_backward(context, params, &call, Placement::End)
                    .map(|gradient| gradient.expect("wanted"));
            assert_near("dx", &result_x, &dx.cells);
            assert_near("dw", &result_w, &dw.cells);
            assert_near("db", &result_b, &db);
        });
        for context in &contexts {
            let end = Placement::End;
            let result = calls::im2col(context, &params, ColLayout::PatchRows, &x, end);
            assert_near("col", &result, &col.cells);
        }
    });
}

tests_of_f32_and_f64! {
    s1_convolution
    s2_max_pool
    s3_max_pool_rounded_up
    s4_convolution_and_relu
    s5_averaged_convolution
}
