//! dx = alpha * (the gradient of the input) + beta * dx.
//!
//! It gathers: each element of dx is a sum over the taps that read it, so it is written once. With
//! strides, the elements whose row and column have the same remainders, a phase, are read by the
//! same taps. So each phase is a product of some of the filters' taps and patches of dy, and its
//! results lie a stride apart in dx.

use super::are_finite;
use super::filter_product::{FilterProduct, Filters, Results};
use super::patches::Patches;
use crate::context::Context;
use crate::error::Result;
use crate::gemm::kernel::Places;
use crate::gemm::pack::Depth;
use crate::scratch::ScratchLen;
use crate::shape::ConvShape;
use crate::shared_mut::SharedMut;
use crate::simd::{Element, Level};
use crate::taps::Taps;

/// What the pass reads and how it updates.
#[derive(Clone, Copy)]
pub(super) struct BackwardData<'a, T> {
    pub w: &'a [T],
    pub dy: &'a [T],
    pub relu_output: Option<&'a [T]>,
    pub alpha: T,
    pub beta: T,
}

impl<T: Element> BackwardData<'_, T> {
    /// A pass whose shape only is looked at: how much scratch memory it would need.
    pub fn of_nothing() -> Self {
        let (alpha, beta) = (T::from_f64(1.0), T::default());
        BackwardData { w: &[], dy: &[], relu_output: Some(&[]), alpha, beta }
    }

    pub fn run(&self, context: &Context, shape: &ConvShape, dx: &mut [T]) -> Result<()> {
        let scratch = context.scratch::<T>(self.scratch_len(context.level(), shape))?;
        for product in self.products(shape, dx) {
            product.run(context, &scratch);
        }
        Ok(())
    }

    pub fn scratch_len(&self, level: Level, shape: &ConvShape) -> ScratchLen {
        let products = self.products(shape, &mut []);
        products.fold(ScratchLen::default(), |most, product| most.max(product.scratch_len(level)))
    }

    /// The products of all phases.
    fn products(&self, shape: &ConvShape, dx: &mut [T]) -> impl Iterator<Item = FilterProduct<T>> {
        let dx = dx.as_mut_ptr();
        let rows = shape.height.stride.min(shape.height.input);
        let columns = shape.width.stride.min(shape.width.input);
        (0..rows * columns)
            .map(move |phase| self.phase(shape, phase / columns, phase % columns, dx))
    }

    /// Whether a tap that reads no dy, at an edge, would make a NaN of its weight times 0.
    pub fn needs_plain_loops(&self, shape: &ConvShape) -> bool {
        if shape.window() == 1 && !shape.is_padded {
            return false;
        }
        !are_finite(self.w)
    }

    /// The same gradient, tap by tap: only those that exist, so that a NaN or an infinity among
    /// the weights reaches no other element of dx. Slow, but then training has ended anyway.
    pub fn run_plain_loops(&self, context: &Context, shape: &ConvShape, dx: &mut [T]) {
        let (height, width) = (&shape.height, &shape.width);
        let [w_out, w_in, w_row, w_column] = shape.filter_strides();
        let [dy_image, dy_channel, dy_row, dy_column] = shape.output_strides;
        let [dx_image, dx_channel, dx_row, dx_column] = shape.input_strides;
        let sum_at = |image: usize, channel: usize, row: usize, column: usize| {
            let (group, input) = (channel / shape.group_in, channel % shape.group_in);
            let mut sum = 0.0;
            for (out_row, kernel_row) in height.windows(row) {
                for (out_column, kernel_column) in width.windows(column) {
                    for output in group * shape.group_out..(group + 1) * shape.group_out {
                        let place = image * dy_image
                            + output * dy_channel
                            + out_row * dy_row
                            + out_column * dy_column;
                        let weight = output * w_out
                            + input * w_in
                            + kernel_row * w_row
                            + kernel_column * w_column;
                        let dead = self.relu_output.is_some_and(|u| u[place] <= T::default());
                        let gradient = if dead { 0.0 } else { self.dy[place].to_f64() };
                        sum += gradient * self.w[weight].to_f64();
                    }
                }
            }
            sum
        };
        let dx = SharedMut::new(dx);
        context.run(shape.batch * shape.in_channels, &|_, index| {
            let (image, channel) = (index / shape.in_channels, index % shape.in_channels);
            for row in 0..height.input {
                for column in 0..width.input {
                    let sum = self.alpha.to_f64() * sum_at(image, channel, row, column);
                    let place =
                        image * dx_image + channel * dx_channel + row * dx_row + column * dx_column;
                    // SAFETY: this task's element.
                    unsafe {
                        let element = dx.at(place);
                        let kept = match self.beta == T::default() {
                            true => 0.0,
                            false => self.beta.to_f64() * (*element).to_f64(),
                        };
                        *element = T::from_f64(sum + kept);
                    }
                }
            }
        });
    }

    /// The product for the elements of dx at (`row`, `column`) plus multiples of the strides.
    fn phase(&self, shape: &ConvShape, row: usize, column: usize, dx: *mut T) -> FilterProduct<T> {
        let (height, width) = (&shape.height, &shape.width);
        let [w_out, w_in, w_row, w_column] = shape.filter_strides();
        let rows = Taps::backward(height, row);
        let columns = Taps::backward(width, column);
        let first_tap = rows.first_kernel * w_row + columns.first_kernel * w_column;
        let [dy_image, dy_channel, dy_row, dy_column] = shape.output_strides;
        let [dx_image, dx_channel, dx_row, dx_column] = shape.input_strides;
        let grid_height = (height.input - row).div_ceil(height.stride);
        let grid_width = (width.input - column).div_ceil(width.stride);
        let patches = Patches {
            layout: shape.layout,
            source: self.dy.as_ptr(),
            relu_output: self.relu_output.map_or(std::ptr::null(), <[T]>::as_ptr),
            channels: shape.group_out,
            strides: [dy_channel, dy_row, dy_column],
            rows,
            columns,
            grid_width,
        };
        let whole_rows = height.stride == 1 && width.stride == 1;
        let product = FilterProduct {
            batch: shape.batch,
            groups: shape.groups,
            outputs: shape.group_in,
            pixels: grid_height * grid_width,
            patches: patches.flattened(),
            image_stride: dy_image,
            filters: Filters {
                start: self.w.as_ptr().wrapping_add(first_tap),
                group_stride: shape.group_out * w_out,
                line_stride: w_in,
                depth: Depth::nested(
                    [rows.count, columns.count, shape.group_out],
                    [
                        (rows.kernel_step * w_row) as isize,
                        (columns.kernel_step * w_column) as isize,
                        w_out as isize,
                    ],
                ),
            },
            results: Results {
                start: dx.wrapping_add(row * dx_row + column * dx_column),
                image_stride: dx_image,
                group_stride: shape.group_in * dx_channel,
                outputs: Places::every(dx_channel),
                pixels: if whole_rows {
                    Places::every(dx_column)
                } else {
                    Places {
                        width: grid_width,
                        outer: height.stride * dx_row,
                        inner: width.stride * dx_column,
                    }
                },
            },
            alpha: self.alpha,
            beta: self.beta,
            bias: std::ptr::null(),
            relu: false,
        };
        product.joined()
    }
}
