//! What memory bounds: pooling, im2col and ReLU. Each counts the bytes of the tensors that it reads
//! and writes, once.

use cnnkern::elementwise::{relu_backward, relu_forward};
use cnnkern::im2col::{ColLayout, col_len, col2im, im2col};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Context, Conv2dParams, Layout, Pool2dParams};

use crate::number::{Number, values};
use crate::peak::Effort;
use crate::report::{Bench, Work};
use crate::shapes;

const LAYOUTS: [(&str, Layout); 2] = [("nchw", Layout::Nchw), ("nhwc", Layout::Nhwc)];

pub fn run<T: Number>(bench: &mut Bench<'_>) {
    pooling::<T>(bench);
    columns::<T>(bench);
    relu::<T>(bench);
}

fn pooling<T: Number>(bench: &mut Bench<'_>) {
    let context = bench.context;
    for (layout_name, layout) in LAYOUTS {
        for (pass_name, pass, argmax_size) in [
            ("max_forward", max_forward as PoolPass<T>, 1),
            ("max_backward", max_backward, 1),
            ("avg_forward", avg_forward, 0),
            ("avg_backward", avg_backward, 0),
        ] {
            let poolings = shapes::poolings(bench.effort);
            let mut group = bench.group(&format!("pool/{pass_name}/{}/{layout_name}", T::NAME));
            for (name, params) in poolings {
                let params = Pool2dParams { layout, ..params };
                let (height, width) = params.output_size().expect("a valid shape");
                let planes = params.batch * params.channels;
                let x_len = planes * params.in_height * params.in_width;
                let y_len = planes * height * width;
                group.measure(
                    name,
                    Work::Bytes((x_len + y_len) * size_of::<T>() + y_len * argmax_size),
                    || {
                        let (x, y, argmax) = (values(x_len), values(y_len), vec![0; y_len]);
                        let mut tensors = Pooled { x, y, argmax };
                        // For the backward pass: where the maxima are.
                        max_forward(context, &params, &mut tensors).expect("valid parameters");
                        tensors
                    },
                    |tensors| pass(context, &params, tensors).expect("valid parameters"),
                );
            }
        }
    }
}

/// A pooling's tensors, or their gradients in a backward pass.
struct Pooled<T> {
    x: Vec<T>,
    y: Vec<T>,
    argmax: Vec<u8>,
}

type PoolPass<T> = fn(&Context, &Pool2dParams, &mut Pooled<T>) -> cnnkern::Result<()>;

fn max_forward<T: Number>(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x, y, argmax }: &mut Pooled<T>,
) -> cnnkern::Result<()> {
    pool2d::max_forward(context, params, x, y, Some(ArgmaxMut::U8(argmax)))
}

fn max_backward<T: Number>(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x: dx, y: dy, argmax }: &mut Pooled<T>,
) -> cnnkern::Result<()> {
    pool2d::max_backward(context, params, dy, Argmax::U8(argmax), dx)
}

fn avg_forward<T: Number>(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x, y, .. }: &mut Pooled<T>,
) -> cnnkern::Result<()> {
    pool2d::avg_forward(context, params, x, y)
}

fn avg_backward<T: Number>(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x: dx, y: dy, .. }: &mut Pooled<T>,
) -> cnnkern::Result<()> {
    pool2d::avg_backward(context, params, dy, dx)
}

/// im2col and col2im of the layers whose column matrix is more than their input.
fn columns<T: Number>(bench: &mut Bench<'_>) {
    let context = bench.context;
    for (layout_name, layout) in LAYOUTS {
        for (col_name, col_layout) in [
            ("patch_rows", ColLayout::PatchRows),
            ("patch_columns", ColLayout::PatchColumns),
            ("per_image", ColLayout::PerImage),
        ] {
            let mut layers = shapes::convolutions(bench.effort);
            layers.retain(|(name, params)| {
                let network = ["resnet50/", "lenet5/"].iter().any(|start| name.starts_with(start));
                network && params.kernel_height > 1
            });
            for (pass_name, pass) in [("im2col", to_columns as ColumnPass<T>), ("col2im", to_image)]
            {
                let kind = format!("{}/{layout_name}/{col_name}", T::NAME);
                let mut group = bench.group(&format!("{pass_name}/{kind}"));
                for (name, params) in &layers {
                    let params = Conv2dParams { layout, ..*params };
                    let x = params.batch * params.in_channels * params.in_height * params.in_width;
                    let col = col_len::<T>(&params).expect("a valid shape");
                    group.measure(
                        name,
                        Work::Bytes((x + col) * size_of::<T>()),
                        || (values(x), values(col)),
                        |(x, col)| {
                            pass(context, &params, col_layout, x, col).expect("valid parameters");
                        },
                    );
                }
            }
        }
    }
}

type ColumnPass<T> =
    fn(&Context, &Conv2dParams, ColLayout, &mut [T], &mut [T]) -> cnnkern::Result<()>;

fn to_columns<T: Number>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &mut [T],
    col: &mut [T],
) -> cnnkern::Result<()> {
    im2col(context, params, col_layout, x, col)
}

fn to_image<T: Number>(
    context: &Context,
    params: &Conv2dParams,
    col_layout: ColLayout,
    x: &mut [T],
    col: &mut [T],
) -> cnnkern::Result<()> {
    col2im(context, params, col_layout, col, x)
}

fn relu<T: Number>(bench: &mut Bench<'_>) {
    let context = bench.context;
    let len = if bench.effort == Effort::Trial { 1000 } else { 16 << 20 };
    let mut group = bench.group(&format!("relu/{}", T::NAME));
    group.measure(
        "forward",
        Work::Bytes(2 * len * size_of::<T>()),
        || (values::<T>(len), values::<T>(len)),
        |(u, y)| relu_forward(context, u, y).expect("equal lengths"),
    );
    group.measure(
        "backward",
        Work::Bytes(3 * len * size_of::<T>()),
        || (values::<T>(len), values::<T>(len), values::<T>(len)),
        |(u, dy, dx)| relu_backward(context, u, dy, dx).expect("equal lengths"),
    );
}
