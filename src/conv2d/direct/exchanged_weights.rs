//! dw of few outputs, NHWC: x and dy trade places, so that the many input channels are in the lanes.
//!
//! `dw[o, k, c]`, the sum of `dy[p, o] * x[p + k, c]` over the pixels p, is the sum of `x[q, c] * dy[q - k, o]` over
//! the pixels q: the gradient, with its taps reversed, of a convolution of dy whose result has the shape of x.

use super::channel_weights;
use crate::context::Context;
use crate::conv2d::backward_weights::{BackwardWeights, updated};
use crate::conv2d::gradient::Gradient;
use crate::conv2d::{GradientOptions, are_finite};
use crate::error::Result;
use crate::scratch::ScratchLen;
use crate::shape::{Axis, ConvShape, FilterLayout, Layout};
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};

/// The most outputs, of single pixels and of larger windows, and input channels that fill the lanes.
const FEW_OUTPUTS_OF_PIXELS: usize = 6;
const FEW_OUTPUTS: usize = 12;
const MANY_INPUTS: usize = 16;

/// Whether the gradients of a convolution are those of one with x and dy exchanged, and had better be.
fn fits(shape: &ConvShape) -> bool {
    let most = if shape.window() == 1 { FEW_OUTPUTS_OF_PIXELS } else { FEW_OUTPUTS };
    let few = shape.group_out <= most && shape.group_in >= MANY_INPUTS;
    let axis = |axis: &Axis| {
        let most = axis.kernel - 1;
        axis.stride == 1 && axis.dilation == 1 && axis.pad_before <= most && axis.pad_after <= most
    };
    let pixels = shape.layout == Layout::Nhwc && shape.groups == 1;
    pixels && few && axis(&shape.height) && axis(&shape.width)
}

/// The convolution of dy.
fn exchanged(shape: &ConvShape) -> ConvShape {
    let axis = |axis: &Axis| Axis {
        input: axis.output,
        output: axis.input,
        pad_before: axis.kernel - 1 - axis.pad_before,
        pad_after: axis.kernel - 1 - axis.pad_after,
        ..*axis
    };
    let (height, width) = (axis(&shape.height), axis(&shape.width));
    ConvShape {
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        group_in: shape.group_out,
        group_out: shape.group_in,
        height,
        width,
        out_height: height.output,
        out_width: width.output,
        input_strides: shape.output_strides,
        output_strides: shape.input_strides,
        filter_layout: FilterLayout::Ohwi,
        ..*shape
    }
}

/// What the pass takes where it runs; nothing elsewhere.
pub(in crate::conv2d) fn scratch_len<T: Element>(level: Level, shape: &ConvShape) -> ScratchLen {
    match fits(shape) {
        true => channel_weights::scratch_len::<T>(level, &exchanged(shape)),
        false => ScratchLen::default(),
    }
}

/// Updates dw. False, and nothing written, where x and dy do not trade places: dy would have to be masked, or is not
/// finite where padding, which is skipped, would make NaN of it.
pub(in crate::conv2d) fn run<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardWeights<'_, T>,
    x: &[T],
    dw: &mut [T],
) -> Result<bool> {
    let Gradient::Stored { dy, relu_output: None } = pass.gradient else { return Ok(false) };
    if !fits(shape) || shape.is_padded && !are_finite(dy) {
        return Ok(false);
    }
    let of_dy = exchanged(shape);
    let gradient = Gradient::Stored { dy: x, relu_output: None };
    let sums = BackwardWeights::new(Some(dy), gradient, &GradientOptions::default());
    let (plan, scratch) = channel_weights::sum_parts(context, &of_dy, &sums, dy)?;

    let panels = shape.in_channels.div_ceil(plan.panels.width);
    let [w_out, w_in, w_row, w_column] = shape.filter_strides();
    let (outputs, [rows, columns]) =
        (shape.out_channels, [shape.height.kernel, shape.width.kernel]);
    let dw = SharedMut::new(dw);
    context.run(panels, &|_, panel| {
        let first = panel * plan.panels.width;
        let width = plan.lanes(&of_dy, panel);
        let panel_sums = scratch.shared().wrapping_add(first * of_dy.patch_len());
        for weight in 0..of_dy.patch_len() {
            let (tap, output) = (weight / outputs, weight % outputs);
            let (row, column) = (rows - 1 - tap / columns, columns - 1 - tap % columns);
            let place = output * w_out + row * w_row + column * w_column;
            for lane in 0..width.min(shape.in_channels - first) {
                // SAFETY: every part has the panel's sums; this task alone uses its channels of dw.
                unsafe {
                    let sum = panel_sums.add(weight * width + lane);
                    let parts = (0..plan.parts).map(|part| *sum.add(part * plan.part_len));
                    let sum = parts.fold(T::default(), |sum, part| sum + part);
                    let dw = dw.at(place + (first + lane) * w_in);
                    *dw = updated(pass.dw_alpha, sum, pass.dw_beta, *dw);
                }
            }
        }
    });
    Ok(true)
}
