//! Depthwise convolution: one input channel per group, where a matrix product has nothing to reuse.
//!
//! NCHW has pixels in the lanes, NHWC channels. Forward and backward data are one kernel: both
//! gather, over taps, from x and from a phase of dy.

mod nchw;
mod nhwc;
mod weights;

use super::backward_data::BackwardData;
use super::forward::{input_strides, output_strides};
use super::patches::Taps;
use crate::context::Context;
use crate::error::Result;
use crate::shape::{Activation, ConvShape, Layout};
use crate::simd::Element;

pub(super) use weights::run as backward_weights;

/// A task has at least this many multiply-adds, where there are so many.
const TASK_WORK: usize = 1 << 17;

/// Whether these kernels take the convolution: NHWC only with one output per group, since its lanes
/// are channels of both tensors.
pub(super) fn applies(shape: &ConvShape) -> bool {
    let layout_fits = match shape.layout {
        Layout::Nchw => nchw::fits(shape),
        Layout::Nhwc => shape.group_out == 1,
    };
    shape.group_in == 1 && layout_fits
}

/// What a gathering pass computes: target = activation(alpha * sum + beta * target + bias), where
/// the sum runs over the terms of a channel and the taps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gather<T> {
    pub batch: usize,
    /// Channels of the target.
    pub channels: usize,
    pub source: *const T,
    /// Masks the source; null for none.
    pub relu_output: *const T,
    /// Source channels that each target channel is a sum of.
    pub terms: usize,
    /// Target channels that read the same source channel.
    pub channels_per_source: usize,
    /// Strides of the source along (image, channel, row, column).
    pub source_strides: [usize; 4],
    pub rows: Taps,
    pub columns: Taps,
    pub grid_height: usize,
    pub grid_width: usize,
    /// At the first tap of each axis.
    pub filters: *const T,
    /// Strides of the filters along (group and output, row tap, column tap).
    pub filter_strides: [usize; 3],
    pub target: *mut T,
    /// Strides of the target along (image, channel, grid row, grid column).
    pub target_strides: [usize; 4],
    pub alpha: T,
    pub beta: T,
    /// Per channel; null for none.
    pub bias: *const T,
    pub relu: bool,
}

// SAFETY: tasks read the sources, and write disjoint parts of the target.
unsafe impl<T: Sync> Sync for Gather<T> {}

impl<T: Element> Gather<T> {
    fn run(&self, context: &Context, layout: Layout) -> Result<()> {
        match layout {
            Layout::Nchw => nchw::gather(context, self),
            Layout::Nhwc => nhwc::gather(context, self),
        }
    }

    /// Multiply-adds of one row of one channel.
    fn row_work(&self) -> usize {
        (self.grid_width * self.terms * self.rows.count * self.columns.count).max(1)
    }
}

pub(super) fn forward<T: Element>(
    context: &Context,
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<()> {
    let [w_out, _, w_row, w_column] = shape.filter_strides();
    let gather = Gather {
        batch: shape.batch,
        channels: shape.out_channels,
        source: x.as_ptr(),
        relu_output: std::ptr::null(),
        terms: 1,
        channels_per_source: shape.group_out,
        source_strides: input_strides(shape),
        rows: Taps::forward(&shape.height),
        columns: Taps::forward(&shape.width),
        grid_height: shape.out_height,
        grid_width: shape.out_width,
        filters: w.as_ptr(),
        filter_strides: [w_out, w_row, w_column],
        target: y.as_mut_ptr(),
        target_strides: output_strides(shape),
        alpha: T::from_f64(1.0),
        beta: T::default(),
        bias: bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: activation == Activation::Relu,
    };
    gather.run(context, shape.layout)
}

pub(super) fn backward_data<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
) -> Result<()> {
    let (height, width) = (&shape.height, &shape.width);
    let [w_out, _, w_row, w_column] = shape.filter_strides();
    let [dx_image, dx_channel, dx_row, dx_column] = input_strides(shape);
    for row in 0..height.stride.min(height.input) {
        for column in 0..width.stride.min(width.input) {
            let rows = Taps::backward(height, row);
            let columns = Taps::backward(width, column);
            let first_tap = rows.first_kernel * w_row + columns.first_kernel * w_column;
            let gather = Gather {
                batch: shape.batch,
                channels: shape.in_channels,
                source: pass.dy.as_ptr(),
                relu_output: pass.relu_output.map_or(std::ptr::null(), <[T]>::as_ptr),
                terms: shape.group_out,
                channels_per_source: 1,
                source_strides: output_strides(shape),
                rows,
                columns,
                grid_height: (height.input - row).div_ceil(height.stride),
                grid_width: (width.input - column).div_ceil(width.stride),
                // SAFETY: the first tap of each axis lies within w.
                filters: unsafe { pass.w.as_ptr().add(first_tap) },
                filter_strides: [w_out, rows.kernel_step * w_row, columns.kernel_step * w_column],
                // SAFETY: the phase's first element lies within dx.
                target: unsafe { dx.as_mut_ptr().add(row * dx_row + column * dx_column) },
                target_strides: [
                    dx_image,
                    dx_channel,
                    height.stride * dx_row,
                    width.stride * dx_column,
                ],
                alpha: pass.alpha,
                beta: pass.beta,
                bias: std::ptr::null(),
                relu: false,
            };
            gather.run(context, shape.layout)?;
        }
    }
    Ok(())
}
