//! Convolutions, forward and backward, without bias or ReLU. Each pass counts the floating-point
//! operations of its shape: 2 * outputs * products in an output's sum, padded taps included.

use std::any::type_name;

use cnnkern::conv2d::{self, BackwardInputs, GradientOptions, Gradients};
use cnnkern::{Activation, Context, Conv2dParams, FilterLayout, Layout};

use crate::number::{Number, values};
use crate::report::{Bench, Work};
use crate::shapes;

pub fn run<T: Number>(bench: &mut Bench<'_>, layouts: &[Layout]) {
    let context = bench.context;
    for &layout in layouts {
        let (layout_name, filter_layout) = match layout {
            Layout::Nchw => ("nchw", FilterLayout::Oihw),
            Layout::Nhwc => ("nhwc", FilterLayout::Ohwi),
        };
        for (pass_name, pass) in [
            ("forward", forward as Pass<T>),
            ("backward_data", backward_data),
            ("backward_weights", backward_weights),
        ] {
            let convolutions = shapes::convolutions(bench.effort);
            let mut group =
                bench.group(&format!("conv/{pass_name}/{}/{layout_name}", type_name::<T>()));
            for (name, params) in convolutions {
                let params = Conv2dParams { layout, filter_layout, ..params };
                let sizes = Sizes::of(&params);
                group.measure(
                    &name,
                    Work::Flops(2 * sizes.y * sizes.w / params.out_channels),
                    || Tensors { x: values(sizes.x), w: values(sizes.w), y: values(sizes.y) },
                    |tensors| pass(context, &params, tensors).expect("valid parameters"),
                );
            }
        }
    }
}

/// Elements of the tensors.
struct Sizes {
    x: usize,
    w: usize,
    y: usize,
}

impl Sizes {
    fn of(params: &Conv2dParams) -> Sizes {
        let (height, width) = params.output_size().expect("a valid shape");
        let patch = params.in_channels / params.groups * params.kernel_height * params.kernel_width;
        Sizes {
            x: params.batch * params.in_channels * params.in_height * params.in_width,
            w: params.out_channels * patch,
            y: params.batch * params.out_channels * height * width,
        }
    }
}

/// A layer's tensors, or their gradients where a pass writes or reads those.
struct Tensors<T> {
    x: Vec<T>,
    w: Vec<T>,
    y: Vec<T>,
}

type Pass<T> = fn(&Context, &Conv2dParams, &mut Tensors<T>) -> cnnkern::Result<()>;

fn forward<T: Number>(
    context: &Context,
    params: &Conv2dParams,
    Tensors { x, w, y }: &mut Tensors<T>,
) -> cnnkern::Result<()> {
    conv2d::forward(context, params, x, w, None, Activation::None, y)
}

fn backward_data<T: Number>(
    context: &Context,
    params: &Conv2dParams,
    Tensors { x: dx, w, y: dy }: &mut Tensors<T>,
) -> cnnkern::Result<()> {
    let inputs = BackwardInputs { x: None, w: Some(w), dy, relu_output: None };
    let gradients = Gradients { dx: Some(dx), dw: None, db: None };
    conv2d::backward(context, params, &inputs, &GradientOptions::default(), gradients)
}

fn backward_weights<T: Number>(
    context: &Context,
    params: &Conv2dParams,
    Tensors { x, w: dw, y: dy }: &mut Tensors<T>,
) -> cnnkern::Result<()> {
    let inputs = BackwardInputs { x: Some(x), w: None, dy, relu_output: None };
    let gradients = Gradients { dx: None, dw: Some(dw), db: None };
    conv2d::backward(context, params, &inputs, &GradientOptions::default(), gradients)
}
