//! Every operation as a method of its element type.
//!
//! A generic function is compiled by each crate that calls it, with all kernels below it, which
//! takes half a minute. The methods of a trait's implementation are compiled once, here.

use crate::context::Context;
use crate::conv2d::{BackwardInputs, GradientOptions, Gradients};
use crate::error::Result;
use crate::gemm::{GemmBatch, GemmParams};
use crate::im2col::ColLayout;
use crate::pool2d::{Argmax, ArgmaxMut};
use crate::shape::{Activation, Conv2dParams, Pool2dParams};
use crate::simd::Element;
use crate::{conv2d, elementwise, gemm, im2col, pool2d};

macro_rules! operations {
    ($(fn $name:ident($($argument:ident: $type:ty),*) = $run:path;)*) => {
        /// The operations on elements of one type.
        #[allow(clippy::too_many_arguments, reason = "those of the functions that call them")]
        pub trait Operations: Sized {
            $(#[doc(hidden)] fn $name($($argument: $type),*) -> Result<()> where Self: Element { $run($($argument),*) })*
        }

        #[cfg(not(test))]
        #[allow(clippy::too_many_arguments, reason = "as above")]
        impl Operations for f32 {
            $(fn $name($($argument: $type),*) -> Result<()> { $run($($argument),*) })*
        }

        #[cfg(not(test))]
        #[allow(clippy::too_many_arguments, reason = "as above")]
        impl Operations for f64 {
            $(fn $name($($argument: $type),*) -> Result<()> { $run($($argument),*) })*
        }
    };
}

// The unit tests' build compiles what they call, not every kernel again.
#[cfg(test)]
impl Operations for f32 {}
#[cfg(test)]
impl Operations for f64 {}

operations! {
    fn conv2d_forward(context: &Context, params: &Conv2dParams, x: &[Self], w: &[Self], bias: Option<&[Self]>, activation: Activation, y: &mut [Self]) = conv2d::run_forward;
    fn conv2d_backward(context: &Context, params: &Conv2dParams, inputs: &BackwardInputs<'_, Self>, options: &GradientOptions, gradients: Gradients<'_, Self>) = conv2d::run_backward;
    fn conv2d_maxpool2d_forward(context: &Context, params: &Conv2dParams, pool: &Pool2dParams, x: &[Self], w: &[Self], bias: Option<&[Self]>, activation: Activation, y: &mut [Self], argmax: Option<ArgmaxMut<'_>>) = conv2d::maxpool::run_forward;
    fn conv2d_maxpool2d_backward(context: &Context, params: &Conv2dParams, pool: &Pool2dParams, inputs: &BackwardInputs<'_, Self>, argmax: Argmax<'_>, options: &GradientOptions, gradients: Gradients<'_, Self>) = conv2d::maxpool::run_backward;
    fn gemm_batched(context: &Context, params: &GemmParams, batch: &GemmBatch, alpha: Self, a: &[Self], b: &[Self], beta: Self, c: &mut [Self]) = gemm::run_gemm_batched;
    fn im2col(context: &Context, params: &Conv2dParams, col_layout: ColLayout, x: &[Self], col: &mut [Self]) = im2col::run_im2col;
    fn col2im(context: &Context, params: &Conv2dParams, col_layout: ColLayout, col: &[Self], x: &mut [Self]) = im2col::run_col2im;
    fn maxpool2d_forward(context: &Context, params: &Pool2dParams, x: &[Self], y: &mut [Self], argmax: Option<ArgmaxMut<'_>>) = pool2d::run_max_forward;
    fn maxpool2d_backward(context: &Context, params: &Pool2dParams, dy: &[Self], argmax: Argmax<'_>, dx: &mut [Self]) = pool2d::run_max_backward;
    fn avgpool2d_forward(context: &Context, params: &Pool2dParams, x: &[Self], y: &mut [Self]) = pool2d::run_avg_forward;
    fn avgpool2d_backward(context: &Context, params: &Pool2dParams, dy: &[Self], dx: &mut [Self]) = pool2d::run_avg_backward;
    fn relu_forward(context: &Context, u: &[Self], y: &mut [Self]) = elementwise::run_relu_forward;
    fn relu_forward_in_place(context: &Context, u: &mut [Self]) = elementwise::run_relu_forward_in_place;
    fn relu_backward(context: &Context, u_or_y: &[Self], dy: &[Self], dx: &mut [Self]) = elementwise::run_relu_backward;
    fn relu_backward_in_place(context: &Context, u_or_y: &[Self], dy: &mut [Self]) = elementwise::run_relu_backward_in_place;
}
