//! Direct convolution: no patch is ever stored.
//!
//! Where there are enough channels they are the lanes, on both layouts. With few outputs the pixels are,
//! and in NCHW with few terms too, as for depthwise convolutions, one input channel per group. NHWC
//! there has the channels of both tensors in the lanes. Forward and backward data are one pass each of
//! these: both gather, over taps, from x and from a phase of dy. dw has output channels in the lanes too.

mod band;
mod channel_panel;
mod channels;
mod depthwise;
mod depthwise_weights;
pub(super) mod filters;
mod nhwc_band;
mod nhwc_depthwise;
mod nhwc_weights;
mod panels;
mod pixel_lanes;
mod pixels;
mod weights;

use super::backward_data::BackwardData;
use super::forward::{input_strides, output_strides};
use super::patches::Taps;
use crate::context::Context;
use crate::error::Result;
use crate::runs;
use crate::shape::{Activation, ConvShape, Layout};
use crate::simd::{Element, Lanes};

pub(super) use weights::run as backward_weights;

/// A task has at least this many multiply-adds, where there are so many.
const TASK_WORK: usize = 1 << 17;

/// A pass with at most this many outputs per group is direct: a matrix product's tile would have
/// few rows, and packing its patches would take longer than multiplying them.
const FEW_OUTPUTS: usize = 16;
/// In NHWC so are those that would leave many lanes of a vector of channels empty.
const FEW_NHWC_OUTPUTS: usize = 7;
/// With at most this many terms, as in first layers, NCHW has pixels in the lanes whatever the number
/// of outputs: transposing sums of few products would take longer than the products.
const FEW_TERMS: usize = 4;

/// Whether depthwise kernels take all three passes: NHWC only with one output per group, since its
/// lanes are channels of both tensors.
pub(super) fn is_depthwise(shape: &ConvShape) -> bool {
    let layout_fits = match shape.layout {
        Layout::Nchw => band::fits(shape, shape.group_out),
        Layout::Nhwc => shape.group_out == 1 && nhwc_band::fits(shape),
    };
    shape.group_in == 1 && layout_fits
}

/// Whether a gathering pass with `outputs` and `terms` per group is direct.
pub(super) fn gathers(shape: &ConvShape, outputs: usize, terms: usize) -> bool {
    let few = match shape.layout {
        Layout::Nchw => outputs <= FEW_OUTPUTS || terms <= FEW_TERMS,
        Layout::Nhwc => outputs <= FEW_NHWC_OUTPUTS && shape.window() > 1,
    };
    is_depthwise(shape) || (few && band::fits(shape, terms))
}

/// Outputs from which on channels fill the lanes well enough, and products of one output from which
/// on its tile is worth its transposition.
const MANY_OUTPUTS: usize = 16;
const MANY_PRODUCTS: usize = 24;

/// Whether a gathering pass with `outputs` and `terms` per group has channels in the lanes: windows
/// of more than a pixel, which a matrix product would have to store.
pub(super) fn has_channel_lanes(shape: &ConvShape, outputs: usize, terms: usize) -> bool {
    let window = shape.window();
    let in_place = window == 1 && shape.height.stride == 1 && shape.width.stride == 1;
    let filled = match shape.layout {
        Layout::Nchw => outputs >= MANY_OUTPUTS && terms > FEW_TERMS,
        Layout::Nhwc => !gathers(shape, outputs, terms),
    };
    filled && !in_place && terms.saturating_mul(window) >= MANY_PRODUCTS
}

/// What a gathering pass computes: target = activation(alpha * sum + beta * target + bias), where
/// the sum runs over the terms, the source channels of a group, and the taps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gather<T> {
    pub batch: usize,
    pub groups: usize,
    /// Target channels of a group.
    pub outputs: usize,
    /// Source channels of a group.
    pub terms: usize,
    pub source: *const T,
    /// Masks the source; null for none.
    pub relu_output: *const T,
    /// Strides of the source along (image, channel, row, column).
    pub source_strides: [usize; 4],
    pub rows: Taps,
    pub columns: Taps,
    pub grid_height: usize,
    pub grid_width: usize,
    /// At the first tap of each axis.
    pub filters: *const T,
    pub filter_strides: FilterStrides,
    pub target: *mut T,
    /// Strides of the target along (image, channel, grid row, grid column).
    pub target_strides: [usize; 4],
    pub alpha: T,
    pub beta: T,
    /// Per target channel; null for none.
    pub bias: *const T,
    pub relu: bool,
}

/// Strides of the filters of a gathering pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct FilterStrides {
    pub group: usize,
    pub output: usize,
    pub term: usize,
    pub row_tap: usize,
    pub column_tap: usize,
}

// SAFETY: tasks read the sources, and write disjoint parts of the target.
unsafe impl<T: Sync> Sync for Gather<T> {}

impl<T: Element> Gather<T> {
    /// Multiply-adds of one row of one group.
    fn row_work(&self) -> usize {
        let products = self.outputs * self.terms * self.rows.count * self.columns.count;
        (self.grid_width * products).max(1)
    }

    /// The source at an offset, and what masks it there, if anything does.
    #[inline(always)]
    fn source_at(&self, offset: usize) -> [*const T; 2] {
        let relu_output = match self.relu_output.is_null() {
            true => self.relu_output,
            false => self.relu_output.wrapping_add(offset),
        };
        [self.source.wrapping_add(offset), relu_output]
    }

    /// Writes the results of `N` sums of the first `count` lanes, target channels that lie side by side,
    /// `stride` apart from `target` on. `bias` is theirs; null for none.
    ///
    /// # Safety
    /// The target has them, and nobody else uses them; the biases have the channels.
    #[inline(always)]
    unsafe fn write_vectors<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        sums: [S::Vector; N],
        bias: *const T,
        count: usize,
        (target, stride): (*mut T, usize),
    ) {
        // SAFETY: the caller answers for the target and the biases.
        unsafe {
            let mut old = sums;
            if self.adds() {
                for (n, old) in old.iter_mut().enumerate() {
                    *old = runs::load(simd, count, target.add(n * stride));
                }
            }
            let bias = match bias.is_null() {
                true => simd.splat(T::default()),
                false => runs::load(simd, count, bias),
            };
            let values = self.results(simd, sums, old, bias);
            for (n, value) in values.into_iter().enumerate() {
                runs::store(simd, count, target.add(n * stride), value);
            }
        }
    }

    /// What becomes of a sum, given the target's value before (read where beta is not 0) and the bias
    /// (where there is one).
    #[inline(always)]
    fn result<S: Lanes<T>>(
        &self,
        simd: S,
        sum: S::Vector,
        old: S::Vector,
        bias: S::Vector,
    ) -> S::Vector {
        let [value] = self.results(simd, [sum], [old], bias);
        value
    }

    /// The same for several sums of one target channel, or of a vector of them.
    #[inline(always)]
    fn results<S: Lanes<T>, const N: usize>(
        &self,
        simd: S,
        sums: [S::Vector; N],
        old: [S::Vector; N],
        bias: S::Vector,
    ) -> [S::Vector; N] {
        let mut values = sums;
        for value in &mut values {
            *value = simd.mul(simd.splat(self.alpha), *value);
        }
        if self.adds() {
            for (value, old) in values.iter_mut().zip(old) {
                *value = simd.mul_add(simd.splat(self.beta), old, *value);
            }
        }
        if !self.bias.is_null() {
            for value in &mut values {
                *value = simd.add(*value, bias);
            }
        }
        if self.relu {
            for value in &mut values {
                *value = simd.relu(*value);
            }
        }
        values
    }

    /// Whether the target's value before counts.
    #[inline(always)]
    fn adds(&self) -> bool {
        self.beta != T::default()
    }
}

/// Cuts `total` into as few parts of at most `most` as can be, and as even as they can be: a tile with
/// little to do does not fill the processor. Yields (first, count).
#[inline(always)]
fn even_parts(total: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = total.div_ceil(most);
    let (count, longer) = (total / parts.max(1), total % parts.max(1));
    (0..parts)
        .map(move |part| (part * count + part.min(longer), count + usize::from(part < longer)))
}

/// Runs passes that write to different places of the same rows, with the kernels for few outputs or
/// for depthwise convolutions.
fn gather<T: Element>(context: &Context, shape: &ConvShape, passes: &[Gather<T>]) -> Result<()> {
    if shape.layout == Layout::Nhwc && is_depthwise(shape) {
        return nhwc_depthwise::gather(context, passes);
    }
    pixel_lanes::gather(context, passes)
}

/// The forward pass as a gathering one.
fn forward_gather<T: Element>(
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Gather<T> {
    let [w_out, w_in, w_row, w_column] = shape.filter_strides();
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        outputs: shape.group_out,
        terms: shape.group_in,
        source: x.as_ptr(),
        relu_output: std::ptr::null(),
        source_strides: input_strides(shape),
        rows: Taps::forward(&shape.height),
        columns: Taps::forward(&shape.width),
        grid_height: shape.out_height,
        grid_width: shape.out_width,
        filters: w.as_ptr(),
        filter_strides: FilterStrides {
            group: shape.group_out * w_out,
            output: w_out,
            term: w_in,
            row_tap: w_row,
            column_tap: w_column,
        },
        target: y.as_mut_ptr(),
        target_strides: output_strides(shape),
        alpha: T::from_f64(1.0),
        beta: T::default(),
        bias: bias.map_or(std::ptr::null(), <[T]>::as_ptr),
        relu: activation == Activation::Relu,
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
    gather(context, shape, &[forward_gather(shape, x, w, bias, activation, y)])
}

/// The forward pass with channels in the lanes. False, and nothing written, when a weight is not
/// finite: padding counts as zeros, which would make NaN of it, but is skipped here.
pub(super) fn forward_channels<T: Element>(
    context: &Context,
    shape: &ConvShape,
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    activation: Activation,
    y: &mut [T],
) -> Result<bool> {
    let pass = forward_gather(shape, x, w, bias, activation, y);
    channels::gather(context, &[pass], shape.is_padded())
}

/// The backward pass to the elements of dx at (`row`, `column`) plus multiples of the strides.
fn phase<T: Element>(
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: *mut T,
    [row, column]: [usize; 2],
) -> Gather<T> {
    let (height, width) = (&shape.height, &shape.width);
    let [w_out, w_in, w_row, w_column] = shape.filter_strides();
    let [dx_image, dx_channel, dx_row, dx_column] = input_strides(shape);
    let rows = Taps::backward(height, row);
    let columns = Taps::backward(width, column);
    let first_tap = rows.first_kernel * w_row + columns.first_kernel * w_column;
    Gather {
        batch: shape.batch,
        groups: shape.groups,
        outputs: shape.group_in,
        terms: shape.group_out,
        source: pass.dy.as_ptr(),
        relu_output: pass.relu_output.map_or(std::ptr::null(), <[T]>::as_ptr),
        source_strides: output_strides(shape),
        rows,
        columns,
        grid_height: (height.input - row).div_ceil(height.stride),
        grid_width: (width.input - column).div_ceil(width.stride),
        // SAFETY: the first tap of each axis lies within w.
        filters: unsafe { pass.w.as_ptr().add(first_tap) },
        filter_strides: FilterStrides {
            group: shape.group_out * w_out,
            output: w_in,
            term: w_out,
            row_tap: rows.kernel_step * w_row,
            column_tap: columns.kernel_step * w_column,
        },
        // SAFETY: the phase's first element lies within dx.
        target: unsafe { dx.add(row * dx_row + column * dx_column) },
        target_strides: [dx_image, dx_channel, height.stride * dx_row, width.stride * dx_column],
        alpha: pass.alpha,
        beta: pass.beta,
        bias: std::ptr::null(),
        relu: false,
    }
}

/// Phases that are run together: both columns of some rows, where the stride is 2.
const PHASES: usize = 4;

pub(super) fn backward_data<T: Element>(
    context: &Context,
    shape: &ConvShape,
    pass: &BackwardData<'_, T>,
    dx: &mut [T],
    channels_in_lanes: bool,
) -> Result<()> {
    let rows = shape.height.stride.min(shape.height.input);
    let columns = shape.width.stride.min(shape.width.input);
    let dx = dx.as_mut_ptr();
    let phase = |number: usize| phase(shape, pass, dx, [number / columns, number % columns]);
    for first in (0..rows * columns).step_by(PHASES) {
        let mut phases = [phase(first); PHASES];
        let count = PHASES.min(rows * columns - first);
        for (number, gather) in phases.iter_mut().enumerate().take(count) {
            *gather = phase(first + number);
        }
        let phases = &phases[..count];
        if channels_in_lanes {
            channels::gather(context, phases, false)?;
        } else {
            gather(context, shape, phases)?;
        }
    }
    Ok(())
}
