//! `cargo bench --bench memory`: what memory bounds, pooling, im2col, col2im and ReLU, in f32, beside the bandwidth that
//! this machine can reach.
//!
//! First the machine is measured. Then each benchmark shows its GB/s and the per cent of the better of reading
//! and copying. Each byte of a tensor that is read or written counts once, so a tensor that stays in the
//! cache may pass 100 %. `cargo bench --bench memory -- pool/max_forward` runs those whose name contains that.

mod multiply_add;
mod number;
mod peak;
mod random;
mod report;
mod shapes;

use cnnkern::elementwise::{relu_backward, relu_forward};
use cnnkern::im2col::{ColLayout, col_len, col2im, im2col};
use cnnkern::pool2d::{self, Argmax, ArgmaxMut};
use cnnkern::{Context, Conv2dParams, Layout, Pool2dParams};

use number::values;
use peak::Effort;
use report::{Bench, Peak, Work, set_up};
use shapes::{images, list};

const LAYOUTS: [(&str, Layout); 2] = [("nchw", Layout::Nchw), ("nhwc", Layout::Nhwc)];

fn main() {
    let (context, effort, machine) = set_up();
    let mut bench = Bench::new(&context, effort, Peak::of::<f32>(&machine.all_threads));
    pooling(&mut bench);
    columns(&mut bench);
    relu(&mut bench);
}

fn pooling(bench: &mut Bench<'_>) {
    let context = bench.context;
    for (layout_name, layout) in LAYOUTS {
        for (pass_name, pass, argmax_size) in [
            ("max_forward", max_forward as PoolPass, 1),
            ("max_backward", max_backward, 1),
            ("avg_forward", avg_forward, 0),
            ("avg_backward", avg_backward, 0),
        ] {
            let poolings = poolings(bench.effort);
            let mut group = bench.group(&format!("pool/{pass_name}/f32/{layout_name}"));
            for (name, params) in poolings {
                let params = Pool2dParams { layout, ..params };
                let (height, width) = params.output_size().expect("a valid shape");
                let planes = params.batch * params.channels;
                let x_len = planes * params.in_height * params.in_width;
                let y_len = planes * height * width;
                group.measure(
                    name,
                    Work::Bytes((x_len + y_len) * size_of::<f32>() + y_len * argmax_size),
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

fn poolings(effort: Effort) -> Vec<(&'static str, Pool2dParams)> {
    let pool = |[batch, channels, height, width, kernel, stride, pad]: [usize; 7]| Pool2dParams {
        stride_height: stride,
        stride_width: stride,
        pad_top: pad,
        pad_bottom: pad,
        pad_left: pad,
        pad_right: pad,
        ..Pool2dParams::new(images(batch, effort), channels, height, width, kernel, kernel)
    };
    list!("pool").lines().map(|(name, numbers)| (name, pool(numbers))).collect()
}

/// A pooling's tensors, or their gradients in a backward pass.
struct Pooled {
    x: Vec<f32>,
    y: Vec<f32>,
    argmax: Vec<u8>,
}

type PoolPass = fn(&Context, &Pool2dParams, &mut Pooled) -> cnnkern::Result<()>;

fn max_forward(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x, y, argmax }: &mut Pooled,
) -> cnnkern::Result<()> {
    pool2d::max_forward(context, params, x, y, Some(ArgmaxMut::U8(argmax)))
}

fn max_backward(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x: dx, y: dy, argmax }: &mut Pooled,
) -> cnnkern::Result<()> {
    pool2d::max_backward(context, params, dy, Argmax::U8(argmax), dx)
}

fn avg_forward(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x, y, .. }: &mut Pooled,
) -> cnnkern::Result<()> {
    pool2d::avg_forward(context, params, x, y)
}

fn avg_backward(
    context: &Context,
    params: &Pool2dParams,
    Pooled { x: dx, y: dy, .. }: &mut Pooled,
) -> cnnkern::Result<()> {
    pool2d::avg_backward(context, params, dy, dx)
}

/// im2col and col2im of the layers with a window. Not VGG's, whose column matrices take up to half a
/// gigabyte, nor MobileNet's, whose windows are depthwise.
fn columns(bench: &mut Bench<'_>) {
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
            let passes: [(&str, ColumnPass); 2] = [
                ("im2col", |context, params, layout, x, col| {
                    im2col(context, params, layout, x, col)
                }),
                ("col2im", |context, params, layout, x, col| {
                    col2im(context, params, layout, col, x)
                }),
            ];
            for (pass_name, pass) in passes {
                let kind = format!("f32/{layout_name}/{col_name}");
                let mut group = bench.group(&format!("{pass_name}/{kind}"));
                for (name, params) in &layers {
                    let params = Conv2dParams { layout, ..*params };
                    let x = params.batch * params.in_channels * params.in_height * params.in_width;
                    let col = col_len::<f32>(&params).expect("a valid shape");
                    group.measure(
                        name,
                        Work::Bytes((x + col) * size_of::<f32>()),
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

type ColumnPass =
    fn(&Context, &Conv2dParams, ColLayout, &mut [f32], &mut [f32]) -> cnnkern::Result<()>;

fn relu(bench: &mut Bench<'_>) {
    let context = bench.context;
    let len = if bench.effort == Effort::Trial { 1000 } else { 16 << 20 };
    let mut group = bench.group("relu/f32");
    group.measure(
        "forward",
        Work::Bytes(2 * len * size_of::<f32>()),
        || (values::<f32>(len), values::<f32>(len)),
        |(u, y)| relu_forward(context, u, y).expect("equal lengths"),
    );
    group.measure(
        "backward",
        Work::Bytes(3 * len * size_of::<f32>()),
        || (values::<f32>(len), values::<f32>(len), values::<f32>(len)),
        |(u, dy, dx)| relu_backward(context, u, dy, dx).expect("equal lengths"),
    );
}
