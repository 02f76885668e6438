//! Each operation as plain loops with sums in double precision: what `CNNKERN_ALGORITHM_REFERENCE`
//! runs, and the oracle that every kernel is tested against.
//!
//! Padding is a value of zero like any other: a padded cell times an infinite weight is a NaN.

use crate::conv2d::{BackwardInputs, GradientOptions, Gradients};
#[cfg(test)]
use crate::im2col::ColLayout;
#[cfg(test)]
use crate::pool2d::{Argmax, ArgmaxMut};
use crate::shape::{Activation, ConvShape};
#[cfg(test)]
use crate::shape::{Layout, PoolPadding, PoolShape, activation_strides};
use crate::simd::Element;

/// Index of an element of an activation tensor.
struct Index([usize; 4]);

impl Index {
    fn input(shape: &ConvShape) -> Self {
        Index(shape.input_strides)
    }

    fn output(shape: &ConvShape) -> Self {
        Index(shape.output_strides)
    }

    fn at(&self, image: usize, channel: usize, row: usize, column: usize) -> usize {
        let [n, c, h, w] = self.0;
        image * n + channel * c + row * h + column * w
    }
}

/// `max(value, 0)`; a NaN stays NaN.
fn relu(value: f64) -> f64 {
    if value <= 0.0 { 0.0 } else { value }
}

/// y = activation(conv(x, w) + bias)
pub(crate) fn conv2d_forward<T: Element>(
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) {
    let (input, output, filter) =
        (Index::input(shape), Index::output(shape), Index(shape.filter_strides()));
    for_each_output(shape, |n, o, oh, ow| {
        let mut sum = 0.0;
        for_each_tap(shape, |i, kh, kw| {
            let c = o / shape.group_out * shape.group_in + i;
            let value = match (shape.height.source(oh, kh), shape.width.source(ow, kw)) {
                (Some(h), Some(w)) => x[input.at(n, c, h, w)].to_f64(),
                _ => 0.0,
            };
            sum += value * w[filter.at(o, i, kh, kw)].to_f64();
        });
        sum += bias.map_or(0.0, |bias| bias[o].to_f64());
        if activation == Activation::Relu {
            sum = relu(sum);
        }
        y[output.at(n, o, oh, ow)] = T::from_f64(sum);
    });
}

/// The gradients of the forward pass.
pub(crate) fn conv2d_backward<T: Element>(
    shape: &ConvShape,
    inputs: &BackwardInputs<'_, T>,
    options: &GradientOptions,
    gradients: Gradients<'_, T>,
) {
    let (input, output, filter) =
        (Index::input(shape), Index::output(shape), Index(shape.filter_strides()));
    let dy = |n, o, oh, ow| {
        let index = output.at(n, o, oh, ow);
        match inputs.relu_output {
            Some(u) if u[index].to_f64() <= 0.0 => 0.0,
            _ => inputs.dy[index].to_f64(),
        }
    };
    let update = |gradient: &mut T, sum: f64, alpha: f64, beta: f64| {
        let kept = if beta == 0.0 { 0.0 } else { beta * gradient.to_f64() };
        *gradient = T::from_f64(alpha * sum + kept);
    };
    if let Some(dx) = gradients.dx {
        let w = inputs.w.expect("checked by the caller");
        let mut sums = vec![0.0; shape.input_len()];
        for_each_output(shape, |n, o, oh, ow| {
            let dy = dy(n, o, oh, ow);
            for_each_tap(shape, |i, kh, kw| {
                let c = o / shape.group_out * shape.group_in + i;
                if let (Some(h), Some(column)) =
                    (shape.height.source(oh, kh), shape.width.source(ow, kw))
                {
                    sums[input.at(n, c, h, column)] += dy * w[filter.at(o, i, kh, kw)].to_f64();
                }
            });
        });
        for (gradient, &sum) in dx.iter_mut().zip(&sums) {
            update(gradient, sum, options.dx_alpha, options.dx_beta);
        }
    }
    if let Some(dw) = gradients.dw {
        let x = inputs.x.expect("checked by the caller");
        let mut sums = vec![0.0; shape.filter_len()];
        for_each_output(shape, |n, o, oh, ow| {
            let dy = dy(n, o, oh, ow);
            for_each_tap(shape, |i, kh, kw| {
                let c = o / shape.group_out * shape.group_in + i;
                let value = match (shape.height.source(oh, kh), shape.width.source(ow, kw)) {
                    (Some(h), Some(w)) => x[input.at(n, c, h, w)].to_f64(),
                    _ => 0.0,
                };
                sums[filter.at(o, i, kh, kw)] += dy * value;
            });
        });
        for (gradient, &sum) in dw.iter_mut().zip(&sums) {
            update(gradient, sum, options.dw_alpha, options.dw_beta);
        }
    }
    if let Some(db) = gradients.db {
        let mut sums = vec![0.0; shape.out_channels];
        for_each_output(shape, |n, o, oh, ow| sums[o] += dy(n, o, oh, ow));
        for (gradient, &sum) in db.iter_mut().zip(&sums) {
            update(gradient, sum, options.db_alpha, options.db_beta);
        }
    }
}

fn for_each_output(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize, usize)) {
    for n in 0..shape.batch {
        for o in 0..shape.out_channels {
            for oh in 0..shape.height.output {
                for ow in 0..shape.width.output {
                    visit(n, o, oh, ow);
                }
            }
        }
    }
}

fn for_each_tap(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    for i in 0..shape.group_in {
        for kh in 0..shape.height.kernel {
            for kw in 0..shape.width.kernel {
                visit(i, kh, kw);
            }
        }
    }
}

/// C = alpha * op(A) * op(B) + beta * C, where `a` and `b` give an element of op(A) and of op(B).
#[cfg(test)]
pub(crate) fn gemm<T: Element>(
    [m, n, k]: [usize; 3],
    alpha: T,
    a: impl Fn(usize, usize) -> T,
    b: impl Fn(usize, usize) -> T,
    beta: T,
    c: &mut [T],
    ldc: usize,
) {
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| a(i, p).to_f64() * b(p, j).to_f64()).sum();
            let c = &mut c[i * ldc + j];
            let kept = if beta == T::default() { 0.0 } else { beta.to_f64() * c.to_f64() };
            *c = T::from_f64(alpha.to_f64() * sum + kept);
        }
    }
}

/// Where (image, row, column) and (channel, kernel row, kernel column) lie in a column matrix.
#[cfg(test)]
fn col_index(
    shape: &ConvShape,
    col_layout: ColLayout,
    [n, oh, ow]: [usize; 3],
    [c, kh, kw]: [usize; 3],
) -> usize {
    let (h, w) = (&shape.height, &shape.width);
    let pixels = h.output * w.output;
    let pixel = oh * w.output + ow;
    let cell = match shape.layout {
        Layout::Nchw => (c * h.kernel + kh) * w.kernel + kw,
        Layout::Nhwc => (kh * w.kernel + kw) * shape.in_channels + c,
    };
    match col_layout {
        ColLayout::PatchRows => (n * pixels + pixel) * shape.patch_len() + cell,
        ColLayout::PatchColumns => cell * shape.batch * pixels + n * pixels + pixel,
        ColLayout::PerImage => (n * shape.patch_len() + cell) * pixels + pixel,
    }
}

/// The patches of x as a matrix.
#[cfg(test)]
pub(crate) fn im2col<T: Element>(shape: &ConvShape, col_layout: ColLayout, x: &[T], col: &mut [T]) {
    let input = Index::input(shape);
    for_each_patch_cell(shape, |[n, oh, ow], [c, kh, kw]| {
        col[col_index(shape, col_layout, [n, oh, ow], [c, kh, kw])] =
            match (shape.height.source(oh, kh), shape.width.source(ow, kw)) {
                (Some(h), Some(w)) => x[input.at(n, c, h, w)],
                _ => T::default(),
            };
    });
}

/// The adjoint of [`im2col`].
#[cfg(test)]
pub(crate) fn col2im<T: Element>(shape: &ConvShape, col_layout: ColLayout, col: &[T], x: &mut [T]) {
    let input = Index::input(shape);
    let mut sums = vec![0.0; shape.input_len()];
    for_each_patch_cell(shape, |[n, oh, ow], [c, kh, kw]| {
        if let (Some(h), Some(w)) = (shape.height.source(oh, kh), shape.width.source(ow, kw)) {
            sums[input.at(n, c, h, w)] +=
                col[col_index(shape, col_layout, [n, oh, ow], [c, kh, kw])].to_f64();
        }
    });
    for (x, &sum) in x.iter_mut().zip(&sums) {
        *x = T::from_f64(sum);
    }
}

#[cfg(test)]
fn for_each_patch_cell(shape: &ConvShape, mut visit: impl FnMut([usize; 3], [usize; 3])) {
    for n in 0..shape.batch {
        for oh in 0..shape.height.output {
            for ow in 0..shape.width.output {
                for_each_tap(shape, |c, kh, kw| visit([n, oh, ow], [c, kh, kw]));
            }
        }
    }
}

/// Calls `visit(index of y, cells)` for each window, where the cells are (place in the window,
/// index of x or None in the padding), in the window's order. Cells outside the padded input, as
/// ceil_mode makes them, do not exist.
#[cfg(test)]
fn for_each_window(
    shape: &PoolShape,
    mut visit: impl FnMut(usize, &mut dyn Iterator<Item = (usize, Option<usize>)>),
) {
    let (h, w) = (&shape.height, &shape.width);
    let input = Index(activation_strides(shape.layout, shape.channels, h.input, w.input));
    let output = Index(activation_strides(shape.layout, shape.channels, h.output, w.output));
    for n in 0..shape.batch {
        for c in 0..shape.channels {
            for oh in 0..h.output {
                for ow in 0..w.output {
                    let mut cells = (0..shape.window_len()).filter_map(|cell| {
                        let (kh, kw) = (cell / w.kernel, cell % w.kernel);
                        let row = oh * h.stride + kh * h.dilation;
                        let column = ow * w.stride + kw * w.dilation;
                        let exists = row < h.pad_before + h.input + h.pad_after
                            && column < w.pad_before + w.input + w.pad_after;
                        let source = match (h.source(oh, kh), w.source(ow, kw)) {
                            (Some(row), Some(column)) => Some(input.at(n, c, row, column)),
                            _ => None,
                        };
                        exists.then_some((cell, source))
                    });
                    visit(output.at(n, c, oh, ow), &mut cells);
                }
            }
        }
    }
}

/// The maximum of each window, and its place. A window without a cell that counts has the maximum
/// -infinity, at place 0.
#[cfg(test)]
pub(crate) fn maxpool2d_forward<T: Element>(
    shape: &PoolShape,
    x: &[T],
    y: &mut [T],
    mut argmax: Option<ArgmaxMut<'_>>,
) {
    for_each_window(shape, |out, cells| {
        let mut best = (0, T::from_f64(f64::NEG_INFINITY));
        let mut empty = true;
        for (cell, source) in cells {
            let value = match source {
                Some(source) => x[source],
                None if shape.padding == PoolPadding::Zero => T::default(),
                None => continue,
            };
            let best_is_nan = best.1.partial_cmp(&best.1).is_none();
            let value_is_nan = value.partial_cmp(&value).is_none();
            if empty || (!best_is_nan && (value_is_nan || value > best.1)) {
                best = (cell, value);
                empty = false;
            }
        }
        y[out] = best.1;
        match &mut argmax {
            Some(ArgmaxMut::I32(places)) => places[out] = best.0 as i32,
            Some(ArgmaxMut::U8(places)) => places[out] = best.0 as u8,
            None => {}
        }
    });
}

/// Each gradient added to the cell that was its window's maximum. Places are checked by the caller.
#[cfg(test)]
pub(crate) fn maxpool2d_backward<T: Element>(
    shape: &PoolShape,
    dy: &[T],
    argmax: Argmax<'_>,
    dx: &mut [T],
) {
    let mut sums = vec![0.0; dx.len()];
    for_each_window(shape, |out, mut cells| {
        let place = argmax.at(out);
        if let Some((_, Some(source))) = Iterator::find(&mut cells, |&(cell, _)| cell == place) {
            sums[source] += dy[out].to_f64();
        }
    });
    for (dx, &sum) in dx.iter_mut().zip(&sums) {
        *dx = T::from_f64(sum);
    }
}

/// The mean of each window; 0 where no cell counts.
#[cfg(test)]
pub(crate) fn avgpool2d_forward<T: Element>(shape: &PoolShape, x: &[T], y: &mut [T]) {
    for_each_window(shape, |out, cells| {
        let (mut sum, mut count) = (0.0, 0usize);
        for (_, source) in cells {
            sum += source.map_or(0.0, |source| x[source].to_f64());
            count += usize::from(source.is_some() || shape.padding == PoolPadding::Zero);
        }
        y[out] = T::from_f64(if count == 0 { 0.0 } else { sum / count as f64 });
    });
}

/// Each gradient spread evenly over its window.
#[cfg(test)]
pub(crate) fn avgpool2d_backward<T: Element>(shape: &PoolShape, dy: &[T], dx: &mut [T]) {
    let mut sums = vec![0.0; dx.len()];
    for_each_window(shape, |out, cells| {
        let cells: Vec<Option<usize>> = cells
            .filter(|(_, source)| source.is_some() || shape.padding == PoolPadding::Zero)
            .map(|(_, source)| source)
            .collect();
        for source in cells.iter().flatten() {
            sums[*source] += dy[out].to_f64() / cells.len() as f64;
        }
    });
    for (dx, &sum) in dx.iter_mut().zip(&sums) {
        *dx = T::from_f64(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{GemmParams, Transpose};
    use crate::shape::{Conv2dParams, Pool2dParams};
    use crate::testing::{Random, contexts, values};
    use crate::{gemm as product, im2col as columns, pool2d};

    /// Values are multiples of 1/8 below 4, so that all sums are exact.
    fn exact(seed: u64, len: usize) -> Vec<f32> {
        values::<f32>(seed, len).iter().map(|value| (value * 32.0).round() / 8.0).collect()
    }

    fn layout(random: &mut Random) -> Layout {
        if random.chance(50) { Layout::Nchw } else { Layout::Nhwc }
    }

    #[test]
    fn gemm_is_the_plain_loops() {
        let mut random = Random(1);
        for context in contexts() {
            for _ in 0..60 {
                let [m, n, k] = [(); 3].map(|()| random.within(1..=40));
                let (a, b) = (exact(2, m * k), exact(3, k * n));
                let mut actual = exact(4, m * n);
                let mut expected = actual.clone();
                let (transa, transb) = (Transpose::No, Transpose::Yes);
                let params = GemmParams { transa, transb, m, n, k, lda: k, ldb: k, ldc: n };
                product::gemm(&context, &params, 0.5, &a, &b, 2.0, &mut actual).unwrap();
                let (a, b) = (|i, p| a[i * k + p], |p, j| b[j * k + p]);
                gemm([m, n, k], 0.5, a, b, 2.0, &mut expected, n);
                assert_eq!(actual, expected, "{params:?}");
            }
        }
    }

    #[test]
    fn im2col_and_col2im_are_the_plain_loops() {
        let mut random = Random(5);
        for context in contexts() {
            for _ in 0..120 {
                let [batch, channels, height, width] = [2, 5, 9, 21].map(|m| random.within(1..=m));
                let [kernel_height, kernel_width] = [(); 2].map(|()| random.within(1..=3));
                let params = Conv2dParams {
                    stride_height: random.within(1..=3),
                    stride_width: random.within(1..=3),
                    pad_top: random.within(0..=4),
                    pad_left: random.within(0..=4),
                    pad_right: random.within(0..=2),
                    dilation_height: random.within(1..=2),
                    dilation_width: random.within(1..=2),
                    layout: layout(&mut random),
                    ..Conv2dParams::new(
                        batch,
                        channels,
                        height,
                        width,
                        1,
                        kernel_height,
                        kernel_width,
                    )
                };
                let Ok(shape) = ConvShape::new(&params, 4) else { continue };
                let len = columns::col_len::<f32>(&params).unwrap();
                let (x, cells) = (exact(6, shape.input_len()), exact(7, len));
                for order in [ColLayout::PatchRows, ColLayout::PatchColumns, ColLayout::PerImage] {
                    let mut actual = vec![f32::NAN; len];
                    let mut expected = actual.clone();
                    columns::im2col(&context, &params, order, &x, &mut actual).unwrap();
                    im2col(&shape, order, &x, &mut expected);
                    assert_eq!(actual, expected, "{order:?} of {params:?}");
                    let mut actual = vec![f32::NAN; x.len()];
                    let mut expected = actual.clone();
                    columns::col2im(&context, &params, order, &cells, &mut actual).unwrap();
                    col2im(&shape, order, &cells, &mut expected);
                    assert_eq!(actual, expected, "{order:?} of {params:?}");
                }
            }
        }
    }

    #[test]
    fn pooling_is_the_plain_loops() {
        let mut random = Random(8);
        for context in contexts() {
            for _ in 0..300 {
                let [batch, channels, height, width] = [2, 20, 9, 40].map(|m| random.within(1..=m));
                let [kernel_height, kernel_width] = [(); 2].map(|()| random.within(1..=4));
                let padding =
                    if random.chance(50) { PoolPadding::Excluded } else { PoolPadding::Zero };
                let params = Pool2dParams {
                    stride_height: random.within(1..=4),
                    stride_width: random.within(1..=4),
                    pad_top: random.within(0..=3),
                    pad_left: random.within(0..=3),
                    pad_right: random.within(0..=5),
                    dilation_height: random.within(1..=2),
                    dilation_width: random.within(1..=2),
                    ceil_mode: random.chance(50),
                    padding,
                    layout: layout(&mut random),
                    ..Pool2dParams::new(batch, channels, height, width, kernel_height, kernel_width)
                };
                let Ok(shape) = PoolShape::new(&params, 4) else { continue };
                let (x, dy) = (exact(9, shape.input_len()), exact(10, shape.output_len()));
                let (mut y, mut places) = (vec![f32::NAN; dy.len()], vec![-1; dy.len()]);
                let (mut expected, mut expected_places) = (y.clone(), places.clone());
                let argmax = Some(ArgmaxMut::I32(&mut places));
                pool2d::max_forward(&context, &params, &x, &mut y, argmax).unwrap();
                let argmax = Some(ArgmaxMut::I32(&mut expected_places));
                maxpool2d_forward(&shape, &x, &mut expected, argmax);
                assert_eq!((&y, &places), (&expected, &expected_places), "{params:?}");

                let mut dx = vec![f32::NAN; x.len()];
                let mut expected = dx.clone();
                let argmax = Argmax::I32(&places);
                pool2d::max_backward(&context, &params, &dy, argmax, &mut dx).unwrap();
                maxpool2d_backward(&shape, &dy, argmax, &mut expected);
                assert_eq!(dx, expected, "{params:?}");

                let close = |actual: &[f32], expected: &[f32]| {
                    // sums of at most 64 terms below 4
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 64.0 * 256.0 * f32::EPSILON;
                    assert!(actual.iter().zip(expected).all(near), "{params:?}");
                };
                let mut y = vec![f32::NAN; dy.len()];
                let mut expected = y.clone();
                pool2d::avg_forward(&context, &params, &x, &mut y).unwrap();
                avgpool2d_forward(&shape, &x, &mut expected);
                close(&y, &expected);
                let mut dx = vec![f32::NAN; x.len()];
                let mut expected = dx.clone();
                pool2d::avg_backward(&context, &params, &dy, &mut dx).unwrap();
                avgpool2d_backward(&shape, &dy, &mut expected);
                close(&dx, &expected);
            }
        }
    }
}
