//! y = activation(conv(x, w) + bias), as a product of filters and patches of x.

use super::filter_product::{FilterProduct, Filters, Results};
use super::patches::Patches;
use crate::context::Context;
use crate::error::Result;
use crate::gemm::kernel::Places;
use crate::gemm::pack::Depth;
use crate::scratch::ScratchLen;
use crate::shape::{Activation, ConvShape};
use crate::simd::{Element, Level};
use crate::taps::Taps;

/// The patches of x, one for each pixel of y.
pub(super) fn input_patches<T>(shape: &ConvShape, x: &[T]) -> Patches<T> {
    let [_, channel, row, column] = shape.input_strides;
    let patches = Patches {
        layout: shape.layout,
        source: x.as_ptr(),
        relu_output: std::ptr::null(),
        channels: shape.group_in,
        strides: [channel, row, column],
        rows: Taps::forward(&shape.height),
        columns: Taps::forward(&shape.width),
        grid_width: shape.out_width,
    };
    patches.flattened()
}

pub(super) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<()> {
    let product = product(shape, x, w, bias, activation, y);
    let scratch = context.scratch::<T>(product.scratch_len(context.level()))?;
    product.run(context, &scratch);
    Ok(())
}

pub(super) fn scratch_len<T: Element>(level: Level, shape: &ConvShape) -> ScratchLen {
    product::<T>(shape, &[], &[], None, Activation::None, &mut []).scratch_len(level)
}

fn product<T: Element>(
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> FilterProduct<T> {
    let [w_out, w_in, w_row, w_column] = shape.filter_strides().map(|stride| stride as isize);
    let (kernel_height, kernel_width) = (shape.height.kernel, shape.width.kernel);
    let [y_image, y_channel, _, y_column] = shape.output_strides;
    let product = FilterProduct {
        batch: shape.batch,
        groups: shape.groups,
        outputs: shape.group_out,
        pixels: shape.out_height * shape.out_width,
        patches: input_patches(shape, x),
        image_stride: shape.input_strides[0],
        filters: Filters {
            start: w.as_ptr(),
            group_stride: shape.group_out * w_out as usize,
            line_stride: w_out as usize,
            depth: Depth::nested(
                [kernel_height, kernel_width, shape.group_in],
                [w_row, w_column, w_in],
            ),
        },
        results: Results {
            start: y.as_mut_ptr(),
            image_stride: y_image,
            group_stride: shape.group_out * y_channel,
            outputs: Places::every(y_channel),
            pixels: Places::every(y_column),
        },
        alpha: T::from_f64(1.0),
        beta: T::default(),
        bias: bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: activation == Activation::Relu,
    };
    product.joined()
}
